"""Result table, verdict and report.html of `saldistill demo`."""

from math import isnan
from pathlib import Path
from typing import Any

import numpy as np

from distill.data.clips import Video
from distill.evaluation.baselines import BASELINES
from distill.evaluation.evaluate import evaluate
from distill.evaluation.map_sources import model_maps
from distill.evaluation.metrics import METRICS
from distill.inference.settings import InferenceSettings
from distill.memory import peak_children_mib, peak_memory_mib
from distill.models.pretrained import Training, pretrained_model
from distill.models.references import load_model
from distill.reports import page
from distill.reports.scores import best_directions, side_by_side
from distill.training.config import RunConfig
from distill.training.sources import scored_videos

DEMO_METRICS = ("auc_judd", "nss", "cc", "sim", "kldiv")


def score_table(results: dict[str, Any]) -> tuple[list[str], list[list[Any]]]:
    """Return the headings and rows of the demo's table."""
    scores = {**results["b"]["result"], "student": results["f"]["result"]["scores"], **shipped_scores(results)}
    costs = results["f"]["result"]["costs"]
    columns = [
        "model",
        *(METRICS[metric].title for metric in DEMO_METRICS),
        "weights (M)",
        "GFLOPs per map",
        "ms per map",
    ]
    rows: list[list[Any]] = []
    for name, values in scores.items():
        cost = costs.get(name)
        figures = [cost["weights"] / 1e6, cost["gflops"], cost["milliseconds"]] if cost else [None] * 3
        rows.append([name, *(values[metric] for metric in DEMO_METRICS), *figures])
    return columns, rows


def shipped_scores(results: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Return the scores of the pretrained models by name."""
    scores: dict[str, dict[str, float]] = results["f"]["result"].get("shipped", {})
    return scores


def verdict_of(results: dict[str, Any]) -> page.Verdict:
    """Return whether teacher and student, which the demo trains, beat the centre prior."""
    columns, rows = score_table(results)
    trained = [row for row in rows if row[0] not in shipped_scores(results)]
    return page.judge({row[0]: dict(zip(columns[1:], row[1:], strict=True)) for row in trained})


def write_demo_report(out: Path, results: dict[str, Any], config: RunConfig, video: Video) -> str:
    """Write `out`/report.html from the results of all steps, and return its path."""
    [teacher] = config.teacher_sections
    path = out / "report.html"
    columns, rows = score_table(results)
    values = {row[0]: dict(zip(columns, row, strict=True)) for row in rows}
    losses, run = results["e"]["result"], results["g"]["result"]
    validation = scored_videos(config.data.validation)
    prior = evaluate(BASELINES["centre-prior"].maps, validation, metrics=("nss", "cc"), progress=False).per_video
    steps = [
        [name, step["step"], format_duration(step["seconds"])] for name, step in results.items() if name != "h"
    ]
    page.write_report(
        path,
        "demo",
        verdict=verdict_of(results),
        teacher=values["teacher"],
        student=values["student"],
        total_time=format_duration(sum(step["seconds"] for step in results.values())),
        scores=page.table(
            columns,
            rows,
            best=best_directions(DEMO_METRICS),
            caption=f"Mean over {describe_frames([video])}, none of which the demo trains on.",
        ),
        examples=page.examples(example_rows(out, config, video, list(shipped_scores(results)))),
        validation=describe_frames(validation),
        curves=page.learning_curves(
            {"teacher": out / "teacher", "student": out / "student"},
            {name: {"centre prior": prior[name]} for name in ("nss", "cc")},
        ),
        video=page.video(
            out / "overlay.mp4",
            f"student.onnx in ONNX Runtime: {run['frames']} frames in {format_duration(run['seconds'])}, drawing "
            "included. Only the last part of the video was held out from training.",
            page=path,
        ),
        steps=page.table(["step", "what it does", "time"], steps),
        costs=run["costs"],
        export_error=max(check["max_error"] for check in run["export"]["checks"]),
        codec=teacher.codec,
        verification="; ".join(results["c"]["result"]["verify"].splitlines()),
        parity_steps=len(losses["cached"]),
        parity=max(abs(o - c) / abs(c) for c, o in zip(losses["cached"], losses["online"], strict=True)),
        peak_memory=peak_memory(),
        shipped=[
            describe_shipped(name, pretrained_model(name).training, video) for name in shipped_scores(results)
        ],
    )
    return str(path)


def describe_shipped(name: str, training: Training, video: Video) -> str:
    """Return a note on a pretrained model, which may have been trained on the frames that the demo scores."""
    seen = "; ".join(f"{each.title} ({each.used})" for each in training.data)
    note = f"{name} is a pretrained student that comes with the project, not trained by the demo."
    if trained_on(training.config, video):
        note += " It was trained on these frames, too, so its scores here say nothing about other videos."
    return f"{note} It has seen: {seen}."


def trained_on(config: dict[str, Any], video: Video) -> bool:
    """Return whether a run's config names a video, with frames that are scored here, as training data."""
    sources = [each for each in config.get("data", {}).get("train", []) if video.name in (each.get("videos") or ())]
    ranges = [each.get("frames") or (1, video.num_frames) for each in sources]  # counted from 1
    return any(first <= video.frames[-1] + 1 and video.frames[0] + 1 <= last for first, last in ranges)


def example_rows(
    out: Path, config: RunConfig, video: Video, shipped: list[str], number: int = 5
) -> list[tuple[str, list[page.Picture]]]:
    """Return labelled rows of pictures: a frame with fixations, overlays of ground truth, and of each model."""
    frames = [video.frames[i] for i in np.linspace(0, len(video.frames) - 1, number + 2).astype(int)[1:-1]]
    trained = [load_model(out / name) for name in ("teacher", "student")]
    sources = [model_maps(model.network, InferenceSettings(stride=config.data.stride)) for model in trained]
    for model in map(load_model, shipped):
        sources.append(model_maps(model.network, InferenceSettings(stride=model.stride)))
    captions = ("frame and fixations", "ground truth", "teacher", "student", *shipped)
    return [
        (f"frame {frame + 1}", list(zip(pictures, captions, strict=True)))
        for frame, pictures in side_by_side(video, frames, sources, side=400)
    ]


def text_table(columns: list[str], rows: list[list[Any]], digits: int = 3) -> str:
    """Return a table as aligned text; a missing number is a dash."""
    cells = [
        [str(x) if isinstance(x, str | int) else "-" if x is None or isnan(x) else f"{x:.{digits}f}" for x in row]
        for row in rows
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
    """Return the frames of videos as text: `frames 601-783 of video 002`, `frames 1, 5 ... 57 of video 002`."""
    parts = []
    for video in videos:
        first, last, step = video.frames[0] + 1, video.frames[-1] + 1, video.frames[1] - video.frames[0]
        span = f"{first}-{last}" if step == 1 else f"{first}, {first + step} ... {last}"
        parts.append(f"frames {span} of video {video.name}")
    return " and ".join(parts)


def format_duration(seconds: float) -> str:
    """Return a duration as text: `3 min 12 s`."""
    rounded = round(seconds)
    return f"{rounded // 60} min {rounded % 60} s" if rounded >= 60 else f"{seconds:.0f} s"


def peak_memory() -> float:
    """Return the peak resident memory of this process or of its largest child so far, in GiB."""
    return max(peak_memory_mib(), peak_children_mib()) / 1024
