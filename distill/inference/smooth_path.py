"""Smooth paths of one coordinate that maximise concave values over time, by linear programming.

A path is a cubic B-spline with uniform knots. Its speed and acceleration at any time are weighted means of
differences of its control points, so limits on these differences hold at every time and any frame rate, and a
long path costs a few unknowns per second. Costs of the absolute first, second and third differences give a path
that stands still, moves at constant speed or changes its speed evenly, and does not jitter.

Source of the costs: Grundmann, Kwatra and Essa, "Auto-Directed Video Stabilization with Robust L1 Optimal Camera
Paths", CVPR 2011. Departure: control points of a spline instead of one unknown per frame, and values of positions
instead of a path to follow.
"""

from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.interpolate import BSpline
from scipy.optimize import linprog

PART_SECONDS = 60.0
"""Length of the parts in which a long path is solved, so that the time grows linearly with the path."""

OVERLAP_SECONDS = 10.0
"""How far a part looks beyond the place where the next one takes over; more if the limits need longer to stop."""


@dataclass(frozen=True)
class Motion:
    """Costs and limits of motion.

    Attributes:
        costs: costs of speed, acceleration and jerk, in values times seconds, seconds squared and seconds cubed.
        limits: maximum speed and acceleration, per second and per second squared.
    """

    costs: tuple[float, float, float]
    limits: tuple[float, float]


@dataclass(frozen=True)
class Samples:
    """Values of positions at M times.

    Attributes:
        times: (M,) in knots; number j lies between knots j and j + 1.
        weights: (M,) seconds that each time stands for.
        grid: (G,) ascending positions.
        values: (M, G) value of each position.
        near: (M, G) bool, adjacent positions that count, at least two at each time.
        slope: rate at which the value falls outside these, per unit of position.
    """

    times: np.ndarray
    weights: np.ndarray
    grid: np.ndarray
    values: np.ndarray
    near: np.ndarray
    slope: float

    def part(self, start: int, stop: int) -> "Samples":
        """Return the samples from `start` to before `stop`, with times from knot `start` on."""
        times = self.times[start:stop] - start
        some = slice(start, stop)
        return Samples(times, self.weights[some], self.grid, self.values[some], self.near[some], self.slope)

    def lines(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return lines whose minimum is the concave envelope of the values that count.

        Returns:
            The sample (L,) that each line belongs to, its slope (L,), and its value at position 0 (L,).
        """
        samples, slopes, offsets = [], [], []
        for number, (values, near) in enumerate(zip(self.values, self.near, strict=True)):
            x, y = _envelope(self.grid[near], values[near])
            slope = np.concatenate([[self.slope], np.diff(y) / np.diff(x), [-self.slope]])
            samples.append(np.full(len(slope), number))
            slopes.append(slope)
            offsets.append(np.append(y[0], y) - slope * np.append(x[0], x))
        return np.concatenate(samples), np.concatenate(slopes), np.concatenate(offsets)


def smooth_path(samples: Samples, end: float, motion: Motion, step: float) -> BSpline:
    """Return the path that maximises the sum of its weighted values minus the costs of its motion.

    Long paths are solved in parts. A part starts with the position, speed and acceleration that the last one has
    there. It always has a solution: the last part's path through the overlap stays inside the limits, and so does
    braking at once, which ends before the overlap and does not go further.

    Args:
        samples: the values.
        end: the path is in [0, end].
        motion: costs and limits.
        step: seconds between knots.

    Returns:
        The path as a function of time in knots, in [0, M].
    """
    total = len(samples.times)
    stopping = motion.limits[0] / motion.limits[1]
    overlap = int(np.ceil(max(OVERLAP_SECONDS, stopping) / step)) + 3
    length = int(np.ceil(PART_SECONDS / step)) + overlap
    points = np.empty(total + 3)
    start = stop = 0
    while stop < total:
        stop = min(start + length, total)
        state = points[start : start + 3] if start else points[:0]
        points[start : stop + 3] = _solve(samples.part(start, stop), end, motion, step, state)
        start = stop - overlap
    return BSpline(_knots(len(points)), points, 3)


def _solve(samples: Samples, end: float, motion: Motion, step: float, state: np.ndarray) -> np.ndarray:
    """Return the control points (M + 3,) of the path through M samples; the first ones are `state` (0 or 3,).

    The unknowns are the N = M + 3 control points, the values at the M samples, and the positive and the negative
    parts of the D first, second and third differences of the control points.
    """
    M, N = len(samples.times), len(samples.times) + 3
    counts = N - np.arange(1, 4)  # of differences per order
    D = counts.sum()
    differences = sparse.vstack([_difference(N, order) for order in (1, 2, 3)])  # (D, N)
    costs = np.repeat(np.array(motion.costs) / step ** np.arange(3), counts)  # integrals of |v|, |a| and |j|
    limits = np.repeat([motion.limits[0] * step, motion.limits[1] * step**2, np.inf], counts)
    position = BSpline.design_matrix(samples.times, _knots(N), 3)  # (M, N)
    owners, slopes, offsets = samples.lines()  # value <= slope * position + offset

    upper = np.concatenate([np.full(N, end), np.full(M, np.inf), limits, limits])
    lower = np.concatenate([np.zeros(N), np.full(M, -np.inf), np.zeros(2 * D)])
    upper[: len(state)] = lower[: len(state)] = state
    below = [sparse.diags_array(-slopes) @ position[owners], sparse.eye_array(M, format="csr")[owners]]
    result = linprog(
        np.concatenate([np.zeros(N), -samples.weights, costs, costs]),
        A_ub=sparse.hstack([*below, sparse.csr_array((len(owners), 2 * D))], format="csc"),
        b_ub=offsets,
        A_eq=sparse.hstack(
            [differences, sparse.csr_array((D, M)), -sparse.eye_array(D), sparse.eye_array(D)], format="csc"
        ),
        b_eq=np.zeros(D),
        bounds=np.stack([lower, upper], axis=1),
        method="highs",
    )
    assert result.success, result.message
    return np.asarray(result.x[:N])


def _envelope(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the corners of the concave envelope of points with ascending x, by Andrew's monotone chain."""
    corners: list[int] = []
    for k in range(len(x)):
        while len(corners) > 1:
            i, j = corners[-2:]
            if (y[j] - y[i]) * (x[k] - x[j]) > (y[k] - y[j]) * (x[j] - x[i]):
                break
            corners.pop()
        corners.append(k)
    return x[corners], y[corners]


def _difference(count: int, order: int) -> sparse.dia_array:
    """Return the matrix (count - order, count) of finite differences."""
    weights = np.diff(np.eye(order + 1), n=order, axis=0)[0]
    return sparse.diags_array(weights, offsets=range(order + 1), shape=(count - order, count))


def _knots(count: int) -> np.ndarray:
    """Return the knots (count + 4,) of a cubic spline with `count` control points that begins at time 0."""
    return np.arange(count + 4) - 3.0
