"""What the demo says at its end: the table, the first sentence, and report.html."""

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
    columns = ["model", *METRICS.values(), "weights (M)", "GFLOPs a map", "ms a map"]
    rows: list[list[Any]] = []
    for name, values in scores.items():
        cost = costs.get(name)
        figures = [cost["weights"] / 1e6, cost["gflops"], cost["milliseconds"]] if cost else [None] * 3
        rows.append([name, *(values[metric] for metric in METRICS), *figures])
    return columns, rows


def verdict_of(results: dict[str, Any]) -> page.Verdict:
    """Say whether teacher and student beat the centre prior."""
    columns, rows = score_table(results)
    return page.judge({row[0]: dict(zip(columns[1:], row[1:], strict=True)) for row in rows})


def write_demo_report(out: Path, results: dict[str, Any], config: RunConfig, video: Video) -> str:
    """Write report.html."""
    path = out / "report.html"
    columns, rows = score_table(results)
    values = {row[0]: dict(zip(columns, row, strict=True)) for row in rows}
    teacher, student = values["teacher"], values["student"]
    losses = results["e"]["result"]
    validation = scored_videos(config.data.validation)
    prior = evaluate(BASELINES["centre-prior"], validation, metrics=("nss", "cc"), progress=False).per_video
    parity = max(abs(o - c) / abs(c) for c, o in zip(losses["cached"], losses["online"], strict=True))
    seconds = sum(step["seconds"] for step in results.values())
    steps = [[name, step["step"], minutes(step["seconds"])] for name, step in results.items() if name != "h"]
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
                (f"{student['ms a map']:.3g} ms", f"a map of the student; teacher {teacher['ms a map']:.3g} ms"),
                (minutes(seconds), "for all steps"),
            ]
        ),
        page.section(
            "Scores and cost",
            page.table(
                columns,
                rows,
                best=BEST,
                caption=f"Mean over {frames_in_words([video])}, none of which was trained on.",
            ),
        ),
        page.section(
            "What they look at",
            page.examples(example_rows(out, config, video)),
            lead="Frames that neither model was trained on. Each dot is where one observer looked.",
        ),
        page.section(
            "Learning curves",
            chart_grid(
                page.learning_curves(
                    {"teacher": out / "teacher", "student": out / "student"},
                    {name: {"centre prior": prior[name]} for name in ("nss", "cc")},
                )
            ),
            lead=f"Validation: {frames_in_words(validation)}. Training terms: faint, each step; bold, their mean.",
        ),
        page.section(
            "The exported student, on the whole video",
            page.video(
                out / "overlay.mp4",
                f"student.onnx in ONNX Runtime: {run['frames']} frames in {minutes(run['seconds'])}, drawing "
                "included. Most of the video was trained on; the held-out frames are its last part.",
                page=path,
            ),
        ),
        page.section("How long it took", page.table(["step", "what it does", "time"], steps)),
        page.section("How the numbers were made", page.notes(how_made(config, results, parity))),
    ]
    page.write_report(
        path,
        title="SalDistill: from gaze to a small student, on one video",
        verdict=verdict_of(results),
        lead="A small SalFoM learned from recorded gaze, its maps were stored, and a student learned from gaze and "
        "stored maps. One video and small models: a working pipeline, not a benchmark.",
        sections=sections,
        foot="Written by `saldistill demo`. Video: DHF1K 002, Wang et al., “Revisiting Video Saliency Prediction "
        "in the Deep Learning Era”, TPAMI 2019, CC BY 4.0; the heat maps are added.",
    )
    return str(path)


def how_made(config: RunConfig, results: dict[str, Any], parity: float) -> list[str]:
    """Say in sentences how the report's numbers came about."""
    assert config.teacher is not None
    pytorch, exported = (results["g"]["result"]["costs"][name] for name in ("student", "exported"))
    return [
        "Each model's map is resized bicubically to the video's 640 x 360 pixels before it is scored, without "
        "blur; scores are means over frames.",
        "AUC-J, NSS, CC, SIM and KL follow the official definitions; ground truth densities are built by DHF1K's "
        "recipe, a Gaussian of 12.74 pixels on each of the 17 observers' points.",
        "The centre prior is one Gaussian, .16 of the width and of the height, for every frame.",
        f"Of each run the weights that scored best on {frames_in_words(scored_videos(config.data.validation))} "
        "were kept: frames that no loss was taken on, and that are not among the scored ones.",
        "GFLOPs count a multiply-add as two. Milliseconds are the median of interleaved rounds on this machine.",
        f"The exported student takes {exported['milliseconds']:.1f} ms a map in ONNX Runtime where PyTorch takes "
        f"{pytorch['milliseconds']:.1f} ms, on the CPU in one run; it differs from PyTorch by at most "
        f"{max(check['max_error'] for check in results['g']['result']['export']['checks']):.1e} in maps of [0, 1].",
        f"Stored maps, codec {config.teacher.codec}: {'; '.join(results['c']['result']['verify'].splitlines())}.",
        f"Stored against online teacher: the losses of the first {len(results['e']['result']['cached'])} steps "
        f"differ by at most {parity:.1e}, relatively.",
        f"Peak memory of the demo's largest process: {peak_memory():.1f} GiB.",
    ]


def example_rows(
    out: Path, config: RunConfig, video: Video, number: int = 5
) -> list[tuple[str, list[page.Picture]]]:
    """Return rows of pictures: a frame with its gaze, and the overlays of ground truth, teacher and student."""
    frames = [video.frames[i] for i in np.linspace(0, len(video.frames) - 1, number + 2).astype(int)[1:-1]]
    models = (load_model(out / name) for name in ("teacher", "student"))
    sources = [model_maps(model, stride=config.data.stride) for model in models]
    captions = ("frame and gaze", "ground truth", "teacher", "student")
    return [
        (f"frame {frame + 1}", list(zip(pictures, captions, strict=True)))
        for frame, pictures in side_by_side(video, frames, sources, side=400)
    ]


def in_columns(columns: list[str], rows: list[list[Any]], digits: int = 3) -> str:
    """Return a table as text; a missing number is a dash."""
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


def frames_in_words(videos: list[Video]) -> str:
    """Say which frames of which videos: `frames 601-783 of video 002`, `frames 1, 5 ... 57 of video 002`."""
    words = []
    for video in videos:
        first, last, step = video.frames[0] + 1, video.frames[-1] + 1, video.frames[1] - video.frames[0]
        span = f"{first}-{last}" if step == 1 else f"{first}, {first + step} ... {last}"
        words.append(f"frames {span} of video {video.name}")
    return " and ".join(words)


def minutes(seconds: float) -> str:
    """Write a duration as `3 min 12 s`."""
    whole = round(seconds)
    return f"{whole // 60} min {whole % 60} s" if whole >= 60 else f"{seconds:.0f} s"


def peak_memory() -> float:
    """Return the largest resident memory that this process or one of its workers ever had, in GiB."""
    return max(peak_memory_mib(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 1024
