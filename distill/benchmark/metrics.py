"""Cost of the metrics: one frame at a time, and batched over a video.

    saldistill benchmark --of metrics [--json FILE]

Everything runs on one core, in a process whose numerical libraries may start no threads, and is measured in
processor time.
"""

import os
import platform
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter

from distill.benchmark.process import run_fresh
from distill.benchmark.rows import Table, interleave, summarise, timed
from distill.evaluation.imresize import imresize
from distill.evaluation.metrics import METRICS, score_frames

SIZE = (360, 640)
"""Size of the ground truth."""

PREDICTIONS = (SIZE, (224, 384), (112, 192))
"""Sizes of the predictions: the ground truth's, and those of networks."""

FIXATIONS = 150
"""Fixations per frame; the negatives of the shuffled AUC come from ten other frames."""

FRAMES = 16
"""Frames of the video, about as many as an evaluation scores in one batch."""

FIVE = ("auc_judd", "nss", "cc", "sim", "kldiv")
"""The metrics that need only the frame's own ground truth."""

ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"),
    "1",
)
"""Environment that limits OpenBLAS, MKL, BLIS and Accelerate to one thread; they read it when they are loaded."""

COLUMNS = "metrics path prediction milliseconds p99 frames_per_second memory_mb speed"

Size = tuple[int, int]
Truth = dict[str, list[np.ndarray]]
"""Name of a metric's argument -> n ground-truth arrays (h, w)."""


def benchmark_metrics(
    rounds: int = 5,
    *,
    frames: int = FRAMES,
    size: Size = SIZE,
    predictions: Sequence[Size] = PREDICTIONS,
    progress: bool = True,
) -> Table:
    """Measure the metrics on generated frames, on one core.

    Args:
        rounds: interleaved rounds.
        frames: frames of the video that one call scores.
        size: (height, width) of the ground truth.
        predictions: sizes (h', w') of the predictions.
        progress: show a progress bar.

    Returns:
        One row per size of the predictions, set of metrics and path: one by one with `evaluation.metrics`, or
        batched with `score_frames`. Keys: `metrics`, `path`, `prediction`, `milliseconds` (median per
        frame), `p99`, `calls`, `frames_per_second`, `memory_mb` (peak that a call allocates beyond its input), and
        `speed` relative to the path `against`, if there is one. The setting has `ratios` by size of the
        predictions: `one_by_one_over_batched` (time of AUC-J + NSS + CC + SIM + KL; higher is faster) and
        `shuffled_over_the_rest` (time of the shuffled AUC divided by that of those five, batched; lower is faster).
    """
    rows, ratios = run_fresh(_measure, rounds, frames, size, predictions, progress, env=ONE_THREAD)
    setting = {
        "device": f"cpu ({platform.machine()})",
        "threads": 1,
        "clock": "processor time",
        "rounds": rounds,
        "frames": frames,
        "size": list(size),
        "fixations": FIXATIONS,
        "memory": "peak that a call allocates beyond its input",
        "ratios": ratios,
        "numpy": np.__version__,
        "cpus": os.cpu_count(),
    }
    notes = [
        "{device}, one thread, {clock}; {rounds} rounds, {frames} frames of {size[0]}x{size[1]} with {fixations} "
        "fixations; ms: per frame; speed: relative to one by one; memory: {memory}".format(**setting)
    ]
    notes += [
        f"{prediction}: the five metrics are {one['one_by_one_over_batched']:.1f} times as fast batched as one by "
        f"one; the shuffled AUC takes {one['shuffled_over_the_rest']:.2f} times as long as the five"
        for prediction, one in ratios.items()
    ]
    return Table(rows, COLUMNS, setting, notes)


def _measure(
    rounds: int, frames: int, size: Size, predictions: Sequence[Size], progress: bool
) -> tuple[list[dict[str, Any]], dict[str, dict[str, float]]]:
    """Return the rows, and the ratios by size of the predictions."""
    maps, truth = make_frames(frames, size)
    cases: list[tuple[str, str, str, Callable[[], object]]] = []
    for shape in predictions:
        resized = [imresize(each, tuple(shape)).astype(np.float32) for each in maps]
        cases += [("{}x{}".format(*shape), *case) for case in _cases(resized, truth)]
    calls = [timed(run, time.process_time) for *_, run in cases]
    rows: list[dict[str, Any]] = []
    cost: dict[tuple[str, str, str], float] = {}
    for (prediction, metrics, path, run), seconds in zip(
        cases, interleave(calls, rounds, progress=progress), strict=True
    ):
        timing = summarise(seconds, frames)
        own = cost[prediction, metrics, path] = timing["milliseconds"]
        single = cost.get((prediction, metrics, "one by one")) if path == "batched" else None
        rows.append(
            {
                "metrics": metrics,
                "path": path,
                "prediction": prediction,
                "against": "one by one" if single else None,
                "speed": single / own if single else None,
                "frames_per_second": 1000 / own,
                "memory_mb": _memory(run),
                **timing,
            }
        )
    ratios = {}
    for prediction in dict.fromkeys(row["prediction"] for row in rows):
        batched = cost[prediction, _title(FIVE), "batched"]
        ratios[prediction] = {
            "one_by_one_over_batched": cost[prediction, _title(FIVE), "one by one"] / batched,
            "shuffled_over_the_rest": cost[prediction, "sAUC", "batched"] / batched,
        }
    return rows, ratios


def _cases(maps: list[np.ndarray], truth: Truth) -> Iterator[tuple[str, str, Callable[[], object]]]:
    """Yield (metrics, path, work) for predictions of one size."""

    def one_by_one(metrics: Sequence[str]) -> None:
        for i, each in enumerate(maps):
            for metric in metrics:
                METRICS[metric].score(each, {kind: values[i] for kind, values in truth.items()})

    def batched(metrics: Sequence[str]) -> None:
        score_frames(metrics, maps, truth, seeds=range(len(maps)))

    for metrics in (("auc_judd",), FIVE, ("auc_shuffled",)):
        yield _title(metrics), "one by one", partial(one_by_one, metrics)
        yield _title(metrics), "batched", partial(batched, metrics)
    yield "all eight", "batched", partial(batched, tuple(METRICS))


def make_frames(frames: int, size: Size, *, seed: int = 0) -> tuple[list[np.ndarray], Truth]:
    """Return generated predictions (h, w) float32 with a peak of 1, and ground truth in the types of the data sets.

    Observers look at three places per frame; the prediction knows two of them and has clutter.
    """
    rng = np.random.default_rng(seed)
    height, width = size
    blur = 12.74 * width / 640

    def places(number: int) -> np.ndarray:
        return rng.uniform((0.2 * height, 0.2 * width), (0.8 * height, 0.8 * width), (number, 3, 2))

    def look(centres: np.ndarray) -> np.ndarray:
        points = centres[rng.integers(len(centres), size=FIXATIONS)] + rng.normal(0, width / 15, (FIXATIONS, 2))
        counts = np.zeros((height, width), dtype=np.float32)
        np.add.at(counts, tuple(points.astype(np.int64).clip(0, (height - 1, width - 1)).T), 1)
        return counts

    def predict(centres: np.ndarray) -> np.ndarray:
        clutter = gaussian_filter(rng.random((height, width)), blur)
        guess = gaussian_filter(look(centres[:2]), 2 * blur)
        guess = guess / guess.max() + (clutter - clutter.min()) / np.ptp(clutter) / 4
        return (guess / guess.max()).astype(np.float32)

    seen = places(frames)
    fixations = [look(centres) for centres in seen]
    densities = [gaussian_filter(counts, blur, truncate=8) for counts in fixations]
    negatives = np.sum([look(centres) for centres in places(10)], axis=0) > 0
    truth: Truth = {
        "fixations": fixations,
        "density": [density / density.sum() for density in densities],
        "other_fixations": [negatives] * frames,
        "baseline": [gaussian_filter(negatives.astype(np.float32), 2 * blur)] * frames,
    }
    return [predict(centres) for centres in seen], truth


def _memory(run: Callable[[], object]) -> float:
    """Return the peak megabytes that a call allocates; NumPy reports its arrays to tracemalloc."""
    tracemalloc.start()
    try:
        run()
        return tracemalloc.get_traced_memory()[1] / 1e6
    finally:
        tracemalloc.stop()


def _title(metrics: Sequence[str]) -> str:
    return " + ".join(METRICS[metric].title for metric in metrics)
