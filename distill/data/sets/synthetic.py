"""Generated videos of a moving blob with fixations near it: no files, a pure function of the video's name.

A video's path is `synthetic:SEED-FRAMESxHEIGHTxWIDTH`, e.g. `synthetic:3-48x72x128`; `open_video` accepts it.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from distill.data.clips import Video
from distill.data.sets.dataset import DataSet, Layout
from distill.data.truth import Truth
from distill.data.video.synthetic import PREFIX, SyntheticReader, centre
from distill.fixations import inside

SPLITS = {"train": range(4), "validation": range(4, 6), "test": range(6, 8), "all": range(8)}

SHAPE = (48, 72, 128)
"""Frames, height and width of the data set's videos."""

OBSERVERS = 9


def find(root: Path) -> Layout:
    """Return the eight videos; `root` is ignored."""
    return Layout(
        "generated, no files",
        members={split: [f"blob{seed}" for seed in seeds] for split, seeds in SPLITS.items()},
        generated=[video(f"blob{seed}", seed) for seed in SPLITS["all"]],
    )


def video(name: str, seed: int, shape: tuple[int, int, int] = SHAPE) -> Video:
    """Return a generated video with ground truth for all of its frames."""
    frames, height, width = shape
    path = Path(f"{PREFIX}{seed}-{frames}x{height}x{width}")
    truth = SyntheticTruth(seed, (height, width), frames)
    return Video(name, path, frames, SyntheticReader.fps, (height, width), range(frames), truth, "synthetic")


@dataclass(frozen=True)
class SyntheticTruth(Truth):
    """Fixations of a generated video, normally distributed around the blob."""

    seed: int
    size: tuple[int, int]
    num_frames: int

    def points(self, frame: int) -> np.ndarray:
        """See `Truth.points`."""
        if not self.has(frame):
            return np.zeros((0, 2), dtype=np.int64)
        spread = np.random.default_rng([self.seed, 2, frame]).normal(0, 0.03 * self.size[1], (OBSERVERS, 2))
        return inside(np.rint(spread + centre(self.seed, frame, self.size)).astype(np.int64), self.size)

    def has(self, frame: int) -> bool:
        """See `Truth.has`."""
        return 0 <= frame < self.num_frames


SYNTHETIC = DataSet(
    name="synthetic",
    title="generated videos of a moving blob",
    expected="no files",
    splits=tuple(SPLITS),
    find=find,
    needs_root=False,
)
