"""Parts of viewers: videos without files, maps of a known value, and waiting for threads."""

import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from distill.data.clips import Video
from distill.data.sets.synthetic import video
from distill.viewer.shown import ShownVideo, shown
from distill.viewer.view import View


def blob(seed: int = 0, frames: int = 48) -> ShownVideo:
    """Return a generated video of 72x128 pixels with ground truth."""
    return shown(video(f"blob{seed}", seed, (frames, 72, 128)))


class Maps:
    """A map source that records the frames it was asked for and those it has yielded.

    The top left pixel of a map (6, 8) is (frame + 1) / 1000, the bottom right one 1.
    """

    def __init__(self, pause: float = 0.0, error: Exception | None = None) -> None:
        self.pause, self.error = pause, error
        self.requests: list[list[int]] = []
        self.yielded: list[tuple[str, int]] = []

    def __call__(self, video: Video, frames: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        self.requests.append(list(frames))
        for frame in frames:
            if self.error:
                raise self.error
            time.sleep(self.pause)
            self.yielded.append((video.name, frame))
            yield frame, self.map(frame)

    @staticmethod
    def map(frame: int) -> np.ndarray:
        saliency = np.full((6, 8), 0.1, np.float32)
        saliency[0, 0], saliency[-1, -1] = (frame + 1) / 1000, 1
        return saliency


def wait_for(condition: Callable[[], object], seconds: float = 60) -> None:
    """Wait until a condition is true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def scores_of(view: View, number: int = 0) -> dict[str, list[float | None]]:
    """Return the scores of the first series of a video by metric, when all are there."""
    view.want(number, 0)
    wait_for(lambda: view.describe_scores(number)["done"])
    found: dict[str, list[float | None]] = view.describe_scores(number)["series"][0]["values"]
    return found
