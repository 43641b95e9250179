"""Cluster bootstrap intervals for means.

Frames of one video resemble each other, and so do videos cut from one recording: they carry less information than
as many independent ones. So whole recordings are resampled, with all their frames. Two models are compared by the
differences of their scores on the same frames, resampled in the same way: what a recording does to both cancels.
"""

from collections.abc import Iterator, Sequence

import numpy as np

LEVEL = 0.95
"""Confidence level of the intervals."""

RESAMPLES = 10_000

BLOCK = 1000
"""Resamples computed at a time, which bounds memory."""


def bootstrap_means(
    values: np.ndarray,
    groups: Sequence[str],
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> np.ndarray:
    """Return percentile intervals for the means of columns over resampled groups.

    As many groups are drawn as there are, with replacement, each with all its rows. They are taken in the order of
    their names, so that the interval does not depend on the order of the rows.

    Args:
        values: (n, M) rows; NaN is left out of its column's mean.
        groups: (n,) name of each row's group.
        resamples: number of resampled means.
        level: confidence level.
        seed: seed of the draws, which all columns share.

    Returns:
        (2, M), lower and upper ends. NaN for a column with values in fewer than two groups.

    Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13 (percentile interval).
    """
    values = np.asarray(values, dtype=np.float64)
    names, members = np.unique(np.asarray(groups), return_inverse=True)
    defined = ~np.isnan(values)
    sums, counts = np.zeros((2, len(names), values.shape[1]))
    np.add.at(sums, members, np.where(defined, values, 0.0))
    np.add.at(counts, members, defined)
    enough = (counts > 0).sum(axis=0) > 1
    ends = np.full((2, values.shape[1]), np.nan)
    if not enough.any():
        return ends
    means = []
    for drawn in _draws(len(names), resamples, seed):
        with np.errstate(invalid="ignore"):  # resamples without a value of a column are NaN
            means.append((drawn @ sums) / (drawn @ counts))  # (size, M)
    tail = 50 * (1 - level)
    ends[:, enough] = np.nanpercentile(np.concatenate(means)[:, enough], [tail, 100 - tail], axis=0)
    return ends


def bootstrap_ratio(
    numerators: np.ndarray,
    denominators: np.ndarray,
    groups: Sequence[str],
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    tolerated: float = 0.0,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the percentile interval for the ratio of two means over the resampled groups of `bootstrap_means`.

    Args:
        numerators: (n,) rows, finite.
        denominators: (n,) their counterparts, finite.
        groups: (n,) name of each row's group.
        resamples: number of resampled ratios.
        level: confidence level.
        tolerated: share of the resamples below which those without a positive mean of the denominators are kept.
        seed: seed of the draws; equal groups give the draws of `bootstrap_means`.

    Returns:
        The lower and upper end. NaN with fewer than two groups, or if the mean of the denominators is not positive
        in more resamples than tolerated, by default in any: the ratio then has no bounded interval.
    """
    names, members = np.unique(np.asarray(groups), return_inverse=True)
    if len(names) < 2:
        return np.nan, np.nan
    sums = np.zeros((len(names), 2))
    np.add.at(sums, members, np.stack([numerators, denominators], axis=1))
    drawn_sums = np.concatenate([drawn @ sums for drawn in _draws(len(names), resamples, seed)])  # (resamples, 2)
    without = (drawn_sums[:, 1] <= 0).mean()
    if without > 0 and without >= tolerated:
        return np.nan, np.nan
    tail = 50 * (1 - level)
    low, high = np.percentile(drawn_sums[:, 0] / drawn_sums[:, 1], [tail, 100 - tail])
    return float(low), float(high)


def _draws(groups: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Yield how often each group is drawn, (size, groups), for at most BLOCK resamples at a time."""
    random = np.random.default_rng(seed)
    for start in range(0, resamples, BLOCK):
        size = min(BLOCK, resamples - start)
        yield random.multinomial(groups, np.full(groups, 1 / groups), size=size).astype(np.float64)
