"""Tests of the virtual camera's path on maps for which the right path is known, and of its limits on any map."""

import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.inference import smooth_path
from distill.inference.crop_path import CameraSettings, crop_path
from distill.inference.crop_window import kept_share

LENGTH = 0.3
FPS = 30.0
SETTINGS = CameraSettings()
TOLERANCE = 1e-5
"""Of speeds and accelerations: the solver's tolerance per frame, times frames per second squared."""


def peaks(centres: np.ndarray, *, width: float = 0.05, n: int = 80) -> np.ndarray:
    """Return distributions (T, n) with a Gaussian peak per frame, at (T,) or (T, K) centres in [0, 1]."""
    centres = np.asarray(centres, dtype=np.float64).reshape(len(centres), -1, 1)
    values = np.exp(-0.5 * (((np.arange(n) + 0.5) / n - centres) / width) ** 2).sum(axis=1)
    return values / values.sum(axis=1, keepdims=True)


def speed(path: np.ndarray, fps: float = FPS) -> np.ndarray:
    return np.diff(path) * fps


def acceleration(path: np.ndarray, fps: float = FPS) -> np.ndarray:
    return np.diff(path, n=2) * fps**2


def check_limits(path: np.ndarray, length: float = LENGTH, fps: float = FPS) -> None:
    assert path.min(initial=0) >= 0
    assert path.max(initial=0) <= 1 - length
    assert np.abs(speed(path, fps)).max(initial=0) <= SETTINGS.max_speed + TOLERANCE
    assert np.abs(acceleration(path, fps)).max(initial=0) <= SETTINGS.max_acceleration + TOLERANCE


@pytest.mark.parametrize("centre", [0.2, 0.5, 0.7])
def test_static_peak_gives_a_still_camera_with_the_peak_in_its_middle(centre: float) -> None:
    path = crop_path(peaks(np.full(150, centre)), LENGTH, FPS)
    assert np.ptp(path) < 1e-9
    assert path[0] + LENGTH / 2 == pytest.approx(centre, abs=LENGTH / 12)


def test_noisy_static_peak_gives_a_still_camera() -> None:
    noise = np.random.default_rng(0).normal(0, 0.02, 300)
    assert np.ptp(crop_path(peaks(0.6 + noise), LENGTH, FPS)) < 1e-9


def test_moving_peak_is_followed_at_its_speed() -> None:
    centres = np.linspace(0.3, 0.7, 240)  # 0.05 sides per second
    path = crop_path(peaks(centres), LENGTH, FPS)
    assert np.abs(path + LENGTH / 2 - centres).max() < LENGTH / 4
    assert np.abs(speed(path)[60:180] - 0.05).max() < 0.01
    assert (kept_share(peaks(centres), path[:, None], LENGTH) > 0.9).all()


def test_jump_of_the_peak_without_cut_gives_a_move_within_the_limits() -> None:
    path = crop_path(peaks(np.repeat([0.2, 0.8], 150)), LENGTH, FPS)
    check_limits(path)
    assert np.ptp(path[:90]) < 1e-9
    assert np.ptp(path[-90:]) < 1e-9
    assert path[-1] - path[0] > 0.4
    assert (np.diff(path) >= -1e-9).all()


def test_jump_of_the_peak_at_a_cut_gives_a_jump_of_the_camera_there() -> None:
    path = crop_path(peaks(np.repeat([0.2, 0.8], [40, 50])), LENGTH, FPS, cuts=[40])
    assert np.ptp(path[:40]) < 1e-9
    assert np.ptp(path[40:]) < 1e-9
    assert path[40] - path[39] > 0.4


def test_shots_do_not_depend_on_each_other() -> None:
    marginal = peaks(np.random.default_rng(0).random(120))
    path = crop_path(marginal, LENGTH, FPS, cuts=[0, 50, 53, 120])
    shots = [crop_path(marginal[first:last], LENGTH, FPS) for first, last in ((0, 50), (50, 53), (53, 120))]
    assert np.array_equal(path, np.concatenate(shots))


def test_peaks_that_alternate_give_a_still_camera_on_one_of_them() -> None:
    centres = np.where(np.arange(300) // 4 % 2, 0.2, 0.8)
    path = crop_path(peaks(centres), LENGTH, FPS)
    assert np.ptp(path) < 1e-9
    assert np.abs(path[0] + LENGTH / 2 - [0.2, 0.8]).min() < LENGTH / 4


def test_two_simultaneous_peaks_give_a_camera_on_one_of_them() -> None:
    marginal = peaks(np.tile([0.2, 0.8], (100, 1)))
    path = crop_path(marginal, LENGTH, FPS)
    assert np.ptp(path) < 1e-9
    assert kept_share(marginal, path[:, None], LENGTH).min() > 0.49


@given(
    seed=st.integers(0, 2**32 - 1),
    frames=st.integers(1, 200),
    length=st.floats(0.05, 0.99),
    fps=st.sampled_from([5.0, 12.5, 23.976, 30.0, 120.0]),
)
def test_limits_hold_on_random_maps(seed: int, frames: int, length: float, fps: float) -> None:
    marginal = np.random.default_rng(seed).dirichlet(np.full(20, 0.05), size=frames)
    check_limits(crop_path(marginal, length, fps), length, fps)


@pytest.mark.parametrize("seed", range(3))
def test_limits_hold_across_the_parts_of_a_long_shot(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smooth_path, "PART_SECONDS", 2.0)
    monkeypatch.setattr(smooth_path, "OVERLAP_SECONDS", 0.0)
    random = np.random.default_rng(seed)
    centres = np.repeat(random.random(40), random.integers(5, 60, 40))
    settings = replace(SETTINGS, speed_cost=0.01, acceleration_cost=0.0, jerk_cost=0.0)
    path = crop_path(peaks(centres), LENGTH, FPS, settings=settings)
    check_limits(path)
    assert np.abs(speed(path)).max() == pytest.approx(SETTINGS.max_speed, abs=TOLERANCE)


def test_parts_of_a_long_shot_equal_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    centres = 0.5 + 0.3 * np.sin(np.arange(1500) / 60)
    whole = crop_path(peaks(centres), LENGTH, FPS)
    monkeypatch.setattr(smooth_path, "PART_SECONDS", 10.0)
    assert np.abs(crop_path(peaks(centres), LENGTH, FPS) - whole).max() < 0.01


@pytest.mark.parametrize("frames", [1, 2, 3])
def test_shots_of_few_frames_have_a_path(frames: int) -> None:
    path = crop_path(peaks(np.full(frames, 0.8)), LENGTH, FPS)
    assert path.shape == (frames,)
    assert np.allclose(path, 0.65, atol=LENGTH / 12)


def test_no_frames_give_an_empty_path() -> None:
    assert crop_path(np.zeros((0, 80)), LENGTH, FPS).shape == (0,)


def test_window_as_large_as_the_frame_does_not_move() -> None:
    assert not crop_path(peaks(np.linspace(0, 1, 50)), 1.0, FPS).any()


def test_constant_maps_leave_the_window_in_the_centre() -> None:
    assert np.allclose(crop_path(np.full((100, 80), 1 / 80), LENGTH, FPS), (1 - LENGTH) / 2)


def test_path_depends_neither_on_the_frame_rate_nor_on_the_size_of_the_map() -> None:
    seconds = np.arange(0, 6, 1 / 24)
    fast = np.arange(0, 6, 1 / 72)
    slow_path = crop_path(peaks(0.5 + 0.2 * np.sin(seconds)), LENGTH, 24)
    fast_path = crop_path(peaks(0.5 + 0.2 * np.sin(fast), n=160), LENGTH, 72)
    assert np.abs(fast_path[::3] - slow_path).max() < 0.01


def test_path_is_deterministic() -> None:
    marginal = np.random.default_rng(0).dirichlet(np.full(20, 0.1), size=200)
    assert np.array_equal(crop_path(marginal, LENGTH, FPS), crop_path(marginal, LENGTH, FPS))


@pytest.mark.slow
def test_twenty_minutes_take_less_than_a_minute() -> None:
    centres = np.cumsum(np.random.default_rng(0).normal(0, 0.01, 36_000))
    started = time.perf_counter()
    path = crop_path(peaks(np.abs(centres % 2 - 1)), LENGTH, FPS)
    assert time.perf_counter() - started < 60
    check_limits(path)
