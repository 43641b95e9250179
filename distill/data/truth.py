"""Ground truth of one video: fixation points and densities of its frames, read from disk on demand.

Only paths are stored, so a Truth is small and picklable. A damaged image is reported once and its frame
counts as unlabelled, so it does not stop a run. `saldistill data check` lists all of them.
"""

import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
import torch
from av.video.reformatter import ColorRange

from distill import saliency
from distill.data.annotation import read_mat, read_picture, read_points
from distill.data.remote_data import local
from distill.data.truth_check import TruthFiles
from distill.data.video.probe import probe
from distill.data.video.pyav_reader import AvReader
from distill.errors import UserError
from distill.fixations import density_from_points, fixation_map, inside, rescale

log = logging.getLogger(__name__)


class Truth(ABC):
    """Where observers looked in each frame of a video.

    Attributes:
        size: (height, width) of the video.
        sigma: standard deviation in pixels of the video of the Gaussian for densities computed from fixations; None
            takes DHF1K's.
    """

    size: tuple[int, int]
    sigma: float | None = None

    @property
    def paths(self) -> list[Path]:
        """The files and folders that are read; none if it is generated."""
        return []

    @abstractmethod
    def points(self, frame: int) -> np.ndarray:
        """Return (K, 2) int64 rows of (row, column) in the video's pixels; (0, 2) if there is no fixation."""

    def density(self, frame: int, map_size: tuple[int, int]) -> np.ndarray:
        """Return the fixation density (h, w) float32, sum 1; all zeros if there is no fixation."""
        return density_from_points(self.points(frame), self.size, map_size, sigma=self.sigma)

    def fixation_map(self, frame: int, map_size: tuple[int, int]) -> np.ndarray:
        """Return the number of fixations in each pixel of the map, (h, w) float32."""
        return fixation_map(self.points(frame), self.size, map_size)

    def has(self, frame: int) -> bool:
        """Whether the frame has ground truth, without opening an image."""
        return len(self.points(frame)) > 0


@dataclass(frozen=True)
class PointsTruth(Truth):
    """Ground truth from a fixations.json: one list of [row, column] points per frame; repeated points count.

    Attributes:
        path: the file.
        size: (height, width) of the video.
        first: 1-based frame of the file that belongs to the video's first frame.
        maps: grey video of the densities, of any bit depth. Densities of frames that it does not have are computed
            from the points by DHF1K's recipe.
    """

    path: Path
    size: tuple[int, int]
    first: int = 1
    maps: Path | None = None

    @property
    def paths(self) -> list[Path]:
        """The files that are read."""
        return [self.path] if self.maps is None else [self.path, self.maps]

    @property
    def files(self) -> TruthFiles:
        """The files, for `inspect_truth`."""
        return TruthFiles(self.size, self.first, points=self.path, maps_video=self.maps)

    def points(self, frame: int) -> np.ndarray:
        """See `Truth.points`; frames past the end of the file have none."""
        return inside(read_points(self.path).of(frame + self.first - 1), self.size)

    def density(self, frame: int, map_size: tuple[int, int]) -> np.ndarray:
        """See `Truth.density`."""
        values = None if self.maps is None else unless_damaged(lambda path: read_grey(path, frame), self.maps)
        return super().density(frame, map_size) if values is None else resized(values, map_size)

    def has(self, frame: int) -> bool:
        """See `Truth.has`."""
        return len(read_points(self.path).of(frame + self.first - 1)) > 0


@dataclass(frozen=True)
class MapsTruth(Truth):
    """Ground truth from one image per frame: maps/, fixation/ and fixation/maps/ in one folder.

    Densities come from maps/*.png, or are computed from the fixations of frames without one. Fixations come from
    the first of fixations.json, fixation/*.png and fixation/maps/*.mat (variable `I`) that exists.

    Attributes:
        folder: annotation folder of the video.
        size: (height, width) of the video; images of another size are rescaled to it.
        stem: file name of a frame without suffix, a format string for the frame's number.
        first: number of the first frame.
        sigma: see `Truth.sigma`.
    """

    folder: Path
    size: tuple[int, int]
    stem: str = "{:04d}"
    first: int = 1
    sigma: float | None = None

    @property
    def paths(self) -> list[Path]:
        """The folders and files that are read."""
        return [self.folder] if self.listed is None else [self.folder, self.listed.path]

    @property
    def listed(self) -> PointsTruth | None:
        """The points of fixations.json, if it exists."""
        path = self.folder / "fixations.json"
        return PointsTruth(path, self.size, self.first) if path.is_file() else None

    @property
    def files(self) -> TruthFiles:
        """The files, for `inspect_truth`."""
        points = None if self.listed is None else self.listed.path
        return TruthFiles(self.size, self.first, points, folder=self.folder, stem=self.stem)

    def file(self, folder: str, frame: int, suffix: str) -> Path:
        """Return the path of a frame's file of one kind; it may not exist."""
        return local(self.folder) / folder / (self.stem.format(frame + self.first) + suffix)

    def points(self, frame: int) -> np.ndarray:
        """See `Truth.points`; a binary image cannot repeat a point."""
        if (listed := self.listed) is not None:
            return listed.points(frame)
        for path, read in (
            (self.file("fixation", frame, ".png"), read_picture),
            (self.file("fixation/maps", frame, ".mat"), read_mat),
        ):
            if path.is_file() and (binary := unless_damaged(read, path)) is not None:
                pixels = np.argwhere(binary > 0.5 * binary.max())
                return inside(rescale(pixels, binary.shape, self.size), self.size)
        return np.zeros((0, 2), dtype=np.int64)

    def density(self, frame: int, map_size: tuple[int, int]) -> np.ndarray:
        """See `Truth.density`; published maps are resized by area."""
        path = self.file("maps", frame, ".png")
        values = unless_damaged(read_picture, path) if path.is_file() else None
        return super().density(frame, map_size) if values is None else resized(values, map_size)

    def has(self, frame: int) -> bool:
        """See `Truth.has`."""
        if (listed := self.listed) is not None:
            return listed.has(frame)
        pictures = self.file("fixation", frame, ".png"), self.file("fixation/maps", frame, ".mat")
        return any(path.is_file() for path in pictures)


FileTruth = PointsTruth | MapsTruth


def truth_of(folder: Path, size: tuple[int, int], first: int = 1) -> FileTruth | None:
    """Return the ground truth in an annotation folder of DHF1K's form, or None.

    Args:
        folder: the folder.
        size: (height, width) of the video.
        first: number of the video's first frame in the names of the images.
    """
    if (folder / "maps").is_dir() or (folder / "fixation").is_dir():
        return MapsTruth(folder, size, first=first)
    points = folder / "fixations.json"
    return PointsTruth(points, size, first) if points.is_file() else None


def resized(values: np.ndarray, map_size: tuple[int, int]) -> np.ndarray:
    """Return the density (h, w) float32 of a published map."""
    densities = saliency.normalise_density(torch.from_numpy(values)[None, None])  # (1, 1, height, width)
    return np.asarray(saliency.resize_density(densities, map_size)[0, 0])


def unless_damaged(read: Callable[[Path], np.ndarray | None], path: Path) -> np.ndarray | None:
    """Return the content of a file, or None with a warning (once per process) if it is damaged."""
    try:
        return read(path)
    except UserError as error:
        _warn_once(f"{error}; the file is ignored")
        return None


@cache
def _warn_once(message: str) -> None:
    log.warning(message)


def read_grey(path: Path, frame: int) -> np.ndarray | None:
    """Read a frame of a grey video at its full bit depth: (height, width) float32, black is 0.

    Returns:
        None past the end of the video.

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
    default = ColorRange.JPEG if decoded.format.name.startswith("gray") else ColorRange.MPEG
    full = (decoded.color_range or default) == ColorRange.JPEG  # in limited range, black is 16 of 255
    return np.maximum(rows.astype(np.float32) - (0 if full else 16 << (bits - 8)), 0)


@lru_cache(maxsize=8)
def _open(path: Path, _process: int) -> AvReader:
    """Open a video once per process, because a fork shares the file position of its parent."""
    return AvReader(path, probe(path))
