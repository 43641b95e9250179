"""External saliency maps on disk (`data/map_files.py`) as a map source.

    saldistill evaluate MAPS DATA

Folders and files have the names of the data set's videos; numbers may be padded with zeros differently.
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
    """Map source that reads a folder of predicted maps.

    Args:
        folder: contains one folder of images, or one video, per video; other files are ignored.

    Attributes:
        maps: video name -> its folder of images or its video of maps.

    Raises:
        UserError: if the folder does not exist or contains no maps.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.maps = find_maps(self.folder)
        if not self.maps:
            raise UserError(
                f"{self.folder}: neither a run folder nor predicted maps; expected a folder of images per video "
                f"(0001.png, ...) or videos; found {describe(self.folder)}"
            )

    @property
    def parallel(self) -> bool:
        """Whether processes can share the reading; a video of maps is decoded from its start, by one process."""
        return all(place.is_dir() for place in self.maps.values())

    def __call__(self, video: Video, frames: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (frame, map) of a video's frames: (h, w) float32, grey levels as in the files.

        Raises:
            UserError: as `check`, or if a file cannot be read.
        """
        yield from zip(frames, read_maps(self._place(video), frames), strict=True)

    def check(self, videos: Sequence[Video], every: int = 1) -> None:
        """Check up front that every `every`-th frame in use of all videos has a map.

        Raises:
            UserError: if a video or a frame has no map.
        """
        for video in videos:
            place = self._place(video)
            require_maps(place, video.frames[::every])
            count = len(frames_of(place))
            if place.is_file() and count != video.num_frames:
                log.warning("%s: %d maps for a video of %d frames", place, count, video.num_frames)

    def _place(self, video: Video) -> Path:
        if video.name in self.maps:
            return self.maps[video.name]
        for name, path in self.maps.items():
            if same_name(name, video.name):
                return path
        names = ", ".join(list(self.maps)[:5]) + ", ..." * (len(self.maps) > 5)
        raise UserError(
            f"{self.folder}: no maps of video {video.name}, only of {names}; expected "
            f"{video.name}/0001.png, ... or {video.name}.mp4; or choose other videos with --videos"
        )
