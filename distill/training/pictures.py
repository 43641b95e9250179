"""Pictures of a few validation frames, the same in each validation, with the predicted maps drawn over them."""

import re
from collections.abc import Iterator, Sequence

import numpy as np

from distill.data.clips import Video
from distill.data.video.open import open_video
from distill.evaluation.map_sources import MapSource
from distill.inference.overlay import overlay

PICTURES = 4
"""Frames to show."""

SIDE = 640
"""Longer side of a picture in pixels; smaller frames are not enlarged."""


class ValidationPictures:
    """Keeps the maps of a few frames while a validation scores them, and draws them.

    Args:
        videos: videos of the validation, of whose frames in use PICTURES are chosen, evenly spaced.
    """

    def __init__(self, videos: Sequence[Video]) -> None:
        pairs = [(video, frame) for video in videos for frame in video.frames]
        number = min(PICTURES, len(pairs))
        self.chosen = [pairs[(2 * index + 1) * len(pairs) // (2 * number)] for index in range(number)]
        self._maps: dict[tuple[str, int], np.ndarray] = {}

    def keeping(self, maps: MapSource) -> MapSource:
        """Return the same map source, whose maps of the chosen frames are kept."""
        wanted = {(str(video.path), frame) for video, frame in self.chosen}

        def kept(video: Video, frames: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
            for frame, saliency in maps(video, frames):
                if (str(video.path), frame) in wanted:
                    self._maps[str(video.path), frame] = saliency
                yield frame, saliency

        return kept

    def draw(self) -> dict[str, np.ndarray]:
        """Return the pictures (1, H, W, 3) uint8 RGB by name, e.g. `pictures/1 002 frame 17`.

        Names consist of letters, digits, `_`, `.`, `-`, `/` and spaces, which all trackers accept.
        """
        drawn = {}
        for number, (video, frame) in enumerate(self.chosen, 1):
            scale = min(1.0, SIDE / max(video.size))
            size = (max(1, round(video.size[0] * scale)), max(1, round(video.size[1] * scale)))
            picture = open_video(video.path).read([frame], size)[0]
            name = re.sub(r"[^\w.\- ]", "_", video.name, flags=re.ASCII)
            saliency = self._maps[str(video.path), frame]
            drawn[f"pictures/{number} {name} frame {frame + 1}"] = overlay(picture, saliency)[None]
        return drawn
