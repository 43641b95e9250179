from collections.abc import Iterator

import numpy as np
import pytest
from helpers.views import Maps, blob, wait_for

from distill.errors import UserError
from distill.viewer.layers import NEAR, PredictedLayer, TruthLayer


@pytest.fixture
def layers() -> Iterator[list[PredictedLayer]]:
    """A list; the threads of the layers in it end with the test."""
    made: list[PredictedLayer] = []
    yield made
    for layer in made:
        layer.stop()
        assert layer.join(10)


def test_nothing_is_predicted_before_a_frame_is_viewed(layers: list[PredictedLayer]) -> None:
    maps = Maps()
    layers.append(PredictedLayer(maps, "x"))
    assert (layers[0].get(blob(), 0), layers[0].ready(blob()), maps.requests) == (None, 0, [])


def test_maps_come_from_the_viewed_frame_on_and_then_those_before(layers: list[PredictedLayer]) -> None:
    maps, shown = Maps(), blob()
    layers.append(PredictedLayer(maps, "x"))
    layers[0].want(shown, 40)
    wait_for(lambda: layers[0].ready(shown) == 48)
    assert maps.requests == [[*range(40, 48)], [*range(40)]]
    found = layers[0].get(shown, 7)
    assert found is not None
    np.testing.assert_array_equal(found, Maps.map(7))
    assert not layers[0].is_behind(shown, 0)


def test_jump_far_ahead_is_served_first(layers: list[PredictedLayer]) -> None:
    maps, shown = Maps(pause=0.005), blob(frames=400)
    layers.append(PredictedLayer(maps, "x"))
    layers[0].want(shown, 0)
    wait_for(lambda: layers[0].ready(shown))
    layers[0].want(shown, 300)
    wait_for(lambda: layers[0].get(shown, 300) is not None)
    assert ("blob0", 299) not in maps.yielded
    assert layers[0].is_behind(shown, 399) or ("blob0", 399) in maps.yielded


def test_step_within_reach_does_not_restart_the_pass(layers: list[PredictedLayer]) -> None:
    maps, shown = Maps(pause=0.005), blob()
    layers.append(PredictedLayer(maps, "x"))
    layers[0].want(shown, 0)
    wait_for(lambda: layers[0].ready(shown))
    layers[0].want(shown, NEAR // 2)
    wait_for(lambda: layers[0].ready(shown) == 48)
    assert len(maps.requests) == 1


def test_other_video_interrupts_and_the_first_one_resumes(layers: list[PredictedLayer]) -> None:
    maps, first, second = Maps(pause=0.005), blob(0), blob(1)
    layers.append(PredictedLayer(maps, "x"))
    layers[0].want(first, 0)
    wait_for(lambda: layers[0].ready(first))
    layers[0].want(second, 0)
    wait_for(lambda: layers[0].ready(second) == 48)
    layers[0].want(first, 0)
    wait_for(lambda: layers[0].ready(first) == 48)
    assert len(maps.yielded) == len(set(maps.yielded)) == 96


def test_memory_is_bounded_by_dropping_other_videos_and_far_frames(layers: list[PredictedLayer]) -> None:
    maps, long, other = Maps(), blob(frames=100), blob(1)
    most = 30 * Maps.map(0).nbytes
    layers.append(PredictedLayer(maps, "x", most_bytes=most))
    layers[0].want(other, 0)
    wait_for(lambda: layers[0].ready(other) == 30)
    layers[0].want(long, 50)
    wait_for(lambda: layers[0].ready(long) == 30)
    assert layers[0].ready(other) == 0
    layers[0].want(long, 60)
    wait_for(lambda: layers[0].get(long, 89) is not None)
    assert layers[0].get(long, 50) is None
    assert layers[0].ready(long) == 30


def test_error_of_a_video_is_shown_and_others_still_work(
    layers: list[PredictedLayer], caplog: pytest.LogCaptureFixture
) -> None:
    maps, shown = Maps(error=UserError("blob0: the weights are broken")), blob()
    layers.append(PredictedLayer(maps, "x"))
    layers[0].want(shown, 0)
    wait_for(lambda: layers[0].ready(shown) == 48)
    with pytest.raises(UserError, match="the weights are broken"):
        layers[0].get(shown, 0)
    maps.error = None
    layers[0].want(blob(1), 0)
    wait_for(lambda: len(maps.yielded) == 48)
    assert not caplog.records


def test_truth_has_a_maximum_of_1_and_frames_without_fixation_have_none() -> None:
    shown = blob()
    density = TruthLayer().get(shown, 3)
    assert (density.shape, density.max()) == ((72, 128), 1)
    points = shown.video.truth.points(3)  # type: ignore[union-attr]
    assert density[tuple(points.T)].mean() > 5 * density.mean()
