"""Baselines: maps that need no network, which a model must beat, and the baselines of information gain.

    saldistill evaluate centre-prior frame-difference DATA

The ceiling, how well one half of the observers predicts the other half, is in `observers.py`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.ndimage import gaussian_filter

from distill.data.clips import Video
from distill.data.video.open import open_video
from distill.evaluation.map_sources import MapSource
from distill.evaluation.other_frames import OtherFrames

CENTRE_SIGMA = 0.16
"""Standard deviation of the centre prior, as a fraction of the frame's width and height."""

DIFFERENCE_LAG = 2
"""Frames between the two that are subtracted."""

DIFFERENCE_SIGMA = 12.0
"""Standard deviation of the difference's blur, in pixels at a width of 640."""

DIFFERENCE_FLOOR = 1e-3
"""Added to the difference, in grey levels of 255, so that a still frame leaves the centre prior."""

DIFFERENCE_CENTRE_SIGMA = 0.25
"""Standard deviation of the Gaussian that weights the difference, as a fraction of each side."""

LUMA = np.array([0.299, 0.587, 0.114])
"""Weights of red, green and blue (ITU-R BT.601)."""


@lru_cache(maxsize=16)
def centre_gaussian(size: tuple[int, int], sigma: float = CENTRE_SIGMA) -> np.ndarray:
    """Return a Gaussian (h, w) at the centre of a frame, peak about 1; `sigma` is a fraction of each side."""
    down, across = (np.exp(-0.5 * (((np.arange(side) + 0.5) / side - 0.5) / sigma) ** 2) for side in size)
    gaussian = np.outer(down, across)
    gaussian.flags.writeable = False
    return gaussian


def centre_prior(video: Video, frames: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the centre Gaussian for every frame, at the video's size."""
    for frame in frames:
        yield frame, centre_gaussian(video.size)


def frame_difference(video: Video, frames: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
    """Yield what moves near the centre: (blur(|grey(k) - grey(k-2)|) + floor) * centre Gaussian.

    Grey levels are integers in [0, 255]. Frames before the first repeat the first, which leaves only the centre
    Gaussian. Maps have the video's size and a peak of at most 255.
    """
    reader = open_video(video.path)
    sigma = DIFFERENCE_SIGMA * video.size[1] / 640
    centre = centre_gaussian(video.size, DIFFERENCE_CENTRE_SIGMA)
    for frame in frames:
        before, now = np.rint(reader.read([max(frame - DIFFERENCE_LAG, 0), frame]) @ LUMA)
        yield frame, (gaussian_filter(np.abs(now - before), sigma) + DIFFERENCE_FLOOR) * centre


@dataclass(frozen=True)
class Baseline:
    """A map source that is scored by its name.

    Attributes:
        name: its name on the command line.
        maps: the map source.
        help: what it predicts, in a few words.
    """

    name: str
    maps: MapSource
    help: str


BASELINES: dict[str, Baseline] = {
    baseline.name: baseline
    for baseline in (
        Baseline("centre-prior", centre_prior, "a Gaussian at the centre"),
        Baseline("frame-difference", frame_difference, "motion near the centre"),
    )
}


@dataclass(frozen=True)
class InfoGainBaseline:
    """A map that information gain is measured against.

    Attributes:
        name: its name on the command line.
        make_map: (video, other frames) -> map of any size; other frames are None unless needed.
        needs_other_frames: whether it is made from other frames' fixations.
        how: its definition, for reports.
    """

    name: str
    make_map: Callable[[Video, OtherFrames | None], np.ndarray]
    needs_other_frames: bool
    how: str


def _mean_map(video: Video, others: OtherFrames | None) -> np.ndarray:
    assert others is not None
    return others.mean_map(video)


INFO_GAIN_BASELINES: dict[str, InfoGainBaseline] = {
    baseline.name: baseline
    for baseline in (
        InfoGainBaseline(
            name="centre-prior",
            make_map=lambda video, others: centre_gaussian(video.size),
            needs_other_frames=False,
            how=f"a Gaussian at the centre, sigma {CENTRE_SIGMA} of each side",
        ),
        InfoGainBaseline(
            name="other-frames",
            make_map=_mean_map,
            needs_other_frames=True,
            how="the mean map of other recordings: their fixations, blurred as densities are",
        ),
    )
}
