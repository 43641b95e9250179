"""Open any video: a file, a folder of frames, or a generated one."""

import logging
from pathlib import Path

from distill.data.video.decord_reader import DecordReader
from distill.data.video.image_folder import FolderReader
from distill.data.video.probe import probe
from distill.data.video.protocol import VideoReader
from distill.data.video.pyav_reader import AvReader
from distill.data.video.synthetic import SyntheticReader
from distill.errors import UserError

log = logging.getLogger(__name__)


def open_video(path: str | Path) -> VideoReader:
    """Open a video file, a folder of frames, or a generated video (`synthetic:...`).

    Raises:
        UserError: if it is missing, no video, cut off, damaged, or an empty folder.
    """
    if str(path).startswith("synthetic:"):
        return SyntheticReader(str(path))
    path = Path(path)
    if path.is_dir():
        return FolderReader(path)
    if not path.exists():
        raise UserError(f"{path}: there is no such video file or folder of frames")
    found = probe(path)
    if found.regular:
        try:
            return DecordReader(path, found)
        except Exception as error:  # decord's errors share no base class of their own
            log.info("%s: decord does not open it, PyAV reads it (%s)", path, str(error).splitlines()[-1:])
    return AvReader(path, found)


def open_size(path: str | Path) -> tuple[int, float, tuple[int, int]]:
    """Return (num_frames, fps, (height, width)) of a video without keeping it open.

    Raises:
        UserError: as `open_video`.
    """
    path = Path(path)
    if path.is_file():
        found = probe(path)
        return found.num_frames, found.fps, found.size
    reader = open_video(path)
    return reader.num_frames, reader.fps, reader.size
