"""Fixations of still images: readers of the files that hold them, one format per class.

This module does not import PyTorch, because its readers run in the subprocesses of `distill.data.video.guard`.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Protocol, Self

import numpy as np
from pydantic import BaseModel, Field

from distill.data.annotation import as_pixels, read_mat, read_picture
from distill.data.mat_cells import CACHED_IMAGES, CACHED_SETS, read_cells, read_gaze
from distill.data.pictures import check_picture
from distill.data.video.probe import state_of
from distill.data.video.probe_cache import Inspection
from distill.errors import UserError
from distill.fixations import inside, rescale
from distill.limits import MAX_POINTS_BYTES, check_limit
from distill.validation import parse_json, read_json

EXPECTED = '{"NAME": {"size": [height, width], "fixations": [[row, column], ...]}, ...}'

SAME_ASPECT = 0.02
"""Largest relative difference between two aspect ratios that counts as rounding of the sides."""


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

    def at(self, size: tuple[int, int], source: object) -> np.ndarray:
        """Return the fixations (K, 2) in pixels of an image of (height, width), which may lie outside.

        Args:
            size: of the image.
            source: where the fixations come from, for the message.

        Raises:
            UserError: if they were recorded on an image of another aspect ratio.
        """
        recorded = self.size or size
        if abs(size[0] * recorded[1] / (size[1] * recorded[0]) - 1) > SAME_ASPECT:
            raise UserError(
                f"{source}: has fixations on {recorded[1]} x {recorded[0]} pixels, but the image has "
                f"{size[1]} x {size[0]}; expected the same aspect ratio; use the image that observers saw, or "
                "correct its size in the file"
            )
        return rescale(self.rows.astype(np.int64), recorded, size)


class PointSource(Protocol):
    """Where the fixations of one image come from: small and picklable."""

    shared: ClassVar[bool]
    """Whether the file holds the fixations of a whole set, which is then read when the set is found. Files of
    single images are read on demand, and a damaged one leaves its image unlabelled."""

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

    def __str__(self) -> str:
        return f"{self.path}: {self.name}"


@dataclass(frozen=True)
class CellPoints:
    """The fixations of the image `name` in a fixations.mat of NUS-VIP's form."""

    path: Path
    name: str

    shared: ClassVar[bool] = True

    def read(self) -> StillPoints:
        """See `PointSource.read`."""
        return StillPoints(read_cells(self.path)[self.name])

    def __str__(self) -> str:
        return f"{self.path}: {self.name}"


@dataclass(frozen=True)
class GazePoints:
    """The fixations of one image in a .mat of SALICON's form."""

    path: Path

    shared: ClassVar[bool] = False

    def read(self) -> StillPoints:
        """See `PointSource.read`."""
        return StillPoints(read_gaze(self.path))

    def __str__(self) -> str:
        return str(self.path)


@dataclass(frozen=True)
class BinaryPoints:
    """The fixations of one image as a binary map: a picture, or a variable of a .mat; it cannot repeat a point."""

    path: Path
    variable: str = ""

    shared: ClassVar[bool] = False

    def read(self) -> StillPoints:
        """See `PointSource.read`."""
        return _read_binary(self.path, self.variable, _changed(self.path))

    def __str__(self) -> str:
        return str(self.path)


def _changed(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


@lru_cache(maxsize=CACHED_IMAGES)
def _read_binary(path: Path, variable: str, _changed: int) -> StillPoints:
    values = read_mat(path, variable) if variable else read_picture(path)
    pixels = np.argwhere(values > 0.5 * values.max()).astype(np.int32)
    return StillPoints(pixels, (values.shape[0], values.shape[1]))


@dataclass(frozen=True)
class PointsCheck:
    """Result of checking the ground truth of one image.

    Attributes:
        count: number of fixations.
        valid: those inside the image.
        rescaled: they were recorded at another size.
        broken_map: error of its published density; empty if there is none.
    """

    count: int
    valid: int
    rescaled: bool
    broken_map: str = ""

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        """Return the PointsCheck with the fields that `examine_points` returned."""
        return parse_json(json.dumps(fields), cls, "cached fixations of an image")


def inspect_points(
    source: PointSource, size: tuple[int, int], maps: Path | None, *, thorough: bool = False
) -> Inspection:
    """Return the inspection of the ground truth of one image that has its own file; its result is a PointsCheck.

    Args:
        source: where its fixations come from.
        size: (height, width) of the image.
        maps: its published density, if there is one.
        thorough: decode the density.
    """
    state = [state_of(path) for path in (source.path, maps) if path is not None and path.is_file()]
    call = (examine_points, (source, size, maps, thorough))
    return Inspection(
        "points", source.path, [state, list(size)], [call], read=PointsCheck.from_dict, thorough=thorough
    )


def examine_points(
    source: PointSource, size: tuple[int, int], maps: Path | None, thorough: bool = False
) -> dict[str, Any]:
    """Check the ground truth of one image; see `inspect_points`.

    Returns:
        The fields of a PointsCheck.

    Raises:
        UserError: if the fixations cannot be read, or were recorded on another image.
    """
    found = source.read()
    rows, broken = found.at(size, source), ""
    if maps is not None:
        try:
            check_picture(maps, thorough=thorough)
        except UserError as error:
            broken = str(error)
    return asdict(PointsCheck(len(rows), len(inside(rows, size)), found.size not in (None, size), broken))


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
    return _read_listed(path, _changed(path))


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
