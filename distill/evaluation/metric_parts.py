"""Parts that the single-frame and the batched metrics share: checks of ground truth, random draws and ROC areas."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

EPS = float(np.finfo(np.float64).eps)  # MATLAB's eps
SPLITS = 100  # random draws of negatives in shuffled AUC and AUC-Borji
THRESHOLDS = np.arange(10, -1, -1) * 0.1  # their thresholds, for a map in [0, 1]


def check_truth(values: ArrayLike) -> NDArray[Any]:
    """Return ground truth (h, w) as an array of its own dtype.

    Raises:
        ValueError: if it is not two-dimensional, is empty, or holds NaN, infinity or a negative value.
    """
    values = np.asarray(values)
    if values.ndim != 2 or values.size == 0:
        raise ValueError(f"ground truth must have two dimensions and at least one pixel, got shape {values.shape}")
    if values.dtype != np.bool_ and not (values.min() >= 0 and np.isfinite(values.max())):
        raise ValueError("ground truth must be finite and non-negative")
    return values


def judd_area(hits: Array, at_least: NDArray[np.int64], above: NDArray[np.int64], others: int) -> float:
    """Return the AUC-Judd area in closed form, averaged over all orders of tied pixels.

    Without ties it is the rank statistic P(hit > other) plus half a step, 1 / (2 N), times the share of other
    pixels above the lowest hit, where the straight segments run. A tie counts half. Of the other pixels that tie
    with the lowest hit, m / (m + 1) come before the last of its m equals.

    Args:
        hits: (N,) values at fixated pixels, ascending.
        at_least: (N,) for each hit, the number of pixels with its value or more, fixated ones included.
        above: (N,) for each hit, the number of pixels with a larger value.
        others: number of pixels that are not fixated.
    """
    count = len(hits)
    hits_at_least, hits_above = (count - np.searchsorted(hits, hits, side) for side in ("left", "right"))
    hits_tied = hits_at_least - hits_above
    others_above = above - hits_above
    others_tied = at_least - above - hits_tied
    lost = (others_above + 0.5 * others_tied).mean() / others
    before_last = (others_above[0] + others_tied[0] * hits_tied[0] / (hits_tied[0] + 1)) / others
    return float(1 - lost + 0.5 * before_last / count)


def draw_negatives(pool: int, count: int, splits: int, seed: int) -> NDArray[np.int64]:
    """Return draws of `count` distinct numbers below `pool`, (splits, count); all of them, (1, pool), if few."""
    if count >= pool:
        return np.arange(pool)[None]
    lots = np.random.default_rng(seed).random((splits, pool))
    return np.argpartition(lots, count, axis=1)[:, :count]


def mean_area(hits: Array, negatives: Array) -> float:
    """Return the ROC area at fixed thresholds of hits (K,) against negatives (splits, R), averaged over splits.

    The official thresholds end at the largest value drawn; the ones beyond it only repeat the point (0, 0).
    """
    true = [0.0, *((hits >= threshold).mean() for threshold in THRESHOLDS), 1.0]  # (13,)
    false = np.stack([(negatives >= threshold).mean(axis=1) for threshold in THRESHOLDS], axis=1)  # (splits, 11)
    false = np.pad(false, ((0, 0), (1, 1)), constant_values=(0.0, 1.0))
    return float(np.trapezoid(np.broadcast_to(true, false.shape), false, axis=1).mean())
