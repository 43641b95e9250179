"""Somebody's predicted maps on the disk (distill/map_files.py) as a map source: scored like a model.

    saldistill evaluate MAPS DATA

The folders and files are called as the data set's videos are; a number may have more zeros or fewer.
"""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from distill.data.clips import Video
from distill.data.map_files import find_maps, frames_of, read_maps, require_maps
from distill.data.sets.dataset import same_name
from distill.data.video.names import describe
from distill.errors import UserError

log = logging.getLogger(__name__)


class MapFolder:
    """The map source of a folder of predicted maps.

    Args:
        folder: with a folder of pictures a video, or a video a video; other files are not looked at.

    Attributes:
        maps: video -> its folder of pictures, or its video.

    Raises:
        UserError: if there is no such folder or no maps in it.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.maps = find_maps(self.folder)
        if not self.maps:
            raise UserError(
                f"{self.folder}: neither a run nor predicted maps; expected a folder a video with 0001.png, "
                f"0002.png and so on, or videos; found {describe(self.folder)}"
            )

    @property
    def parallel(self) -> bool:
        """Whether several processes can share its reading: a video is decoded from its start, by one."""
        return all(place.is_dir() for place in self.maps.values())

    def __call__(self, video: Video, frames: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (frame, map) of a video's frames: (h, w) float32, the grey levels as they stand in the files.

        Raises:
            UserError: as `check`, or if a file cannot be read.
        """
        yield from zip(frames, read_maps(self._place(video), frames), strict=True)

    def check(self, videos: Sequence[Video], every: int = 1) -> None:
        """Check, before hours of work, that there is a map of every `every`-th frame in use of all videos.

        Raises:
            UserError: if there are no maps of a video, or the map of a frame is missing.
        """
        for video in videos:
            place = self._place(video)
            require_maps(place, video.frames[::every])
            count = len(frames_of(place))
            if place.is_file() and count != video.num_frames:
                log.warning("%s: %d maps for a video of %d frames", place, count, video.num_frames)

    def _place(self, video: Video) -> Path:
        for name, path in self.maps.items():
            if same_name(name, video.name):
                return path
        names = ", ".join(list(self.maps)[:5]) + ", ..." * (len(self.maps) > 5)
        raise UserError(
            f"{self.folder}: there are no maps of video {video.name}, only of {names}; expected "
            f"{video.name}/0001.png and so on, or {video.name}.mp4, or other --videos to be scored"
        )
