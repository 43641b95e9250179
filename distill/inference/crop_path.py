"""The path of a virtual camera: where to crop each frame of a video so that the crop keeps what people look at.

Per shot, the path maximises the integral over time of

    kept share - speed_cost |v| - acceleration_cost |a| - jerk_cost |j| - centre_cost |distance from the centre|

with hard limits on the speed v and the acceleration a, and inside the frame. This takes two steps, each a global
optimum:

1. Dynamic programming over a grid of positions, with the costs of speed and of the distance from the centre. Where
   two people are far apart, this chooses one of them rather than the place between them.
2. A linear program for a smooth path with all costs and limits, see `smooth_path.py`. Near the result of step 1 it
   maximises the concave envelope of the kept share.

All lengths are relative to the side of the frame along which the window moves, and all times are in seconds, so
settings depend neither on the frame rate nor on the size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from distill.inference.crop_window import kept_share
from distill.inference.smooth_path import Motion, Samples, smooth_path

KNOT_SECONDS = 0.125
"""Time between knots of the path, rounded to whole frames."""

STEPS_PER_WINDOW = 12
"""Positions of the grid per length of the window."""

MIN_POSITIONS = 9
"""Minimum number of positions of the grid, for windows almost as large as the frame."""

ENVELOPE = 0.25
"""Reach of the concave envelope of the kept share around the chosen position, in lengths of the window."""


@dataclass(frozen=True)
class CameraSettings:
    """Limits and costs of the camera.

    Attributes:
        max_speed: maximum speed in sides of the frame per second.
        max_acceleration: maximum acceleration in sides per second squared.
        speed_cost: a move across the whole frame must gain the whole probability for this many seconds.
        acceleration_cost: cost of acceleration, in seconds squared.
        jerk_cost: cost of jerk, in seconds cubed.
        centre_cost: kept share that outweighs a whole side's distance from the centre; decides between positions
            that are equally good.
        inner_weight: weight in [0, 1] of the share that the inner half of the window keeps, against that of the
            whole window. It moves a narrow peak from the edge of the window to its middle.
    """

    max_speed: float = 0.5
    max_acceleration: float = 1.0
    speed_cost: float = 0.5
    acceleration_cost: float = 0.1
    jerk_cost: float = 0.01
    centre_cost: float = 0.01
    inner_weight: float = 0.1

    @property
    def motion(self) -> Motion:
        """The part of the settings that the smooth path takes."""
        costs = self.speed_cost, self.acceleration_cost, self.jerk_cost
        return Motion(costs, (self.max_speed, self.max_acceleration))


def crop_path(
    marginal: np.ndarray,
    length: float,
    fps: float,
    cuts: Sequence[int] = (),
    settings: CameraSettings = CameraSettings(),
) -> np.ndarray:
    """Return where the window starts in each frame.

    Args:
        marginal: (T, n) distribution of probability along the window's axis, sum 1 per frame.
        length: length of the window, relative to the frame's side, in (0, 1].
        fps: frames per second.
        cuts: 0-based frames that start a new shot, where the camera may jump.
        settings: limits and costs.

    Returns:
        (T,) float64 in [0, 1 - length], relative to the frame's side.
    """
    frames = len(marginal)
    if frames == 0 or length >= 1:
        return np.zeros(frames)
    borders = sorted({0, frames, *(int(cut) for cut in cuts if 0 < cut < frames)})
    shots = [_shot_path(marginal[first:last], length, fps, settings) for first, last in pairwise(borders)]
    return np.clip(np.concatenate(shots), 0.0, 1.0 - length)  # the solver is exact up to rounding errors


def _shot_path(marginal: np.ndarray, length: float, fps: float, settings: CameraSettings) -> np.ndarray:
    """Return the path (T,) of one shot."""
    frames, per_knot = len(marginal), max(1, round(KNOT_SECONDS * fps))
    first = np.arange(0, frames, per_knot)
    counts = np.diff([*first, frames])  # (M,) frames between knots
    means = np.add.reduceat(marginal, first, axis=0) / counts[:, None]  # (M, n)
    grid = _positions(length)
    values = (1 - settings.inner_weight) * kept_share(means, grid[None], length)  # (M, G)
    values += settings.inner_weight * kept_share(means, grid[None] + length / 4, length / 2)
    values -= settings.centre_cost * np.abs(grid - grid.mean())
    weights, step = counts / fps, per_knot / fps
    best = _best_positions(values * weights[:, None], grid, settings, step)
    near = np.abs(grid - grid[best][:, None]) <= max(ENVELOPE * length, grid[1] - grid[0]) + 1e-9
    times = np.arange(len(first)) + (counts - 1) / (2 * per_knot)  # mean time of the frames
    samples = Samples(times, weights, grid, values, near, slope=1 / length)
    path = smooth_path(samples, 1.0 - length, settings.motion, step)
    return path(np.arange(frames) / per_knot)


def _positions(length: float) -> np.ndarray:
    """Return the grid (G,) of positions in [0, 1 - length]; G is odd, so that it contains the centre."""
    count = max(MIN_POSITIONS, int(np.ceil((1 / length - 1) * STEPS_PER_WINDOW)) + 1)
    return np.linspace(0.0, 1.0 - length, count + 1 - count % 2)


def _best_positions(values: np.ndarray, grid: np.ndarray, settings: CameraSettings, step: float) -> np.ndarray:
    """Return the sequence of positions with the largest sum of values minus costs of speed (the Viterbi algorithm).

    Args:
        values: (M, G) value of each position at each step, in seconds.
        grid: (G,) positions.
        settings: cost and limit of the speed.
        step: seconds between steps.

    Returns:
        (M,) indices into the grid.
    """
    distances = np.abs(grid[:, None] - grid)
    reach = max(settings.max_speed * step, grid[1] - grid[0]) + 1e-9
    moves = np.where(distances <= reach, -settings.speed_cost * distances, -np.inf)  # (to, from)
    totals, previous = values[0], np.zeros(values.shape, dtype=np.int64)
    for number in range(1, len(values)):
        by_origin = totals + moves
        previous[number] = by_origin.argmax(axis=1)
        totals = values[number] + by_origin.max(axis=1)
    best = np.empty(len(values), dtype=np.int64)
    best[-1] = totals.argmax()
    for number in range(len(values) - 1, 0, -1):
        best[number - 1] = previous[number, best[number]]
    return best
