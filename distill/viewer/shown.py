"""The videos of a viewer: what is known of them before they are opened, and their decoded frames."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from distill.data.clips import Video
from distill.data.video.open import open_size, open_video
from distill.data.video.protocol import VideoReader
from distill.errors import UserError
from distill.reports.page import fit

SIDE = 640
"""Longer side of a picture in pixels; larger videos are shrunk."""

OPEN_VIDEOS = 4
"""Videos kept open."""

KEPT_FRAMES = 64
"""Decoded frames kept, so that the panels of one frame decode it once: at most 0.4 MB each at 640 x 360, and 79 MB
in all at 640 x 640."""

DEFAULT_FPS = 25.0
"""Frame rate of a video whose file does not exist."""


@dataclass(frozen=True, eq=False)
class ShownVideo:
    """A video of the viewer.

    Attributes:
        name: its name.
        frames: the frames to show, 0-based and ascending.
        find: returns the video, and raises UserError if its file does not exist or cannot be read.
        group: heading in the list of videos, such as "validation".
    """

    name: str
    frames: Sequence[int]
    find: Callable[[], Video]
    group: str = ""

    @property
    def video(self) -> Video:
        """The video, opened on first use.

        Raises:
            UserError: its file does not exist or cannot be read.
        """
        if isinstance(self._found, UserError):
            raise self._found
        return self._found

    @property
    def missing(self) -> str:
        """Why the video cannot be shown; empty if it can."""
        return str(self._found) if isinstance(self._found, UserError) else ""

    @property
    def fps(self) -> float:
        """Frame rate; DEFAULT_FPS if it is unknown."""
        return DEFAULT_FPS if isinstance(self._found, UserError) or self._found.fps <= 0 else self._found.fps

    @property
    def has_truth(self) -> bool:
        """Whether there is ground truth to score against."""
        return not isinstance(self._found, UserError) and self._found.truth is not None

    @cached_property
    def _found(self) -> Video | UserError:
        try:
            video = self.find()
            if self.frames and self.frames[-1] >= video.num_frames:
                raise UserError(
                    f"{video.path}: has {video.num_frames} frames, expected at least {self.frames[-1] + 1}; it is "
                    "another video of that name, or a shortened copy"
                )
        except UserError as error:
            return error
        return video


def shown(video: Video, *, group: str = "") -> ShownVideo:
    """Return a video of a data set with its frames in use."""
    return ShownVideo(video.name, video.frames, lambda: video, group)


def plain_video(path: Path, name: str) -> Video:
    """Return a file, a folder of frames or a generated video, without ground truth.

    Raises:
        UserError: it cannot be read.
    """
    num_frames, fps, size = open_size(path)
    return Video(name, path, num_frames, fps, size, range(num_frames), None, "")


def same_video(video: Video, labelled: Video) -> Video:
    """Return a video with the ground truth of its copy in a data set."""
    return replace(video, truth=labelled.truth, dataset=labelled.dataset)


class FrameReader:
    """Decoded frames at the size of the panels, for any number of threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._readers: OrderedDict[ShownVideo, VideoReader] = OrderedDict()
        self._frames: OrderedDict[tuple[ShownVideo, int], np.ndarray] = OrderedDict()

    def read(self, shown: ShownVideo, frame: int) -> np.ndarray:
        """Return a frame (H, W, 3) uint8 RGB, with a longer side of at most SIDE.

        Raises:
            UserError: the video cannot be read.
        """
        key, video = (shown, frame), shown.video
        with self._lock:
            if key not in self._frames:
                if shown not in self._readers:
                    self._readers[shown] = open_video(video.path)
                    if len(self._readers) > OPEN_VIDEOS:
                        self._readers.popitem(last=False)
                self._readers.move_to_end(shown)
                self._frames[key] = self._readers[shown].read([frame], fit(video.size, SIDE))[0]
                if len(self._frames) > KEPT_FRAMES:
                    self._frames.popitem(last=False)
            self._frames.move_to_end(key)
            return self._frames[key]
