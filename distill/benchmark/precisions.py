"""One model in several precisions side by side: size, milliseconds, agreement, and the metrics on a data set.

saldistill quantize student.onnx --to fp16,int8 --on ntire:hevc-gaze --on-split train --score ntire:hevc-gaze
"""

import os
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from distill.benchmark.rows import Benchmark, interleave
from distill.data.clips import Video
from distill.data.video.guard import cores
from distill.deploy.calibration import Stretches, agreement, calls, maps_of
from distill.deploy.openvino_runtime import load_in_openvino
from distill.errors import UserError
from distill.evaluation.metrics import METRICS
from distill.evaluation.references import score
from distill.inference.settings import InferenceSettings
from distill.models.onnx import OnnxModel, load_onnx

SCORED = ("auc_judd", "nss", "cc", "sim", "kldiv")
"""What is scored: the quick ones."""

RUNTIMES: dict[str, Callable[..., OnnxModel]] = {"ONNX Runtime": load_onnx, "OpenVINO": load_in_openvino}
"""What a file can be run by."""

COLUMNS = {
    "file": ("file", "{}"),
    "precision": ("precision", "{}"),
    "runtime": ("runtime", "{}"),
    "file_mb": ("MB", "{:.2f}"),
    "milliseconds": ("ms", "{:.3g}"),
    "p99": ("p99", "{:.3g}"),
    "speed": ("speed", "{:.2f}"),
    "agreement": ("CC to first", "{:.4f}"),
    "lowest": ("lowest", "{:.4f}"),
}
"""Key of a row -> its head and form in the table."""


def compare(
    files: Sequence[str | Path],
    stretches: Stretches,
    *,
    videos: Sequence[Video] = (),
    every: int = 1,
    runtimes: Sequence[str] = ("ONNX Runtime",),
    threads: int | None = None,
    rounds: int = 5,
    progress: bool = True,
) -> Benchmark:
    """Measure exported files side by side, the first as what the others are compared with.

    A call is one frame in step mode, one clip in clip mode, with real pixels and the state that follows from them;
    the rounds of all rows are interleaved.

    Args:
        files: .onnx files of models that take the same input.
        stretches: real frames; the held-out ones are used.
        videos: what to score on; no metrics when empty. They are those of ONNX Runtime, means over videos.
        every: score every n-th frame.
        runtimes: keys of RUNTIMES; a row each.
        threads: of one call; as many as there are cores when None.
        rounds: interleaved rounds.
        progress: show bars.

    Returns:
        One row a file and runtime: `file`, `precision`, `runtime`, `file_mb`, `milliseconds` (median of a call),
        `p99`, `speed` (how many times as fast as the first row), `agreement` and `lowest` (correlation with the
        first row's maps on the held-out frames, mean and lowest), and SCORED where videos are given.

    Raises:
        UserError: no file, files of other input, or a runtime that is unknown or not installed.
    """
    if not files:
        raise UserError("name at least one .onnx file")
    for runtime in runtimes:
        if runtime not in RUNTIMES:
            raise UserError(f"runtimes: expected some of {', '.join(RUNTIMES)}, got {runtime!r}")
    threads = threads or cores()
    models = [(file, runtime, RUNTIMES[runtime](file, threads=threads)) for runtime in runtimes for file in files]
    inputs = {(model.edge.mode, model.num_frames, tuple(model.size)) for _, _, model in models}
    if len(inputs) > 1:
        raise UserError(f"{', '.join(map(str, files))}: these models take different input; compare those of one")

    reference = maps_of(models[0][2].edge, stretches.held_out)
    rows: list[dict[str, Any]] = []
    for file, runtime, model in models:
        cc = agreement(maps_of(model.edge, stretches.held_out), reference)
        row = {
            "file": Path(file).name,
            "precision": model.edge.metadata.get("precision", "fp32"),
            "runtime": runtime,
            "file_mb": sum(each.stat().st_size for each in model.files) / 1e6,
            "agreement": float(cc.mean()),
            "lowest": float(cc.min()),
        }
        rows.append(row)
    times = interleave([_call(model.edge, stretches) for _, _, model in models], rounds, progress=progress)
    for row, seconds in zip(rows, times, strict=True):
        row["milliseconds"] = float(np.median(seconds) * 1000)
        row["p99"] = float(np.percentile(seconds, 99) * 1000)
        row["calls"] = len(seconds)
        row["speed"] = rows[0]["milliseconds"] / row["milliseconds"]

    columns = dict(COLUMNS)
    unit = "frame" if models[0][2].edge.mode == "step" else "clip"
    notes = [
        f"{threads} CPU threads, {rounds} interleaved rounds, batch 1; ms: median of a {unit}; speed: times the "
        f"first row's; CC to first: of its maps, on {len(reference)} held-out frames of {stretches.shown}"
    ]
    if videos:
        columns |= {metric: (METRICS[metric].title, "{:.4f}") for metric in SCORED}
        for file in files:
            settings = InferenceSettings(stride=None, device="cpu")
            scores, _ = score(file, list(videos), settings, every=every, metrics=SCORED, progress=progress)
            means = scores.per_video
            for row, (each, runtime, _) in zip(rows, models, strict=True):
                if each == file:
                    row |= {metric: means[metric] if runtime == "ONNX Runtime" else None for metric in SCORED}
        frames = "all frames" if every == 1 else f"one frame in {every}"
        notes.append(f"metrics: means over {len(videos)} videos, {frames}")
    setting = {
        "threads": threads,
        "rounds": rounds,
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "onnxruntime": onnxruntime.__version__,
        "frames_of": stretches.shown,
        "held_out": stretches.counts[1],
        "every": every,
        "videos": [video.name for video in videos],
    }
    return Benchmark(rows, columns, setting, notes)


def _call(edge: Any, stretches: Stretches) -> Callable[[], float]:
    """Return a function that runs one frame or clip, the next of the held-out ones each time; its seconds."""
    stretch = stretches.held_out[0]
    following = calls(edge, stretch)

    def run() -> float:
        nonlocal following
        started = time.perf_counter()
        if next(following, None) is None:
            following = calls(edge, stretch)
            started = time.perf_counter()
            next(following)
        return time.perf_counter() - started

    return run
