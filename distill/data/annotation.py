"""Readers of annotation files: fixation points in JSON, grey images and MATLAB files."""

import math
import os
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path

import numpy as np

from distill.data.pictures import read_image, to_grey
from distill.data.remote_data import local
from distill.errors import UserError, reading
from distill.extras import extras_named
from distill.limits import MAX_PICTURE_PIXELS, MAX_POINTS_BYTES, check_limit
from distill.paths import require_file
from distill.validation import read_json

EXPECTED_POINTS = "one list of [row, column] points per frame"

PointLists = list[list[tuple[float, float]]]

MAT = "a MATLAB file"

NUMERIC_CLASSES = {
    "double",
    "single",
    "logical",
    *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
}
"""Names of MATLAB's classes of real numbers, as SciPy lists them."""

MAX_DEFLATE = 1032
"""Largest factor by which zlib compresses."""

MAT_HEADER, MAT_COMPRESSED = 128, 15
"""Bytes of the header of a version 5 file, and the type of its compressed elements."""

CACHED_FILES = 1024
"""Number of parsed JSON files that a process keeps; 1000 videos of DHF1K take 80 MB."""


@dataclass(frozen=True)
class Points:
    """The points of all frames of a video, concatenated.

    Attributes:
        rows: (K, 2) int32 rows of (row, column), as in the file.
        starts: (frames + 1,) index of each frame's first point, and K.
    """

    rows: np.ndarray
    starts: np.ndarray

    def __len__(self) -> int:
        return len(self.starts) - 1

    def of(self, frame: int) -> np.ndarray:
        """Return the (K, 2) int64 points of a 0-based frame; (0, 2) for a frame that the file does not have."""
        if not 0 <= frame < len(self):
            return np.zeros((0, 2), dtype=np.int64)
        return self.rows[self.starts[frame] : self.starts[frame + 1]].astype(np.int64)


def read_points(path: Path) -> Points:
    """Read a fixations.json: one list of [row, column] points per frame; repeated points count.

    Raises:
        UserError: if the file cannot be read or does not contain such lists.
    """
    try:
        changed = path.stat().st_mtime_ns
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    return _read_points(path, changed)


@lru_cache(maxsize=CACHED_FILES)
def _read_points(path: Path, _changed: int) -> Points:
    path = local(path)
    check_limit(path.stat().st_size, MAX_POINTS_BYTES, f"{path}: bytes")
    frames = read_json(path, PointLists, "a list of fixations", remedy=f"expected {EXPECTED_POINTS}")
    counts = [len(frame) for frame in frames]
    pixels = as_pixels(chain.from_iterable(frames), sum(counts), path, EXPECTED_POINTS)
    return Points(pixels, np.cumsum([0, *counts]))


def as_pixels(points: Iterable[tuple[float, float]], count: int, source: object, expected: str) -> np.ndarray:
    """Return points of (row, column) as the pixels (count, 2) int32 that they lie in.

    Args:
        points: the points.
        count: their number.
        source: where they come from, for the message.
        expected: what was expected there.

    Raises:
        UserError: if a coordinate is NaN or infinite.
    """
    rows = np.fromiter(chain.from_iterable(points), dtype=np.float64, count=2 * count).reshape(-1, 2)
    if not np.isfinite(rows).all():
        raise UserError(f"{source}: some coordinates are not finite; expected {expected}")
    return np.clip(np.floor(rows), -(2**31), 2**31 - 1).astype(np.int32)


def read_picture(path: Path) -> np.ndarray:
    """Read a grey image as (height, width) float32; see `to_grey`.

    Raises:
        UserError: if it cannot be decoded.
    """
    return to_grey(read_image(path), path)


def read_mat(path: Path, name: str = "I") -> np.ndarray:
    """Read a map in a MATLAB file, version 5 or 7.3 (HDF5), as (height, width) float32.

    Args:
        path: the file.
        name: the variable.

    Raises:
        UserError: if the file cannot be read, or the variable is missing, not a 2-D array of real numbers, empty,
            or larger than MAX_PICTURE_PIXELS.
    """
    require_file(path, MAT)
    with reading(path, MAT):
        return (_read_hdf5 if mat_version(path) == "7.3" else _read_version_5)(path, name)


def _read_hdf5(path: Path, name: str) -> np.ndarray:
    with extras_named():
        import h5py
    with h5py.File(path) as file:
        variable = file.get(name)
        if not isinstance(variable, h5py.Dataset):
            raise _no_map(path, name, "none" if variable is None else "a group")
        _check_array(path, name, variable.shape[::-1], str(variable.dtype), numeric=variable.dtype.kind in "biuf")
        for chunk in filter(None, [variable.chunks]):  # is decompressed as a whole
            check_limit(math.prod(chunk), MAX_PICTURE_PIXELS, f"{path}: pixels of a chunk")
        return np.asarray(variable).T.astype(np.float32)  # MATLAB is column-major


def _read_version_5(path: Path, name: str) -> np.ndarray:
    from scipy.io import loadmat, whosmat  # here, because its import takes a quarter of a second

    found = {each: (shape, kind) for each, shape, kind in whosmat(path)}  # reads headers only
    if name not in found:
        raise _no_map(path, name, "none")
    shape, kind = found[name]
    _check_array(path, name, shape, kind, numeric=kind in NUMERIC_CLASSES)
    check_expansion(path)
    values = np.asarray(loadmat(path, variable_names=[name])[name])
    _check_array(path, name, values.shape, str(values.dtype), numeric=values.dtype.kind in "biuf")
    return values.astype(np.float32)


def _check_array(path: Path, name: str, shape: tuple[int, ...], kind: str, *, numeric: bool) -> None:
    """Check the shape and type of a variable before it is read."""
    if len(shape) != 2 or not numeric or 0 in shape:
        raise _no_map(path, name, f"{kind} {shape}")
    check_limit(math.prod(map(int, shape)), MAX_PICTURE_PIXELS, f"{path}: pixels")


def check_expansion(path: Path) -> None:
    """Check that no compressed variable of a version 5 file is larger than a map can be.

    SciPy reads as many bytes as the data announce, whatever the shape is.
    """
    most = MAX_PICTURE_PIXELS * 8 + 2**20
    if path.stat().st_size * MAX_DEFLATE < most:
        return
    with path.open("rb") as file:
        file.seek(MAT_HEADER)
        while len(tag := file.read(8)) == 8:
            kind, size = np.frombuffer(tag, "<u4").tolist()
            if kind != MAT_COMPRESSED:
                file.seek(size, os.SEEK_CUR)
                continue
            inflated, expander = 0, zlib.decompressobj()
            while size > 0 and (part := file.read(min(size, 2**20))):
                size -= len(part)
                while part and not expander.eof:
                    inflated += len(expander.decompress(part, 2**20))
                    part = expander.unconsumed_tail
                    check_limit(inflated, most, f"{path}: bytes of a variable")


def _no_map(path: Path, name: str, found: str) -> UserError:
    return UserError(
        f"{path}: expected variable {name} to be a 2-D array of numbers, the fixation map, but found {found}; the "
        "file may be damaged or of another data set"
    )


def mat_version(path: Path) -> str:
    """Return the MATLAB format in a file's header: `7.3`, or `5` for any earlier version.

    Raises:
        OSError: if the file cannot be opened.
    """
    with path.open("rb") as file:
        return "7.3" if file.read(10) == b"MATLAB 7.3" else "5"
