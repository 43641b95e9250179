"""Fit a calibration by maximum likelihood of the fixations."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from distill.calibration.maps import bands_of, clamped, mixed
from distill.calibration.numbers import (
    COORDINATES,
    FIRST_WEIGHT,
    Calibration,
    coordinates,
    from_coordinates,
)
from distill.calibration.samples import Sample

PULL = 0.2
"""Strength of the pull towards no change, over the number of videos: a video counts as 5 independent fixations.

Chosen in cross-validation on training data, of .05, .2, .5, 1, 2 and 5: for a student that learnt from stills
only, on 5 and 10 videos, and for one that learnt from videos only, on 5, 10 and 20 stills. Weaker pulls overfit 5
videos, stronger ones gain less from 10.
"""

MOTION_SCALE = 0.5
"""A plausible deviation of the weight of motion from 1."""

MAX_STEPS = 200
"""Limit of L-BFGS iterations; a fit takes about 40."""

_IDENTITY, _SCALE, _LOW, _HIGH = np.array(COORDINATES).T


@dataclass(frozen=True)
class FixatedMaps:
    """The maps and fixations of several videos, prepared for a fit.

    Attributes:
        bands: bands (BANDS, n, h, w) float64 of the maps.
        visible: pixels (n, h, w) that show the frame, bool; None if all do.
        points: (index of the map, row, column) of each fixation, (3, K).
        weights: weight (K,) of each fixation; they sum to 1.
        videos: number of videos.
    """

    bands: Tensor
    visible: Tensor | None
    points: Tensor
    weights: Tensor
    videos: int

    @classmethod
    def of(cls, samples: Sequence[Sample], motion: float = 1.0) -> "FixatedMaps":
        """Return the maps of samples; each video counts once, and so does each frame of a video that has fixations.

        Frames whose fixations all lie outside the input count as having none.
        """
        points, weights, first = [], [], 0
        for sample in samples:
            frame = sample.points[:, 0]
            per_frame = np.bincount(frame)
            points.append(sample.points + np.array([first, 0, 0]))
            weights.append(1 / (per_frame[frame] * np.count_nonzero(per_frame) * len(samples)))
            first += len(sample.video.frames)
        maps = torch.cat([sample.maps[motion] for sample in samples]).double()
        all_visible = all(bool(sample.visible.all()) for sample in samples)
        visible = [sample.visible.expand(len(sample.video.frames), -1, -1) for sample in samples]
        return cls(
            bands_of(clamped(maps)),
            None if all_visible else torch.cat(visible),
            torch.from_numpy(np.concatenate(points).T),
            torch.from_numpy(np.concatenate(weights)),
            len(samples),
        )

    def log_likelihood(self, x: Tensor) -> Tensor:
        """Return the mean log-likelihood of the fixations in nats, per pixel of the map, at coordinates (13,)."""
        densities = mixed(self.bands, x)
        frames, rows, columns = self.points
        found = densities[frames, rows, columns].log()
        if self.visible is not None:
            found = found - (densities * self.visible).sum(dim=(-2, -1)).log()[frames]
        return (found * self.weights).sum()


def log_likelihood(samples: Sequence[Sample], calibration: Calibration) -> float:
    """Return the mean log-likelihood of the fixations of samples in nats, per pixel of the map."""
    x = torch.from_numpy(coordinates(calibration))
    with torch.no_grad():
        return float(FixatedMaps.of(samples, calibration.motion).log_likelihood(x))


def fit(samples: Sequence[Sample], motions: Sequence[float] = (1.0,)) -> Calibration:
    """Return the calibration with the highest likelihood of the fixations, minus a weak pull towards no change.

    Each video counts once: the mean over its frames of their fixations' mean log-likelihood.

    Args:
        samples: at least one.
        motions: weights of motion to choose from, the one that changes nothing first; samples have maps of each.
    """
    start, best, fitted = None, -np.inf, Calibration()
    for motion in motions:
        x, value = _fit_one(FixatedMaps.of(samples, motion), start)
        value -= PULL / len(samples) * ((motion - 1) / MOTION_SCALE) ** 2 / 2
        start = x if start is None else start
        if value > best:
            best, fitted = value, from_coordinates(x, motion)
    return fitted


def _fit_one(maps: FixatedMaps, start: np.ndarray | None) -> tuple[np.ndarray, float]:
    """Return the coordinates of the optimum and its objective."""
    if start is None:
        start = _IDENTITY.copy()
        start[8] = FIRST_WEIGHT

    def loss(x: np.ndarray) -> tuple[float, np.ndarray]:
        place = torch.tensor(x, requires_grad=True)
        value = -maps.log_likelihood(place)
        value.backward()
        assert place.grad is not None
        away = (x - _IDENTITY) / _SCALE
        pull = PULL / maps.videos
        return value.item() + pull * float(away @ away) / 2, place.grad.numpy() + pull * away / _SCALE

    found = minimize(
        loss,
        start,
        jac=True,
        method="L-BFGS-B",
        bounds=list(zip(_LOW, _HIGH, strict=True)),
        options={"maxiter": MAX_STEPS, "ftol": 1e-8},
    )
    return found.x, -float(found.fun)
