"""Readers of annotation files: fixation points in JSON, grey images and MATLAB files."""

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import h5py
import numpy as np
from scipy.io import loadmat

from distill.data.video.image_folder import read_image
from distill.errors import UserError

EXPECTED_POINTS = "expected one list of [row, column] points per frame"

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
    try:
        frames = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error})") from error
    try:
        arrays = [np.array(points, dtype=np.float64) for points in frames]
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: {EXPECTED_POINTS}") from error
    if not isinstance(frames, list) or not all(a.shape == (0,) or a.shape[1:] == (2,) for a in arrays):
        raise UserError(f"{path}: {EXPECTED_POINTS}")
    rows = np.concatenate([a.reshape(-1, 2) for a in arrays] or [np.zeros((0, 2))])
    if not np.isfinite(rows).all():
        raise UserError(f"{path}: some coordinates are not finite; {EXPECTED_POINTS}")
    pixels = np.clip(np.floor(rows), -(2**31), 2**31 - 1).astype(np.int32)
    return Points(pixels, np.cumsum([0, *map(len, arrays)]))


def read_picture(path: Path) -> np.ndarray:
    """Read a grey image as (height, width) float32: the mean of the colour channels, without alpha.

    Raises:
        UserError: if it cannot be decoded.
    """
    image = read_image(path)
    values = np.asarray(image.convert("RGB") if image.mode == "P" else image, dtype=np.float32)
    if values.ndim == 3:
        values = values[..., :1] if values.shape[2] == 2 else values[..., :3]
        values = values.mean(axis=2)
    return values


def read_mat(path: Path) -> np.ndarray:
    """Read the variable `I` of a MATLAB file, version 5 or 7.3 (HDF5), as (height, width) float32.

    Raises:
        UserError: if the file cannot be read, or `I` is missing or not a 2-D array of numbers.
    """
    try:
        if mat_version(path) == "7.3":
            with h5py.File(path) as file:
                values = np.asarray(file["I"]).T  # MATLAB is column-major
        else:
            values = np.asarray(loadmat(str(path), variable_names=["I"])["I"])
    except KeyError as error:
        raise UserError(f"{path}: this MATLAB file has no variable I; expected the fixation map in it") from error
    except Exception as error:  # SciPy raises errors of many types for damaged files
        raise UserError(
            f"{path}: cannot be read as a MATLAB file ({error}); it may be truncated or damaged"
        ) from error
    if values.ndim != 2 or (not np.issubdtype(values.dtype, np.number) and values.dtype != bool):
        raise UserError(
            f"{path}: expected variable I to be a 2-D array of numbers, got {values.dtype} {values.shape}"
        )
    return values.astype(np.float32)


def mat_version(path: Path) -> str:
    """Return the MATLAB format in a file's header: `7.3`, or `5` for any earlier version.

    Raises:
        OSError: if the file cannot be opened.
    """
    with path.open("rb") as file:
        return "7.3" if file.read(10) == b"MATLAB 7.3" else "5"
