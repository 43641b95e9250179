"""Map sources: functions that yield saliency maps for frames of a video, the common form of whatever is scored."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from distill.data.clips import Video
from distill.errors import UserError
from distill.inference.settings import InferenceSettings
from distill.inference.sliding_window import slide
from distill.models.protocols import SaliencyModel
from distill.saliency import peak_map

MapSource = Callable[[Video, Sequence[int]], Iterator[tuple[int, np.ndarray]]]
"""Yields (frame, map) for each requested frame of a video. Maps (h, w) may have any size; non-negative, peak 1 or
255."""


def model_maps(network: SaliencyModel, settings: InferenceSettings = InferenceSettings()) -> MapSource:
    """Return the map source of a network: its maps, scaled to a maximum of 1."""

    def maps(video: Video, frames: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        for batch, log_maps in slide(network, video, frames, settings):
            for frame, log_map in zip(batch, log_maps.numpy(), strict=True):
                yield frame, peak_map(log_map)

    return maps


def checked_maps(maps: MapSource, video: Video, frames: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the maps of a source, every requested frame once.

    Raises:
        UserError: if the source skips a frame, yields one twice or one that was not requested, or if a map holds
            NaN or infinity; skipping it would favour the source.
    """
    missing = set(frames)
    for frame, saliency in maps(video, frames):
        if frame not in missing:
            raise UserError(f"{video.name}: got a map for frame {frame + 1}, which was not requested or came twice")
        if not np.isfinite(saliency).all():
            raise UserError(f"{video.name}: the map of frame {frame + 1} contains NaN or infinity")
        missing.remove(frame)
        yield frame, saliency
    if missing:
        raise UserError(f"{video.name}: no map for frame {min(missing) + 1}; {len(missing)} frames have none")
