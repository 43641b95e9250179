"""Files of ground truth: points in JSON, pictures, MATLAB files."""

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from distill.data.video.image_folder import read_image
from distill.errors import UserError

EXPECTED_POINTS = "expected one list of [row, column] points for each frame"

KEPT = 1024
"""Files of points that a process keeps read: a thousand videos of DHF1K take 80 MB."""


@dataclass(frozen=True)
class Points:
    """The points of a video's frames, one after the other: (row, column), as they stand in the file.

    Attributes:
        rows: (K, 2) int32.
        starts: (frames + 1,) where the points of each frame begin, and where the last one's end.
    """

    rows: np.ndarray
    starts: np.ndarray

    def __len__(self) -> int:
        return len(self.starts) - 1

    def of(self, frame: int) -> np.ndarray:
        """Return (K, 2) int64 points of a frame, 0-based; (0, 2) outside of the frames there are."""
        if not 0 <= frame < len(self):
            return np.zeros((0, 2), dtype=np.int64)
        return self.rows[self.starts[frame] : self.starts[frame + 1]].astype(np.int64)

    @property
    def counts(self) -> np.ndarray:
        """How many points each frame has."""
        return np.diff(self.starts)


def read_points(path: Path) -> Points:
    """Read a fixations.json: one list a frame of [row, column] points; repeats count.

    Raises:
        UserError: if it cannot be read or is something else.
    """
    try:
        changed = path.stat().st_mtime_ns
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    return _read_points(path, changed)


@lru_cache(maxsize=KEPT)
def _read_points(path: Path, _changed: int) -> Points:
    try:
        frames = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error})") from error
    try:
        each = [np.array(points, dtype=np.float64) for points in frames]
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: {EXPECTED_POINTS}") from error
    if not isinstance(frames, list) or not all(a.shape == (0,) or a.shape[1:] == (2,) for a in each):
        raise UserError(f"{path}: {EXPECTED_POINTS}")
    rows = np.concatenate([a.reshape(-1, 2) for a in each] or [np.zeros((0, 2))])
    if not np.isfinite(rows).all():
        raise UserError(f"{path}: some points are no numbers; {EXPECTED_POINTS}")
    whole = np.clip(np.floor(rows), -(2**31), 2**31 - 1).astype(np.int32)
    return Points(whole, np.cumsum([0, *map(len, each)]))


def read_picture(path: Path) -> np.ndarray:
    """Read a grey picture as (height, width) float32; of three channels the mean, alpha is left out.

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
    """Read the variable `I` of a MATLAB file, version 5 or 7.3 (an HDF5 file), as (height, width) float32.

    Raises:
        UserError: if the file or the variable cannot be read, or the variable is no map.
    """
    try:
        values = _read_hdf5(path) if mat_version(path) == "7.3" else _read_mat5(path)
    except KeyError as error:
        raise UserError(f"{path}: there is no variable I in this MATLAB file") from error
    except Exception as error:  # SciPy has no class of its own for what a damaged file makes it raise
        raise UserError(
            f"{path}: cannot be read as a MATLAB file ({error}); it may be cut off or damaged"
        ) from error
    if values.ndim != 2 or (not np.issubdtype(values.dtype, np.number) and values.dtype != bool):
        raise UserError(
            f"{path}: expected the variable I to be one map of numbers, got {values.shape} {values.dtype}"
        )
    return values.astype(np.float32)


def mat_version(path: Path) -> str:
    """Return the version of MATLAB's format that a file claims: `7.3`, or `5` for everything before.

    Raises:
        OSError: if it cannot be opened.
    """
    with path.open("rb") as file:
        return "7.3" if file.read(10) == b"MATLAB 7.3" else "5"


def _read_mat5(path: Path) -> np.ndarray:
    from scipy.io import loadmat  # here, since it takes long to import and few data sets need it

    return np.asarray(loadmat(str(path), variable_names=["I"])["I"])


def _read_hdf5(path: Path) -> np.ndarray:
    import h5py

    with h5py.File(path) as file:
        return np.asarray(file["I"]).T  # MATLAB stores columns first
