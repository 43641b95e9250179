"""Densities and fixation maps from points; normalising, resizing and converting maps."""

from typing import Any

import numpy as np
import pytest
import torch

from distill.fixations import density_from_points, fixation_map, sigma_for
from distill.saliency import density, log_density, normalise_density, peak_map, resize_density

POINTS = np.array([[10, 20], [10, 20], [30, 100], [71, 127], [0, 0]])
FRAME = (72, 128)


def by_brute_force(points: Any, frame_size: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """Sum the Gaussians of all points and their reflections over all pixels."""
    sigma = 12.74 * frame_size[1] / 640
    height, width = frame_size
    points = [
        (row, column)
        for point in points
        for row in (point[0], -1 - point[0], 2 * height - 1 - point[0])
        for column in (point[1], -1 - point[1], 2 * width - 1 - point[1])
    ]
    values = np.zeros(size)
    for i in range(size[0]):
        for j in range(size[1]):
            row = (i + 0.5) * frame_size[0] / size[0] - 0.5
            column = (j + 0.5) * frame_size[1] / size[1] - 0.5
            for point in points:
                squared = (row - point[0]) ** 2 + (column - point[1]) ** 2
                values[i, j] += np.exp(-0.5 * squared / sigma**2)
    return values / values.sum()


@pytest.mark.parametrize("size", [(72, 128), (36, 64), (20, 50), (90, 160)])
def test_density_is_the_sum_of_reflected_gaussians(size: tuple[int, int]) -> None:
    built = density_from_points(POINTS, FRAME, size)
    np.testing.assert_allclose(built, by_brute_force(POINTS, FRAME, size), rtol=1e-5, atol=1e-12)
    assert built.dtype == np.float32
    assert built.sum() == pytest.approx(1, abs=1e-5)


def test_density_with_another_sigma() -> None:
    values = density_from_points(np.array([[180, 320]]), (360, 640), sigma=20)
    assert values[180, 320] / values[200, 320] == pytest.approx(np.exp(0.5), rel=1e-5)
    halved = density_from_points(np.array([[180, 320]]), (360, 640), (180, 320), sigma=20)
    assert halved[90, 160] / halved[100, 160] == pytest.approx(
        np.exp(0.5), rel=0.03
    )  # sigma is in pixels of the frame


def test_sigma_at_width_640_is_dhf1ks() -> None:
    assert sigma_for(640) == 12.74
    values = density_from_points(np.array([[180, 320]]), (360, 640))
    assert values[180, 320] / values[180, 335] == pytest.approx(2, rel=0.02)  # full width at half maximum 30


def test_repeated_points_add_up() -> None:
    once, twice = (density_from_points(np.array([[36, 20], *[[36, 100]] * n]), FRAME) for n in (1, 2))
    assert once[36, 100] / once[36, 20] == pytest.approx(1, rel=1e-5)
    assert twice[36, 100] / twice[36, 20] == pytest.approx(2, rel=1e-5)


@pytest.mark.parametrize("points", [[], [[-1, 5]], [[5, 128]], [[72, 5]], [[-4000, 4000]]])
def test_no_point_inside_the_frame_gives_zeros(points: list[list[int]]) -> None:
    for build in (density_from_points, fixation_map):
        values = build(np.array(points), FRAME, (9, 16))
        assert values.shape == (9, 16)
        assert values.dtype == np.float32
        assert not values.any()


def test_points_outside_the_frame_are_ignored() -> None:
    with_outside = np.concatenate([POINTS, [[-3, 5], [80, 20], [5, 500]]])
    for build in (density_from_points, fixation_map):
        assert (build(with_outside, FRAME) == build(POINTS, FRAME)).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 2), (3, 5)])
def test_density_of_few_pixels_sums_to_one(size: tuple[int, int]) -> None:
    assert density_from_points(np.array([[3, 5], [300, 600]]), (360, 640), size).sum() == pytest.approx(1)
    assert density_from_points(np.array([[0, 0]]), (360, 640), size).sum() == pytest.approx(1)


def test_density_at_a_small_size_is_the_large_one_resized() -> None:
    points = POINTS * 5
    small = density_from_points(points, (360, 640), (72, 128))
    large = torch.from_numpy(density_from_points(points, (360, 640)))[None, None]
    resized = resize_density(large, (72, 128))[0, 0].numpy()
    assert np.abs(small - resized).sum() < 0.1  # resizing blurs a little more
    assert np.corrcoef(small.ravel(), resized.ravel())[0, 1] > 0.995


def test_fixation_map_counts_every_point_once() -> None:
    counts = fixation_map(POINTS, FRAME)
    assert counts.sum() == len(POINTS)
    assert counts[10, 20] == 2
    assert counts[71, 127] == counts[0, 0] == counts[30, 100] == 1


@pytest.mark.parametrize("size", [(36, 64), (9, 16), (7, 5), (200, 300), (1, 1)])
def test_fixation_map_at_any_size_counts_every_point(size: tuple[int, int]) -> None:
    everywhere = np.argwhere(np.ones(FRAME))
    assert fixation_map(everywhere, FRAME, size).sum() == 72 * 128
    if 72 % size[0] == 0 and 128 % size[1] == 0:
        assert (fixation_map(everywhere, FRAME, size) == 72 * 128 / (size[0] * size[1])).all()


def test_fractional_coordinates_are_rounded_down() -> None:
    assert fixation_map(np.array([[0.9, 1.2], [-0.5, 3.0]]), (2, 4)).tolist() == [[0, 1, 0, 0], [0, 0, 0, 0]]


def test_log_density_is_the_logarithm_of_the_density() -> None:
    maps = torch.randn(2, 3, 5, 7)
    torch.testing.assert_close(density(maps).sum(dim=(-2, -1)), torch.ones(2, 3))
    torch.testing.assert_close(log_density(maps).exp(), density(maps))
    torch.testing.assert_close(log_density(maps + 100), log_density(maps), atol=1e-4, rtol=0)
    torch.testing.assert_close(density(torch.full((1, 1, 5, 7), -9.0)), torch.full((1, 1, 5, 7), 1 / 35))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_log_density_of_half_precision_is_float32(dtype: torch.dtype) -> None:
    assert log_density(torch.randn(1, 1, 50, 70, dtype=dtype)).dtype == torch.float32


def test_normalise_density_keeps_zero_maps() -> None:
    values = torch.stack([torch.rand(4, 6), torch.zeros(4, 6)])
    sums = normalise_density(values).sum(dim=(-2, -1))
    torch.testing.assert_close(sums, torch.tensor([1.0, 0.0]))


@pytest.mark.parametrize("size", [(36, 64), (20, 50), (144, 256), (1, 1)])
def test_resize_density_keeps_mass_and_zero_maps(size: tuple[int, int]) -> None:
    values = torch.from_numpy(density_from_points(POINTS, FRAME)).expand(2, 3, *FRAME).clone()
    values[1, 2] = 0
    resized = resize_density(values, size)
    assert resized.shape == (2, 3, *size)
    assert (resized >= 0).all()
    sums = resized.sum(dim=(-2, -1))
    torch.testing.assert_close(sums, torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 0.0]]))


def test_resize_density_keeps_the_centre_of_mass() -> None:
    values = torch.from_numpy(density_from_points(np.array([[20, 90]]), FRAME))[None, None]
    rows = torch.arange(36) * 2 + 0.5
    columns = torch.arange(64) * 2 + 0.5
    small = resize_density(values, (36, 64))[0, 0]
    assert (small.sum(1) * rows).sum().item() == pytest.approx(20, abs=0.05)
    assert (small.sum(0) * columns).sum().item() == pytest.approx(90, abs=0.05)


def test_resize_density_to_the_same_size_returns_the_input() -> None:
    values = torch.rand(1, 1, 4, 6)
    assert resize_density(values, (4, 6)) is values


def test_peak_map_has_maximum_one() -> None:
    values = peak_map(np.array([[-1.0, -2.0], [-50.0, -1.0]]))
    np.testing.assert_allclose(values, [[1, np.exp(-1)], [np.exp(-49), 1]], rtol=1e-6)
    assert values.dtype == np.float32
    assert (peak_map(np.full((3, 4), -700.0)) == 1).all()
