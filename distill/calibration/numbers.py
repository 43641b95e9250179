"""The numbers of a calibration, what they do to a log-saliency map, and their scales for the fit.

    s = log-saliency, shifted to a maximum of 0 and clamped at FLOOR
    L = (1 / temperature) * sum_k gain_k * band_k(s) + tilt . x - curvature . x^2 / 2
    p = (1 - prior_weight) * softmax(L) + prior_weight * Gaussian(prior_place, prior_width)

x is the position relative to the centre. The bands are differences of Gaussian blurs, so that they sum to s. All
lengths are fractions of the network's input, which a letterboxed frame does not fill.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

SIGMAS = (0.02, 0.06, 0.18)
"""Standard deviations of the blurs between the bands, finest first, as fractions of the map's width."""

BANDS = len(SIGMAS) + 1

FLOOR = math.log(1e-12)
"""Lowest log-saliency relative to the map's maximum; readers of exported files clamp maps at the same value."""

Pair = tuple[float, float]


@dataclass(frozen=True)
class Calibration:
    """Fourteen numbers that adapt a network's maps; the defaults leave them unchanged.

    Attributes:
        temperature: divides the log-saliency; above 1 flattens the map, below 1 sharpens it.
        gains: weights of the three finer bands relative to the coarsest, finest first; below 1 blurs.
        tilt: slope of the log-saliency, down and to the right: its change from one border to the opposite one.
        curvature: centre bias in the log-saliency, vertical and horizontal, as 1 / sigma^2; negative weakens the
            network's own.
        prior_weight: share of the centre prior in the density, in [0, 1).
        prior_place: its centre (row, column), in [0, 1] from the top and the left.
        prior_width: its standard deviations, vertical and horizontal.
        motion: weight of the change since past frames: 1 as trained, 0 as if each frame were a still image.
    """

    temperature: float = 1.0
    gains: tuple[float, float, float] = (1.0, 1.0, 1.0)
    tilt: Pair = (0.0, 0.0)
    curvature: Pair = (0.0, 0.0)
    prior_weight: float = 0.0
    prior_place: Pair = (0.5, 0.5)
    prior_width: Pair = (0.25, 0.25)
    motion: float = 1.0

    @property
    def weights(self) -> tuple[float, ...]:
        """Factor of each band, finest first: gain / temperature."""
        return tuple(gain / self.temperature for gain in (*self.gains, 1.0))

    def as_dict(self) -> dict[str, Any]:
        """Return the numbers by name, rounded to six digits for JSON."""
        return {
            name: [round(each, 6) for each in value] if isinstance(value, tuple) else round(value, 6)
            for name, value in asdict(self).items()
        }

    def rounded(self) -> "Calibration":
        """Return the calibration that `as_dict` describes, so that a file and its metadata agree exactly."""
        values: dict[str, Any] = self.as_dict()
        numbers: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
        }
        return Calibration(**numbers)


class Coordinate(NamedTuple):
    """One coordinate of the fit.

    Attributes:
        identity: value that leaves the maps unchanged, towards which the fit is pulled.
        scale: a plausible deviation from it.
        low: lower bound.
        high: upper bound.
    """

    identity: float
    scale: float
    low: float
    high: float


COORDINATES = (
    Coordinate(0.0, 0.5, -2.0, 2.0),  # log temperature
    *(Coordinate(0.0, 0.5, -4.0, 2.0) for _ in SIGMAS),  # log gains
    *(Coordinate(0.0, 1.0, -8.0, 8.0) for _ in range(2)),  # tilt
    *(Coordinate(0.0, 8.0, -100.0, 100.0) for _ in range(2)),  # curvature
    Coordinate(0.0, 0.2, 0.0, 0.9),  # prior_weight
    *(Coordinate(0.5, 0.15, 0.0, 1.0) for _ in range(2)),  # prior_place
    *(Coordinate(math.log(0.25), 0.5, math.log(0.05), 0.0) for _ in range(2)),  # log prior_width
)
"""Coordinates of all numbers but `motion`, in the order of the attributes."""

FIRST_WEIGHT = 0.05
"""Weight of the prior at which the fit starts: at 0, its place and width have no gradient."""


def coordinates(calibration: Calibration) -> np.ndarray:
    """Return the coordinates (13,) of a calibration, without `motion`."""
    c = calibration
    logs = np.log([c.temperature, *c.gains])
    return np.array([*logs, *c.tilt, *c.curvature, c.prior_weight, *c.prior_place, *np.log(c.prior_width)])


def from_coordinates(x: np.ndarray, motion: float = 1.0) -> Calibration:
    """Return the calibration with coordinates (13,)."""
    v = [float(value) for value in x]
    return Calibration(
        temperature=math.exp(v[0]),
        gains=(math.exp(v[1]), math.exp(v[2]), math.exp(v[3])),
        tilt=(v[4], v[5]),
        curvature=(v[6], v[7]),
        prior_weight=v[8],
        prior_place=(v[9], v[10]),
        prior_width=(math.exp(v[11]), math.exp(v[12])),
        motion=motion,
    )
