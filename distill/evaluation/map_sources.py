"""Map sources: functions that yield saliency maps for frames of a video, the common form of whatever is scored."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from distill.data.clips import Video
from distill.inference.sliding_window import slide
from distill.saliency import peak_map
from distill.stride import Stride

MapSource = Callable[[Video, Sequence[int]], Iterator[tuple[int, np.ndarray]]]
"""Yields (frame, map) for each requested frame of a video. Maps (h, w) may have any size; non-negative, peak 1 or
255."""


def model_maps(
    model: Any,
    *,
    batch_size: int = 8,
    stride: Stride = 1,
    device: str | torch.device | None = None,
    first_frames: str = "repeat",
) -> MapSource:
    """Return the map source of a model: its maps, scaled to a peak of 1 (arguments as `distill.sliding.slide`)."""

    def maps(video: Video, frames: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        slices = slide(
            model,
            video,
            frames,
            stride=stride,
            batch_size=batch_size,
            device=device,
            first_frames=first_frames,
        )
        for asked, log_maps in slices:
            for frame, log_map in zip(asked, log_maps.numpy(), strict=True):
                yield frame, peak_map(log_map)

    return maps
