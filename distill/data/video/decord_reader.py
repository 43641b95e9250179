"""Video reader based on decord2."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from distill.data.video.load_decord import load_decord, reader_class
from distill.data.video.probe import Probe
from distill.data.video.protocol import once_each
from distill.data.video.pyav_reader import AvReader
from distill.errors import UserError


class DecordReader:
    """A video file read by decord, one decoding thread; one decoder for each of the last two sizes asked for.

    Args:
        path: the file.
        found: what it holds, `regular`: decord counts the same frames and shows them upright.
    """

    def __init__(self, path: Path, found: Probe) -> None:
        self.path, self.num_frames, self.fps, self.size = path, found.num_frames, found.fps, found.size
        self._found = found
        self._decoders: dict[tuple[int, int], Any] = {}
        self._padded: dict[tuple[int, int], AvReader] = {}  # for the sizes that decord cannot do
        self._decoder(self.size)

    def _decoder(self, size: tuple[int, int]) -> Any:
        if size not in self._decoders:
            if len(self._decoders) == 2:
                del self._decoders[next(iter(self._decoders))]
            height, width = (-1, -1) if size == self.size else size
            self._decoders[size] = reader_class()(str(self.path), width=width, height=height, num_threads=1)
        return self._decoders[size]

    def read(self, frames: Sequence[int], size: tuple[int, int] | None = None) -> np.ndarray:
        """Read frames: see `VideoReader.read`."""
        unique, places = once_each(frames, self.num_frames)
        size = size or self.size
        if len(unique) == 0:
            return np.zeros((0, *size, 3), dtype=np.uint8)
        if size in self._padded:
            return self._padded[size].read(frames, size)
        try:
            pixels = self._decoder(size).get_batch(unique).asnumpy()
        except load_decord().DECORDError as error:
            if "size must exactly match" in str(error):  # decord cannot hand over rows that FFmpeg pads: 48 wide
                self._padded[size] = AvReader(self.path, self._found)
                return self._padded[size].read(frames, size)
            raise UserError(
                f"{self.path}: frames {unique[0] + 1} to {unique[-1] + 1} cannot be decoded; the file is damaged"
            ) from error
        return pixels if len(unique) == len(frames) and (np.diff(places) > 0).all() else pixels[places]
