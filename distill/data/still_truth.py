"""Ground truth of a still image: where observers looked in the one frame that it is as a video."""

from dataclasses import dataclass

import numpy as np

from distill.data.still_fixations import PointSource
from distill.data.truth import Truth
from distill.fixations import inside, rescale


@dataclass(frozen=True)
class StillTruth(Truth):
    """Fixations of a still image. Densities are computed from them with the set's Gaussian.

    Attributes:
        source: where the fixations come from.
        size: (height, width) of the image.
        sigma: see `Truth.sigma`.
        recorded: (height, width) that the fixations were recorded at, if it differs; they are rescaled.
    """

    source: PointSource
    size: tuple[int, int]
    sigma: float | None = None
    recorded: tuple[int, int] | None = None

    def points(self, frame: int) -> np.ndarray:
        """See `Truth.points`; only frame 0 has any."""
        if frame != 0:
            return np.zeros((0, 2), dtype=np.int64)
        rows = self.source.read().rows.astype(np.int64)
        return inside(rescale(rows, self.recorded or self.size, self.size), self.size)

    def has(self, frame: int) -> bool:
        """See `Truth.has`."""
        return frame == 0 and len(self.source.read().rows) > 0
