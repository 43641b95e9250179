"""Cost of the metrics: one frame at a time, batched over a video, and with the textbook's loop over thresholds.

    saldistill benchmark --of metrics [--json FILE]

Everything runs on one core, in a process whose numerical libraries may start no threads, and is measured in
processor time.
"""

import os
import platform
import time
import tracemalloc
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.ndimage import gaussian_filter

from distill.benchmark.process import run_fresh
from distill.benchmark.rows import Table, interleave, summarise, timed
from distill.errors import UserError
from distill.evaluation.batched_metrics import score_frames
from distill.evaluation.imresize import imresize
from distill.evaluation.metrics import JITTER, METRICS

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

COLUMNS = {
    "metrics": ("metrics", "{}"),
    "path": ("path", "{}"),
    "prediction": ("prediction", "{}"),
    "milliseconds": ("ms/frame", "{:.3f}"),
    "p99": ("p99", "{:.3f}"),
    "frames_per_second": ("frames/s", "{:.0f}"),
    "memory_mb": ("memory MB", "{:.1f}"),
    "speed": ("speed", "{:.2f}x"),
    "against": ("relative to", "{}"),
}

Truth = dict[str, list[np.ndarray]]
"""Name of a metric's argument -> n ground-truth arrays (h, w)."""


def benchmark_metrics(
    rounds: int = 5,
    *,
    frames: int = FRAMES,
    size: tuple[int, int] = SIZE,
    predictions: Sequence[tuple[int, int]] = PREDICTIONS,
    fixations: int = FIXATIONS,
    progress: bool = True,
) -> Table:
    """Measure the metrics on generated frames, on one core.

    Args:
        rounds: interleaved rounds.
        frames: frames of the video that one call scores.
        size: (height, width) of the ground truth.
        predictions: one or more sizes (h', w') of the predictions.
        fixations: fixations per frame.
        progress: show a progress bar.

    Returns:
        One row per size of the predictions, set of metrics and path (the textbook's loop, one by one with
        `distill.evaluation.metrics`, batched with `distill.evaluation.batched_metrics`). Keys: `milliseconds`
        (median per frame), `p99`, `frames_per_second`, `memory_mb` (peak that a call allocates beyond its input),
        `calls`, and `speed` relative to the path `against`, if there is one. The setting has under `ratios`, by
        size of the predictions: `textbook_over_auc_judd` and `one_by_one_over_batched` (time ratios, higher is
        faster; the latter for AUC-J + NSS + CC + SIM + KL), and `shuffled_over_the_rest` (time of the shuffled AUC
        divided by the time of those five, both batched; lower is faster).

    Raises:
        UserError: a number is below 1.
    """
    if min(rounds, frames, fixations, *size) < 1 or not predictions:
        raise UserError(
            f"rounds, frames, fixations and sizes must be at least 1, got {rounds}, {frames}, {fixations}, {size}"
        )
    rows, ratios = run_fresh(_measure, rounds, frames, size, predictions, fixations, progress, env=ONE_THREAD)
    setting = {
        "device": f"cpu ({platform.machine()})",
        "threads": 1,
        "clock": "processor time",
        "rounds": rounds,
        "frames": frames,
        "size": list(size),
        "fixations": fixations,
        "memory": "peak that a call allocates beyond its input",
        "ratios": ratios,
        "numpy": np.__version__,
        "cpus": os.cpu_count(),
    }
    notes = [
        f"{setting['device']}, one thread, processor time; {rounds} rounds, {frames} frames of {_name(size)} "
        f"with {fixations} fixations; memory: {setting['memory']}"
    ]
    notes += [
        f"{prediction}: AUC-J is {one['textbook_over_auc_judd']:.1f} times as fast as the textbook's loop; the "
        f"five metrics are {one['one_by_one_over_batched']:.1f} times as fast batched as one by one; the shuffled "
        f"AUC takes {one['shuffled_over_the_rest']:.2f} times as long as the five"
        for prediction, one in ratios.items()
    ]
    return Table(rows, COLUMNS, setting, notes)


class _Case(NamedTuple):
    """What one row measures; `against` is the path, of the same metrics, that it is compared with."""

    metrics: str
    path: str
    prediction: str
    run: Callable[[], object]
    against: str | None = None


def _measure(
    rounds: int,
    frames: int,
    size: tuple[int, int],
    predictions: Sequence[tuple[int, int]],
    fixations: int,
    progress: bool,
) -> tuple[list[dict[str, Any]], dict[str, dict[str, float]]]:
    """Return the rows, and the ratios by size of the predictions."""
    maps, truth = make_frames(frames, size, fixations)
    cases = [
        case
        for prediction in predictions
        for case in _cases([imresize(each, tuple(prediction)).astype(np.float32) for each in maps], truth)
    ]
    times = interleave([timed(case.run, time.process_time) for case in cases], rounds, progress=progress)
    rows: list[dict[str, Any]] = []
    for case, seconds in zip(cases, times, strict=True):
        row = {
            "metrics": case.metrics,
            "path": case.path,
            "prediction": case.prediction,
            "against": case.against,
            **summarise(seconds, frames),
            "memory_mb": _memory(case.run),
        }
        rows.append({**row, "frames_per_second": 1000 / row["milliseconds"]})
    cost = {(row["prediction"], row["metrics"], row["path"]): row["milliseconds"] for row in rows}
    for row in rows:
        other = cost.get((row["prediction"], row["metrics"], row["against"]))
        row["speed"] = other / row["milliseconds"] if other else None
    ratios = {}
    for prediction in dict.fromkeys(case.prediction for case in cases):
        loop, judd = (cost[prediction, "AUC-J", path] for path in ("textbook loop", "one by one"))
        single, batched = (cost[prediction, _title(FIVE), path] for path in ("one by one", "batched"))
        ratios[prediction] = {
            "textbook_over_auc_judd": loop / judd,
            "one_by_one_over_batched": single / batched,
            "shuffled_over_the_rest": cost[prediction, "sAUC", "batched"] / batched,
        }
    return rows, ratios


def _cases(maps: list[np.ndarray], truth: Truth) -> list[_Case]:
    """Return what is measured on predictions of one size."""
    prediction = _name(maps[0].shape)

    def textbook() -> list[float]:
        return [textbook_auc_judd(*each) for each in zip(maps, truth["fixations"], strict=True)]

    def one_by_one(*metrics: str) -> Callable[[], object]:
        return lambda: [
            METRICS[metric].score(each, {kind: values[i] for kind, values in truth.items()})
            for i, each in enumerate(maps)
            for metric in metrics
        ]

    def batched(*metrics: str) -> Callable[[], object]:
        return lambda: score_frames(metrics, maps, truth, seeds=range(len(maps)))

    cases = [_Case("AUC-J", "textbook loop", prediction, textbook)]
    for metrics, against in ((("auc_judd",), "textbook loop"), (FIVE, None), (("auc_shuffled",), None)):
        cases.append(_Case(_title(metrics), "one by one", prediction, one_by_one(*metrics), against))
        cases.append(_Case(_title(metrics), "batched", prediction, batched(*metrics), against or "one by one"))
    return [*cases, _Case("all eight", "batched", prediction, batched(*METRICS))]


def textbook_auc_judd(saliency: ArrayLike, fixations: np.ndarray, *, seed: int | None = 0) -> float:
    """Return AUC-Judd as in the textbook, with a loop over thresholds: the baseline of `auc_judd`.

    Args:
        saliency: (h', w') prediction.
        fixations: (h, w) binary map or counts, with at least one fixation.
        seed: of the jitter. None adds no jitter, which is correct only for maps without ties.
    """
    values = imresize(saliency, fixations.shape)
    if seed is not None:
        values = values + np.random.default_rng(seed).random(values.shape) * JITTER
    values = (values - values.min()) / (values.max() - values.min())
    thresholds = np.sort(values[fixations > 0])[::-1]
    count = len(thresholds)
    true, false = np.zeros(count + 2), np.zeros(count + 2)
    true[-1] = false[-1] = 1
    for i, threshold in enumerate(thresholds, start=1):
        above = (values >= threshold).sum()
        true[i] = i / count
        false[i] = (above - i) / (values.size - count)
    return float(np.trapezoid(true, false))


def make_frames(
    frames: int, size: Sequence[int], fixations: int, *, seed: int = 0
) -> tuple[list[np.ndarray], Truth]:
    """Return generated predictions (h, w) float32 with a peak of 1, and ground truth in the types of the data sets.

    Observers look at three places per frame; the prediction knows two of them and has clutter.
    """
    rng = np.random.default_rng(seed)
    height, width = size
    blur = 12.74 * width / 640

    def look(centres: np.ndarray) -> np.ndarray:
        points = centres[rng.integers(len(centres), size=fixations)] + rng.normal(0, width / 15, (fixations, 2))
        counts = np.zeros((height, width), dtype=np.float32)
        np.add.at(counts, tuple(points.astype(np.int64).clip(0, (height - 1, width - 1)).T), 1)
        return counts

    places = rng.uniform((0.2 * height, 0.2 * width), (0.8 * height, 0.8 * width), (frames, 3, 2))
    truth: Truth = {"fixations": [look(centres) for centres in places]}
    truth["density"] = [gaussian_filter(counts, blur, truncate=8) for counts in truth["fixations"]]
    truth["density"] = [density / density.sum() for density in truth["density"]]
    elsewhere = rng.uniform((0.2 * height, 0.2 * width), (0.8 * height, 0.8 * width), (10, 3, 2))
    negatives = np.sum([look(centres) for centres in elsewhere], axis=0) > 0
    truth["other_fixations"] = [negatives] * frames
    truth["baseline"] = [gaussian_filter(negatives.astype(np.float32), 2 * blur)] * frames
    maps = []
    for centres in places:
        clutter = gaussian_filter(rng.random((height, width)), blur)
        guess = gaussian_filter(look(centres[:2]), 2 * blur)
        guess = guess / guess.max() + (clutter - clutter.min()) / (clutter.max() - clutter.min()) / 4
        maps.append((guess / guess.max()).astype(np.float32))
    return maps, truth


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


def _name(size: Sequence[int]) -> str:
    return "{}x{}".format(*size)
