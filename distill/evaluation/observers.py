"""The ceiling: how well one half of the observers predicts where the other half looks.

    saldistill evaluate observers DATA

No map can be expected to know the next observer better than other observers do. One half's fixations, blurred, are
scored against the other half's fixations and density, both ways; a frame's score is the mean of the two.

Where a data set says which observer a fixation is of, the observers of a video are halved, once. Where it does not,
as in fixations.json and in binary pictures, there are only points: each frame's are halved at random, and the
name of the result says so. One person's neighbouring points may then stand on both sides, in different frames; in
a frame of one point an observer the two are the same thing.
"""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from distill.data.clips import Video
from distill.data.truth import Truth
from distill.evaluation.evaluate import evaluate
from distill.evaluation.scores import Row, Scores
from distill.fixations import density_from_points, fixation_map

NAME = "observers"

SIGMA = 18.0
"""Standard deviation, in pixels at a width of 640, of the Gaussian that the predicting half is blurred with."""

HALVES = {
    "halves by name": "halves of each video's observers",
    "random halves of points": "a random half of each frame's points, since the data do not say whose they are",
    "mixed halves": "halves of each video's observers where they are named, elsewhere of each frame's points",
}
"""What the truth was halved by: in the name of the result, and in its `how`."""


@dataclass(frozen=True)
class HalfTruth:
    """One half of a video's ground truth: what a `Truth` gives, of half of its points.

    A frame whose points do not make two halves, as with a single one, has none.

    Attributes:
        truth: the whole.
        size: (height, width) of the video.
        half: 0 or 1, the half that is the truth here.
        seed: of the halving, a number for the user's choice and one for the video.
        first: the observers of half 0; None where they have no names and each frame's points are halved.
    """

    truth: Truth
    size: tuple[int, int]
    half: int
    seed: tuple[int, int]
    first: np.ndarray | None = None

    def points(self, frame: int) -> np.ndarray:
        """See `Truth.points`; those of this half."""
        return self._halves(frame)[self.half]

    def others(self, frame: int) -> np.ndarray:
        """Return the points (K, 2) of the other half."""
        return self._halves(frame)[1 - self.half]

    def density(self, frame: int, map_size: tuple[int, int]) -> np.ndarray:
        """See `Truth.density`; built from this half's points by the data set's recipe."""
        sigma = getattr(self.truth, "sigma", None)
        return density_from_points(self.points(frame), self.size, map_size, sigma=sigma)

    def fixation_map(self, frame: int, map_size: tuple[int, int]) -> np.ndarray:
        """See `Truth.fixation_map`."""
        return fixation_map(self.points(frame), self.size, map_size)

    def has(self, frame: int) -> bool:
        """See `Truth.has`."""
        return len(self.points(frame)) > 0

    def _halves(self, frame: int) -> tuple[np.ndarray, np.ndarray]:
        points = self.truth.points(frame)
        if self.first is not None:
            first = np.isin(_observers(self.truth, frame), self.first)
        else:
            order = np.random.default_rng([*self.seed, frame]).permutation(len(points))
            first = order < len(points) // 2
        if first.all() or not first.any():
            return points[:0], points[:0]
        return points[first], points[~first]


def names_observers(truth: Truth | None) -> bool:
    """Whether a truth has the method `observers(frame)`, which says whose each of a frame's points is."""
    return hasattr(truth, "observers")


def halved(videos: Sequence[Video], half: int, *, seed: int = 0) -> list[Video]:
    """Return the videos with one half of their ground truth; those without any stay as they are."""
    return [_halved(video, half, seed) if video.truth else video for video in videos]


def _halved(video: Video, half: int, seed: int) -> Video:
    assert video.truth is not None
    seeds = (seed, zlib.crc32(video.name.encode()))
    first = None
    if names_observers(video.truth):
        names = np.unique(np.concatenate([_observers(video.truth, frame) for frame in video.frames]))
        first = np.random.default_rng(seeds).permutation(names)[: len(names) // 2]
    return replace(video, truth=HalfTruth(video.truth, video.size, half, seeds, first))


def _observers(truth: Truth, frame: int) -> np.ndarray:
    """Return (K,) the name of the observer of each of a frame's points."""
    names: np.ndarray = truth.observers(frame)  # type: ignore[attr-defined]
    return names


def other_half(video: Video, frames: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
    """The map source of the ceiling: the other half's points of a halved video, blurred; its peak is 1.

    Of a whole video, for pictures, the second half of the first way.
    """
    truth = video.truth if isinstance(video.truth, HalfTruth) else halved([video], 0)[0].truth
    assert isinstance(truth, HalfTruth), "only videos with ground truth have observers"
    for frame in frames:
        sigma = SIGMA * video.size[1] / 640
        density = density_from_points(truth.others(frame), video.size, sigma=sigma)
        yield frame, density / (density.max() or 1.0)


def evaluate_observers(videos: Sequence[Video], *, seed: int = 0, **options: Any) -> Scores:
    """Score one half of the observers against the other, both ways (options as `distill.evaluate.evaluate`).

    Raises:
        UserError: as `evaluate`; frames of fewer than two points count as frames without fixations.
    """
    named = [names_observers(video.truth) for video in videos if video.truth is not None]
    kind = "halves by name" if named and all(named) else "mixed halves" if any(named) else "random halves of points"
    name = f"{NAME} ({kind})"
    ways = [
        evaluate(
            other_half,
            halved(videos, half, seed=seed),
            seed=seed,
            parallel=True,
            name=f"{NAME}, way {half + 1}",
            **options,
        )
        for half in (0, 1)
    ]
    rows = [
        Row(
            one.video, one.frame, {metric: (one.values[metric] + other.values[metric]) / 2 for metric in one.values}
        )
        for one, other in zip(ways[0].rows, ways[1].rows, strict=True)
    ]
    how = ways[0].how | {
        "truth": f"{HALVES[kind]} (seed {seed}); each predicts the other, and a frame's score is the mean of both",
        "prediction": f"the other half's points, blurred with a sigma of {SIGMA:g} px at a width of 640",
        "frames without fixations": "left out and counted, with those of a single point",
        "densities": f"built from the half's points; {ways[0].how['densities'].partition('; ')[2]}",
    }
    return replace(ways[0], name=name, rows=rows, how=how)
