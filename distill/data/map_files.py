"""Saliency maps as files: a folder of images per video, or one grey video per video.

    MAPS/002/0001.png      map of frame 1; 8 or 16 bits, grey (colour channels are averaged)
    MAPS/002.mp4           one map per frame, at the bit depth of the video: 8, 10 or more

External maps that are scored or imported and the maps of an exported target store have this form. The AIM 2024 and
NTIRE 2026 challenges use 10-bit videos in full range.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import av
import numpy as np

from distill.data.annotation import read_picture
from distill.data.video.names import VIDEO_SUFFIXES, natural, number_in, walk
from distill.data.video.open import open_size
from distill.data.video.writer import repeatable_x264
from distill.errors import UserError
from distill.files import atomic_path
from distill.limits import MAX_FRAMES, check_limit

PIXEL_FORMATS = {8: "gray", 10: "gray10le"}
"""FFmpeg's pixel format for each supported bit depth."""


def find_maps(folder: Path) -> dict[str, Path]:
    """Return the maps of each video, in natural order: a folder of numbered PNG files, or a video.

    Hidden files and videos next to a folder of the same name (overlays of `saldistill predict`) are ignored.

    Raises:
        UserError: if the folder does not exist.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; expected a folder of saliency maps")
    pictures: dict[str, Path] = {}
    videos: dict[str, Path] = {}
    for place, files in walk(folder):
        relative = place.relative_to(folder)
        for name in files:
            file = Path(name)
            if file.suffix.lower() == ".png" and number_in(file.stem) is not None and place != folder:
                pictures[relative.as_posix()] = place
            elif file.suffix.lower() in VIDEO_SUFFIXES:
                videos[(relative / file.stem).as_posix()] = place / name
    return dict(sorted({**videos, **pictures}.items(), key=lambda item: natural(item[0])))


def files_of(place: Path) -> list[Path]:
    """Return the files with the maps of one video, in frame order."""
    return [file for _, file in sorted(_pictures(place).items())] if place.is_dir() else [place]


def frames_of(place: Path) -> Sequence[int]:
    """Return the 0-based frames that have a map, ascending; for a video of maps, all of its frames.

    Raises:
        UserError: if an image is named 0000, two images have the same number, or the video cannot be read.
    """
    return sorted(_pictures(place)) if place.is_dir() else range(open_size(place)[0])


def require_maps(place: Path, frames: Sequence[int]) -> None:
    """Check that each of the 0-based frames of one video has a map.

    Raises:
        UserError: if maps are missing (names the first frame and the number of frames), or as `frames_of`.
    """
    available = set(frames_of(place))
    missing = [frame for frame in frames if frame not in available]
    if missing:
        raise UserError(
            f"{place}: no map of frame {missing[0] + 1} ({len(missing)} of {len(frames)} are missing); expected "
            "0001.png for the first frame and so on, or a video with one map per frame"
        )


def read_maps(place: Path, frames: Sequence[int]) -> Iterator[np.ndarray]:
    """Read the maps of some frames of one video.

    Args:
        place: the video's folder of images, or its video of maps.
        frames: 0-based; ascending order is fastest.

    Yields:
        (h, w) float32 grey levels as in the file: 0 to 255 for 8 bits, 0 to 1023 for 10 bits.

    Raises:
        UserError: if a frame has no map or a file cannot be read.
    """
    require_maps(place, frames)
    if place.is_dir():
        pictures = _pictures(place)
        yield from (read_picture(pictures[frame]) for frame in frames)
    else:
        yield from _decoded(place, frames)


def write_map_video(
    path: str | Path,
    maps: Iterable[np.ndarray],
    *,
    fps: float,
    bits: int = 10,
    crf: int | None = None,
    overwrite: bool = True,
) -> None:
    """Write maps as a grey full-range H.264 video, atomically; see `MapVideoWriter`."""
    with MapVideoWriter(path, fps=fps, bits=bits, crf=crf, overwrite=overwrite) as writer:
        for each in maps:
            writer.write(each)


class MapVideoWriter:
    """Write maps as a grey full-range H.264 video, which appears when the block of its context succeeds.

    The same maps give the same bytes on the same machine if `crf` is None. With a `crf`, x264's choice of rates
    depends on the timing of its threads; one thread would be repeatable and several times slower.

    Args:
        path: an .mp4 or .mkv file.
        fps: frame rate.
        bits: 8 or 10 bits per pixel.
        crf: x264's quality factor. None is lossless up to the quantisation to `bits`; 0 at 10 bits gives a fifth of
            the size with errors of at most 0.8% of the peak.
        overwrite: replace an existing file; if False, one that appears in the meantime is not replaced either.

    Raises:
        UserError: if PyAV has no H.264 encoder, or the file exists and `overwrite` is False.
    """

    def __init__(
        self, path: str | Path, *, fps: float, bits: int = 10, crf: int | None = None, overwrite: bool = True
    ) -> None:
        if "libx264" not in av.codecs_available:
            raise UserError(f"{path}: this PyAV cannot encode H.264; install the wheels of `av` from PyPI")
        self._path, self._fps, self._bits, self._overwrite = Path(path), fps, bits, overwrite
        self._options = {"qp": "0"} if crf is None else {"crf": str(crf)}  # qp 0: lossless
        self._stream: Any = None

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            temporary = stack.enter_context(atomic_path(self._path, overwrite=self._overwrite))
            self._container = stack.enter_context(av.open(str(temporary), "w"))
            self._stack = stack.pop_all()
        return self

    def write(self, saliency: np.ndarray) -> None:
        """Append one map (h, w) in [0, 1]; all maps have the size of the first."""
        levels = np.rint(saliency * (2**self._bits - 1)).astype("u1" if self._bits == 8 else "<u2")
        if self._stream is None:
            rate = Fraction(self._fps).limit_denominator(1001)
            options = self._options | repeatable_x264()
            self._stream = self._container.add_stream("libx264", rate=rate, options=options)
            self._stream.height, self._stream.width = levels.shape
            self._stream.pix_fmt = PIXEL_FORMATS[self._bits]
            self._stream.color_range = av.video.reformatter.ColorRange.JPEG  # full range
        frame = av.VideoFrame.from_ndarray(levels, format=PIXEL_FORMATS[self._bits])
        frame.color_range = self._stream.color_range
        self._container.mux(self._stream.encode(frame))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._stack.__exit__(kind, error, trace)
            return
        with self._stack:
            assert self._stream is not None, "a video has at least one map"
            self._container.mux(self._stream.encode(None))


def _pictures(folder: Path) -> dict[int, Path]:
    """Return the image of each 0-based frame; files without a numeric name are ignored."""
    files: dict[int, Path] = {}
    for file in sorted(folder.iterdir()):
        number = number_in(file.stem)
        if file.suffix.lower() != ".png" or number is None:
            continue
        frame = number - 1
        if frame < 0:
            raise UserError(
                f"{file}: invalid name of a map; expected the frame's number, counted from 1, such as 0001.png"
            )
        check_limit(number, MAX_FRAMES, f"{file}: number of a frame")
        if frame in files:
            raise UserError(f"{file}: {files[frame].name} is a map of the same frame; remove one of the two")
        files[frame] = file
    return files


def _decoded(path: Path, frames: Sequence[int]) -> Iterator[np.ndarray]:
    """Decode frames of a video of maps sequentially; going back restarts the decoder."""
    pictures, position = _levels(path), 0
    for frame in frames:
        if frame < position:
            pictures, position = _levels(path), 0
        for levels in pictures:
            position += 1
            if position == frame + 1:
                yield levels
                break
        else:
            raise UserError(f"{path}: frame {frame + 1} cannot be decoded; the file is damaged")


def _levels(path: Path) -> Iterator[np.ndarray]:
    """Yield the grey levels (h, w) float32 of a video's frames, in display order."""
    try:
        with av.open(str(path)) as container:
            for frame in container.decode(video=0):
                top = 2 ** frame.format.components[0].bits - 1
                grey = frame.reformat(format="gray16le").to_ndarray()  # full range, whatever the file's range is
                yield grey.astype(np.float32) * np.float32(top / 65535)
    except (av.error.FFmpegError, IndexError) as error:
        raise UserError(f"{path}: cannot be decoded as a video of maps; the file is damaged") from error
