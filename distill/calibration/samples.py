"""Frames with fixations for a calibration: a network's raw log-saliency, and where the fixations lie in it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from distill.calibration.maps import grid
from distill.data.clips import Video
from distill.data.fit import fit_box, unfit
from distill.data.progress import ProgressBar
from distill.data.text import plural
from distill.errors import UserError
from distill.evaluation.other_frames import recording_of
from distill.fixations import inside
from distill.inference.settings import InferenceSettings
from distill.inference.sliding_window import slide
from distill.limits import MAX_CALIBRATED_MAPS
from distill.models.loaded import stride_of
from distill.models.onnx import OnnxModel

MIN_RECORDINGS = 3
"""Recordings that cross-validation needs: two to fit on, so that it does not adapt to one, and one to score."""


ALL_FRAMES = 10**9
"""No bound on the frames of `choose_frames`."""


@dataclass(frozen=True)
class Sample:
    """The frames of one video.

    Attributes:
        video: the video, whose `frames` have fixations.
        maps: weight of motion -> raw log-saliency (n, h, w) float32 of these frames.
        box: where the frame lies in the network's input, from `fit_box`; None if it fills the input.
        points: fixations (K, 3) of all frames as rows of (index of the frame, row, column in the map), int64.
    """

    video: Video
    maps: Mapping[float, Tensor]
    box: tuple[float, float, float, float] | None
    points: np.ndarray

    @property
    def recording(self) -> str:
        """The recording that the video was cut from."""
        return recording_of(self.video)

    @property
    def size(self) -> tuple[int, int]:
        """(h, w) of the maps."""
        h, w = next(iter(self.maps.values())).shape[1:]
        return h, w

    @cached_property
    def visible(self) -> Tensor:
        """Pixels (h, w) of the map that show the frame, bool."""
        return visible_pixels(self.box, self.size)

    def whole(self, log_saliency: Tensor) -> Tensor:
        """Return raw maps (n, h, w) as maps of the whole frame."""
        return log_saliency if self.box is None else unfit(log_saliency[None], torch.tensor([self.box]))[0]

    def thinned(self, most: int) -> "Sample":
        """Return the sample with at most `most` frames, evenly spaced."""
        count = len(self.video.frames)
        if count <= most:
            return self
        kept = evenly(count, most)
        place = np.full(count, -1)
        place[kept] = np.arange(len(kept))
        points = self.points[place[self.points[:, 0]] >= 0]
        return replace(
            self,
            video=replace(self.video, frames=[self.video.frames[index] for index in kept]),
            maps={motion: maps[kept] for motion, maps in self.maps.items()},
            points=np.column_stack([place[points[:, 0]], points[:, 1:]]),
        )


def evenly(count: int, most: int) -> np.ndarray:
    """Return at most `most` of the indices below `count`, evenly spaced, from the middles of as many parts."""
    return ((np.arange(min(most, count)) + 0.5) * count / min(most, count)).astype(int)


def visible_pixels(box: tuple[float, float, float, float] | None, size: tuple[int, int]) -> Tensor:
    """Return the pixels (h, w) whose centres lie in the frame's box; at least the one in its middle."""
    if box is None:
        return torch.ones(size, dtype=torch.bool)
    top, left, height, width = box
    rows, columns = grid(size)
    shown = ((rows >= top) & (rows <= top + height)) & ((columns >= left) & (columns <= left + width))
    middle = [
        int(min(max(first + length / 2, 0), 0.999) * side)
        for first, length, side in zip(box, box[2:], size, strict=False)
    ]
    shown[middle[0], middle[1]] = True
    return shown


def pixels_of(
    points: np.ndarray, frame: tuple[int, int], box: tuple[float, ...] | None, visible: Tensor
) -> np.ndarray:
    """Return the pixels (K, 2) of a raw map in which fixations lie.

    Args:
        points: (K, 2) int rows of (row, column) in pixels of the frame.
        frame: (height, width) of the frame.
        box: see `Sample`. Fixations outside the input, which `crop` cuts off, are left out.
        visible: from `visible_pixels`; a fixation at the frame's border belongs to the nearest of them.
    """
    top, left, height, width = box or (0.0, 0.0, 1.0, 1.0)
    places = np.array([top, left]) + (inside(points, frame) + 0.5) / frame * np.array([height, width])
    places = places[((places >= 0) & (places < 1)).all(axis=1)]
    shown = visible.numpy().nonzero()
    pixels = (places * visible.shape).astype(np.int64)
    return np.column_stack([pixels[:, axis].clip(shown[axis].min(), shown[axis].max()) for axis in (0, 1)])


def choose_frames(videos: Sequence[Video], *, every: int, most: int = MAX_CALIBRATED_MAPS) -> list[Video]:
    """Return the videos with the frames to use: every n-th that has fixations, at most `most` in total.

    Videos without such frames are left out.
    """
    each = max(1, most // max(1, len(videos)))
    chosen = []
    for video in videos:
        frames = video.frames[::every]
        frames = [frames[index] for index in evenly(len(frames), each)]
        fixated = [frame for frame in frames if video.truth is not None and video.truth.has(frame)]
        if fixated:
            chosen.append(replace(video, frames=fixated))
    return chosen


def draw_videos(videos: Sequence[Video], count: int | None, seed: int) -> list[Video]:
    """Draw videos without replacement, and return them in their order.

    Args:
        videos: the videos to choose from.
        count: number of videos; None for all. All are returned if there are fewer, and at most MAX_CALIBRATED_MAPS.
        seed: seed of the draw.
    """
    count = min(len(videos) if count is None else count, MAX_CALIBRATED_MAPS)
    if count >= len(videos):
        return list(videos)
    drawn = np.random.default_rng(seed).permutation(len(videos))[:count]
    return [videos[index] for index in sorted(drawn)]


def read_samples(
    networks: Mapping[float, OnnxModel], videos: Sequence[Video], *, progress: bool = True
) -> list[Sample]:
    """Compute the raw maps of the frames in use of videos, in order from each video's start.

    Args:
        networks: weight of motion -> network, from `graph.save_log_variant`.
        videos: from `choose_frames`.
        progress: show a progress bar.

    Raises:
        UserError: a video cannot be read, or a map contains NaN or infinity.
    """
    total = len(networks) * sum(len(video.frames) for video in videos)
    with ProgressBar("predicting", "map", total=total, shown=progress) as bar:
        return list(_samples(networks, videos, bar))


def _samples(networks: Mapping[float, OnnxModel], videos: Sequence[Video], bar: ProgressBar) -> Iterator[Sample]:
    for video in videos:
        maps = {}
        for motion, network in networks.items():
            settings = InferenceSettings(stride=stride_of(network.notes), device="cpu")
            batches = []
            for _, batch in slide(network, video, video.frames, settings, whole=False):
                batches.append(batch)
                bar.update(len(batch))
            maps[motion] = torch.cat(batches)
        network = next(iter(networks.values()))
        box = None if network.fit == "stretch" else fit_box(network.fit, video.size, network.size)
        visible = visible_pixels(box, network.map_size)
        assert video.truth is not None
        rows = []
        for index, frame in enumerate(video.frames):
            pixels = pixels_of(video.truth.points(frame), video.size, box, visible)
            rows.append(np.column_stack([np.full(len(pixels), index), pixels]))
        points = np.concatenate(rows)
        if len(points):
            yield Sample(video, maps, box, points)


def check_recordings(videos: Sequence[Video], where: str) -> None:
    """Raise a UserError if too few recordings have fixations to fit and to check the fit."""
    count = len({recording_of(video) for video in videos})
    if count < MIN_RECORDINGS:
        raise UserError(
            f"{where}: {plural(count, 'recording')} with fixations cannot be fitted and cross-validated; expected "
            f"at least {MIN_RECORDINGS}, e.g. as many videos or images"
        )
