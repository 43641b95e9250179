"""Tests of imresize: MATLAB's kernel by hand, borders, and exactness."""

import numpy as np
import pytest

from distill.evaluation.imresize import imresize, resize_strips

RNG = np.random.default_rng(2)
SMOOTH = np.exp(-0.5 * ((np.arange(36)[:, None] - 14) ** 2 + (np.arange(64) - 25) ** 2) / 49)


def test_imresize_doubling_matches_matlab_kernel() -> None:
    """MATLAB's documented kernel at offsets of 1/4 pixel, by hand."""
    resized = imresize([[0, 0, 0, 1, 0, 0, 0]], (1, 14))
    near, far = 0.8671875, 0.2265625  # the kernel at 1/4 and 3/4
    outer, last = -0.0703125, -0.0234375  # at 5/4 and 7/4
    wanted = [0, 0, 0, last, outer, far, near, near, far, outer, last, 0, 0, 0]
    np.testing.assert_allclose(resized, [wanted], atol=1e-12)


def test_imresize_halving_widens_kernel() -> None:
    resized = imresize([[0, 0, 0, 0, 1, 0, 0, 0, 0, 0]], (1, 5))
    near, far = 0.8671875 / 2, 0.2265625 / 2
    np.testing.assert_allclose(resized, [[-0.0234375 / 2, far, near, -0.0703125 / 2, 0]], atol=1e-12)


def test_imresize_mirrors_borders() -> None:
    row = RNG.random(9)
    mirrored = imresize([np.concatenate([row[::-1], row, row[::-1]])], (1, 60))
    np.testing.assert_allclose(imresize([row], (1, 20)), mirrored[:, 20:40], atol=1e-12)


def test_imresize_treats_rows_and_columns_alike() -> None:
    values = RNG.random((13, 37))
    np.testing.assert_allclose(imresize(values, (50, 20)), imresize(values.T, (20, 50)).T, atol=1e-12)
    by_rows = np.stack([imresize([row], (1, 20))[0] for row in values])
    np.testing.assert_allclose(imresize(values, (13, 20)), by_rows, atol=1e-12)


@pytest.mark.parametrize(("old", "new"), [(9, 20), (64, 9), (100, 101), (1, 40), (3, 1), (1080, 360), (31, 32)])
def test_resize_strips_weights_sum_to_one(old: int, new: int) -> None:
    strips = resize_strips(old, new)
    assert [row for strip in strips for row in range(new)[strip.new]] == list(range(new))
    for strip in strips:
        assert strip.weights.shape == (len(range(new)[strip.new]), len(range(old)[strip.old]))
        np.testing.assert_allclose(strip.weights.sum(axis=1), 1, atol=1e-12)


@pytest.mark.parametrize("size", [(360, 640), (7, 5), (36, 20), (1, 1), (100, 20)])
def test_imresize_keeps_constants_and_means(size: tuple[int, int]) -> None:
    assert (imresize(np.full((36, 64), 0.1), size) == 0.1).all()
    assert imresize(SMOOTH, size).mean() == pytest.approx(SMOOTH.mean(), rel=0.02)


def test_imresize_keeps_ramp_straight_inside() -> None:
    ramp = np.tile(np.arange(32.0), (8, 1))
    inside = imresize(ramp, (8, 64))[:, 4:-4]
    np.testing.assert_allclose(inside, np.tile((np.arange(64)[4:-4] + 0.5) / 2 - 0.5, (8, 1)), atol=1e-12)


@pytest.mark.parametrize("kind", [np.uint8, np.float32])
@pytest.mark.parametrize("size", [(100, 90), (33, 41)])
def test_imresize_keeps_constant_patches_exact(kind: type, size: tuple[int, int]) -> None:
    patches = np.array([[3, 200], [77, 0]]) if kind is np.uint8 else np.array([[0.3, 200.7], [1e-20, 0.1]])
    patches = patches.astype(kind)
    resized = imresize(patches.repeat(24, axis=0).repeat(24, axis=1), size)
    h, w = size
    for corner, value in zip(
        (resized[: h // 3, : w // 3], resized[: h // 3, -w // 3 :], resized[-h // 3 :, : w // 3]),
        (patches[0, 0], patches[0, 1], patches[1, 0]),
        strict=True,
    ):
        assert (corner == np.float64(value)).all()


def test_imresize_nonfinite_pixel_gives_nan() -> None:
    for value in (np.nan, np.inf, -np.inf):
        broken = SMOOTH.copy()
        broken[3, 3] = value
        assert np.isnan(imresize(broken, (9, 9))).all()


def test_imresize_with_scratch_gives_equal_results() -> None:
    maps = [RNG.random((9, 16)), RNG.random((20, 10)).astype(np.float32), np.ones((9, 16)), RNG.random((9, 16))]
    copies = [values.copy() for values in maps]
    kept: dict[str, np.ndarray] = {}
    for values in maps:
        assert (imresize(values, (36, 64), scratch=kept) == imresize(values, (36, 64))).all()
    first = imresize(maps[0], (36, 64), scratch=kept)
    assert imresize(maps[1], (36, 64), scratch=kept) is first
    assert all((values == copy).all() for values, copy in zip(maps, copies, strict=True))
    assert imresize(maps[0], (9, 16)) is maps[0]


@pytest.mark.parametrize("broken", [np.ones((2, 3, 4)), np.ones((0, 4)), 3.0])
def test_imresize_invalid_shape_raises(broken: np.ndarray) -> None:
    with pytest.raises(ValueError, match="two dimensions"):
        imresize(broken, (4, 4))
