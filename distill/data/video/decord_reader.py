"""Video reader based on decord2, and workarounds for decord's imports and destructors."""

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from distill.data.remote_data import local
from distill.data.video.damage import note_damage
from distill.data.video.guard import heartbeat
from distill.data.video.protocol import VideoReader, unique_frames
from distill.errors import UserError


@cache
def load_decord() -> Any:
    """Import decord without CUDA libraries and without log messages.

    On import, decord loads every library in the packages called `nvidia`, for decoding on a GPU. This takes 370 MB
    per loader worker and four times the import time. A decord build with GPU support still gets them.
    """
    hidden = {name: module for name, module in sys.modules.items() if name == "nvidia"}
    sys.modules["nvidia"] = None  # type: ignore[assignment]  # makes its import fail
    try:
        with suppress(ImportError, OSError):
            import_module("decord")
    finally:
        del sys.modules["nvidia"]
        sys.modules.update(hidden)
    decord = import_module("decord")
    decord.logging.set_level(decord.logging.QUIET)  # errors still raise
    return decord


@cache
def reader_class() -> Any:
    """Return decord's VideoReader with a destructor that only runs in the process that opened it.

    The destructor waits for decoding threads, which do not exist in a fork: it would hang there when the copy is
    garbage collected.
    """

    class Reader(load_decord().VideoReader):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self._process = os.getpid()
            super().__init__(*args, **kwargs)

        def __del__(self) -> None:
            if self._process == os.getpid():
                super().__del__()

    return Reader


def decord_agrees(path: str, num_frames: int, size: tuple[int, int], *, every_frame: bool = False) -> bool:
    """Return whether decord finds the same number of frames and decodes the first and last (or all) upright.

    A missing decord, or one that cannot be loaded, agrees with nothing, so that PyAV reads the file.
    """
    try:
        decord = load_decord()
        reader = decord.VideoReader(path, ctx=decord.cpu(0), num_threads=1)
        for index in range(num_frames) if every_frame else (0, num_frames - 1):
            heartbeat()
            if reader[index].shape[:2] != size:
                return False
        return len(reader) == num_frames
    except Exception:  # decord's errors have no common base class
        return False


class DecordReader:
    """A video file read by decord with one decoding thread; keeps decoders for the last two requested sizes.

    Args:
        path: a file with a `regular` probe.
        num_frames: number of frames.
        fps: frame rate.
        size: (height, width) in pixels.
        fallback: opens another reader for sizes that decord cannot decode to.
        damaged: frames that are known to be damaged.
    """

    def __init__(
        self,
        path: Path,
        *,
        num_frames: int,
        fps: float,
        size: tuple[int, int],
        fallback: Callable[[], VideoReader],
        damaged: Iterable[int] = (),
    ) -> None:
        self.path, self.num_frames, self.fps, self.size = path, num_frames, fps, size
        self._fallback, self._known_damage = fallback, frozenset(damaged)
        self._decoders: dict[tuple[int, int], Any] = {}
        self._fallbacks: dict[tuple[int, int], VideoReader] = {}
        self._decoder(self.size)

    def _decoder(self, size: tuple[int, int]) -> Any:
        if size not in self._decoders:
            if len(self._decoders) == 2:
                del self._decoders[next(iter(self._decoders))]
            height, width = (-1, -1) if size == self.size else size
            self._decoders[size] = reader_class()(str(local(self.path)), width=width, height=height, num_threads=1)
        return self._decoders[size]

    def read(self, frames: Sequence[int], size: tuple[int, int] | None = None) -> np.ndarray:
        """Read frames: see `VideoReader.read`."""
        unique, positions = unique_frames(frames, self.num_frames)
        size = size or self.size
        if len(unique) == 0:
            return np.zeros((0, *size, 3), dtype=np.uint8)
        if size in self._fallbacks:
            return self._fallbacks[size].read(frames, size)
        try:
            pixels = self._decoder(size).get_batch(unique).asnumpy()
        except load_decord().DECORDError as error:
            if "size must exactly match" in str(error):  # rows that FFmpeg pads, e.g. at width 48
                self._fallbacks[size] = self._fallback()
                return self._fallbacks[size].read(frames, size)
            raise UserError(
                f"{self.path}: frames {unique[0] + 1} to {unique[-1] + 1} cannot be decoded; the file is damaged"
            ) from error
        note_damage(self.path, self._known_damage.intersection(unique.tolist()), known=True)
        return pixels if len(unique) == len(frames) and (np.diff(positions) > 0).all() else pixels[positions]
