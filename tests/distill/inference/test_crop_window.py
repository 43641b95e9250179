"""Tests of the crop window and of the share of probability that it keeps."""

import numpy as np
import pytest

from distill.errors import UserError
from distill.inference.crop_window import kept_share, largest_window, marginals


@pytest.mark.parametrize(
    ("frame", "aspect", "size", "axis"),
    [
        ((360, 640), 9 / 16, (360, 202), 1),
        ((1080, 1920), 9 / 16, (1080, 606), 1),
        ((1080, 1920), 1.0, (1080, 1080), 1),
        ((1920, 1080), 16 / 9, (606, 1080), 0),
        ((1080, 1920), 2.39, (802, 1920), 0),
        ((360, 640), 16 / 9, (360, 640), 1),
        ((361, 641), 1.0, (360, 360), 1),
    ],
)
def test_largest_window_is_even_and_moves_along_one_axis(
    frame: tuple[int, int], aspect: float, size: tuple[int, int], axis: int
) -> None:
    window = largest_window(frame, aspect)
    assert (window.size, window.axis) == (size, axis)
    assert window.length == size[axis] / frame[axis]
    assert window.centre == pytest.approx((frame[axis] - size[axis]) / 2 / frame[axis])


def test_largest_window_of_a_tiny_frame_is_an_error() -> None:
    with pytest.raises(UserError, match="4x3 is too small for a window of aspect ratio 100"):
        largest_window((3, 4), 100)


@pytest.mark.parametrize("axis", [0, 1])
def test_marginals_sum_to_one_per_frame_and_are_uniform_without_probability(axis: int) -> None:
    maps = np.random.default_rng(0).random((3, 5, 8))
    maps[1] = 0
    found = marginals(maps, axis)
    assert found.shape == (3, (5, 8)[axis])
    assert np.allclose(found.sum(axis=1), 1)
    assert np.allclose(found[1], found[1, 0])
    assert np.allclose(found[0], maps[0].sum(axis=1 - axis) / maps[0].sum())


@pytest.mark.parametrize("axis", [0, 1])
def test_kept_share_equals_the_sum_over_the_pixels_of_an_enlarged_map(axis: int) -> None:
    """Each pixel is divided into 10 x 10, so that windows at tenths of a pixel hold whole parts."""
    maps = np.random.default_rng(1).random((4, 6, 7))
    n = maps.shape[1 + axis]
    starts, length = np.array([0, 3, 17, n * 10 - 23]), 23  # in tenths of a pixel
    found = kept_share(marginals(maps, axis), starts[:, None] / (10 * n), length / (10 * n))
    for saliency, start, share in zip(maps, starts, found[:, 0], strict=True):
        parts = np.moveaxis(saliency.repeat(10, axis=0).repeat(10, axis=1), axis, 0)
        assert share == pytest.approx(parts[start : start + length].sum() / parts.sum())


def test_kept_share_of_the_whole_frame_is_one() -> None:
    assert np.allclose(kept_share(np.full((2, 5), 0.2), np.zeros((1, 1)), 1.0), 1)
