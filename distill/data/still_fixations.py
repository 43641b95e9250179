"""Fixations of still images: readers of the files that hold them, one format per class.

This module does not import PyTorch, because its readers run in the subprocesses of `distill.data.video.guard`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, ClassVar, Protocol

import numpy as np
from pydantic import BaseModel, Field

from distill.data.annotation import as_pixels
from distill.errors import UserError
from distill.limits import MAX_POINTS_BYTES, check_limit
from distill.validation import read_json

EXPECTED = '{"NAME": {"size": [height, width], "fixations": [[row, column], ...]}, ...}'

CACHED_SETS = 16
"""Parsed files of whole sets that a process keeps; OSIE's takes 1 MB."""


@dataclass(frozen=True)
class StillPoints:
    """The fixations of one image.

    Attributes:
        rows: (K, 2) int32 rows of (row, column), repeated points count.
        size: (height, width) of the image that they were recorded on; None if the file does not say.
        sigma: standard deviation of the Gaussian for densities in pixels of that image; None if it does not say.
    """

    rows: np.ndarray
    size: tuple[int, int] | None = None
    sigma: float | None = None


class PointSource(Protocol):
    """Where the fixations of one image come from: small and picklable."""

    shared: ClassVar[bool]
    """Whether the file holds the fixations of a whole set, is read when the set is found, and stays in memory."""

    @property
    def path(self) -> Path:
        """The file."""

    def read(self) -> StillPoints:
        """Return the fixations.

        Raises:
            UserError: if the file cannot be read.
        """


@dataclass(frozen=True)
class ListedPoints:
    """The fixations of the image `name` in a fixations.json of a set."""

    path: Path
    name: str

    shared: ClassVar[bool] = True

    def read(self) -> StillPoints:
        """See `PointSource.read`."""
        return read_listed(self.path)[self.name]


Side = Annotated[int, Field(gt=0)]


class StillRecord(BaseModel):
    """One image in a fixations.json; other keys, such as the number of observers, are ignored."""

    size: tuple[Side, Side]
    fixations: list[tuple[float, float]]
    sigma: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None


def read_listed(path: Path) -> Mapping[str, StillPoints]:
    """Read a fixations.json of still images; parsed once per process while it does not change.

    Returns:
        The fixations of each image by its name in the file.

    Raises:
        UserError: if the file cannot be read or has another form.
    """
    try:
        changed = path.stat().st_mtime_ns
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    return _read_listed(path, changed)


@lru_cache(maxsize=CACHED_SETS)
def _read_listed(path: Path, _changed: int) -> Mapping[str, StillPoints]:
    check_limit(path.stat().st_size, MAX_POINTS_BYTES, f"{path}: bytes")
    records = read_json(path, dict[str, StillRecord], "fixations of still images", remedy=f"expected {EXPECTED}")
    return {
        name: StillPoints(
            as_pixels(record.fixations, len(record.fixations), f"{path}: {name}", EXPECTED),
            record.size,
            record.sigma,
        )
        for name, record in records.items()
    }
