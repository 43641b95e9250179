"""The scores of `metrics.py` over the frames of a video: the same numbers, with less work.

    truth = {"fixations": fixations, "density": densities}
    scores = score_frames(["auc_judd", "nss", "cc"], maps, truth, seeds=range(len(maps)))
    scores["nss"]  # (n,)

What several metrics ask of a frame is computed once. The arrays for the work are kept from frame to frame: to get a
fresh megabyte from the system takes longer than to fill it with a sum. AUC-Judd counts the pixels in bins and sorts
only those in the bins of fixated pixels. The AUCs with fixed thresholds normalise only the pixels they look at.
All of it is in float64 and in the calling thread.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from distill.evaluation.imresize import imresize, kept_array
from distill.evaluation.metrics import (
    EPS,
    METRICS,
    SPLITS,
    TRUTHS,
    Array,
    cc,
    check_truth,
    draw_negatives,
    judd_area,
    mean_area,
    nss,
)

BINS = 1 << 15
"""Pixels are counted in so many bins: few share one, and the counts fit into fast memory."""

NAN = float("nan")

Kept = dict[str, dict[str, Array]]
"""Arrays to be filled again for every frame, by purpose and name."""


def score_frames(
    metrics: Sequence[str],
    saliency: Sequence[ArrayLike],
    truth: Mapping[str, Sequence[ArrayLike]],
    *,
    seeds: Sequence[int],
) -> dict[str, Array]:
    """Score the maps of frames, each as `METRICS[name](map, ..., seed=seed)` would.

    Args:
        metrics: names from METRICS.
        saliency: n predictions (h', w').
        truth: by the name of a metric's argument (see TRUTHS) n arrays: fixations, other_fixations and density of
            one shape (h, w), baseline of any.
        seeds: n numbers, for what is random in each frame.

    Returns:
        For each metric its n values. They equal those of `METRICS` to rounding (1e-9, the areas 1e-12), and are NaN
        where those are.

    Raises:
        ValueError: an unknown metric; ground truth that a metric needs and that is missing; not n of something;
            ground truth of a frame in several shapes; or what the functions in METRICS raise.
    """
    needed = _needed(metrics, truth)
    counts = {"seeds": len(seeds), **{kind: len(truth[kind]) for kind in needed}}
    if wrong := {name: count for name, count in counts.items() if count != len(saliency)}:
        raise ValueError(f"there are {len(saliency)} maps: expected as many of everything, got {wrong}")
    if not metrics:
        return {}
    scores = {metric: np.full(len(saliency), NAN) for metric in metrics}
    kept: Kept = defaultdict(dict)
    for i, (prediction, seed) in enumerate(zip(saliency, seeds, strict=True)):
        frame = _Frame(prediction, {kind: truth[kind][i] for kind in needed}, seed, kept)
        if frame.finite:
            for metric in metrics:
                scores[metric][i] = _SCORES[metric](frame)
    return scores


def _needed(metrics: Sequence[str], truth: Mapping[str, Sequence[ArrayLike]]) -> list[str]:
    """Return the kinds of ground truth that the metrics need, after a check."""
    for metric in metrics:
        if metric not in METRICS:
            raise ValueError(f"metrics: expected some of {', '.join(METRICS)}; got {metric!r}")
        if missing := [kind for kind in TRUTHS[metric] if kind not in truth]:
            raise ValueError(f"truth: {metric} needs {' and '.join(missing)}, got {', '.join(truth) or 'nothing'}")
    return sorted({kind for metric in metrics for kind in TRUTHS[metric]})


class _Frame:
    """A frame's prediction and truth, and what several metrics ask of them; all maps are (h, w)."""

    def __init__(self, saliency: ArrayLike, truth: Mapping[str, ArrayLike], seed: int, kept: Kept) -> None:
        self.seed, self.kept = seed, kept
        self.baseline = truth.get("baseline")
        self.truth = {kind: np.asarray(array) for kind, array in truth.items() if kind != "baseline"}
        for array in self.truth.values():
            if array.ndim != 2 or array.size == 0:
                check_truth(array)
        shapes = {array.shape for array in self.truth.values()}
        if len(shapes) > 1:
            raise ValueError(f"ground truth of one frame: expected one shape, got {sorted(shapes)}")
        (self.shape,) = shapes
        self.pixels = self.shape[0] * self.shape[1]
        self.fixated = {kind: _fixated(array) for kind, array in self.truth.items() if kind != "density"}
        self.floor = _floor(self.truth["density"]) if "density" in self.truth else 0.0
        self.values = np.asarray(saliency)
        if self.values.shape != self.shape:
            self.values = imresize(saliency, self.shape, scratch=kept["prediction"])
        self.low, self.high = float(self.values.min()), float(self.values.max())
        self.finite = bool(np.isfinite(self.low) and np.isfinite(self.high))
        self.flat = not self.low < self.high

    def array(self, name: str) -> Array:
        """Return an array to work in."""
        return kept_array(self.kept["work"], name, self.shape)

    @property
    def hits(self) -> NDArray[np.intp]:
        """The fixated pixels (N,), numbered row by row."""
        return self.fixated["fixations"]

    @cached_property
    def above(self) -> "_Above":
        """The prediction above its floor."""
        return _Above(self.values, self.low, self.array("above"))

    @cached_property
    def density(self) -> "_Above":
        """The density above its floor."""
        return _Above(self.truth["density"], self.floor, self.array("density"))

    def unit(self, pixels: NDArray[np.intp]) -> Array:
        """Return some pixels of the min-max normalised prediction."""
        return (self.values.ravel()[pixels].astype(np.float64) - self.low) / (self.high - self.low)


def _fixated(counts: NDArray[Any]) -> NDArray[np.intp]:
    """Return the fixated pixels, numbered row by row, after the check of `check_truth`."""
    pixels = np.flatnonzero(counts != 0)
    found = counts.ravel()[pixels]
    if not ((found > 0) & np.isfinite(found)).all():
        check_truth(counts)
    return pixels


def _floor(density: NDArray[Any]) -> float:
    """Return the smallest value, after the check of `check_truth`; 0 if it is lost in the rounding of the sum."""
    low, high = float(density.min()), float(density.max())
    if not (low >= 0 and np.isfinite(high)):
        check_truth(density)
    return low if low * density.size > 1e-13 * high else 0.0


class _Above:
    """A map above its floor, with its sums.

    Attributes:
        values: (h, w) float64, the map minus its floor.
        floor: its smallest value.
        total: the sum of the values.
        variation: the sum of the squares of their distances from their mean.
        sure: whether the variation is more than what rounding leaves of the difference that it is computed as. It
            fails for a map that is even but for a few pixels far below.
    """

    def __init__(self, values: NDArray[Any], floor: float, out: Array) -> None:
        self.values, self.floor = out, float(floor)
        self.values[:] = values
        if floor:
            self.values -= self.floor
        self.total = _sum(self.values)
        squares = _dot(self.values, self.values)
        self.variation = squares - self.total**2 / values.size
        self.sure = self.variation > 1e-3 * squares


def _dot(a: Array, b: Array) -> float:
    """Sum of products, row by row: for longer vectors BLAS would start threads beside those of an evaluation."""
    return float(np.vecdot(a, b).sum())


def _sum(a: Array) -> float:
    """Sum, by BLAS too, which is faster than `ndarray.sum`."""
    return _dot(a, np.ones(a.shape[1]))


# ------------------------------------------------------------ the metrics, in the order and by the names of METRICS


def _auc_judd(frame: _Frame) -> float:
    if len(frame.hits) in (0, frame.pixels):
        return NAN
    hits = np.sort(frame.values.ravel()[frame.hits])
    at_least, above = _count_pixels(frame, hits)
    return judd_area(hits, at_least, above, frame.pixels - len(hits))


def _count_pixels(frame: _Frame, hits: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return how many pixels have the value of each hit or more, and how many have more.

    Pixels are counted in bins of equal width. All those in higher bins than a hit's have more; those that share a
    bin with a hit, which are few, are sorted and looked up.

    Args:
        frame: whose pixels.
        hits: (N,) the values at fixated pixels, rising.
    """
    width = 2.0 ** np.ceil(np.log2(max(frame.high - frame.low, 1e-300) / BINS))
    bins = _bins(frame.above.values, width, frame.array("work")).ravel()
    own = _bins(hits.astype(np.float64) - frame.low, width, np.empty(len(hits)))
    counts = np.zeros(BINS + 1, dtype=np.int64)
    np.add.at(counts, bins, 1)  # faster than np.bincount
    shared = np.zeros(BINS + 1, dtype=bool)
    shared[own] = True
    counts[shared] = 0
    higher = np.add.reduceat(counts, own)[::-1].cumsum()[::-1]
    near = np.sort(frame.values.ravel()[np.flatnonzero(shared.take(bins))])
    at_least, above = (higher + len(near) - np.searchsorted(near, hits, side) for side in ("left", "right"))
    return at_least, above


def _bins(values: Array, width: float, out: Array) -> NDArray[np.int64]:
    """Return the numbers of the bins, 0 to BINS, of values from 0 up; `width` is a power of two.

    The last bit of a float from 2^52 widths on is one width: added to one, a value is rounded to whole widths, and
    the last bits of the sum are their number.
    """
    numbers = np.add(values, 2.0**52 * width, out=out).view(np.int64)
    numbers &= 2 * BINS - 1
    return numbers


def _auc_shuffled(frame: _Frame) -> float:
    elsewhere = frame.fixated["other_fixations"]
    if len(frame.hits) == 0 or len(elsewhere) == 0 or frame.flat:
        return NAN
    draws = draw_negatives(len(elsewhere), len(frame.hits), SPLITS, frame.seed)
    return mean_area(frame.unit(frame.hits), frame.unit(elsewhere)[draws])


def _auc_borji(frame: _Frame) -> float:
    if len(frame.hits) < 2 or frame.flat:
        return NAN
    draws = np.random.default_rng(frame.seed).integers(frame.pixels, size=(SPLITS, len(frame.hits)))
    return mean_area(frame.unit(frame.hits), frame.unit(draws))


def _nss(frame: _Frame) -> float:
    if len(frame.hits) == 0 or frame.flat:
        return NAN
    ours = frame.above
    if not ours.sure:
        return nss(frame.values, frame.truth["fixations"])
    deviation = np.sqrt(ours.variation / (frame.pixels - 1))
    return float((ours.values.ravel()[frame.hits].mean() - ours.total / frame.pixels) / deviation)


def _cc(frame: _Frame) -> float:
    ours, truth = frame.above, frame.density
    if frame.flat or truth.total == 0:
        return NAN
    if not (ours.sure and truth.sure):
        return cc(frame.values, frame.truth["density"])
    covariation = _dot(ours.values, truth.values) - ours.total * truth.total / frame.pixels
    return float(covariation / np.sqrt(ours.variation * truth.variation))


def _sim(frame: _Frame) -> float:
    ours, truth = frame.above, frame.density
    if truth.total == 0:
        return NAN
    if frame.flat:
        return NAN if frame.high else 0.0
    scaled = np.multiply(ours.values, truth.total / ours.total, out=frame.array("work"))
    return _sum(np.minimum(scaled, truth.values, out=scaled)) / truth.total


def _kldiv(frame: _Frame) -> float:
    truth, total = frame.density.values, frame.density.total
    if frame.density.floor:
        truth = np.add(truth, frame.density.floor, out=frame.array("truth"))
        total = _sum(truth)
    if total == 0:
        return NAN
    guess = frame.array("work")
    if frame.low < 0:
        mass = _sum(np.maximum(frame.values, 0, out=guess, dtype=np.float64)) or 1.0
        guess += EPS * mass
    else:
        mass = frame.above.total + frame.pixels * frame.low or 1.0
        np.add(frame.above.values, frame.low + EPS * mass, out=guess)
    # of log(eps + (truth / total) / (guess / mass + eps)) the factor mass / total is drawn out
    ratio = np.divide(truth, guess, out=guess)
    ratio += EPS * total / mass
    return float(np.log(mass / total) + _dot(truth, np.log(ratio, out=ratio)) / total)


def _info_gain(frame: _Frame) -> float:
    assert frame.baseline is not None
    baseline = imresize(frame.baseline, frame.shape, scratch=frame.kept["baseline"])
    low, high = baseline.min(), baseline.max()
    if len(frame.hits) == 0 or frame.flat or not (np.isfinite(low) and np.isfinite(high) and low < high):
        return NAN
    both = frame.above, _Above(baseline, low, frame.array("work"))
    ours, theirs = (np.log2(EPS + each.values.ravel()[frame.hits] / each.total) for each in both)
    return float((ours - theirs).mean())


_SCORES: dict[str, Callable[[_Frame], float]] = {
    "auc_judd": _auc_judd,
    "auc_shuffled": _auc_shuffled,
    "auc_borji": _auc_borji,
    "nss": _nss,
    "cc": _cc,
    "sim": _sim,
    "kldiv": _kldiv,
    "info_gain": _info_gain,
}
