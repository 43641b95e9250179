"""Videos without files: fixations in given frames, and maps that are a function of video and frame."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from distill.data.clips import Video
from distill.data.truth import Truth

SIZE = (36, 64)


class FakeTruth(Truth):
    """Fixations in given frames; none in the others."""

    size = SIZE

    def __init__(self, points: dict[int, list[tuple[int, int]]]) -> None:
        self.gaze = points

    def points(self, frame: int) -> np.ndarray:
        return np.array(self.gaze.get(frame, []), dtype=np.int64).reshape(-1, 2)

    def has(self, frame: int) -> bool:
        return frame in self.gaze


def video(name: str, gaze: dict[int, list[tuple[int, int]]] | None, frames: range, dataset: str = "fake") -> Video:
    truth = None if gaze is None else FakeTruth(gaze)
    return Video(name, Path(name), 100, 30.0, SIZE, frames, truth, dataset)


def gaze(frames: range, seed: int = 0) -> dict[int, list[tuple[int, int]]]:
    rng = np.random.default_rng(seed)
    return {frame: [(int(r), int(c)) for r, c in rng.integers((5, 10), (30, 50), (6, 2))] for frame in frames}


def noisy(video: Video, frames: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
    """Yield maps of another size than the video's, a function of video and frame."""
    for frame in frames:
        yield frame, np.random.default_rng([len(video.name), frame]).random((9, 16))


ONE = video("one", gaze(range(10)), range(10))
LONG = video("longer", gaze(range(30), seed=1), range(30))
