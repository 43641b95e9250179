"""Fixations of other frames of the data set: negatives of shuffled AUC, and a mean map for information gain.

People look at the centre of most frames. Scoring against other frames' fixations gives no credit for that, whether
as points (shuffled AUC) or as a density (information gain over the mean map).
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from distill.data.clips import Video
from distill.fixations import fixation_map, rescale, sigma_for

POOL = 1000
"""Frames in the pool, drawn from all frames in use: enough for a mean map, and quick to read."""

UNION = 10
"""Other frames that give a frame's negatives, as in Borji's and the benchmarks' code."""

NEGATIVES = (
    f"the fixations of {UNION} random frames of other recordings among the scored videos (of other frames if there "
    f"is one recording), rescaled to the frame, drawn from at most {POOL} of the frames in use"
)
"""How the negatives of shuffled AUC are made, for reports."""

MEAN_MAP_SHRINK = 4
"""The mean map has a quarter of the frame's sides: it is smooth, and recomputed every few frames."""


@dataclass(frozen=True)
class OtherFrames:
    """A pool of frames with their fixations.

    Attributes:
        recordings: recording of each frame's video.
        names: (video, frame) of each frame.
        points: fixations (K, 2) of each frame in pixels, with the (height, width) of its video.
        seed: seed of draws from the pool.
    """

    recordings: np.ndarray
    names: list[tuple[str, int]]
    points: list[tuple[np.ndarray, tuple[int, int]]]
    seed: int

    def fixations(self, video: Video, frame: int) -> np.ndarray:
        """Return the union of the fixations of 10 random other frames, (h, w) of the video's size, 0 or 1.

        The draw depends only on the pool, the seed, the video's name and the frame.
        """
        others = self._others(video, frame)
        random = np.random.default_rng([self.seed, zlib.crc32(video.name.encode()), frame])
        drawn = random.permutation(others)[:UNION]
        return (fixation_map(self._pixels(drawn, video.size), video.size) > 0).astype(np.float32)

    def mean_map(self, video: Video) -> np.ndarray:
        """Return the blurred fixation counts of all other recordings, (h', w') of a quarter of the video's size.

        Not normalised; all zero without fixations.
        """
        size = video.size
        small = (max(1, size[0] // MEAN_MAP_SHRINK), max(1, size[1] // MEAN_MAP_SHRINK))
        counts = fixation_map(self._pixels(self._others(video, None), size), size, small)
        blurred: np.ndarray = gaussian_filter(counts, sigma_for(small[1]), mode="reflect")
        return blurred

    def _others(self, video: Video, frame: int | None) -> np.ndarray:
        """Return indices of other recordings' frames in the pool; of other frames if there is one recording."""
        others = np.flatnonzero(self.recordings != recording_of(video))
        if len(others):
            return others
        return np.array([place for place, name in enumerate(self.names) if name != (video.name, frame)], dtype=int)

    def _pixels(self, places: Sequence[int] | np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Return the fixations (K, 2) of frames of the pool, scaled to a frame of that size."""
        drawn = [self.points[place] for place in places]
        return np.concatenate([np.zeros((0, 2)), *(rescale(points, own, size) for points, own in drawn)])


def draw_other_frames(videos: Sequence[Video], *, seed: int = 0, count: int = POOL) -> OtherFrames:
    """Draw a pool uniformly from all frames in use of videos with ground truth."""
    every = [(video, int(frame)) for video in videos if video.truth is not None for frame in video.frames]
    places = np.sort(np.random.default_rng([seed, 0]).choice(len(every), min(count, len(every)), replace=False))
    recordings, names, points = [], [], []
    for video, frame in (every[place] for place in places):
        assert video.truth is not None
        recordings.append(recording_of(video))
        names.append((video.name, frame))
        points.append((video.truth.points(frame).astype(np.int32), video.size))
    return OtherFrames(np.array(recordings, dtype=object), names, points, seed)


def recording_of(video: Video) -> str:
    """Return the recording that a video was cut from, or the video itself if unknown; unique across data sets."""
    return f"{video.dataset}/{video.recording or video.name}"
