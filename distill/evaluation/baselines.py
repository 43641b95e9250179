"""Maps that need no network: what a model must beat before it has learnt anything of a video.

    saldistill evaluate centre-prior frame-difference DATA

The ceiling above them all, how well one half of the observers predicts the other, is in `observers.py`: it needs
another ground truth too.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np

from distill.data.clips import Video
from distill.data.video.open import open_video
from distill.evaluation.map_sources import MapSource

CENTRE_SIGMA = 0.16
"""Standard deviation of the centre prior, as a part of the frame's width and of its height."""

DIFFERENCE_LAG = 2
"""Frames between the two that are subtracted."""

DIFFERENCE_SIGMA = 12.0
"""Standard deviation, in pixels at a width of 640, of the Gaussian that the difference is blurred with."""

DIFFERENCE_FLOOR = 1e-3
"""What stands where nothing moves, in grey levels of 255: there the centre alone counts."""

DIFFERENCE_CENTRE_SIGMA = 0.25
"""Standard deviation of the Gaussian that weights the difference, as a part of each side."""

LUMA = (0.299, 0.587, 0.114)
"""Grey of red, green and blue (ITU-R BT.601), as picture libraries make it."""


@lru_cache(maxsize=16)
def centre_gaussian(size: tuple[int, int], sigma: float = CENTRE_SIGMA) -> np.ndarray:
    """Return a Gaussian (h, w) at the centre of a frame, peak about 1; `sigma` is a part of each side."""
    down, across = (np.exp(-0.5 * (((np.arange(side) + 0.5) / side - 0.5) / sigma) ** 2) for side in size)
    gaussian = np.outer(down, across)
    gaussian.flags.writeable = False
    return gaussian


def centre_prior(video: Video, frames: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
    """A Gaussian at the centre of every frame (sigma .16 of the width and of the height), at the video's size."""
    for frame in frames:
        yield frame, centre_gaussian(video.size)


def frame_difference(video: Video, frames: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
    """What moves, near the centre: |grey(k) - grey(k-2)|, blurred, plus a floor, times a Gaussian at the centre.

    Grey levels are whole numbers of 0 to 255. The frame before the first is the first: there the centre is left.
    The blur has a sigma of 12 px at a width of 640, the centre one of .25 of each side; the map is of the video's
    size, its peak at most 255.
    """
    from scipy.ndimage import gaussian_filter  # here, since it takes long to import

    reader = open_video(video.path)
    sigma = DIFFERENCE_SIGMA * video.size[1] / 640
    centre = centre_gaussian(video.size, DIFFERENCE_CENTRE_SIGMA)
    for frame in frames:
        before, now = np.rint(reader.read([max(frame - DIFFERENCE_LAG, 0), frame]) @ np.array(LUMA))
        yield frame, (gaussian_filter(np.abs(now - before), sigma) + DIFFERENCE_FLOOR) * centre


BASELINES: dict[str, MapSource] = {
    "centre-prior": centre_prior,
    "frame-difference": frame_difference,
}
