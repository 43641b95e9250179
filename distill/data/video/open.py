"""Open any video with the reader that suits it: a file, a folder of frames, a still image, or a generated video."""

import logging
from functools import partial
from pathlib import Path

from distill.data.remote_data import local
from distill.data.video.decord_reader import DecordReader
from distill.data.video.image_folder import FolderReader, StillReader
from distill.data.video.names import is_image
from distill.data.video.probe import Probe, probe
from distill.data.video.protocol import VideoReader
from distill.data.video.pyav_reader import AvReader
from distill.data.video.synthetic import PREFIX, SyntheticReader
from distill.errors import UserError
from distill.shipped import shipped_path

log = logging.getLogger(__name__)


def open_video(path: str | Path) -> VideoReader:
    """Open a video file, a folder of frames, a still image (one frame), or a generated video (`synthetic:...`).

    Raises:
        UserError: if it is missing, not a video or an image, truncated, damaged, or an empty folder.
    """
    if str(path).startswith(PREFIX):
        return SyntheticReader(str(path))
    path = shipped_path(path)
    if path.is_dir():
        return FolderReader(path)
    if not path.exists():
        raise UserError(f"{path}: no such video file, image or folder of frames")
    if is_image(path):
        return StillReader(path)
    return open_file(path, probe(path))


def open_file(path: Path, info: Probe) -> VideoReader:
    """Open a video file: with decord if it reads the file correctly, otherwise with PyAV, which is slower."""
    local(path)  # here, because a failed download is no reason for another decoder
    if info.regular:
        try:
            return open_with_decord(path, info)
        except Exception as error:  # decord's errors have no common base class
            log.info("%s: decord cannot open it, falling back to PyAV (%s)", path, str(error).splitlines()[-1:])
    return AvReader(path, info)


def open_with_decord(path: Path, info: Probe) -> DecordReader:
    """Open a video file with decord, and with PyAV for sizes that decord cannot decode to."""
    return DecordReader(
        path,
        num_frames=info.num_frames,
        fps=info.fps,
        size=info.size,
        fallback=partial(AvReader, path, info),
        damaged=info.damaged,
    )


def open_size(path: str | Path) -> tuple[int, float, tuple[int, int]]:
    """Return (num_frames, fps, (height, width)) of a video without keeping it open.

    Raises:
        UserError: as `open_video`.
    """
    path = Path(path)
    info = probe(path) if path.is_file() and not is_image(path) else open_video(path)
    return info.num_frames, info.fps, info.size
