"""Ground truth of a still image: where observers looked in the one frame that it is as a video."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from distill.data.annotation import read_picture
from distill.data.still_fixations import PointSource
from distill.data.truth import Truth, resized, unless_damaged
from distill.fixations import inside


@dataclass(frozen=True)
class StillTruth(Truth):
    """Fixations of a still image. Its density is the published map, or computed with the set's Gaussian.

    Attributes:
        source: where the fixations come from.
        size: (height, width) of the image; fixations recorded at another size are rescaled.
        sigma: see `Truth.sigma`.
        maps: picture of the density, if it is published.
    """

    source: PointSource
    size: tuple[int, int]
    sigma: float | None = None
    maps: Path | None = None

    @property
    def paths(self) -> list[Path]:
        """The files that are read."""
        return [self.source.path, *([] if self.maps is None else [self.maps])]

    def points(self, frame: int) -> np.ndarray:
        """See `Truth.points`; only frame 0 has any."""
        rows = unless_damaged(lambda path: self._rows(), self.source.path) if frame == 0 else None
        return np.zeros((0, 2), dtype=np.int64) if rows is None else inside(rows, self.size)

    def _rows(self) -> np.ndarray:
        return self.source.read().at(self.size, self.source)

    def density(self, frame: int, map_size: tuple[int, int]) -> np.ndarray:
        """See `Truth.density`; a published map is resized by area."""
        values = None if self.maps is None or frame != 0 else unless_damaged(read_picture, self.maps)
        return super().density(frame, map_size) if values is None else resized(values, map_size)

    def has(self, frame: int) -> bool:
        """See `Truth.has`; a file of one image is not opened."""
        return frame == 0 and (not self.source.shared or len(self.source.read().rows) > 0)
