"""Result table, verdict and report.html of `saldistill demo`."""

import resource
from pathlib import Path
from typing import Any

import numpy as np

from distill.data.clips import Video
from distill.evaluation.baselines import BASELINES
from distill.evaluation.evaluate import evaluate
from distill.evaluation.map_sources import model_maps
from distill.models.references import load_model
from distill.reports import page
from distill.reports.charts import chart_grid
from distill.reports.scores import side_by_side
from distill.training.config import RunConfig
from distill.training.run_folder import peak_memory_mib
from distill.training.sources import scored_videos

METRICS = {"auc_judd": "AUC-J", "nss": "NSS", "cc": "CC", "sim": "SIM", "kldiv": "KL"}
BEST = {"AUC-J": "high", "NSS": "high", "CC": "high", "SIM": "high", "KL": "low"}


def score_table(results: dict[str, Any]) -> tuple[list[str], list[list[Any]]]:
    """Return the headings and rows of the demo's table."""
    scores = {**results["b"]["result"], "student": results["f"]["result"]["scores"]}
    costs = results["f"]["result"]["costs"]
    columns = ["model", *METRICS.values(), "weights (M)", "GFLOPs per map", "ms per map"]
    rows: list[list[Any]] = []
    for name, values in scores.items():
        cost = costs.get(name)
        figures = [cost["weights"] / 1e6, cost["gflops"], cost["milliseconds"]] if cost else [None] * 3
        rows.append([name, *(values[metric] for metric in METRICS), *figures])
    return columns, rows


def verdict_of(results: dict[str, Any]) -> page.Verdict:
    """Return whether teacher and student beat the centre prior."""
    columns, rows = score_table(results)
    return page.judge({row[0]: dict(zip(columns[1:], row[1:], strict=True)) for row in rows})


def write_demo_report(out: Path, results: dict[str, Any], config: RunConfig, video: Video) -> str:
    """Write `out`/report.html and return its path."""
    path = out / "report.html"
    columns, rows = score_table(results)
    values = {row[0]: dict(zip(columns, row, strict=True)) for row in rows}
    teacher, student = values["teacher"], values["student"]
    losses = results["e"]["result"]
    validation = scored_videos(config.data.validation)
    prior = evaluate(BASELINES["centre-prior"].maps, validation, metrics=("nss", "cc"), progress=False).per_video
    parity = max(abs(o - c) / abs(c) for c, o in zip(losses["cached"], losses["online"], strict=True))
    seconds = sum(step["seconds"] for step in results.values())
    steps = [
        [name, step["step"], format_duration(step["seconds"])] for name, step in results.items() if name != "h"
    ]
    run = results["g"]["result"]
    sections = [
        page.figures(
            [
                (f"{student['NSS']:.2f}", f"NSS of the student; teacher {teacher['NSS']:.2f}"),
                (f"{student['CC']:.2f}", f"CC of the student; teacher {teacher['CC']:.2f}"),
                (
                    f"{student['weights (M)']:.2f} M",
                    f"weights of the student; teacher {teacher['weights (M)']:.2f} M",
                ),
                (
                    f"{student['ms per map']:.3g} ms",
                    f"per map of the student; teacher {teacher['ms per map']:.3g} ms",
                ),
                (format_duration(seconds), "for all steps"),
            ]
        ),
        page.section(
            "Scores and cost",
            page.table(
                columns,
                rows,
                best=BEST,
                caption=f"Mean over {describe_frames([video])}, none of which were used for training.",
            ),
        ),
        page.section(
            "Predictions",
            page.examples(example_rows(out, config, video)),
            lead="Frames that neither model was trained on. Each dot is one observer's fixation.",
        ),
        page.section(
            "Learning curves",
            chart_grid(
                page.learning_curves(
                    {"teacher": out / "teacher", "student": out / "student"},
                    {name: {"centre prior": prior[name]} for name in ("nss", "cc")},
                )
            ),
            lead=f"Validation: {describe_frames(validation)}. Training terms: each step (faint), running mean.",
        ),
        page.section(
            "The exported student, on the whole video",
            page.video(
                out / "overlay.mp4",
                f"student.onnx in ONNX Runtime: {run['frames']} frames in {format_duration(run['seconds'])}, "
                "drawing included. Only the last part of the video was held out from training.",
                page=path,
            ),
        ),
        page.section("Time per step", page.table(["step", "what it does", "time"], steps)),
        page.section("How the scores were computed", page.notes(method_notes(config, results, parity))),
    ]
    page.write_report(
        path,
        title="SalDistill: from fixations to a small student, on one video",
        verdict=verdict_of(results),
        lead="A small SalFoM was trained on recorded fixations and its maps were cached, and a student was trained "
        "on fixations and cached maps. One video and small models: a working pipeline, not a benchmark.",
        sections=sections,
        foot="Written by `saldistill demo`. Video: DHF1K 002, Wang et al., “Revisiting Video Saliency Prediction "
        "in the Deep Learning Era”, TPAMI 2019, CC BY 4.0; heat maps added.",
    )
    return str(path)


def method_notes(config: RunConfig, results: dict[str, Any], parity: float) -> list[str]:
    """Return sentences on how the report's numbers were computed."""
    assert config.teacher is not None
    pytorch, exported = (results["g"]["result"]["costs"][name] for name in ("student", "exported"))
    return [
        "Each model's map is resized bicubically to the video's 640 x 360 pixels before scoring, without blur; "
        "scores are means over frames.",
        "AUC-J, NSS, CC, SIM and KL follow the official definitions; ground truth densities follow DHF1K: "
        "a Gaussian with a standard deviation of 12.74 pixels at each of the 17 observers' fixations.",
        "The centre prior is the same Gaussian for every frame, with standard deviations of 0.16 of the width and "
        "of the height.",
        f"Each run kept its best weights on {describe_frames(scored_videos(config.data.validation))}, which "
        "were used neither for training nor for the scores above.",
        "GFLOPs count a multiply-add as two operations. Milliseconds are medians over interleaved rounds on this "
        "machine.",
        f"The exported student takes {exported['milliseconds']:.1f} ms per map in ONNX Runtime, PyTorch "
        f"{pytorch['milliseconds']:.1f} ms, on the CPU in one run; it differs from PyTorch by at most "
        f"{max(check['max_error'] for check in results['g']['result']['export']['checks']):.1e} in maps of [0, 1].",
        f"Cached maps, codec {config.teacher.codec}: {'; '.join(results['c']['result']['verify'].splitlines())}.",
        f"Cached and online teacher: over the first {len(results['e']['result']['cached'])} steps, the losses "
        f"differ by at most {parity:.1e} (relative).",
        f"Peak memory of the demo's largest process: {peak_memory():.1f} GiB.",
    ]


def example_rows(
    out: Path, config: RunConfig, video: Video, number: int = 5
) -> list[tuple[str, list[page.Picture]]]:
    """Return rows of pictures: a frame with its fixations, and overlays of ground truth, teacher and student."""
    frames = [video.frames[i] for i in np.linspace(0, len(video.frames) - 1, number + 2).astype(int)[1:-1]]
    models = (load_model(out / name) for name in ("teacher", "student"))
    sources = [model_maps(model, stride=config.data.stride) for model in models]
    captions = ("frame and fixations", "ground truth", "teacher", "student")
    return [
        (f"frame {frame + 1}", list(zip(pictures, captions, strict=True)))
        for frame, pictures in side_by_side(video, frames, sources, side=400)
    ]


def text_table(columns: list[str], rows: list[list[Any]], digits: int = 3) -> str:
    """Return a table as aligned text; a missing number is a dash."""
    cells = [
        [f"{x:.{digits}f}" if isinstance(x, float) else "-" if x is None else str(x) for x in row] for row in rows
    ]
    widths = [max(len(row[i]) for row in [columns, *cells]) for i in range(len(columns))]
    return "\n".join(
        "   "
        + "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in [columns, *cells]
    )


def describe_frames(videos: list[Video]) -> str:
    """Return e.g. `frames 601-783 of video 002` or `frames 1, 5 ... 57 of video 002`."""
    parts = []
    for video in videos:
        first, last, step = video.frames[0] + 1, video.frames[-1] + 1, video.frames[1] - video.frames[0]
        span = f"{first}-{last}" if step == 1 else f"{first}, {first + step} ... {last}"
        parts.append(f"frames {span} of video {video.name}")
    return " and ".join(parts)


def format_duration(seconds: float) -> str:
    """Return a duration as e.g. `3 min 12 s`."""
    whole = round(seconds)
    return f"{whole // 60} min {whole % 60} s" if whole >= 60 else f"{seconds:.0f} s"


def peak_memory() -> float:
    """Return the peak resident memory of this process or of its largest child so far, in GiB."""
    return max(peak_memory_mib(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 1024
