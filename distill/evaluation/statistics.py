"""How sure a mean is: intervals by drawing recordings again.

Frames of one video resemble each other, and so do videos cut from one recording: they say less than as many
independent ones. So whole recordings are drawn, with replacement, and all their frames come along (the cluster
bootstrap). Two models are compared by the differences of their scores on the same frames, drawn in the same way:
what a recording does to both of them cancels.
"""

from collections.abc import Sequence

import numpy as np

LEVEL = 0.95
"""How often an interval should hold the mean of all recordings like these."""

RESAMPLES = 10_000

BLOCK = 1000
"""Resamples at a time: memory holds so many times the number of recordings."""


def bootstrap_means(
    values: np.ndarray,
    groups: Sequence[str],
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> np.ndarray:
    """Return intervals for the means of columns, by the percentiles of means over redrawn groups.

    As many groups are drawn as there are, with replacement, each with all its rows. The groups are taken in the
    order of their names, so that the interval does not depend on the order of the rows.

    Args:
        values: (n, M), n rows of M columns; NaN is left out of its column's mean.
        groups: (n,) the name of each row's group.
        resamples: how many means are made.
        level: part of the means that lies within the interval.
        seed: of the draws; all columns share them.

    Returns:
        (2, M): lower and upper end. NaN for a column with values in fewer than two groups, which says nothing of
        how groups differ.

    Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13 (percentile interval).
    """
    values = np.asarray(values, dtype=np.float64)
    names, members = np.unique(np.asarray(groups), return_inverse=True)
    count, columns = len(names), values.shape[1]
    defined = ~np.isnan(values)
    sums, counts = np.zeros((count, columns)), np.zeros((count, columns))
    np.add.at(sums, members, np.where(defined, values, 0.0))
    np.add.at(counts, members, defined)
    random = np.random.default_rng(seed)
    means = []
    for start in range(0, resamples if count > 1 else 0, BLOCK):
        size = min(BLOCK, resamples - start)
        drawn = random.multinomial(count, np.full(count, 1 / count), size=size).astype(np.float64)  # (size, groups)
        with np.errstate(invalid="ignore"):  # a resample without any value of a column is left out below
            means.append((drawn @ sums) / (drawn @ counts))
    ends = np.full((2, columns), np.nan)
    sure = (counts > 0).sum(axis=0) > 1
    if means and sure.any():
        tail = 50 * (1 - level)
        ends[:, sure] = np.nanpercentile(np.concatenate(means)[:, sure], [tail, 100 - tail], axis=0)
    return ends
