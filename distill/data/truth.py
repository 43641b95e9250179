"""Ground truth of one video: fixation points and densities of its frames, read from disk when asked for.

Pictures and files are opened on demand, so that a truth is small and picklable. A picture that turns out damaged is
said so once, and its frame counts as one without: no run stops at it. `saldistill data check` names them all.
"""

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np
from av.video.reformatter import ColorRange

from distill.data.annotation import read_mat, read_picture, read_points
from distill.data.video.probe import probe
from distill.data.video.pyav_reader import AvReader
from distill.errors import UserError
from distill.fixations import density_from_points, fixation_map

log = logging.getLogger(__name__)


class Truth(Protocol):
    """Where observers looked."""

    def points(self, frame: int) -> np.ndarray:
        """Return (K, 2) int64 (row, column) in the video's pixels, those inside it; (0, 2) where there are none."""

    def density(self, frame: int, map_size: tuple[int, int]) -> np.ndarray:
        """Return the fixation density (h, w) float32, sum 1; all zeros where there is no fixation."""

    def fixation_map(self, frame: int, map_size: tuple[int, int]) -> np.ndarray:
        """Return how many fixations fall into each pixel of the map, (h, w) float32."""

    def has(self, frame: int) -> bool:
        """Whether there is ground truth for the frame, without opening a picture."""


@dataclass(frozen=True)
class PointsTruth:
    """Ground truth from a fixations.json: one list a frame of [row, column] points; repeats count.

    Attributes:
        path: the file.
        size: (height, width) of the video.
        first: which of the file's frames, counted from 1, belongs to the video's first.
        maps: a video of the densities, grey and of any depth, that are used where it has them; built from the
            points by DHF1K's recipe when None.
    """

    path: Path
    size: tuple[int, int]
    first: int = 1
    maps: Path | None = None

    def points(self, frame: int) -> np.ndarray:
        """See `Truth.points`; frames past the end of the file have none."""
        return inside(read_points(self.path).of(frame + self.first - 1), self.size)

    def density(self, frame: int, map_size: tuple[int, int]) -> np.ndarray:
        """See `Truth.density`."""
        values = None if self.maps is None else unless_damaged(lambda path: read_grey(path, frame), self.maps)
        if values is None:
            return _built(self.points(frame), self.size, map_size)
        return _shrunk(values, map_size)

    def fixation_map(self, frame: int, map_size: tuple[int, int]) -> np.ndarray:
        """See `Truth.fixation_map`."""
        return _counted(self.points(frame), self.size, map_size)

    def has(self, frame: int) -> bool:
        """See `Truth.has`."""
        return len(read_points(self.path).of(frame + self.first - 1)) > 0


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

    @property
    def listed(self) -> PointsTruth | None:
        """The points of fixations.json, where there is one."""
        path = self.folder / "fixations.json"
        return PointsTruth(path, self.size, self.first) if path.is_file() else None

    def file(self, folder: str, frame: int, suffix: str) -> Path:
        """Return where a frame's file of a kind is, or would be."""
        return self.folder / folder / (self.stem.format(frame + self.first) + suffix)

    def points(self, frame: int) -> np.ndarray:
        """See `Truth.points`; a binary picture cannot repeat a point."""
        if (listed := self.listed) is not None:
            return listed.points(frame)
        for path, read in (
            (self.file("fixation", frame, ".png"), read_picture),
            (self.file("fixation/maps", frame, ".mat"), read_mat),
        ):
            if path.is_file() and (binary := unless_damaged(read, path)) is not None:
                found = np.argwhere(binary > 0.5 * binary.max())
                return inside(rescale(found, binary.shape, self.size), self.size)
        return np.zeros((0, 2), dtype=np.int64)

    def density(self, frame: int, map_size: tuple[int, int]) -> np.ndarray:
        """See `Truth.density`; the shipped map, averaged over areas to the map's size."""
        path = self.file("maps", frame, ".png")
        values = unless_damaged(read_picture, path) if path.is_file() else None
        if values is None:
            return _built(self.points(frame), self.size, map_size, self.sigma)
        return _shrunk(values, map_size)

    def fixation_map(self, frame: int, map_size: tuple[int, int]) -> np.ndarray:
        """See `Truth.fixation_map`."""
        return _counted(self.points(frame), self.size, map_size)

    def has(self, frame: int) -> bool:
        """See `Truth.has`."""
        if (listed := self.listed) is not None:
            return listed.has(frame)
        pictures = self.file("fixation", frame, ".png"), self.file("fixation/maps", frame, ".mat")
        return any(path.is_file() for path in pictures)


def truth_of(folder: Path, size: tuple[int, int], first: int = 1) -> MapsTruth | PointsTruth | None:
    """Return the ground truth that lies in an annotation folder of DHF1K's form; None where there is none.

    Args:
        folder: the folder.
        size: (height, width) of the video.
        first: number, in the names of the pictures, of the video's first frame.
    """
    if (folder / "maps").is_dir() or (folder / "fixation").is_dir():
        return MapsTruth(folder, size, first=first)
    points = folder / "fixations.json"
    return PointsTruth(points, size, first) if points.is_file() else None


# The maps are made in distill.saliency, which is imported where they are: the processes that only examine files
# (distill.data.video.guard) need not wait for PyTorch.


def _built(
    points: np.ndarray, size: tuple[int, int], map_size: tuple[int, int], sigma: float | None = None
) -> np.ndarray:
    """Return the density (h, w) float32 that fixations make."""
    return density_from_points(points, size, map_size, sigma=sigma)


def _shrunk(values: np.ndarray, map_size: tuple[int, int]) -> np.ndarray:
    """Return the density (h, w) float32 of a shipped map, averaged over areas to a size."""
    import torch

    from distill import saliency

    densities = saliency.normalise_density(torch.from_numpy(values)[None, None])  # (1, 1, height, width)
    return np.asarray(saliency.resize_density(densities, map_size)[0, 0])


def _counted(points: np.ndarray, size: tuple[int, int], map_size: tuple[int, int]) -> np.ndarray:
    """Return how many fixations fall into each pixel of a map, (h, w) float32."""
    return fixation_map(points, size, map_size)


def inside(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return those of the points (K, 2) that lie in a frame of (height, width)."""
    return points[(points >= 0).all(axis=1) & (points < size).all(axis=1)]


def rescale(points: np.ndarray, size: tuple[int, ...], new_size: tuple[int, int]) -> np.ndarray:
    """Move points (K, 2) from the pixels of one frame size to those of another."""
    if tuple(size) == tuple(new_size):
        return points
    return points * np.array(new_size) // np.array(size)


def unless_damaged(read: Callable[[Path], np.ndarray | None], path: Path) -> np.ndarray | None:
    """Return what a file holds; None where it is damaged, which is said once."""
    try:
        return read(path)
    except UserError as error:
        _warn_once(f"{error}; it is left out")
        return None


@cache
def _warn_once(sentence: str) -> None:
    log.warning(sentence)


def read_grey(path: Path, frame: int) -> np.ndarray | None:
    """Read a frame of a grey video in its full depth: (height, width) float32, black is 0; None past the end.

    Raises:
        UserError: if the video or the frame cannot be decoded.
    """
    reader = _open(path, os.getpid())
    if frame >= reader.num_frames:
        return None
    decoded = reader.frame(frame)
    plane, bits = decoded.planes[0], decoded.format.components[0].bits
    kind = np.dtype(np.uint16 if bits > 8 else np.uint8)
    rows = np.frombuffer(plane, kind).reshape(plane.height, plane.line_size // kind.itemsize)[:, : plane.width]
    usual = ColorRange.JPEG if decoded.format.name.startswith("gray") else ColorRange.MPEG
    full = (decoded.color_range or usual) == ColorRange.JPEG  # else black is 16 of 255
    return np.maximum(rows.astype(np.float32) - (0 if full else 16 << (bits - 8)), 0)


@lru_cache(maxsize=8)
def _open(path: Path, _process: int) -> AvReader:
    """Open a video once in each process: a fork shares its parent's place in the file."""
    return AvReader(path, probe(path))
