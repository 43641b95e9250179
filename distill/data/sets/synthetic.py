"""Generated videos of a moving blob with the gaze that follows it: no files, every pixel a function of its name.

A video's path says what it is, `synthetic:SEED-FRAMESxHEIGHTxWIDTH` (`synthetic:3-48x72x128`), and `open_video`
takes it like any other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from distill.data.clips import Video
from distill.data.sets.scan import Scan, same_name, unknown_split
from distill.data.truth import inside
from distill.data.video.synthetic import SyntheticReader, centre
from distill.fixations import density_from_points, fixation_map

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
        return density_from_points(self.points(frame), self.size, map_size)

    def fixation_map(self, frame: int, map_size: tuple[int, int]) -> np.ndarray:
        """See `distill.data.truth.Truth.fixation_map`."""
        return fixation_map(self.points(frame), self.size, map_size)

    def has(self, frame: int) -> bool:
        """See `distill.data.truth.Truth.has`."""
        return 0 <= frame < self.num_frames
