"""Batched forms of the metrics: the same scores from one `FrameMaps`, which computes shared quantities once.

Each form takes a frame whose prediction is finite and returns the score, NaN where the metric is undefined, or None
to decline, when rounding would cost it digits: the metric's single-frame function is called then.
"""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from distill.evaluation.imresize import imresize, scratch_array
from distill.evaluation.metric_parts import EPS, SPLITS, Array, check_truth, draw_negatives, judd_area, mean_area

BINS = 1 << 15
"""Bins that AUC-Judd counts pixels in: few pixels share one, and the counts fit into fast memory."""

NAN = float("nan")

Scratch = dict[str, dict[str, Array]]
"""Arrays that are reused from frame to frame, by purpose and name."""


class FrameMaps:
    """One frame's prediction and ground truth, with the quantities that several metrics need; all maps are (h, w).

    Attributes:
        truth: ground truth by kind, as arrays of their own dtype.
        values: the prediction, resized to the ground truth's size.
        low: its minimum.
        high: its maximum.
        finite: whether the prediction holds neither NaN nor infinity.
        flat: whether the prediction is constant.

    Raises:
        ValueError: invalid ground truth, or ground truth with different shapes (the baseline may have any).
    """

    def __init__(self, saliency: ArrayLike, truth: Mapping[str, ArrayLike], seed: int, scratch: Scratch) -> None:
        self.seed, self.scratch = seed, scratch
        self.truth = {
            kind: np.asarray(values) if kind == "baseline" else check_truth(values)
            for kind, values in truth.items()
        }
        shapes = {values.shape for kind, values in self.truth.items() if kind != "baseline"}
        if len(shapes) > 1:
            raise ValueError(f"ground truth of one frame: expected one shape, got {sorted(shapes)}")
        (self.shape,) = shapes
        self.pixels = self.shape[0] * self.shape[1]
        self.values = np.asarray(saliency)
        if self.values.shape != self.shape:
            self.values = imresize(saliency, self.shape, scratch=scratch["prediction"])
        self.low, self.high = float(self.values.min()), float(self.values.max())
        self.finite = bool(np.isfinite(self.low) and np.isfinite(self.high))
        self.flat = not self.low < self.high

    def array(self, name: str) -> Array:
        """Return a scratch array (h, w); its contents are arbitrary."""
        return scratch_array(self.scratch["work"], name, self.shape)

    @cached_property
    def hits(self) -> NDArray[np.intp]:
        """Row-major indices (N,) of the fixated pixels."""
        return np.flatnonzero(self.truth["fixations"] != 0)

    @cached_property
    def other_hits(self) -> NDArray[np.intp]:
        """Row-major indices (M,) of the pixels that were fixated in other frames."""
        return np.flatnonzero(self.truth["other_fixations"] != 0)

    @cached_property
    def above(self) -> "ShiftedMap":
        """The prediction minus its minimum."""
        return ShiftedMap(self.values, self.low, self.array("above"))

    @cached_property
    def density(self) -> "ShiftedMap":
        """The density minus its minimum, or minus 0 if the minimum is lost in the rounding of the sum."""
        density = self.truth["density"]
        low = float(density.min())
        floor = low if low * density.size > 1e-13 * float(density.max()) else 0.0
        return ShiftedMap(density, floor, self.array("density"))

    def unit(self, pixels: NDArray[np.intp]) -> Array:
        """Return the min-max normalised prediction at some pixels."""
        return (self.values.ravel()[pixels].astype(np.float64) - self.low) / (self.high - self.low)


class ShiftedMap:
    """A map minus its minimum, with sums.

    Attributes:
        values: (h, w) float64, the map minus its minimum.
        floor: the minimum.
        total: sum of the values.
        variation: sum of the squared deviations from their mean.
        reliable: whether the variation, a difference of sums, exceeds its rounding error. False for a map that is
            constant but for a few pixels far below.
    """

    def __init__(self, values: NDArray[Any], floor: float, out: Array) -> None:
        self.values, self.floor = out, float(floor)
        self.values[:] = values
        if floor:
            self.values -= self.floor
        self.total = _sum(self.values)
        squares = _dot(self.values, self.values)
        self.variation = squares - self.total**2 / values.size
        self.reliable = self.variation > 1e-3 * squares


def _dot(a: Array, b: Array) -> float:
    """Return the sum of products, row by row: for longer vectors BLAS would start threads of its own."""
    return float(np.vecdot(a, b).sum())


def _sum(a: Array) -> float:
    """Return the sum, by BLAS, which is faster than `ndarray.sum`."""
    return _dot(a, np.ones(a.shape[1]))


def auc_judd(frame: FrameMaps) -> float:
    """Return AUC-Judd: pixels are counted in bins, and only those that share a bin with a hit are sorted."""
    if len(frame.hits) in (0, frame.pixels):
        return NAN
    hits = np.sort(frame.values.ravel()[frame.hits])
    at_least, above = _count_pixels(frame, hits)
    return judd_area(hits, at_least, above, frame.pixels - len(hits))


def _count_pixels(frame: FrameMaps, hits: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the numbers of pixels with at least, and with more than, the value of each hit (N,), ascending."""
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
    """Return the bin, 0 to BINS, of each non-negative value; `width` is a power of two.

    The last bit of a float at 2^52 widths is worth one width. Adding 2^52 widths therefore rounds a value to whole
    widths, and the last bits of the sum are their number.
    """
    numbers = np.add(values, 2.0**52 * width, out=out).view(np.int64)
    numbers &= 2 * BINS - 1
    return numbers


def auc_shuffled(frame: FrameMaps) -> float:
    """Return shuffled AUC; only the pixels that it looks at are normalised."""
    hits, others = frame.hits, frame.other_hits
    if len(hits) == 0 or len(others) == 0 or frame.flat:
        return NAN
    draws = draw_negatives(len(others), len(hits), SPLITS, frame.seed)
    return mean_area(frame.unit(hits), frame.unit(others)[draws])


def auc_borji(frame: FrameMaps) -> float:
    """Return AUC-Borji; only the pixels that it looks at are normalised."""
    if len(frame.hits) < 2 or frame.flat:
        return NAN
    draws = np.random.default_rng(frame.seed).integers(frame.pixels, size=(SPLITS, len(frame.hits)))
    return mean_area(frame.unit(frame.hits), frame.unit(draws))


def nss(frame: FrameMaps) -> float | None:
    """Return NSS."""
    if len(frame.hits) == 0 or frame.flat:
        return NAN
    guess = frame.above
    if not guess.reliable:
        return None
    deviation = np.sqrt(guess.variation / (frame.pixels - 1))
    return float((guess.values.ravel()[frame.hits].mean() - guess.total / frame.pixels) / deviation)


def cc(frame: FrameMaps) -> float | None:
    """Return CC."""
    guess, truth = frame.above, frame.density
    if frame.flat or truth.total == 0:
        return NAN
    if not (guess.reliable and truth.reliable):
        return None
    covariation = _dot(guess.values, truth.values) - guess.total * truth.total / frame.pixels
    return float(covariation / np.sqrt(guess.variation * truth.variation))


def sim(frame: FrameMaps) -> float:
    """Return SIM."""
    guess, truth = frame.above, frame.density
    if truth.total == 0:
        return NAN
    if frame.flat:
        return NAN if frame.high else 0.0
    scaled = np.multiply(guess.values, truth.total / guess.total, out=frame.array("work"))
    return _sum(np.minimum(scaled, truth.values, out=scaled)) / truth.total


def kldiv(frame: FrameMaps) -> float:
    """Return the KL divergence."""
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
    # log(eps + (truth / total) / (guess / mass + eps)), with the factor mass / total taken out of the logarithm
    ratio = np.divide(truth, guess, out=guess)
    ratio += EPS * total / mass
    return float(np.log(mass / total) + _dot(truth, np.log(ratio, out=ratio)) / total)


def info_gain(frame: FrameMaps) -> float:
    """Return information gain."""
    baseline = imresize(frame.truth["baseline"], frame.shape, scratch=frame.scratch["baseline"])
    low, high = baseline.min(), baseline.max()
    if len(frame.hits) == 0 or frame.flat or not (np.isfinite(low) and np.isfinite(high) and low < high):
        return NAN
    pair = frame.above, ShiftedMap(baseline, low, frame.array("work"))
    guess, prior = (np.log2(EPS + each.values.ravel()[frame.hits] / each.total) for each in pair)
    return float((guess - prior).mean())
