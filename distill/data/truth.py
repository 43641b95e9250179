"""Ground truth of one video: fixation points and densities of its frames, read from disk when asked for."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from distill import saliency
from distill.data.video import read_image
from distill.errors import UserError


class Truth(Protocol):
    """Where observers looked. Pictures and files are opened on demand, so that a truth is small and picklable."""

    def points(self, frame: int) -> np.ndarray:
        """Return (K, 2) int64 (row, column) in the video's pixels, those inside it; (0, 2) where there are none."""

    def density(self, frame: int, map_size: tuple[int, int]) -> np.ndarray:
        """Return the fixation density (h, w) float32, sum 1; all zeros where there is no fixation."""

    def fixation_map(self, frame: int, map_size: tuple[int, int]) -> np.ndarray:
        """Return how many fixations fall into each pixel of the map, (h, w) float32."""

    def has(self, frame: int) -> bool:
        """Whether there is ground truth for the frame, without opening a picture."""

    def complaints(self, num_frames: int) -> Iterator[str]:
        """Say what is missing or wrong for a video of `num_frames` frames, one sentence each."""


@dataclass(frozen=True)
class PointsTruth:
    """Ground truth from a fixations.json: one list a frame of [row, column] points; repeats count.

    Attributes:
        path: the file.
        size: (height, width) of the video.
        points_size: (height, width) that the points refer to; the video's when None.
    """

    path: Path
    size: tuple[int, int]
    points_size: tuple[int, int] | None = None

    def points(self, frame: int) -> np.ndarray:
        """See `Truth.points`; frames past the end of the file have none."""
        everything = read_points(str(self.path))
        found = everything[frame] if 0 <= frame < len(everything) else np.zeros((0, 2), dtype=np.int64)
        return inside(rescale(found, self.points_size or self.size, self.size), self.size)

    def density(self, frame: int, map_size: tuple[int, int]) -> np.ndarray:
        """See `Truth.density`; built from the points by DHF1K's recipe."""
        return saliency.density_from_points(self.points(frame), self.size, map_size)

    def fixation_map(self, frame: int, map_size: tuple[int, int]) -> np.ndarray:
        """See `Truth.fixation_map`."""
        return saliency.fixation_map(self.points(frame), self.size, map_size)

    def has(self, frame: int) -> bool:
        """See `Truth.has`."""
        everything = read_points(str(self.path))
        return 0 <= frame < len(everything) and len(everything[frame]) > 0

    def complaints(self, num_frames: int) -> Iterator[str]:
        """See `Truth.complaints`."""
        everything = read_points(str(self.path))
        if len(everything) < num_frames:
            yield f"{self.path}: fixations for {len(everything)} of {num_frames} frames"
        if len(everything) > num_frames:
            yield f"{self.path}: {len(everything) - num_frames} frames past the end of the video are not used"
        empty = [f for f in range(min(num_frames, len(everything))) if len(everything[f]) == 0]
        if empty:
            yield f"{self.path}: no fixation in {_some_frames(empty)}"
        size = self.points_size or self.size
        outside = sum(len(points) - len(inside(points, size)) for points in everything)
        if outside:
            yield f"{self.path}: {outside} points lie outside the {size[1]} x {size[0]} frame and are not used"


@dataclass(frozen=True)
class MapsTruth:
    """Ground truth from pictures, one a frame: maps/, fixation/ and fixation/maps/ in one folder.

    Densities come from maps/*.png where there is one, and are built from the fixations otherwise; fixations come
    from fixations.json, fixation/*.png or fixation/maps/*.mat (variable `I`), the first of them that exists.

    Attributes:
        folder: the folder of the video's annotation.
        size: (height, width) of the video; pictures of another size are rescaled to it.
        stem: name of a frame's files without their ending, to be formatted with the frame's number.
        first: the number of the first frame.
        sigma: standard deviation, in pixels of the video, of the Gaussian that densities are built with where there
            are no maps; DHF1K's when None.
    """

    folder: Path
    size: tuple[int, int]
    stem: str = "{:04d}"
    first: int = 1
    sigma: float | None = None

    def _file(self, folder: str, frame: int, suffix: str) -> Path:
        return self.folder / folder / (self.stem.format(frame + self.first) + suffix)

    def points(self, frame: int) -> np.ndarray:
        """See `Truth.points`; a binary picture cannot repeat a point."""
        if (path := self.folder / "fixations.json").is_file():
            return PointsTruth(path, self.size).points(frame)
        if (path := self._file("fixation", frame, ".png")).is_file():
            binary = read_picture(path)
        elif (path := self._file("fixation/maps", frame, ".mat")).is_file():
            binary = read_mat(path)
        else:
            return np.zeros((0, 2), dtype=np.int64)
        found = np.argwhere(binary > 0.5 * binary.max()) if binary.any() else np.zeros((0, 2), dtype=np.int64)
        return inside(rescale(found, binary.shape, self.size), self.size)

    def density(self, frame: int, map_size: tuple[int, int]) -> np.ndarray:
        """See `Truth.density`; the shipped map, averaged over areas to the map's size."""
        path = self._file("maps", frame, ".png")
        if not path.is_file():
            return saliency.density_from_points(self.points(frame), self.size, map_size, sigma=self.sigma)
        values = torch.from_numpy(read_picture(path))[None, None]  # (1, 1, height, width)
        resized: np.ndarray = saliency.resize_density(saliency.normalise_density(values), map_size)[0, 0].numpy()
        return resized

    def fixation_map(self, frame: int, map_size: tuple[int, int]) -> np.ndarray:
        """See `Truth.fixation_map`."""
        return saliency.fixation_map(self.points(frame), self.size, map_size)

    def has(self, frame: int) -> bool:
        """See `Truth.has`."""
        if (path := self.folder / "fixations.json").is_file():
            return PointsTruth(path, self.size).has(frame)
        pictures = self._file("fixation", frame, ".png"), self._file("fixation/maps", frame, ".mat")
        return any(path.is_file() for path in pictures)

    def complaints(self, num_frames: int) -> Iterator[str]:
        """See `Truth.complaints`."""
        if (path := self.folder / "fixations.json").is_file():
            yield from PointsTruth(path, self.size).complaints(num_frames)
        for name, suffix in (("maps", ".png"), ("fixation", ".png"), ("fixation/maps", ".mat")):
            there = {p.stem for p in (self.folder / name).glob(f"*{suffix}")}
            wanted = [self.stem.format(frame + self.first) for frame in range(num_frames)]
            if not there:
                continue
            missing = [frame for frame, stem in enumerate(wanted) if stem not in there]
            if missing:
                yield f"{self.folder / name}: no picture for {_some_frames(missing)}"
            if extra := len(there - set(wanted)):
                yield f"{self.folder / name}: {extra} pictures past the end of the video or misnamed are not used"


def truth_of(folder: Path, size: tuple[int, int]) -> Truth | None:
    """Return the ground truth that lies in an annotation folder of DHF1K's form; None where there is none."""
    if (folder / "maps").is_dir() or (folder / "fixation").is_dir():
        return MapsTruth(folder, size)
    points = folder / "fixations.json"
    return PointsTruth(points, size) if points.is_file() else None


def inside(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return those of the points (K, 2) that lie in a frame of (height, width)."""
    return points[(points >= 0).all(axis=1) & (points < size).all(axis=1)]


def rescale(points: np.ndarray, size: tuple[int, ...], new_size: tuple[int, int]) -> np.ndarray:
    """Move points (K, 2) from the pixels of one frame size to those of another."""
    if tuple(size) == tuple(new_size):
        return points
    return points * np.array(new_size) // np.array(size)


@lru_cache(maxsize=64)
def read_points(path: str) -> list[np.ndarray]:
    """Read a fixations.json: for each frame (K, 2) int64 (row, column), as they stand in the file.

    Raises:
        UserError: if it cannot be read or is not one list of [row, column] points a frame.
    """
    try:
        frames = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error})") from error
    try:
        return [np.asarray(np.asarray(f, dtype=np.float64).reshape(-1, 2), dtype=np.int64) for f in frames]
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: expected one list of [row, column] points for each frame") from error


def read_picture(path: Path) -> np.ndarray:
    """Read a grey picture as (height, width) float32; of three channels the mean, alpha is left out.

    Raises:
        UserError: if it cannot be decoded.
    """
    values = np.asarray(read_image(path), dtype=np.float32)
    if values.ndim == 3:
        values = values[..., :1] if values.shape[2] == 2 else values[..., :3]
        values = values.mean(axis=2)
    return values


def read_mat(path: Path) -> np.ndarray:
    """Read the variable `I` of a MATLAB file, version 5 or 7.3 (an HDF5 file), as (height, width) float32.

    Raises:
        UserError: if the file or the variable cannot be read, or is of version 7.3 and h5py is not installed.
    """
    from scipy.io import loadmat  # here, since it takes long to import and few data sets need it
    from scipy.io.matlab import MatReadError

    try:
        values: Any = loadmat(str(path))["I"]
    except NotImplementedError:
        try:
            import h5py
        except ImportError as error:
            raise UserError(f"{path}: MATLAB 7.3 files need h5py; run `pip install h5py`") from error
        with h5py.File(path) as file:
            values = np.asarray(file["I"]).T if "I" in file else None  # MATLAB stores columns first
    except (MatReadError, KeyError, OSError, ValueError, TypeError) as error:
        raise UserError(f"{path}: expected a MATLAB file with the variable I ({error})") from error
    if values is None or np.ndim(values) != 2:
        raise UserError(f"{path}: expected the variable I to be one map")
    return np.asarray(values, dtype=np.float32)


def _some_frames(frames: list[int]) -> str:
    """Name frames (0-based) as people count them, the first few of many."""
    names = ", ".join(str(frame + 1) for frame in frames[:8])
    return f"frame{'s' * (len(frames) > 1)} {names}" + (f" and {len(frames) - 8} more" if len(frames) > 8 else "")
