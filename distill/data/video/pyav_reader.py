"""Video reader based on PyAV: for whole videos, and for files that decord cannot read correctly."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np

from distill.data.remote_data import local
from distill.data.video.damage import note_damage
from distill.data.video.probe import Probe
from distill.data.video.protocol import unique_frames
from distill.data.video.scaler import Scaler
from distill.errors import UserError


class AvReader:
    """A video file read by PyAV, which seeks to the key frame before a requested frame and decodes from there.

    If frames have no timestamps, they are counted from the start of the file, which is slow.

    Args:
        path: the file.
        info: its properties.
        threads: decoding threads.

    Attributes:
        stamps: timestamps of the frames; None if they are counted.
        turn: counter-clockwise quarter turns from the stored to the displayed picture.
    """

    def __init__(self, path: Path, info: Probe, *, threads: int = 1) -> None:
        self.path, self.num_frames, self.fps, self.size = path, info.num_frames, info.fps, info.size
        self.stamps, self.turn, self._keys = info.stamps, info.turn, info.keys
        self._known_damage, self._concealed = frozenset(info.damaged), set[int]()
        self._places = {} if info.stamps is None else {int(s): i for i, s in enumerate(info.stamps)}
        self._threads, self._scaler = threads, Scaler()
        self._container: Any = None
        self._frames: Iterator[tuple[int, av.VideoFrame]] = iter(())
        self._next = info.num_frames  # next frame of `_frames`; num_frames: not decoding

    def read(self, frames: Sequence[int], size: tuple[int, int] | None = None) -> np.ndarray:
        """Read frames: see `VideoReader.read`."""
        unique, positions = unique_frames(frames, self.num_frames)
        indices = unique.tolist()
        pixels = np.empty((len(unique), *(size or self.size), 3), dtype=np.uint8)
        for row, index in enumerate(indices):
            pixels[row] = self.pixels(self.frame(index), size or self.size)
        return pixels[positions]

    def pixels(self, frame: av.VideoFrame, size: tuple[int, int]) -> np.ndarray:
        """Return a frame of this file as (H, W, 3) uint8 RGB of `size`, scaled as stored and then rotated."""
        stored = self._scaler(frame, size[::-1] if self.turn % 2 else size)
        return np.rot90(stored, self.turn)

    def frame(self, index: int) -> av.VideoFrame:
        """Decode one frame as stored: with the size, bit depth and colours of the file, not rotated.

        Raises:
            UserError: if it cannot be decoded.
        """
        try:
            frame = self._find(index)
        except av.error.FFmpegError as error:
            raise self._damaged(index) from error
        if index in self._known_damage or index in self._concealed:
            note_damage(self.path, {index}, known=bool(self._known_damage))
        return frame

    def transfer(self) -> int:
        """Return the number of the transfer characteristics (ITU-T H.273, Table 3): 2 if the file does not say."""
        if self._container is None:
            self._restart()
        return int(self._container.streams.video[0].codec_context.color_trc)

    def _find(self, index: int) -> av.VideoFrame:
        if index < self._next or self._key_between(self._next, index):
            self._seek(index)
        for place, frame in self._frames:
            self._next = place + 1
            if place == index:
                return frame
            if place > index:  # the seek went too far
                break
        self._restart()
        for place, frame in self._frames:
            self._next = place + 1
            if place == index:
                return frame
        raise self._damaged(index)

    def _damaged(self, index: int) -> UserError:
        self._next = self.num_frames
        return UserError(f"{self.path}: frame {index + 1} cannot be decoded; the file is damaged")

    def _key_between(self, position: int, index: int) -> bool:
        """Whether there is a key frame between the current position and a frame."""
        if self.stamps is None:
            return False
        after = np.searchsorted(self._keys, self.stamps[[min(position, len(self.stamps) - 1), index]], side="right")
        return bool(after[1] > after[0])

    def _seek(self, index: int) -> None:
        if self.stamps is None or self._container is None:
            self._restart()
        if self.stamps is not None:
            key = self._keys[max(0, int(np.searchsorted(self._keys, self.stamps[index], side="right")) - 1)]
            self._container.seek(int(key), stream=self._container.streams.video[0])
            self._frames = self._decode()

    def _restart(self) -> None:
        if self._container is not None:
            self._container.close()
        self._container = av.open(str(local(self.path)))
        self._container.streams.video[0].codec_context.thread_count = self._threads
        self._frames = self._decode()
        self._next = 0

    def _decode(self) -> Iterator[tuple[int, av.VideoFrame]]:
        """Yield (index, frame) from the current position; frames without an index are skipped."""
        counted = 0
        for packet in self._container.demux(self._container.streams.video[0]):
            try:
                decoded = packet.decode()
            except av.error.FFmpegError:
                continue  # the frame is reported as damaged when it is requested
            for frame in decoded:
                place = counted if self.stamps is None else self._places.get(frame.pts, -1)
                counted += 1
                if place >= 0:
                    if frame.is_corrupt:
                        self._concealed.add(place)
                    yield place, frame
