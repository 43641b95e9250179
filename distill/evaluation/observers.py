"""The ceiling for all models: how well one half of the observers predicts where the other half looks.

    saldistill evaluate observers DATA

One half's fixations, blurred, are scored against the other half's fixations and density, in both directions; a
frame's score is the mean of the two.

If a data set names the observer of each fixation, the observers of a video are split once. Otherwise, as in
fixations.json and in binary images, each frame's points are split at random, and the name of the result says so.
One person's neighbouring points may then be in both halves, in different frames; with one point per observer and
frame the two splits are equivalent.
"""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol, runtime_checkable

import numpy as np

from distill.data.clips import Video
from distill.data.truth import Truth
from distill.evaluation.baselines import centre_gaussian
from distill.evaluation.evaluate import evaluate
from distill.evaluation.scores import Scores, mean_scores
from distill.fixations import density_from_points

NAME = "observers"
"""Reference of the ceiling on the command line."""

SIGMA = 18.0
"""Standard deviation of the predicting half's blur, in pixels at a width of 640."""

HALVES = {
    "halves by name": "halves of each video's observers",
    "random halves of points": "random halves of each frame's points, as the data do not name observers",
    "mixed halves": "halves of each video's observers if they are named, otherwise of each frame's points",
}
"""How the ground truth was split, by its name in the result's name."""


@runtime_checkable
class ObserverNames(Protocol):
    """Ground truth that names the observer of each point."""

    def observers(self, frame: int) -> np.ndarray:
        """Return the observer of each of a frame's points, (K,)."""
        ...


@dataclass(frozen=True)
class HalfTruth(Truth):
    """A `Truth` with half of another's points; none in a frame whose points cannot be split, such as a single one.

    Attributes:
        truth: the full ground truth.
        size: (height, width) of the video.
        half: half that is the ground truth here, 0 or 1.
        seed: seed of the split: the user's and one of the video.
        first: observers of half 0; None if they are not named and each frame's points are split.
        sigma: standard deviation for densities, the full ground truth's.
    """

    truth: Truth
    size: tuple[int, int]
    half: int
    seed: tuple[int, int]
    first: np.ndarray | None = None
    sigma: float | None = None

    def points(self, frame: int) -> np.ndarray:
        """Return this half's points; see `Truth.points`."""
        return self._halves(frame)[self.half]

    def others(self, frame: int) -> np.ndarray:
        """Return the other half's points (K, 2)."""
        return self._halves(frame)[1 - self.half]

    def _halves(self, frame: int) -> tuple[np.ndarray, np.ndarray]:
        points = self.truth.points(frame)
        if self.first is not None and isinstance(self.truth, ObserverNames):
            first = np.isin(self.truth.observers(frame), self.first)
        else:
            order = np.random.default_rng([*self.seed, frame]).permutation(len(points))
            first = order < len(points) // 2
        if first.all() or not first.any():
            return points[:0], points[:0]
        return points[first], points[~first]


def halved(video: Video, half: int, *, seed: int = 0) -> Video:
    """Return the video with one half of its ground truth; unchanged if it has none."""
    if video.truth is None:
        return video
    seeds = (seed, zlib.crc32(video.name.encode()))
    first = None
    if isinstance(video.truth, ObserverNames):
        names = np.unique(np.concatenate([video.truth.observers(frame) for frame in video.frames]))
        first = np.random.default_rng(seeds).permutation(names)[: len(names) // 2]
    return replace(video, truth=HalfTruth(video.truth, video.size, half, seeds, first, video.truth.sigma))


def other_half(video: Video, frames: Sequence[int], *, prior: float = 0.0) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the blurred points of a halved video's other half, peak 1: the map source of the ceiling.

    With a `prior` in [0, 1], a centre prior of that share is mixed into the density.

    For a video that is not halved, as in pictures of a report, this is the second half of the first split.
    """
    truth = video.truth if isinstance(video.truth, HalfTruth) else halved(video, 0).truth
    assert isinstance(truth, HalfTruth), "only videos with ground truth have observers"
    for frame in frames:
        sigma = SIGMA * video.size[1] / 640
        density = density_from_points(truth.others(frame), video.size, sigma=sigma)
        if prior:
            centre = centre_gaussian(video.size)
            density = (1 - prior) * density + prior * centre / centre.sum()
        yield frame, density / (density.max() or 1.0)


def evaluate_observers(videos: Sequence[Video], *, seed: int = 0, prior: float = 0.0, **options: Any) -> Scores:
    """Score one half of the observers against the other in both directions; options as `evaluate`.

    A `prior` mixes a centre prior of that share into the maps. Without it, every fixation far
    from those of the other half costs dozens of bits, and the information gain is not a ceiling.

    Raises:
        UserError: as `evaluate`; frames with fewer than two points count as frames without fixations.
    """
    named = [isinstance(video.truth, ObserverNames) for video in videos if video.truth is not None]
    kind = "halves by name" if named and all(named) else "mixed halves" if any(named) else "random halves of points"
    directions = []
    for half in (0, 1):
        name = f"{NAME}, direction {half + 1}"
        halves = [halved(video, half, seed=seed) for video in videos]
        maps = partial(other_half, prior=prior) if prior else other_half
        directions.append(evaluate(maps, halves, seed=seed, parallel=True, name=name, **options))
    scores = mean_scores(f"{NAME} ({kind})", directions)
    how = scores.how | {
        "truth": f"{HALVES[kind]} (seed {seed}); each predicts the other, and a frame's score is the mean of both",
        "prediction": f"the other half's points, blurred with a sigma of {SIGMA:g} px at a width of 640"
        + (f", with a centre prior of share {prior:g}" if prior else ""),
        "frames without fixations": "skipped and counted, with those of a single point",
        "densities": f"built from the half's points; {scores.how['densities'].partition('; ')[2]}",
    }
    return replace(scores, how=how)
