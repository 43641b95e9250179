"""Generated videos of a moving blob with the gaze that follows it: no files, every pixel a function of its name.

A video's path says what it is, `synthetic:SEED-FRAMESxHEIGHTxWIDTH` (`synthetic:3-48x72x128`), and `open_video`
takes it like any other.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from distill import saliency
from distill.data.clips import Video
from distill.data.scan import Scan, same_name, unknown_split
from distill.data.truth import inside
from distill.data.video import once_each
from distill.errors import UserError

SPLITS = {"train": range(4), "validation": range(4, 6), "test": range(6, 8), "all": range(8)}

SHAPE = (48, 72, 128)
"""Frames, height and width of the data set's videos."""

OBSERVERS = 9


def scan(
    root: Path | None = None,
    *,
    split: str | None = None,
    names: Sequence[str] | None = None,
    progress: bool = False,
) -> Scan:
    """List the eight videos; there is no folder, so `root` is not looked at.

    Raises:
        UserError: if there is no such split.
    """
    if split is not None and split not in SPLITS:
        raise unknown_split("synthetic", split, SPLITS)
    found = Scan("synthetic", "generated, no files", splits={name: len(seeds) for name, seeds in SPLITS.items()})
    for seed in SPLITS[split or "all"]:
        name = f"blob{seed}"
        if names is None or any(same_name(name, wanted) for wanted in names):
            found.videos.append(video(name, seed))
    return found


def video(name: str, seed: int, shape: tuple[int, int, int] = SHAPE) -> Video:
    """Return one generated video, labelled on all of its frames."""
    frames, height, width = shape
    path = Path(f"synthetic:{seed}-{frames}x{height}x{width}")
    truth = SyntheticTruth(seed, (height, width), frames)
    return Video(name, path, frames, SyntheticReader.fps, (height, width), range(frames), truth, "synthetic")


def centre(seed: int, frame: int, size: tuple[int, int]) -> tuple[float, float]:
    """Return (row, column) of the blob, which wanders through the frame on a path of its own."""
    phase, slow = np.random.default_rng([seed, 0]).uniform([0, 0.05], [2 * np.pi, 0.12])
    row = 0.5 + 0.3 * np.sin(slow * frame + phase)
    column = 0.5 + 0.35 * np.cos(1.7 * slow * frame + 2 * phase)
    return float(row * size[0]), float(column * size[1])


class SyntheticReader:
    """Frames of one generated video: a bright blob over still noise.

    Raises:
        UserError: if the name does not say seed, frames, height and width.
    """

    fps = 30.0

    def __init__(self, name: str) -> None:
        match = re.fullmatch(r"synthetic:(\d+)-(\d+)x(\d+)x(\d+)", name)
        if match is None:
            raise UserError(f"{name}: a generated video is called synthetic:SEED-FRAMESxHEIGHTxWIDTH")
        self.seed, self.num_frames, height, width = (int(group) for group in match.groups())
        self.size = (height, width)

    def read(self, frames: Sequence[int], size: tuple[int, int] | None = None) -> np.ndarray:
        """Read frames: see `distill.data.video.VideoReader.read`."""
        unique, places = once_each(frames, self.num_frames)
        height, width = size or self.size
        pixels = np.empty((len(unique), height, width, 3), dtype=np.uint8)
        noise = np.random.default_rng([self.seed, 1]).uniform(0, 90, (*self.size, 3))
        rows, columns = np.mgrid[: self.size[0], : self.size[1]]
        for at, frame in enumerate(unique.tolist()):
            row, column = centre(self.seed, frame, self.size)
            distance = (rows - row) ** 2 + (columns - column) ** 2
            blob = np.exp(-0.5 * distance / (0.06 * self.size[1]) ** 2)[..., None] * (165, 150, 60)
            image = Image.fromarray((noise + blob).astype(np.uint8))
            pixels[at] = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))
        return pixels[places]


@dataclass(frozen=True)
class SyntheticTruth:
    """The gaze on one generated video: observers look near the blob."""

    seed: int
    size: tuple[int, int]
    num_frames: int

    def points(self, frame: int) -> np.ndarray:
        """See `distill.data.truth.Truth.points`."""
        if not self.has(frame):
            return np.zeros((0, 2), dtype=np.int64)
        spread = np.random.default_rng([self.seed, 2, frame]).normal(0, 0.03 * self.size[1], (OBSERVERS, 2))
        return inside(np.rint(spread + centre(self.seed, frame, self.size)).astype(np.int64), self.size)

    def density(self, frame: int, map_size: tuple[int, int]) -> np.ndarray:
        """See `distill.data.truth.Truth.density`."""
        return saliency.density_from_points(self.points(frame), self.size, map_size)

    def fixation_map(self, frame: int, map_size: tuple[int, int]) -> np.ndarray:
        """See `distill.data.truth.Truth.fixation_map`."""
        return saliency.fixation_map(self.points(frame), self.size, map_size)

    def has(self, frame: int) -> bool:
        """See `distill.data.truth.Truth.has`."""
        return 0 <= frame < self.num_frames
