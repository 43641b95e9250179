"""Maps on the disk as people hand them on: a folder of pictures a video, or a video a video.

    MAPS/002/0001.png      the map of frame 1; 8 or 16 bits, grey (of colour pictures the mean of the channels)
    MAPS/002.mp4           one map a frame, at the video's own depth: 8, 10 or more bits

What is scored, what is imported as a teacher's targets and what a store is exported to has this one form. The
videos are those of the AIM 2024 and NTIRE 2026 challenges, whose maps come in 10 bits, from 0 to the most.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from distill.data.truth import read_picture
from distill.data.video.names import VIDEO_SUFFIXES, natural
from distill.data.video.open import open_size
from distill.errors import UserError
from distill.files import atomic_path

FORMATS = {8: "gray", 10: "gray10le"}
"""Bits of a written map -> FFmpeg's name of the pixels."""


def find_maps(folder: Path) -> dict[str, Path]:
    """Return where the maps of each video are, in natural order: a folder of numbered PNG files, or a video.

    Hidden files are left out, and videos beside a folder of their name (as `saldistill predict` writes overlays).

    Raises:
        UserError: there is no such folder.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder of maps")
    pictures: dict[str, Path] = {}
    videos: dict[str, Path] = {}
    for root, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        place = Path(root)
        below = place.relative_to(folder)
        for name in sorted(files):
            file = Path(name)
            if name.startswith("."):
                continue
            if file.suffix.lower() == ".png" and file.stem.isdecimal() and place != folder:
                pictures[below.as_posix()] = place
            elif file.suffix.lower() in VIDEO_SUFFIXES:
                videos[(below / file.stem).as_posix()] = place / name
    return dict(sorted({**videos, **pictures}.items(), key=lambda item: natural(item[0])))


def files_of(place: Path) -> list[Path]:
    """Return the files that hold the maps of one video, in the order of their frames."""
    return [file for _, file in sorted(_pictures(place).items())] if place.is_dir() else [place]


def frames_of(place: Path) -> Sequence[int]:
    """Return which frames of a video there are maps of, 0-based and ascending: all of its own for a video of maps.

    Raises:
        UserError: a picture named 0000, two pictures of one frame, or a video that cannot be read.
    """
    return sorted(_pictures(place)) if place.is_dir() else range(open_size(place)[0])


def require_maps(place: Path, frames: Sequence[int]) -> None:
    """Check that there is a map of each of some frames (0-based) of one video.

    Raises:
        UserError: naming the first frame without one, and how many there are; or as `frames_of`.
    """
    there = set(frames_of(place))
    missing = [frame for frame in frames if frame not in there]
    if missing:
        raise UserError(
            f"{place}: there is no map of frame {missing[0] + 1}, {len(missing)} of {len(frames)} are missing; "
            "expected 0001.png for the first frame and so on, or a video with one map a frame"
        )


def read_maps(place: Path, frames: Sequence[int]) -> Iterator[np.ndarray]:
    """Read the maps of some frames of one video, one after the other.

    Args:
        place: the video's folder of pictures, or its video of maps.
        frames: 0-based; quickest in ascending order.

    Yields:
        (h, w) float32, non-negative: the grey levels, from 0 to 255 for 8 bits, to 1023 for 10, as they stand in
        the file.

    Raises:
        UserError: there is no map of a frame, or a file cannot be read.
    """
    require_maps(place, frames)
    if place.is_dir():
        pictures = _pictures(place)
        yield from (read_picture(pictures[frame]) for frame in frames)
    else:
        yield from _decoded(place, frames)


def write_map_video(
    path: str | Path, maps: Iterable[np.ndarray], *, fps: float, bits: int = 10, crf: int | None = None
) -> None:
    """Write maps as a grey H.264 video that loses nothing but what lies between two levels.

    The file appears under its name when all maps are written.

    Args:
        path: the file, .mp4 or .mkv.
        maps: (h, w) each, in [0, 1]; one at least.
        fps: frames a second.
        bits: 8 or 10 a pixel.
        crf: x264's quality, for a smaller file with some loss: at 0 and 10 bits, a fifth of the size for errors of
            at most .8% of the peak. Without loss when None.

    Raises:
        UserError: this PyAV has no encoder for it.
    """
    if "libx264" not in av.codecs_available:
        raise UserError(f"{path}: this PyAV cannot encode H.264; install `av` from its own wheels")
    with atomic_path(path) as temporary, av.open(str(temporary), "w") as container:
        stream, options = None, {"qp": "0"} if crf is None else {"crf": str(crf)}  # qp 0: without loss
        for each in maps:
            levels = np.rint(each * (2**bits - 1)).astype("u1" if bits == 8 else "<u2")
            frame = av.VideoFrame.from_ndarray(levels, format=FORMATS[bits])
            if stream is None:
                rate = Fraction(fps).limit_denominator(1001)
                stream = container.add_stream("libx264", rate=rate, options=options)
                stream.height, stream.width = levels.shape
                stream.pix_fmt = FORMATS[bits]
                stream.color_range = av.video.reformatter.ColorRange.JPEG  # 0 is black and the largest value white
            frame.color_range = stream.color_range
            container.mux(stream.encode(frame))
        assert stream is not None, "a video has at least one map"
        container.mux(stream.encode(None))


def _pictures(folder: Path) -> dict[int, Path]:
    """Return frame, counted from 0 -> picture of a folder; files whose names are no numbers are left out."""
    files: dict[int, Path] = {}
    for file in sorted(folder.iterdir()):
        if file.suffix.lower() != ".png" or not file.stem.isdecimal():
            continue
        frame = int(file.stem) - 1
        if frame < 0:
            raise UserError(f"{file}: expected a map's name to be its frame, counted from 1, such as 0001.png")
        if frame in files:
            raise UserError(f"{file}: {files[frame].name} is the map of the same frame; remove one of the two")
        files[frame] = file
    return files


def _decoded(path: Path, frames: Sequence[int]) -> Iterator[np.ndarray]:
    """Decode a video of maps from its start up to the last of some frames; going back starts it anew."""
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
    """Yield the grey levels (h, w) float32 of a video's frames, in the order they are shown."""
    try:
        with av.open(str(path)) as container:
            for frame in container.decode(video=0):
                top = 2 ** frame.format.components[0].bits - 1
                grey = frame.reformat(format="gray16le").to_ndarray()  # black is 0 here, whatever it is there
                yield grey.astype(np.float32) * np.float32(top / 65535)
    except (av.error.FFmpegError, IndexError) as error:
        raise UserError(f"{path}: cannot be decoded as a video of maps; the file is damaged") from error
