"""Calibrations of maps: analytic cases, known numbers recovered from fixations, and cross-validation."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.calibration_data import SIZE, random_maps, sample_of, samples_of

from distill.calibration.cross_validation import Gains, cross_validate, folds_of, score_unchanged
from distill.calibration.fit import FixatedMaps, fit, log_likelihood
from distill.calibration.maps import bands_of, blur_matrix, calibrate_maps, centre_prior, clamped, log_bias
from distill.calibration.numbers import COORDINATES, FLOOR, Calibration, coordinates, from_coordinates
from distill.calibration.samples import evenly, pixels_of, visible_pixels
from distill.data.fit import fit_box
from distill.evaluation.evaluate import evaluate
from distill.saliency import log_density, peak_map

TRUTH = Calibration(
    temperature=1.6,
    gains=(0.5, 0.8, 1.2),
    tilt=(0.8, -0.6),
    curvature=(4.0, -3.0),
    prior_weight=0.25,
    prior_place=(0.35, 0.65),
    prior_width=(0.1, 0.15),
)


# ---------------------------------------------------------------------------------------------- what the numbers do


def test_identity_keeps_the_density() -> None:
    maps = random_maps(3, seed=0)
    torch.testing.assert_close(calibrate_maps(maps, Calibration()), log_density(maps.double()), atol=1e-9, rtol=0)


def test_temperature_alone_divides_log_saliency() -> None:
    maps = random_maps(2, seed=1).double()
    torch.testing.assert_close(calibrate_maps(maps, Calibration(temperature=2.5)), log_density(maps / 2.5))


def test_bands_sum_to_the_map_and_a_constant_is_in_the_coarsest() -> None:
    maps = random_maps(2, seed=2).double()
    torch.testing.assert_close(bands_of(maps).sum(dim=0), maps)
    bands = bands_of(torch.full((1, *SIZE), 3.0, dtype=torch.float64))
    torch.testing.assert_close(bands[3], torch.full((1, *SIZE), 3.0, dtype=torch.float64))
    assert float(bands[:3].abs().max()) < 1e-12


def test_blur_matrix_keeps_a_line_inside_and_constants_at_borders() -> None:
    matrix = blur_matrix(60, 2.0)
    np.testing.assert_allclose(matrix.sum(axis=1), 1)
    np.testing.assert_allclose((matrix @ np.arange(60.0))[15:45], np.arange(15.0, 45.0), atol=1e-9)


def test_zero_gains_blur() -> None:
    maps = random_maps(1, seed=3)
    coarse = calibrate_maps(maps, Calibration(gains=(1e-9, 1e-9, 1e-9)))
    assert float(coarse.diff(dim=-1).abs().max()) < 0.1 * float(maps.diff(dim=-1).abs().max())


def test_prior_alone_has_its_place_and_width() -> None:
    prior = centre_prior((80, 120), (0.4, 0.6), (0.05, 0.1)).numpy()
    rows, columns = ((np.arange(side) + 0.5) / side for side in prior.shape)
    assert prior.sum() == pytest.approx(1)
    for marginal, place, width, at in ((prior.sum(1), 0.4, 0.05, rows), (prior.sum(0), 0.6, 0.1, columns)):
        mean = (marginal * at).sum()
        assert mean == pytest.approx(place, abs=1e-3)
        assert math.sqrt((marginal * (at - mean) ** 2).sum()) == pytest.approx(width, rel=0.02)
    mixture = calibrate_maps(random_maps(1, seed=4, size=(80, 120)), Calibration(prior_weight=0.7)).exp()
    assert float(mixture.sum()) == pytest.approx(1)


def test_curvature_adds_a_gaussian_of_its_precision() -> None:
    bias = log_bias((41, 41), (0.0, 0.0), (16.0, 0.0)).exp().numpy()
    rows = (np.arange(41) + 0.5) / 41 - 0.5
    np.testing.assert_allclose(bias, np.exp(-0.5 * (rows / 0.25) ** 2)[:, None] * np.ones(41))


def test_low_values_are_clamped_as_readers_of_files_clamp_them() -> None:
    maps = torch.tensor([[[0.0, -100.0], [-20.0, -27.0]]])
    assert clamped(maps + 5).flatten().tolist() == pytest.approx([0, FLOOR, -20, -27])


def test_coordinates_are_inverted_and_start_at_the_identity() -> None:
    assert coordinates(TRUTH).shape == (len(COORDINATES),) == (13,)
    again = from_coordinates(coordinates(TRUTH), motion=0.5)
    np.testing.assert_allclose(coordinates(again), coordinates(TRUTH))
    assert again.motion == 0.5
    np.testing.assert_allclose(coordinates(Calibration()), [each.identity for each in COORDINATES])
    assert TRUTH.rounded() == TRUTH
    assert Calibration(temperature=1 / 3).rounded().temperature == 0.333333


# ---------------------------------------------------------------------------------------------------------- the fit


def test_known_numbers_are_recovered() -> None:
    samples = samples_of(TRUTH, count=80, frames=2, fixations=80)
    found = fit(samples)
    assert found.temperature == pytest.approx(TRUTH.temperature, rel=0.1)
    assert found.gains == pytest.approx(TRUTH.gains, abs=0.12)
    assert found.tilt == pytest.approx(TRUTH.tilt, abs=0.15)
    assert found.curvature == pytest.approx(TRUTH.curvature, abs=1.5)
    assert found.prior_weight == pytest.approx(TRUTH.prior_weight, abs=0.03)
    assert found.prior_place == pytest.approx(TRUTH.prior_place, abs=0.02)
    assert found.prior_width == pytest.approx(TRUTH.prior_width, abs=0.02)
    assert log_likelihood(samples, found) > log_likelihood(samples, TRUTH) - 1e-3


def test_fixations_of_the_maps_themselves_leave_them_unchanged() -> None:
    samples = samples_of(Calibration(), count=20, frames=8, fixations=80)
    found = fit(samples)
    assert found.temperature == pytest.approx(1, abs=0.05)
    assert found.gains == pytest.approx((1, 1, 1), abs=0.1)
    assert found.prior_weight < 0.02
    assert log_likelihood(samples, found) == pytest.approx(log_likelihood(samples, Calibration()), abs=2e-3)


def test_fewer_videos_are_pulled_more_strongly_towards_no_change() -> None:
    """The likelihood of copies is that of one video; only the pull differs."""
    (sample,) = samples_of(TRUTH, count=1, frames=2)
    scale = np.array([each.scale for each in COORDINATES])

    def moved(found: Calibration) -> float:
        return float(np.linalg.norm((coordinates(found) - coordinates(Calibration())) / scale))

    assert moved(fit([sample])) < 0.9 * moved(fit([sample] * 10))


def test_likelihood_of_uniform_maps_is_that_of_the_pixels() -> None:
    sample = sample_of({1.0: torch.zeros(2, *SIZE)}, Calibration(), 0)
    assert log_likelihood([sample], Calibration()) == pytest.approx(-math.log(SIZE[0] * SIZE[1]))
    half = replace(sample, box=(0.25, 0.0, 0.5, 1.0))  # letterboxed: half of the rows show the frame
    inside = half.points[(half.points[:, 1] >= 6) & (half.points[:, 1] < 18)]
    half = replace(half, points=inside)
    assert log_likelihood([half], Calibration()) == pytest.approx(-math.log(SIZE[0] * SIZE[1] / 2))


def test_videos_and_frames_count_once_whatever_their_number_of_fixations() -> None:
    maps = random_maps(3, seed=5)
    few, many = (sample_of({1.0: maps}, TRUTH, number, fixations=k) for number, k in ((1, 2), (2, 50)))
    weights = FixatedMaps.of([few, many.thinned(1)]).weights
    assert float(weights.sum()) == pytest.approx(1)
    assert float(weights[:6].sum()) == pytest.approx(0.5)
    assert float(weights[0]) == pytest.approx(1 / (2 * 3 * 2))


def test_gradient_equals_finite_differences() -> None:
    maps = FixatedMaps.of(samples_of(TRUTH, count=2, frames=2, fixations=5))
    x = torch.from_numpy(coordinates(TRUTH)).requires_grad_()
    assert torch.autograd.gradcheck(maps.log_likelihood, (x,), atol=1e-6)


def test_motion_is_chosen_by_likelihood() -> None:
    truth = Calibration(motion=0.0)
    maps = [{1.0: random_maps(4, seed), 0.0: random_maps(4, 100 + seed)} for seed in range(6)]
    samples = [sample_of(each, truth, number) for number, each in enumerate(maps)]
    assert fit(samples, (1.0, 0.0)).motion == 0
    assert fit(samples, (1.0,)).motion == 1


# ------------------------------------------------------------------------------------------------ frames and pixels


def test_fixations_lie_in_pixels_of_the_letterboxed_input() -> None:
    box = fit_box("letterbox", (100, 100), (160, 320))  # in the middle half of the columns
    visible = visible_pixels(box, (40, 80))
    assert visible.any(dim=0).nonzero().flatten().tolist() == list(range(20, 60))
    points = np.array([[0, 0], [50, 50], [99, 99], [99, 200]])  # the last is outside the frame
    assert pixels_of(points, (100, 100), box, visible).tolist() == [[0, 20], [20, 40], [39, 59]]


def test_fixations_that_crop_cuts_off_are_left_out() -> None:
    box = fit_box("crop", (100, 400), (160, 160))
    visible = visible_pixels(box, (40, 40))
    assert bool(visible.all())
    assert pixels_of(np.array([[50, 10], [50, 200]]), (100, 400), box, visible).tolist() == [[20, 20]]


def test_narrow_letterbox_shows_at_least_one_pixel() -> None:
    visible = visible_pixels((0.499, 0.0, 0.002, 1.0), (10, 10))
    assert visible.sum() >= 1
    assert len(pixels_of(np.array([[0, 0]]), (2, 1000), (0.499, 0.0, 0.002, 1.0), visible)) == 1


def test_thinned_sample_keeps_maps_and_fixations_together() -> None:
    sample = sample_of({1.0: random_maps(10, seed=6)}, TRUTH, 0, fixations=4)
    thin = sample.thinned(3)
    assert list(thin.video.frames) == evenly(10, 3).tolist() == [1, 5, 8]
    for place, frame in enumerate(thin.video.frames):
        torch.testing.assert_close(thin.maps[1.0][place], sample.maps[1.0][frame])
        expected = sample.points[sample.points[:, 0] == frame][:, 1:]
        np.testing.assert_array_equal(thin.points[thin.points[:, 0] == place][:, 1:], expected)
    assert sample.thinned(10) is sample


# ------------------------------------------------------------------------------------------------- cross-validation


def test_folds_are_disjoint_complete_and_at_most_ten() -> None:
    names = [f"r{number % 23}" for number in range(60)]
    folds = folds_of(names, seed=1)
    assert len(folds) == 10
    assert sorted(name for fold in folds for name in fold) == sorted(set(names))
    assert folds_of(names, 1) == folds
    assert len(folds_of(["a", "b", "c", "a"], 0)) == 3


def test_cross_validation_finds_the_gain_of_a_known_bias_and_none_without() -> None:
    gains = cross_validate(samples_of(TRUTH, count=6), (1.0,), progress=False)
    row = gains.rows()["info_gain"]
    assert gains.better
    assert row["interval"][0] > 0.1
    assert row["before"] < row["after"]
    none = cross_validate(samples_of(Calibration(), count=6), (1.0,), progress=False).rows()["info_gain"]
    assert abs(none["change"]) < 0.02


def test_held_out_videos_do_not_enter_their_own_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = samples_of(TRUTH, count=5, frames=2)
    samples = [
        replace(each, video=replace(each.video, recording="ab"[place % 2])) for place, each in enumerate(samples)
    ]
    seen = []

    def spy(train: list, motions: tuple[float, ...]) -> Calibration:
        seen.append({each.recording for each in train})
        return Calibration()

    monkeypatch.setattr("distill.calibration.cross_validation.fit", spy)
    gains = cross_validate(samples, (1.0,), progress=False)
    assert sorted(map(sorted, seen)) == [["fake/a"], ["fake/b"]]
    np.testing.assert_allclose(gains.before, gains.after, atol=1e-6)
    assert not Gains(gains.before, gains.before, gains.recordings).better


def test_scores_are_those_of_evaluate() -> None:
    sample = sample_of({1.0: random_maps(3, seed=7)}, TRUTH, 0)
    maps = [peak_map(each) for each in sample.maps[1.0].numpy()]
    expected = evaluate(
        lambda video, frames: zip(frames, maps, strict=True),
        [sample.video],
        metrics=["nss", "cc", "info_gain"],
        progress=False,
    )
    np.testing.assert_allclose(score_unchanged(sample), list(expected.per_video.values()), atol=1e-6)
