"""Read a whole video once, for a network and for whatever draws on its frames.

frames = open_frames("video.mp4")
reader = KeepingReader(frames, keep=True)       # a VideoReader for `slide`
...
frame = reader.take(0)                          # the decoded frame of the first map
"""

import logging
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import av
import numpy as np
from PIL import Image

from distill.data.video.colour import HDR_TRANSFERS
from distill.data.video.guard import cores
from distill.data.video.names import is_image
from distill.data.video.open import open_video
from distill.data.video.probe import probe
from distill.data.video.protocol import VideoReader, unique_frames
from distill.data.video.pyav_reader import AvReader
from distill.data.video.synthetic import PREFIX

log = logging.getLogger(__name__)


class Frames(Protocol):
    """The decoded frames of one video.

    Attributes:
        num_frames: number of frames.
        fps: frame rate.
        size: (height, width) in pixels as displayed.
        turn: counter-clockwise quarter turns from the stored to the displayed picture.
        stamps: presentation timestamp of each frame in units of the video stream; None if they can only be counted.
    """

    num_frames: int
    fps: float
    size: tuple[int, int]
    turn: int
    stamps: np.ndarray | None

    def frame(self, index: int) -> av.VideoFrame:
        """Return one frame as stored; ascending indices are fastest."""
        ...

    def pixels(self, frame: av.VideoFrame, size: tuple[int, int]) -> np.ndarray:
        """Return a frame as upright (H, W, 3) uint8 RGB of `size`, as `VideoReader.read` would."""
        ...


class PictureFrames:
    """Frames of a reader that gives RGB: images, arrays and generated videos."""

    turn = 0
    stamps: np.ndarray | None = None

    def __init__(self, reader: VideoReader) -> None:
        self._reader = reader
        self.num_frames, self.fps, self.size = reader.num_frames, reader.fps, reader.size

    def frame(self, index: int) -> av.VideoFrame:
        """See `Frames.frame`."""
        return av.VideoFrame.from_ndarray(self._reader.read([index])[0], format="rgb24")

    def pixels(self, frame: av.VideoFrame, size: tuple[int, int]) -> np.ndarray:
        """See `Frames.pixels`."""
        rgb: np.ndarray = frame.to_ndarray()
        if rgb.shape[:2] == tuple(size):
            return rgb
        return np.asarray(Image.fromarray(rgb).resize((size[1], size[0]), Image.Resampling.BICUBIC))


def open_frames(path: str | Path) -> Frames:
    """Open a video file, a folder of frames, a still image or a generated video.

    Raises:
        UserError: as `open_video`.
    """
    if str(path).startswith(PREFIX) or not Path(path).is_file() or is_image(Path(path)):
        return PictureFrames(open_video(path))
    reader = AvReader(Path(path), probe(path), threads=max(1, cores() // 2))
    if hdr := HDR_TRANSFERS.get(reader.transfer()):
        log.warning("%s: HDR (%s), converted to BT.709; highlights above 203 cd/m2 become white", path, hdr)
    return reader


class KeepingReader:
    """A `VideoReader` that decodes each frame once, and keeps it until it is taken.

    One thread may read while another one takes.

    Args:
        frames: the decoded frames.
        keep: keep the frames; if False, none can be taken.
    """

    def __init__(self, frames: Frames, *, keep: bool) -> None:
        self._frames, self._keep = frames, keep
        self._kept: dict[int, av.VideoFrame] = {}
        self._lock = threading.Lock()
        self.num_frames, self.fps, self.size = frames.num_frames, frames.fps, frames.size

    def read(self, frames: Sequence[int], size: tuple[int, int] | None = None) -> np.ndarray:
        """Read frames: see `VideoReader.read`."""
        unique, positions = unique_frames(frames, self.num_frames)
        pixels = np.empty((len(unique), *(size or self.size), 3), dtype=np.uint8)
        for row, index in enumerate(unique.tolist()):
            frame = self._frames.frame(index)
            pixels[row] = self._frames.pixels(frame, size or self.size)
            if self._keep:
                with self._lock:
                    self._kept[index] = frame
        return pixels[positions]

    def take(self, index: int) -> av.VideoFrame:
        """Return a frame that was read, as stored, and forget it."""
        with self._lock:
            return self._kept.pop(index)
