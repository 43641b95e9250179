"""Tests of the pool of other frames' fixations."""

from dataclasses import replace

import numpy as np
import pytest
from helpers.fake_gaze import LONG, ONE, SIZE, gaze, video

from distill.data.clips import Video
from distill.evaluation.other_frames import UNION, draw_other_frames, recording_of


def marked(name: str, row: int, frames: int = 20, recording: str = "") -> Video:
    """A video whose observers look at one row, in frame k at column k."""
    return replace(video(name, {k: [(row, k)] for k in range(frames)}, range(frames)), recording=recording)


def test_fixations_are_of_ten_frames_of_other_recordings() -> None:
    videos = [marked("a", 5, recording="film"), marked("a2", 4, recording="film"), marked("b", 6), marked("c", 7)]
    others = draw_other_frames(videos)
    for frame in range(20):
        found = others.fixations(videos[0], frame)
        rows, _ = np.nonzero(found)
        assert found.shape == SIZE
        assert set(rows) <= {6, 7}
        assert len(rows) == UNION  # one point each, none in the same place
        assert set(np.unique(found)) == {0, 1}


def test_fixations_of_single_recording_are_of_other_frames() -> None:
    alone = marked("a", 5)
    others = draw_other_frames([alone])
    for frame in range(20):
        _, columns = np.nonzero(others.fixations(alone, frame))
        assert len(columns) == UNION
        assert frame not in columns


def test_fixations_with_few_frames_use_all() -> None:
    videos = [marked("a", 5), marked("b", 6, frames=3)]
    assert draw_other_frames(videos).fixations(videos[0], 0).sum() == 3
    lonely = marked("a", 5, frames=1)
    assert draw_other_frames([lonely]).fixations(lonely, 0).sum() == 0


@pytest.mark.parametrize(
    ("size", "expected"),
    [((72, 128), [(0, 0), (36, 64), (70, 126)]), (SIZE, [(0, 0), (18, 32), (35, 63)])],
)
def test_fixations_are_rescaled_to_frame_size(size: tuple[int, int], expected: list[tuple[int, int]]) -> None:
    corners = video("corners", {0: [(0, 0), (35, 63), (18, 32)]}, range(1))
    other = replace(ONE, size=size)
    found = draw_other_frames([corners, other]).fixations(other, 0)
    assert [tuple(point) for point in np.argwhere(found).tolist()] == expected


def test_draws_depend_on_frame_and_seed() -> None:
    videos = [ONE, LONG]
    first, again, other = (
        np.stack([draw_other_frames(videos, seed=seed).fixations(ONE, k) for k in range(4)]) for seed in (0, 0, 1)
    )
    assert (first == again).all()
    assert (first[:-1] != first[1:]).any()
    assert (first != other).any()


def test_pool_is_limited_to_count_and_frames_in_use() -> None:
    many = [video(f"v{i}", gaze(range(100), seed=i), range(7, 100)) for i in range(5)]
    others = draw_other_frames([*many, video("silent", None, range(100))], count=50)
    assert len(others.points) == 50
    assert len(set(others.names)) == 50
    assert {name for name, _ in others.names} == {f"v{i}" for i in range(5)}
    late = replace(LONG, frames=range(7, 12))
    assert {frame for _, frame in draw_other_frames([late]).names} == set(range(7, 12))


def test_mean_map_is_of_other_recordings() -> None:
    videos = [marked("a", 5), marked("b", 18), marked("c", 18)]
    mean = draw_other_frames(videos).mean_map(videos[0])
    assert mean.shape == (SIZE[0] // 4, SIZE[1] // 4)
    assert abs(int(mean.sum(axis=1).argmax()) - 18 // 4) <= 1
    own = draw_other_frames(videos).mean_map(videos[1])
    assert own.sum(axis=1).argmax() < mean.sum(axis=1).argmax()  # a's row 5 has its part
    assert mean.sum() == pytest.approx(40, rel=1e-5)  # as many fixations as the others have


def test_recording_name_includes_data_set() -> None:
    assert recording_of(ONE) == "fake/one"
    assert recording_of(replace(ONE, recording="film", dataset="other")) == "other/film"
