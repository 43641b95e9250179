"""One model in several precisions: size, milliseconds, agreement, and the metrics on a data set.

saldistill quantize student.onnx --to fp16,int8 --on ntire:hevc-gaze --on-split train --score ntire:hevc-gaze
"""

import platform
import time
from collections.abc import Callable, Sequence
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import onnxruntime

from distill.benchmark.rows import Call, Table, environment, interleave, summarise
from distill.data.clips import Video
from distill.data.video.guard import cores
from distill.deploy.calibration_clips import CalibrationClips, agreement, predict_maps, run_calls
from distill.errors import UserError
from distill.evaluation.metrics import METRICS
from distill.evaluation.references import score
from distill.inference.settings import InferenceSettings
from distill.models.onnx import OnnxModel, load_onnx
from distill.runtimes.openvino_runtime import load_in_openvino

SCORED = ("auc_judd", "nss", "cc", "sim", "kldiv")
"""The metrics that are fast to compute."""

RUNTIMES: dict[str, Callable[..., OnnxModel]] = {"ONNX Runtime": load_onnx, "OpenVINO": load_in_openvino}

COLUMNS = "file precision runtime file_mb milliseconds p99 speed agreement lowest"


def compare_precisions(
    files: Sequence[str | Path],
    clips: CalibrationClips,
    *,
    videos: Sequence[Video] = (),
    every: int = 1,
    runtimes: Sequence[str] = ("ONNX Runtime",),
    threads: int | None = None,
    rounds: int = 5,
    progress: bool = True,
) -> Table:
    """Measure exported files relative to the first one.

    A call is one frame in step mode or one clip in clip mode, with real pixels and the state that follows from
    them.

    Args:
        files: .onnx files of models that take the same input.
        clips: real frames, of which the held-out ones are used.
        videos: videos to score on, in ONNX Runtime; no metrics if empty.
        every: score every n-th frame.
        runtimes: one or more keys of RUNTIMES.
        threads: threads per call; defaults to the number of cores.
        rounds: interleaved rounds.
        progress: show progress bars.

    Returns:
        One row per file and runtime. Keys: `file`, `precision`, `runtime`, `file_mb`, `milliseconds` (median per
        call), `p99`, `calls`, `speed` (relative to the first row), `agreement` and `lowest` (mean and lowest linear
        correlation with the first row's maps on the held-out frames), and SCORED (means over videos) and
        `undefined` (metric -> frames without a value) if there are videos.

    Raises:
        UserError: no file, files with different inputs, or a runtime that is unknown or not installed.
    """
    if not files:
        raise UserError("name at least one .onnx file")
    for runtime in runtimes:
        if runtime not in RUNTIMES:
            raise UserError(f"runtimes: expected one or more of {', '.join(RUNTIMES)}, got {runtime!r}")
    threads = threads or cores()
    models = [(file, runtime, RUNTIMES[runtime](file, threads=threads)) for runtime in runtimes for file in files]
    if len({(model.edge.mode, model.num_frames, tuple(model.size)) for _, _, model in models}) > 1:
        raise UserError(f"{', '.join(map(str, files))}: expected models that take the same input")
    rows = _measure(models, clips, rounds, progress=progress)
    unit = "frame" if models[0][2].edge.mode == "step" else "clip"
    notes = [
        f"{threads} CPU threads, {rounds} interleaved rounds, batch 1; ms: median per {unit}; speed: relative to "
        f"the first row; agreement: linear correlation with its maps on {clips.counts[1]} held-out frames of "
        f"{clips.source}"
    ]
    if videos:
        undefined = _add_scores(rows, files, videos, every, progress=progress)
        frames = "all frames" if every == 1 else f"one frame in {every}"
        notes += [f"metrics: means over {len(videos)} videos, {frames}", *undefined]
    setting = {
        "threads": threads,
        "rounds": rounds,
        "machine": platform.machine(),
        "onnxruntime": onnxruntime.__version__,
        "frames_of": clips.source,
        "held_out": clips.counts[1],
        "every": every,
        "videos": [video.name for video in videos],
        **environment(),
    }
    columns = " ".join([COLUMNS, *(SCORED if videos else ())])
    return Table(rows, columns, setting, notes, {metric: METRICS[metric].title for metric in SCORED})


def _measure(
    models: Sequence[tuple[str | Path, str, OnnxModel]], clips: CalibrationClips, rounds: int, *, progress: bool
) -> list[dict[str, Any]]:
    """Return the rows of (file, runtime, model), without the metrics."""
    reference = predict_maps(models[0][2].edge, clips.held_out)
    times = interleave([_held_out_call(model.edge, clips) for _, _, model in models], rounds, progress=progress)
    rows: list[dict[str, Any]] = []
    for (file, runtime, model), seconds in zip(models, times, strict=True):
        cc = agreement(predict_maps(model.edge, clips.held_out), reference)
        row = {
            "file": Path(file).name,
            "precision": model.edge.metadata.get("precision", "fp32"),
            "runtime": runtime,
            "file_mb": sum(each.stat().st_size for each in model.files) / 1e6,
            **summarise(seconds),
            "agreement": float(cc.mean()),
            "lowest": float(cc.min()),
        }
        rows.append({**row, "speed": (rows or [row])[0]["milliseconds"] / row["milliseconds"]})
    return rows


def _add_scores(
    rows: list[dict[str, Any]], files: Sequence[str | Path], videos: Sequence[Video], every: int, *, progress: bool
) -> list[str]:
    """Add the metrics of each file to its row for ONNX Runtime, and None to the others.

    Returns:
        Notes on the frames on which a metric is undefined.
    """
    notes = []
    for row in rows:
        row.update(dict.fromkeys(SCORED))
    own = [row for row in rows if row["runtime"] == "ONNX Runtime"]
    settings = InferenceSettings(stride=None, device="cpu")
    for row, file in zip(own, files if own else (), strict=True):
        scores, _ = score(file, list(videos), settings, every=every, metrics=SCORED, progress=progress)
        row.update({metric: scores.per_video[metric] for metric in SCORED} | {"undefined": scores.undefined})
        notes += [f"{row['file']}: {note}" for note in scores.undefined_notes()]
    return notes


def _held_out_call(edge: Any, clips: CalibrationClips) -> Call:
    """Return a call that runs the next held-out frame or clip, endlessly."""
    following = chain.from_iterable(run_calls(edge, clip) for clip in repeat(clips.held_out[0]))

    def call() -> float:
        started = time.perf_counter()
        next(following)
        return time.perf_counter() - started

    return call
