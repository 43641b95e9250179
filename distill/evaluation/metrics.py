"""Published saliency scores: pure functions of one map in float64, with the official MATLAB code's definitions.

A metric takes a prediction (any size, any scale) and the ground truth of one frame, and gives one number. The
prediction is first resized to the ground truth's size. Nothing here is shared with `losses.py`: a choice made for
training must not move a published number. `scoring.py` gives the same numbers of a whole video, faster.

    auc_judd(saliency, fixations)                          chance .5, best 1, higher is better
    auc_shuffled(saliency, fixations, other_fixations)     chance .5, best 1, higher is better
    auc_borji(saliency, fixations)                         chance .5, best 1, higher is better
    nss(saliency, fixations)                               chance 0, higher is better
    info_gain(saliency, fixations, baseline)               0 at the baseline, bits a fixation, higher is better
    cc(saliency, density)                                  [-1, 1], higher is better
    sim(saliency, density)                                 [0, 1], higher is better
    kldiv(saliency, density)                               nats, 0 at equality, lower is better

Shapes: saliency and baseline (h', w'); fixations, other_fixations and density (h, w). Fixations may be a binary map
or counts: the official code asks whether a pixel was fixated, not how often.

The answer to degenerate input, the same everywhere unless a function says otherwise:

    no fixation, or a density that is zero everywhere     NaN (no truth; the official SIM and KL say 0)
    one fixation                                          a number as any; NaN from `auc_borji` (as official)
    a constant prediction                                 NaN where a division by its spread is needed
    NaN or infinity in the prediction                     NaN, from every metric
    negative values in the prediction                     allowed; `kldiv` alone counts them as zero
    tied pixels, as 8-bit maps have them                  `auc_judd`: the mean over all their orders; the others do
                                                          not order pixels
    NaN or a negative value in the ground truth,
    or arrays that are not two-dimensional                ValueError

Source: the DHF1K and MIT/Tuebingen saliency benchmarks' MATLAB files; Bylinskii et al., "What do different
evaluation metrics tell us about saliency models?", TPAMI 2019.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from distill.evaluation.imresize import imresize

Array = NDArray[np.float64]

EPS = float(np.finfo(np.float64).eps)  # MATLAB's eps
JITTER = 1e-7  # AUC-Judd's noise is uniform in [0, JITTER)
SPLITS = 100  # random draws of negatives in the shuffled and in Borji's AUC
THRESHOLDS = np.arange(10, -1, -1) * 0.1  # their thresholds, on a map in [0, 1]


def auc_judd(saliency: ArrayLike, fixations: ArrayLike, *, jitter: bool = False, seed: int = 0) -> float:
    """Area under the ROC curve that separates the fixated pixels from all others.

    The thresholds are the map's values at the fixated pixels; between them the curve is straight.

    Args:
        saliency: (h', w'), the prediction.
        fixations: (h, w), binary or counts.
        jitter: break ties by uniform noise below 1e-7, as the official code does. The noise is absolute: give maps
            whose peak is 1 or 255, not densities, or it drowns them. Without it ties are handled exactly: the
            answer is the mean of the area over all orders of the tied pixels, which is what the official code
            gives on average, and the map's scale does not matter.
        seed: of the noise.

    Returns:
        The area in [0, 1]. The straight segments favour few fixations: a constant map gives .5 + .5 / (N + 1) with
        N of them (with jitter: on average). NaN without a fixation, or if every pixel is fixated.

    Source: AUC_Judd.m.
    """
    fixated = fixated_pixels(fixations)
    values = imresize(saliency, fixated.shape)
    others = fixated.size - int(fixated.sum())
    if not fixated.any() or others == 0 or not np.isfinite(values).all():
        return float("nan")
    if jitter:
        values = values + np.random.default_rng(seed).random(values.shape) * JITTER
    # The official code min-max normalises here; the order of the pixels, which is all that counts, stays the same.
    hits = np.sort(values[fixated])
    pixels = np.sort(values[values >= hits[0]])  # no other is above any threshold
    at_least, above = (len(pixels) - np.searchsorted(pixels, hits, side) for side in ("left", "right"))
    return judd_area(hits, at_least, above, others)


def judd_area(hits: Array, at_least: NDArray[np.int64], above: NDArray[np.int64], others: int) -> float:
    """Return AUC-Judd's area, its mean over all orders of tied pixels, in closed form.

    Without ties it is the rank statistic P(hit > other), and half a step, 1 / (2 N), for the share of other pixels
    above the lowest hit, over which the straight segments run. A tie is half won. Of the others that tie with the
    lowest hit, m / (m + 1) come before the last of its m equals.

    Args:
        hits: (N,) the values at fixated pixels, rising.
        at_least: (N,) for each hit, the number of pixels of its value or more, fixated ones included.
        above: (N,) for each hit, the number of pixels of more than its value.
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


def auc_shuffled(
    saliency: ArrayLike, fixations: ArrayLike, other_fixations: ArrayLike, *, splits: int = SPLITS, seed: int = 0
) -> float:
    """Area under the ROC curve against the fixations of other frames, which cancels the bias to the centre.

    Args:
        saliency: (h', w'), the prediction.
        fixations: (h, w), binary or counts.
        other_fixations: (h, w), the union of the fixations of (by custom 10) random other frames. Of them as many
            are drawn as there are fixated pixels, or all where there are fewer.
        splits: how many draws are averaged.
        seed: of the draws.

    Returns:
        The mean area in [0, 1], at 11 fixed thresholds, so that fine differences between pixels are lost. NaN
        without a fixation, without an other fixation, and for a constant map.

    Source: AUC_shuffled.m.
    """
    fixated, elsewhere = fixated_pixels(fixations), fixated_pixels(other_fixations)
    if fixated.shape != elsewhere.shape:
        raise ValueError(f"other_fixations: expected the shape of fixations {fixated.shape}, got {elsewhere.shape}")
    values = _min_max(imresize(saliency, fixated.shape))
    if not (fixated.any() and elsewhere.any()) or values is None:
        return float("nan")
    pool = values[elsewhere]
    return mean_area(values[fixated], pool[draw_negatives(len(pool), int(fixated.sum()), splits, seed)])


def auc_borji(saliency: ArrayLike, fixations: ArrayLike, *, splits: int = SPLITS, seed: int = 0) -> float:
    """Area under the ROC curve against pixels drawn at random, as many as are fixated.

    Args:
        saliency: (h', w'), the prediction.
        fixations: (h, w), binary or counts.
        splits: how many draws are averaged.
        seed: of the draws.

    Returns:
        The mean area in [0, 1], at 11 fixed thresholds. NaN with fewer than two fixated pixels (as the official
        code) and for a constant map.

    Source: AUC_Borji.m.
    """
    fixated = fixated_pixels(fixations)
    values = _min_max(imresize(saliency, fixated.shape))
    count = int(fixated.sum())
    if count < 2 or values is None:
        return float("nan")
    draws = np.random.default_rng(seed).integers(values.size, size=(splits, count))
    return mean_area(values[fixated], values.ravel()[draws])


def nss(saliency: ArrayLike, fixations: ArrayLike) -> float:
    """Normalised scanpath saliency: the mean over fixated pixels of the map in standard deviations (ddof 1).

    Args:
        saliency: (h', w'), the prediction.
        fixations: (h, w), binary or counts.

    Returns:
        Standard deviations above the map's mean. NaN without a fixation and for a constant map.

    Source: NSS.m.
    """
    fixated = fixated_pixels(fixations)
    values = imresize(saliency, fixated.shape)
    if not fixated.any() or _is_flat(values):
        return float("nan")
    return float((values[fixated].mean() - values.mean()) / values.std(ddof=1))


def info_gain(saliency: ArrayLike, fixations: ArrayLike, baseline: ArrayLike) -> float:
    """Information gain: how many bits a fixation the prediction is better than a baseline map.

    Args:
        saliency: (h', w'), the prediction.
        fixations: (h, w), binary or counts.
        baseline: (h'', w''), the map to be beaten, by custom the fixations of all other frames, blurred.

    Returns:
        The mean over fixated pixels of log2(p + eps) - log2(b + eps), maps min-max normalised, then by their sums.
        NaN without a fixation, and if either map is constant.

    Source: InfoGain.m; Kümmerer et al., PNAS 2015.
    """
    fixated = fixated_pixels(fixations)
    values = _min_max(imresize(saliency, fixated.shape))
    reference = _min_max(imresize(baseline, fixated.shape))
    if not fixated.any() or values is None or reference is None:
        return float("nan")
    gain = np.log2(EPS + values[fixated] / values.sum()) - np.log2(EPS + reference[fixated] / reference.sum())
    return float(gain.mean())


def cc(saliency: ArrayLike, density: ArrayLike) -> float:
    """Pearson's linear correlation coefficient of the two maps.

    Args:
        saliency: (h', w'), the prediction.
        density: (h, w), non-negative, any scale.

    Returns:
        The coefficient in [-1, 1]. NaN if either map is constant (a density of zeros too).

    Source: CC.m.
    """
    truth = _density(density)
    values = imresize(saliency, truth.shape)
    if _is_flat(truth) or _is_flat(values):
        return float("nan")
    values, truth = (values - values.mean()).ravel(), (truth - truth.mean()).ravel()
    return float(values @ truth / np.sqrt((values @ values) * (truth @ truth)))


def sim(saliency: ArrayLike, density: ArrayLike) -> float:
    """Similarity: the mass that two maps share.

    Both are min-max normalised, so that a floor under the prediction costs nothing, then divided by their sums.

    Args:
        saliency: (h', w'), the prediction.
        density: (h, w), non-negative, any scale.

    Returns:
        The sum of minima, in [0, 1]. An all-zero prediction gives 0, any other constant NaN (as the official code);
        a constant density gives NaN (the official code says 0 for zeros).

    Source: similarity.m.
    """
    truth = _min_max(_density(density))
    if truth is None:
        return float("nan")
    values = imresize(saliency, truth.shape)
    if not values.any():
        return 0.0
    values_01 = _min_max(values)
    if values_01 is None:
        return float("nan")
    return float(np.minimum(values_01 / values_01.sum(), truth / truth.sum()).sum())


def kldiv(saliency: ArrayLike, density: ArrayLike) -> float:
    """Kullback-Leibler divergence of the prediction from the density: sum g log(eps + g / (s + eps)).

    Args:
        saliency: (h', w'), the prediction. Negative values (bicubic resizing makes them too) count as zero, which
            is what MATLAB does to 8-bit maps; on others the official sum has no real value.
        density: (h, w), non-negative, any scale.

    Returns:
        Nats, 0 at equality, with no upper bound but what eps sets (about 36 where the prediction is zero). A
        constant prediction is the uniform density; an all-zero one stays zero. NaN for a density of zeros (the
        official code says 0).

    Source: KLdiv.m.
    """
    truth = _density(density)
    values = imresize(saliency, truth.shape)
    total = truth.sum()
    if total == 0 or not np.isfinite(values).all():
        return float("nan")
    seen = truth > 0  # elsewhere the summand is exactly 0
    values = np.maximum(values, 0)
    guess, truth = values[seen] / (values.sum() or 1.0), truth[seen] / total
    return float((truth * np.log(EPS + truth / (guess + EPS))).sum())


def fixated_pixels(fixations: ArrayLike) -> NDArray[np.bool_]:
    """Return which pixels (h, w) were fixated, after a check."""
    return check_truth(fixations) > 0


def check_truth(values: ArrayLike) -> NDArray[Any]:
    """Return ground truth (h, w), in whatever type of number it has.

    Raises:
        ValueError: if it is not two-dimensional, is empty, or holds NaN, infinity or a negative value.
    """
    values = np.asarray(values)
    if values.ndim != 2 or values.size == 0:
        raise ValueError(f"ground truth must have two dimensions and at least one pixel, got shape {values.shape}")
    if values.dtype != np.bool_ and not (values.min() >= 0 and np.isfinite(values.max())):
        raise ValueError("ground truth must be finite and non-negative")
    return values


def _density(values: ArrayLike) -> Array:
    """Return a density (h, w) in float64, after a check."""
    return np.asarray(check_truth(values), dtype=np.float64)


def _is_flat(values: Array) -> bool:
    """Tell whether a map has no spread to divide by: constant, or not finite."""
    low, high = values.min(), values.max()
    return not (np.isfinite(low) and np.isfinite(high) and low < high)


def _min_max(values: Array) -> Array | None:
    """Stretch a map to [0, 1]; None if it is constant or not finite."""
    if _is_flat(values):
        return None
    low = values.min()
    return (values - low) / (values.max() - low)


def draw_negatives(pool: int, count: int, splits: int, seed: int) -> NDArray[np.int64]:
    """Return draws of `count` different numbers below `pool`, (splits, count); of fewer, all of them, (1, pool)."""
    if count >= pool:
        return np.arange(pool)[None]
    lots = np.random.default_rng(seed).random((splits, pool))
    return np.argpartition(lots, count, axis=1)[:, :count]


def mean_area(hits: Array, rivals: Array) -> float:
    """Average over splits the area under the curve at fixed thresholds, of hits (K,) and rivals (splits, R).

    The official thresholds end at the largest value drawn; those beyond add the point (0, 0) again.
    """
    true = [0.0, *((hits >= threshold).mean() for threshold in THRESHOLDS), 1.0]  # (13,)
    false = np.stack([(rivals >= threshold).mean(axis=1) for threshold in THRESHOLDS], axis=1)  # (splits, 11)
    false = np.pad(false, ((0, 0), (1, 1)), constant_values=(0.0, 1.0))
    return float(np.trapezoid(np.broadcast_to(true, false.shape), false, axis=1).mean())


METRICS: dict[str, Callable[..., float]] = {
    "auc_judd": auc_judd,
    "auc_shuffled": auc_shuffled,
    "auc_borji": auc_borji,
    "nss": nss,
    "cc": cc,
    "sim": sim,
    "kldiv": kldiv,
    "info_gain": info_gain,
}

TRUTHS: dict[str, tuple[str, ...]] = {
    "auc_judd": ("fixations",),
    "auc_shuffled": ("fixations", "other_fixations"),
    "auc_borji": ("fixations",),
    "nss": ("fixations",),
    "cc": ("density",),
    "sim": ("density",),
    "kldiv": ("density",),
    "info_gain": ("fixations", "baseline"),
}
"""What each metric compares the prediction with: the names of its arguments after `saliency`, in order."""

TITLES: dict[str, str] = {
    "auc_judd": "AUC-J",
    "auc_shuffled": "sAUC",
    "auc_borji": "AUC-B",
    "nss": "NSS",
    "cc": "CC",
    "sim": "SIM",
    "kldiv": "KL",
    "info_gain": "IG",
}
"""How each metric is called in tables."""

LOWER_IS_BETTER: frozenset[str] = frozenset({"kldiv"})

RANDOM: frozenset[str] = frozenset({"auc_shuffled", "auc_borji"})
"""Metrics that draw random numbers and take `seed`."""
