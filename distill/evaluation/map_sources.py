"""Map sources: functions that yield saliency maps for frames of a video, the common form of whatever is scored."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from distill.data.clips import Video
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
        for asked, log_maps in slide(network, video, frames, settings):
            for frame, log_map in zip(asked, log_maps.numpy(), strict=True):
                yield frame, peak_map(log_map)

    return maps
