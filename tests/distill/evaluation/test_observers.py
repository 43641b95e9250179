"""Tests of the observer ceiling: the split of points, its maps, and its name."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.fake_gaze import LONG, ONE, SIZE, FakeTruth, gaze, video

from distill.data.clips import Video
from distill.data.sets.find import find_videos
from distill.errors import UserError
from distill.evaluation import metrics
from distill.evaluation.observers import HalfTruth, evaluate_observers, halved, other_half
from distill.evaluation.scores import Scores
from distill.fixations import density_from_points


class NamedTruth(FakeTruth):
    """Six observers, one point each; frame k is seen by them in another order."""

    def observers(self, frame: int) -> np.ndarray:
        return np.roll(np.array(["ann", "bob", "cyd", "dan", "eve", "fay"]), frame)


def halves(video: Video, frame: int, seed: int = 0) -> list[list[tuple[int, ...]]]:
    truths = [halved(video, half, seed=seed).truth for half in (0, 1)]
    return [[tuple(point) for point in truth.points(frame).tolist()] for truth in truths if truth]


def ceiling(*videos: Video, **options: object) -> Scores:
    return evaluate_observers(videos, progress=False, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(("count", "sizes"), [(6, [3, 3]), (3, [1, 2]), (1, [0, 0])])
def test_halves_partition_points(count: int, sizes: list[int]) -> None:
    points = [(i, 2 * i) for i in range(count)]
    for frame in range(10):
        first, second = halves(video("v", {frame: points}, range(frame, frame + 1)), frame)
        assert [len(first), len(second)] == sizes
        assert sorted(first + second) == points[: sum(sizes)]


def test_random_halves_depend_on_frame_and_seed() -> None:
    still = video("still", {frame: [(i, 2 * i) for i in range(8)] for frame in range(20)}, range(20))
    found = {tuple(sorted(halves(still, frame)[0])) for frame in range(20)}
    assert len(found) > 10
    assert halves(still, 3) == halves(still, 3)
    assert any(halves(still, frame) != halves(still, frame, seed=1) for frame in range(5))


def test_named_observers_are_split_once_per_video() -> None:
    """Each observer is in the same half in all frames, whatever the order of a frame's points."""
    points = {frame: [(5 + i, 10 + frame) for i in range(6)] for frame in range(12)}
    truth = NamedTruth(points)
    named = replace(ONE, truth=truth, frames=range(12))
    sides: dict[str, set[int]] = {}
    for frame in range(12):
        for side, half in enumerate(halves(named, frame)):
            assert len(half) == 3
            for row, _ in half:
                sides.setdefault(str(truth.observers(frame)[row - 5]), set()).add(side)
    assert all(len(side) == 1 for side in sides.values())
    assert ceiling(named).name == "observers (halves by name)"
    assert "halves of each video's observers" in ceiling(named).how["truth"]


def test_frame_that_cannot_be_split_is_skipped_and_counted() -> None:
    lonely = video("lonely", {0: [(3, 3)], 1: [(3, 3), (9, 9)], 2: []}, range(3))
    found = ceiling(lonely, metrics=("cc",))
    assert [row.frame for row in found.rows] == [1]
    assert found.frames_without_fixations == 2
    one_sided = replace(ONE, truth=NamedTruth({0: [(1, 1)] * 6}), frames=range(1))
    one_sided.truth.observers = lambda frame: np.array(["ann"] * 6)  # type: ignore[union-attr,attr-defined]
    with pytest.raises(UserError, match="no fixation"):
        ceiling(one_sided)


def test_observers_score_is_mean_of_both_directions() -> None:
    found = ceiling(ONE, metrics=("nss", "cc"))
    for row in found.rows:
        sides = [halved(ONE, half).truth for half in (0, 1)]
        ways = []
        for seen, scored in (sides, sides[::-1]):
            assert isinstance(seen, HalfTruth)
            assert isinstance(scored, HalfTruth)
            guess = density_from_points(seen.points(row.frame), SIZE, sigma=18 * SIZE[1] / 640)
            fixations, density = scored.fixation_map(row.frame, SIZE), scored.density(row.frame, SIZE)
            assert fixations.sum() == 3
            ways.append((metrics.nss(guess, fixations), metrics.cc(guess, density)))
        assert row.values == pytest.approx(dict(zip(("nss", "cc"), np.mean(ways, axis=0), strict=True)))


def test_other_half_excludes_scored_points() -> None:
    apart = video("apart", {0: [(4, 4), (30, 60)]}, range(1))
    for half in (0, 1):
        one = halved(apart, half)
        ((_, saliency),) = other_half(one, [0])
        assert one.truth is not None
        assert saliency[tuple(one.truth.points(0)[0])] < 1e-6
        assert saliency.max() == 1


def test_agreeing_observers_score_higher() -> None:
    rng = np.random.default_rng(0)
    spread = {f: [(int(r), int(c)) for r, c in rng.integers(0, SIZE, (12, 2))] for f in range(8)}
    close = {f: [(int(r), int(c)) for r, c in rng.integers((14, 28), (20, 36), (12, 2))] for f in range(8)}
    agreeing, wandering = (ceiling(video("v", points, range(8))).pooled for points in (close, spread))
    assert agreeing["nss"] > 3 > 1 > wandering["nss"]
    assert agreeing["cc"] > 0.7 > 0.3 > wandering["cc"]


def test_observers_result_names_the_split() -> None:
    found = ceiling(ONE, LONG)
    assert found.name == "observers (random halves of points)"
    assert "random halves of each frame's points" in found.how["truth"]
    assert "18 px" in found.how["prediction"]
    assert found.count_recordings == 2
    mixed = replace(LONG, truth=NamedTruth(gaze(LONG.frames)))
    assert ceiling(ONE, mixed).name == "observers (mixed halves)"


def test_other_half_accepts_full_video() -> None:
    assert [(frame, saliency.shape) for frame, saliency in other_half(ONE, [4])] == [(4, SIZE)]


@pytest.mark.slow
def test_observers_score_near_named_split(shared: Path) -> None:
    """4.02, .646, .508, .907 by the true halves of 32 observers, whom the files do not name.

    Random halves of points come out a little higher: some observers have two points in a frame, one on each side.
    """
    videos = find_videos("ntire", shared / "data" / "hevc-gaze", split="public_test")
    found = ceiling(*videos, every=8, metrics=("nss", "cc", "sim", "auc_judd")).per_video
    assert found == pytest.approx({"nss": 4.02, "cc": 0.646, "sim": 0.508, "auc_judd": 0.907}, rel=0.03)
