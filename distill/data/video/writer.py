"""MP4 writer based on PyAV."""

from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Self

import av
import numpy as np

from distill.errors import UserError
from distill.files import atomic_path

CODECS = {
    "libx264": {"crf": "20", "preset": "veryfast"},
    "libopenh264": {},
    "libvpx-vp9": {"crf": "32", "b:v": "0", "deadline": "realtime", "cpu-used": "6"},
}
"""Encoders whose MP4 plays in browsers, the first that FFmpeg has is used; x264's quality 20 shows no blocks."""


class VideoWriter:
    """An MP4 that plays in browsers: H.264 (VP9 where FFmpeg has no H.264 encoder), yuv420p, index in front.

    Used as `with VideoWriter(path, size, fps) as writer: writer.write(rgb)`. The file appears under its name when
    the block ends well, and not at all when it raises. Odd sizes are padded by repeating the last row or column,
    since yuv420p needs even ones.

    Args:
        path: the file to write; its suffix must be .mp4, .mov or .mkv.
        size: (height, width) of the frames.
        fps: frames a second.

    Raises:
        UserError: if the suffix is another one, or FFmpeg has none of the encoders.
    """

    def __init__(self, path: str | Path, size: tuple[int, int], fps: float) -> None:
        self.path, self.size, self.fps = Path(path), size, fps
        if self.path.suffix.lower() not in (".mp4", ".mov", ".mkv"):
            raise UserError(f"{self.path}: videos are written as .mp4, .mov or .mkv; change the name's ending")
        self.codec = next((name for name in CODECS if name in av.codecs_available), "")
        if not self.codec:
            raise UserError(f"this PyAV can encode none of {', '.join(CODECS)}; install `av` from its own wheels")

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            temporary = stack.enter_context(atomic_path(self.path))
            options = {} if self.path.suffix.lower() == ".mkv" else {"movflags": "faststart"}
            self._container = stack.enter_context(av.open(str(temporary), "w", options=options))
            rate = Fraction(self.fps).limit_denominator(1001)
            stream = self._container.add_stream(self.codec, rate=rate, options=CODECS[self.codec])
            stream.height, stream.width = self.size[0] + self.size[0] % 2, self.size[1] + self.size[1] % 2
            stream.pix_fmt = "yuv420p"
            self._stream = stream
            self._stack = stack.pop_all()
        return self

    def write(self, rgb: np.ndarray) -> None:
        """Append one frame (H, W, 3), or several (n, H, W, 3), uint8 RGB of the writer's size."""
        frames = rgb if rgb.ndim == 4 else rgb[None]
        assert frames.dtype == np.uint8
        assert frames.shape[1:] == (*self.size, 3), (frames.shape, self.size)
        for image in frames:
            even = np.pad(image, ((0, self.size[0] % 2), (0, self.size[1] % 2), (0, 0)), mode="edge")
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")
            self._container.mux(self._stream.encode(frame))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._stack.__exit__(kind, error, trace)
            return
        with self._stack:
            self._container.mux(self._stream.encode(None))
