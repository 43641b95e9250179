"""Tests of cropping at fractions of a pixel."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.errors import UserError
from distill.inference.crop_plane import FRACTIONS, crop_plane

PLANE = np.random.default_rng(0).integers(0, 256, (12, 20), dtype=np.uint8)


def interpolated(plane: np.ndarray, start: float, length: int, axis: int) -> np.ndarray:
    """Return the crop in floating point, one row or column at a time."""
    lines = np.moveaxis(plane.astype(np.float64), axis, 0)
    places = start + np.arange(length)
    part = np.stack([np.interp(places, np.arange(len(lines)), lines[:, k]) for k in range(lines.shape[1])], axis=1)
    return np.moveaxis(part, 0, axis)


@pytest.mark.parametrize(("axis", "expected"), [(0, PLANE[3:8]), (1, PLANE[:, 3:8])])
def test_whole_start_copies_the_pixels(axis: int, expected: np.ndarray) -> None:
    part = crop_plane(PLANE, 3.0, 5, axis)
    assert np.array_equal(part, expected)
    assert part.flags.c_contiguous
    assert not np.shares_memory(part, PLANE)


@given(start=st.floats(0, 7), length=st.integers(1, 5), axis=st.sampled_from([0, 1]))
def test_fractional_start_is_linear_interpolation_to_half_a_grey_level(
    start: float, length: int, axis: int
) -> None:
    start = round(start * FRACTIONS) / FRACTIONS
    part = crop_plane(PLANE, start, length, axis)
    assert part.dtype == np.uint8
    assert part.flags.c_contiguous
    assert np.abs(part - interpolated(PLANE, start, length, axis)).max() <= 0.5


@pytest.mark.parametrize("value", [0, 1, 128, 255])
def test_constant_plane_stays_constant_at_every_fraction(value: int) -> None:
    plane = np.full((2, 9), value, dtype=np.uint8)
    assert all((crop_plane(plane, k / FRACTIONS, 4, 1) == value).all() for k in range(FRACTIONS))


def test_ramp_moves_by_the_fraction_of_a_pixel() -> None:
    ramp = np.arange(0, 240, 8, dtype=np.uint8)[None]
    assert crop_plane(ramp, 2.25, 3, 1).tolist() == [[18, 26, 34]]
    assert crop_plane(ramp.T, 2.25, 3, 0).tolist() == [[18], [26], [34]]


def test_last_possible_start_reaches_the_border() -> None:
    assert np.array_equal(crop_plane(PLANE, 15, 5, 1), PLANE[:, 15:])
    assert np.array_equal(crop_plane(PLANE, 15 + 1e-9, 5, 1), PLANE[:, 15:])


@pytest.mark.parametrize(("start", "length"), [(-0.1, 5), (15.1, 5), (16, 5), (0, 21), (3, 0)])
def test_part_outside_the_plane_is_an_error(start: float, length: int) -> None:
    with pytest.raises(UserError, match="expected a part of 0 to 20"):
        crop_plane(PLANE, start, length, 1)
