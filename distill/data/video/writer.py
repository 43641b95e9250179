"""Writers of overlays: an MP4 writer based on PyAV, and one for the picture of a still image."""

import math
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import av
import numpy as np
from PIL import Image

from distill.data.video.canvas import Canvas
from distill.data.video.sound import Sound
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


@dataclass(frozen=True)
class Timing:
    """When the frames of a video are shown.

    Attributes:
        stamps: presentation timestamp of each frame in units of `time_base`, ascending.
        time_base: seconds of one unit.
        start: seconds that were subtracted from the source's timestamps.
    """

    stamps: np.ndarray
    time_base: Fraction
    start: float = 0.0

    @classmethod
    def of_file(cls, path: Path, stamps: np.ndarray | None) -> "Timing | None":
        """Return the timing of a video file whose frames have these timestamps, from 0; None if they have none."""
        if stamps is None:
            return None
        with av.open(str(path)) as container:
            unit = container.streams.video[0].time_base
            start = (container.start_time or 0) / av.time_base
        return cls(stamps - round(start / unit), unit, start)


class VideoWriter:
    """Write an MP4 that plays in browsers: H.264 (or VP9 if FFmpeg has no H.264 encoder), yuv420p, index in front.

    Use as `with VideoWriter(path, size, fps) as writer: writer.write(rgb)`. The file is created atomically when the
    block succeeds; the same frames give the same bytes on the same machine. Odd sizes are padded to even ones, as
    yuv420p requires, by repeating the last row or column.

    Args:
        path: an .mp4, .mov or .mkv file.
        size: (height, width) of the frames.
        fps: frame rate.
        timing: when the frames are shown; by default evenly, at the frame rate.
        sound: a video file whose sound is copied.
        overwrite: replace an existing file; if False, one that appears in the meantime is not replaced either.

    Raises:
        UserError: if the suffix is not supported, FFmpeg has none of the encoders, or the format cannot hold the
            sound.
    """

    def __init__(
        self,
        path: str | Path,
        size: tuple[int, int],
        fps: float,
        *,
        timing: Timing | None = None,
        sound: Path | None = None,
        overwrite: bool = True,
    ) -> None:
        self.path, self.size, self.fps, self.overwrite = Path(path), size, fps, overwrite
        self._timing, self._sound_of, self._count = timing, sound, 0
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
            self._unit = self._timing.time_base if self._timing else 1 / rate
            stream.codec_context.time_base = self._unit
            self._stream, self._sound = stream, None
            if self._sound_of is not None:
                start = self._timing.start if self._timing else 0.0
                self._sound = stack.enter_context(Sound(self._sound_of, offset=start))
                self._sound.add_to(self._container, self.path)
            self._stack = stack.pop_all()
        return self

    def write(self, rgb: np.ndarray) -> None:
        """Append one frame (H, W, 3) or several (n, H, W, 3), uint8 RGB at the writer's size, in BT.709."""
        frames = rgb if rgb.ndim == 4 else rgb[None]
        assert frames.dtype == np.uint8
        for image in frames:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            self.write_canvas(Canvas.of_frame(frame))

    def write_canvas(self, canvas: Canvas) -> None:
        """Append one frame, as YUV 4:2:0 at the writer's size; the first one sets the colour of the video."""
        assert canvas.size == self.size, (canvas.size, self.size)
        frame = canvas.frame()
        frame.pts = self._count if self._timing is None else int(self._timing.stamps[self._count])
        frame.time_base = self._unit
        if self._count == 0:
            context = self._stream.codec_context
            context.color_range, context.colorspace = frame.color_range, frame.colorspace
            context.color_primaries, context.color_trc = frame.color_primaries, frame.color_trc
        self._count += 1
        self._mux(self._stream.encode(frame))

    def _mux(self, packets: list[av.Packet]) -> None:
        for packet in packets:
            if self._sound is not None:
                self._sound.mux_until(self._container, float(packet.dts * packet.time_base))
            self._container.mux(packet)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._stack.__exit__(kind, error, trace)
            return
        with self._stack:
            self._mux(self._stream.encode(None))
            if self._sound is not None:
                self._sound.mux_until(self._container, math.inf)


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
