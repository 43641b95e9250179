"""Gates of a team of teachers: how much each teacher counts in each frame.

    gains = information_gain(densities, counts)                     # on labelled frames, in bits per fixation
    predicted = cross_fit(features, gains, recordings, sources)     # for all frames, no frame graded by itself
    gates = truth_gate(predicted, sharpness=1.0)
    shares, frame_weights = combine(gates, weights, present)

Arrays have the shape (n, M) for n frames and M teachers, densities (n, M, h, w). A gate is in [0, 1]. A teacher
without a map of a frame is absent there: `present` is False, its density is zero, and it counts nothing.

`truth` measures on labelled frames how well each teacher predicts fixations. Labelled frames are few, so a ridge
regression for each teacher carries its gain to all frames, from what is known without gaze: the entropy of its map,
the map's distance from the centre, motion, and the agreement with the other teachers. A frame of a labelled
recording gets the prediction of a regression over the other recordings.

Source: agreement by the Jensen-Shannon divergence, Lin, "Divergence measures based on the Shannon entropy", IEEE
Trans. Inf. Theory 37(1), 1991; information gain, Kümmerer, Wallis and Bethge, "Information-theoretic model
comparison unifies saliency metrics", PNAS 112(52), 2015. The combination is original to this project.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from distill.evaluation.baselines import centre_gaussian

FEATURES = ("entropy", "centre_distance", "motion", "agreement")
"""Features of the regression."""

FOLDS = 5
"""Parts of the labelled recordings; each is graded by a regression over the others."""

RIDGE = 0.1
"""Ridge penalty on the coefficients of features with unit variance, relative to a mean squared error."""

FLOOR = 0.01
"""Share of the uniform density that is mixed into a map before the logarithm, which bounds a fixation's loss."""


def entropy(densities: Tensor) -> Tensor:
    """Return the entropy (...,) of densities (..., h, w) in bits; 0 for a zero map."""
    return torch.special.entr(densities).sum(dim=(-2, -1)) / np.log(2)


def centre_distance(densities: Tensor) -> Tensor:
    """Return the mean distance (...,) of densities (..., h, w) from the centre, in sides of the map.

    0 for all density at the centre, 0.38 for a uniform density, 0.71 for all density in the corners.
    """
    down, across = (((torch.arange(side) + 0.5) / side - 0.5).to(densities) for side in densities.shape[-2:])
    return (densities * torch.hypot(down[:, None], across[None])).sum(dim=(-2, -1))


def agreement(densities: Tensor, present: Tensor) -> Tensor:
    """Return how well each teacher agrees with the mean of the others, (..., M) in [0, 1].

    It is 1 minus the Jensen-Shannon divergence in bits: 1 for equal densities, 0 for disjoint ones. A teacher
    without others in a frame has 1, an absent teacher 0.

    Args:
        densities: (..., M, h, w), zero where a teacher is absent.
        present: (..., M) bool.
    """
    others = present.sum(dim=-1, keepdim=True) - 1  # of a present teacher
    total = densities.sum(dim=-3, keepdim=True)
    mean_of_others = (total - densities).clamp_min(0) / others.clamp_min(1)[..., None, None]
    divergence = entropy((densities + mean_of_others) / 2) - (entropy(densities) + entropy(mean_of_others)) / 2
    return torch.where(others > 0, (1 - divergence).clamp(0, 1), 1.0) * present


def information_gain(densities: Tensor, counts: Tensor) -> Tensor:
    """Return the information gain of densities over the baseline `centre-prior`, (n, M) in bits per fixation.

    Args:
        densities: (n, M, h, w), zero where a teacher is absent.
        counts: fixations per cell, (n, h, w).

    Returns:
        NaN for frames without fixations.
    """
    h, w = counts.shape[-2:]
    centre = torch.tensor(centre_gaussian((h, w))).to(densities)
    logs = [((1 - FLOOR) * each + FLOOR / (h * w)).log2() for each in (densities, centre / centre.sum())]
    gains = (counts[:, None] * (logs[0] - logs[1])).sum(dim=(-2, -1))
    return gains / counts.sum(dim=(-2, -1))[:, None]  # 0 / 0 is NaN


def cross_fit(
    features: np.ndarray, gains: np.ndarray, recordings: Sequence[str], sources: Sequence[int]
) -> np.ndarray:
    """Return the predicted information gain of each teacher in each frame, (n, M) in bits per fixation.

    One ridge regression per teacher and fold. Training sources count the same, and so do the recordings of a
    source, whatever their number of frames.

    Args:
        features: (n, M, F); the frames of a teacher with NaN are not used.
        gains: measured gain (n, M); NaN where it is unknown.
        recordings: recording of each frame, (n,). Those with a measured gain are split into `FOLDS` parts.
        sources: number of the training source of each frame, (n,).

    Returns:
        NaN where a feature is NaN, and for a teacher with measured gains in fewer than two recordings.
    """
    names, source_of = np.asarray(recordings, dtype=object), np.asarray(sources)
    labelled = sorted(
        {str(name) for name in names[np.isfinite(gains).any(axis=1)]},
        key=lambda name: hashlib.sha256(name.encode()).digest(),
    )
    fold_of = {name: place % FOLDS for place, name in enumerate(labelled)}
    folds = np.array([fold_of.get(str(name), -1) for name in names])  # -1: predicted from all labelled recordings
    predicted = np.full(gains.shape, np.nan)
    for teacher in range(gains.shape[1]):
        usable = np.isfinite(features[:, teacher]).all(axis=1)
        known = usable & np.isfinite(gains[:, teacher])
        for fold in np.unique(folds):
            fitted, asked = known & (folds != fold), usable & (folds == fold)
            if not fitted.any() or len(set(names[known])) < 2:
                continue
            weights = _balanced(names[fitted], source_of[fitted])
            predicted[asked, teacher] = _ridge(
                features[fitted, teacher], gains[fitted, teacher], weights, features[asked, teacher]
            )
    return predicted


def truth_gate(predicted: np.ndarray, *, sharpness: float) -> np.ndarray:
    """Return the gate (n, M) of teachers by their predicted gain in bits: 1 for a frame's best, less for others.

    2 ** (-sharpness * bits below the best); 0 where the prediction is NaN.
    """
    known = np.isfinite(predicted)
    filled = np.where(known, predicted, -np.inf)
    best = filled.max(axis=1, keepdims=True)
    gates: np.ndarray = np.where(known, np.exp2(sharpness * (filled - np.where(np.isfinite(best), best, 0))), 0)
    return gates


def combine(gates: Tensor, weights: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """Return the share of each teacher in a frame's mixed map, and how much the frame counts.

    Args:
        gates: (..., M) in [0, 1].
        weights: weight of each teacher, (M,).
        present: whether a teacher has a map, (..., M) bool.

    Returns:
        Shares (..., M), whose sum is 1, or 0 in a frame without any teacher; and weights (...) of the frames in
        [0, 1]: the largest gate of a teacher with a weight, so that a frame counts less where all gates are low.
    """
    gates = gates * present * (weights > 0)
    values = gates * weights
    total = values.sum(dim=-1, keepdim=True)
    shares = torch.where(total > 0, values / total.clamp_min(torch.finfo(values.dtype).tiny), 0.0)
    return shares, gates.amax(dim=-1)


def mix(densities: Tensor, shares: Tensor, mixture: str) -> Tensor:
    """Return the log-saliency (..., h, w) of a team; constant in a frame without any teacher.

    Args:
        densities: (..., M, h, w), zero where a teacher is absent.
        shares: (..., M), as from `combine`.
        mixture: "density" or "log", the mean that is taken.
    """
    tiny = torch.finfo(densities.dtype).tiny
    if mixture == "log":
        return (shares[..., None, None] * densities.clamp_min(tiny).log()).sum(dim=-3)
    return (shares[..., None, None] * densities).sum(dim=-3).clamp_min(tiny).log()


def _balanced(recordings: np.ndarray, sources: np.ndarray) -> np.ndarray:
    """Return weights (n,) of frames, sum 1: sources count the same, then recordings, then frames."""
    weights = np.zeros(len(recordings))
    for source in np.unique(sources):
        own = sources == source
        _, members, frames = np.unique(recordings[own].astype(str), return_inverse=True, return_counts=True)
        weights[own] = 1 / (len(frames) * frames[members])
    return weights / weights.sum()


def _ridge(features: np.ndarray, values: np.ndarray, weights: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Return the predictions (m,) of a weighted ridge regression of values (n,) on features (n, F), for (m, F)."""
    mean = weights @ features
    scale = np.sqrt(weights @ (features - mean) ** 2)
    scale[scale < 1e-9] = np.inf  # a constant feature has no coefficient
    x, level = (features - mean) / scale, weights @ values
    gram = x.T @ (x * weights[:, None]) + RIDGE * np.eye(x.shape[1])
    coefficients = np.linalg.solve(gram, x.T @ (weights * (values - level)))
    found: np.ndarray = level + (asked - mean) / scale @ coefficients
    return found
