"""Writers of overlays: an MP4 writer based on PyAV, and one for the picture of a still image."""

from contextlib import ExitStack, suppress
from fractions import Fraction
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import av
import numpy as np
from PIL import Image

from distill.errors import UserError
from distill.files import atomic_path

ENCODERS = {
    "libx264": {"crf": "20", "preset": "veryfast"},
    "libopenh264": {},
    "libvpx-vp9": {"crf": "32", "b:v": "0", "deadline": "realtime", "cpu-used": "6"},
}
"""Encoders with their options, in order of preference; browsers play all of them."""

CONTAINERS = {".mp4": {"movflags": "faststart"}, ".mov": {"movflags": "faststart"}, ".mkv": {"fflags": "+bitexact"}}
"""Suffix -> options of the container; Matroska has random identifiers unless it is bit-exact."""


PICTURES: dict[str, dict[str, Any]] = {".png": {}, ".jpg": {"quality": 95}, ".jpeg": {"quality": 95}}
"""Suffix -> options of Pillow for a picture."""


@cache
def repeatable_x264() -> dict[str, str]:
    """Return options that make x264 write the same bytes for the same frames on this machine.

    Its AVX-512 code for macroblock trees reads memory that nothing has written (seen at 240 x 180 and 480 x 270),
    so that rates, and with them the pixels, differ from run to run. On processors with AVX-512, AVX2 and what it
    implies are therefore named as the instructions to use.
    """
    with suppress(OSError):
        if " avx512f " in Path("/proc/cpuinfo").read_text(encoding="utf-8"):
            return {"x264-params": "asm=MMX2,SSE2Fast,SSSE3,SSE4.2,AVX,FMA3,BMI1,BMI2,AVX2"}
    return {}


class VideoWriter:
    """Write an MP4 that plays in browsers: H.264 (or VP9 if FFmpeg has no H.264 encoder), yuv420p, index in front.

    Use as `with VideoWriter(path, size, fps) as writer: writer.write(rgb)`. The file is created atomically when the
    block succeeds; the same frames give the same bytes on the same machine. Odd sizes are padded to even ones, as
    yuv420p requires, by repeating the last row or column.

    Args:
        path: an .mp4, .mov or .mkv file.
        size: (height, width) of the frames.
        fps: frame rate.
        overwrite: replace an existing file; if False, one that appears in the meantime is not replaced either.

    Raises:
        UserError: if the suffix is not supported, or FFmpeg has none of the encoders.
    """

    def __init__(self, path: str | Path, size: tuple[int, int], fps: float, *, overwrite: bool = True) -> None:
        self.path, self.size, self.fps, self.overwrite = Path(path), size, fps, overwrite
        if self.path.suffix.lower() not in CONTAINERS:
            raise UserError(f"{self.path}: unsupported video format; expected a name ending in .mp4, .mov or .mkv")
        self.codec = next((name for name in ENCODERS if name in av.codecs_available), "")
        if not self.codec:
            raise UserError(
                f"this PyAV can encode none of {', '.join(ENCODERS)}; install the wheels of `av` from PyPI"
            )

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            temporary = stack.enter_context(atomic_path(self.path, overwrite=self.overwrite))
            container = CONTAINERS[self.path.suffix.lower()]
            self._container = stack.enter_context(av.open(str(temporary), "w", options=container))
            rate = Fraction(self.fps).limit_denominator(1001)
            options = ENCODERS[self.codec] | (repeatable_x264() if self.codec == "libx264" else {})
            stream = self._container.add_stream(self.codec, rate=rate, options=options)
            stream.height, stream.width = self.size[0] + self.size[0] % 2, self.size[1] + self.size[1] % 2
            stream.pix_fmt = "yuv420p"
            self._stream = stream
            self._stack = stack.pop_all()
        return self

    def write(self, rgb: np.ndarray) -> None:
        """Append one frame (H, W, 3) or several (n, H, W, 3), uint8 RGB at the writer's size."""
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


class PictureWriter:
    """Write the only frame of a still image as a picture; used as a `VideoWriter`.

    Args:
        path: a .png, .jpg or .jpeg file.
        overwrite: as for a `VideoWriter`.

    Raises:
        UserError: if the suffix is not supported.
    """

    def __init__(self, path: str | Path, *, overwrite: bool = True) -> None:
        self.path, self.overwrite = Path(path), overwrite
        if self.path.suffix.lower() not in PICTURES:
            raise UserError(
                f"{self.path}: unsupported picture format; expected a name ending in {', '.join(PICTURES)}, since "
                "the input is a still image"
            )

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._temporary = stack.enter_context(atomic_path(self.path, overwrite=self.overwrite))
            self._stack = stack.pop_all()
        return self

    def write(self, rgb: np.ndarray) -> None:
        """Write the picture (H, W, 3), uint8 RGB."""
        Image.fromarray(rgb).save(self._temporary, **PICTURES[self.path.suffix.lower()])

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)
