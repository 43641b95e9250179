"""Gates of a team: analytic values, and the regression that carries them to frames without gaze."""

import numpy as np
import pytest
import torch
from torch import Tensor

from distill.saliency import normalise_density
from distill.training import gates

h, w = 8, 12


def random_densities(*shape: int, seed: int = 0) -> Tensor:
    return normalise_density(torch.rand(*shape, h, w, generator=torch.Generator().manual_seed(seed)))


def point(row: int, column: int) -> Tensor:
    density = torch.zeros(h, w)
    density[row, column] = 1
    return density


# ---------------------------------------------------------------- statistics of maps


def test_entropy_of_a_point_is_0_and_of_a_uniform_density_its_number_of_cells_in_bits() -> None:
    densities = torch.stack([point(3, 4), torch.full((h, w), 1 / (h * w)), torch.zeros(h, w)])
    assert gates.entropy(densities).tolist() == pytest.approx([0, np.log2(h * w), 0], abs=1e-5)


def test_centre_distance_is_measured_in_sides_of_the_map() -> None:
    corner = gates.centre_distance(point(0, 0))
    assert corner.item() == pytest.approx(np.hypot(0.5 - 0.5 / h, 0.5 - 0.5 / w), rel=1e-5)
    fine = torch.full((400, 600), 1 / 240_000)
    assert gates.centre_distance(fine).item() == pytest.approx(0.3826, abs=1e-3)  # of the unit square


def test_agreement_is_1_for_equal_densities_and_0_for_disjoint_ones() -> None:
    equal = random_densities(1).expand(3, h, w)
    present = torch.ones(3, dtype=torch.bool)
    assert gates.agreement(equal, present).tolist() == pytest.approx([1, 1, 1], abs=1e-5)
    two = torch.stack([point(0, 0), point(5, 5)])
    assert gates.agreement(two, present[:2]).tolist() == pytest.approx([0, 0], abs=1e-5)


def test_agreement_compares_with_the_teachers_that_are_present() -> None:
    densities = torch.stack([point(0, 0), point(0, 0), point(5, 5)])
    absent = torch.tensor([True, True, False])
    assert gates.agreement(densities * absent[:, None, None], absent).tolist() == pytest.approx([1, 1, 0], abs=1e-5)
    alone = torch.tensor([False, True, False])
    assert gates.agreement(densities * alone[:, None, None], alone).tolist() == [0, 1, 0]


def test_agreement_is_1_minus_the_jensen_shannon_divergence_with_the_mean_of_the_others() -> None:
    p, q, r = random_densities(3)
    others = (q + r) / 2
    middle = (p + others) / 2
    divergence = sum((each * (each / middle).log2()).sum() for each in (p, others)) / 2
    found = gates.agreement(torch.stack([p, q, r]), torch.ones(3, dtype=torch.bool))
    assert found[0].item() == pytest.approx(1 - divergence.item(), abs=1e-5)


def test_information_gain_of_the_centre_prior_is_0_and_of_the_fixated_cell_close_to_its_surprise() -> None:
    from distill.evaluation.baselines import centre_gaussian

    prior = normalise_density(torch.from_numpy(centre_gaussian((h, w)).copy()).float())
    counts = torch.stack([point(4, 6) * 3, torch.zeros(h, w)])
    found = gates.information_gain(torch.stack([prior, point(4, 6)]).expand(2, 2, h, w), counts)
    assert found[0, 0].item() == pytest.approx(0, abs=1e-5)
    floor = gates.FLOOR / (h * w)
    expected = np.log2((1 - gates.FLOOR + floor) / ((1 - gates.FLOOR) * prior[4, 6].item() + floor))
    assert found[0, 1].item() == pytest.approx(expected, abs=1e-4)
    assert found[1].isnan().all()


# ---------------------------------------------------------------- the regression


def frames_of(recordings: int, each: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return features (n, 2, 4), gains that depend on them linearly for teacher 0 only, and recordings."""
    random = np.random.default_rng(seed)
    features = random.normal(size=(recordings * each, 2, len(gates.FEATURES)))
    gains = np.stack([1 + features[:, 0] @ [0.5, -1, 0, 0.2], random.normal(size=len(features))], axis=1)
    return features, gains, [f"video{number // each}" for number in range(len(features))]


def test_regression_predicts_what_depends_on_its_features_and_nothing_else() -> None:
    features, gains, recordings = frames_of(20, 15)
    predicted = gates.cross_fit(features, gains, recordings, [0] * len(gains))
    assert np.corrcoef(predicted[:, 0], gains[:, 0])[0, 1] > 0.99
    assert abs(np.corrcoef(predicted[:, 1], gains[:, 1])[0, 1]) < 0.25


def test_no_frame_is_graded_by_its_own_recording() -> None:
    features, gains, recordings = frames_of(6, 10)
    before = gates.cross_fit(features, gains, recordings, [0] * 60)
    changed = gains.copy()
    changed[:10] += 100  # of one recording
    after = gates.cross_fit(features, changed, recordings, [0] * 60)
    np.testing.assert_array_equal(before[:10], after[:10])
    assert (before[10:] != after[10:]).any()


def test_frames_without_gaze_are_predicted_from_all_labelled_recordings() -> None:
    features, gains, recordings = frames_of(12, 10)
    known = gains.copy()
    known[60:] = np.nan
    predicted = gates.cross_fit(features, known, recordings, [0] * 60 + [1] * 60)
    assert np.corrcoef(predicted[60:, 0], gains[60:, 0])[0, 1] > 0.99


def test_recordings_count_the_same_whatever_their_number_of_frames() -> None:
    features = np.zeros((108, 1, len(gates.FEATURES)))  # without a varying feature the prediction is the mean
    recordings = ["long"] * 100 + [f"short{number}" for number in range(8)]
    gains = np.where(np.array(recordings) == "long", 1.0, 0.0)[:, None]
    asked = np.full((1, 1), np.nan)
    predicted = gates.cross_fit(
        np.concatenate([features, features[:1]]), np.concatenate([gains, asked]), [*recordings, "new"], [0] * 109
    )
    assert predicted[-1, 0] == pytest.approx(1 / 9)


def test_teacher_with_one_labelled_recording_is_not_graded() -> None:
    features, gains, recordings = frames_of(2, 10)
    gains[10:, 0] = np.nan
    predicted = gates.cross_fit(features, gains, recordings, [0] * 20)
    assert np.isnan(predicted[:, 0]).all()
    assert np.isfinite(predicted[:, 1]).all()


# ---------------------------------------------------------------- gates and mixtures


def test_truth_gate_halves_for_each_bit_below_the_best_teacher() -> None:
    predicted = np.array([[2.0, 1.0, np.nan], [np.nan, np.nan, np.nan], [-5.0, -5.0, -7.0]])
    found = gates.truth_gate(predicted, sharpness=1)
    np.testing.assert_allclose(found, [[1, 0.5, 0], [0, 0, 0], [1, 1, 0.25]])
    np.testing.assert_allclose(gates.truth_gate(predicted[:1, :2], sharpness=0), [[1, 1]])
    np.testing.assert_allclose(gates.truth_gate(predicted[:1, :2], sharpness=3), [[1, 1 / 8]])


def test_shares_sum_to_1_and_a_frame_counts_as_much_as_its_largest_gate() -> None:
    values = torch.tensor([[1.0, 0.5], [0.2, 0.1], [1.0, 1.0], [0.0, 0.0]])
    present = torch.tensor([[True, True], [True, True], [False, True], [True, True]])
    shares, frames = gates.combine(values, torch.tensor([1.0, 2.0]), present)
    torch.testing.assert_close(shares, torch.tensor([[0.5, 0.5], [0.5, 0.5], [0.0, 1.0], [0.0, 0.0]]))
    torch.testing.assert_close(frames, torch.tensor([1.0, 0.2, 1.0, 0.0]))


def test_teacher_of_weight_0_neither_mixes_nor_makes_a_frame_count() -> None:
    shares, frames = gates.combine(torch.tensor([[1.0, 0.3]]), torch.tensor([0.0, 1.0]), torch.ones(1, 2).bool())
    assert (shares.tolist(), frames.tolist()) == ([[0, 1]], [pytest.approx(0.3)])


def test_mixtures_are_the_weighted_means_of_densities_and_of_log_densities() -> None:
    densities, shares = random_densities(2), torch.tensor([0.25, 0.75])
    linear = gates.mix(densities, shares, "density").exp()
    torch.testing.assert_close(linear, 0.25 * densities[0] + 0.75 * densities[1])
    log = gates.mix(densities, shares, "log")
    torch.testing.assert_close(log, 0.25 * densities[0].log() + 0.75 * densities[1].log())


@pytest.mark.parametrize("mixture", ["density", "log"])
def test_mixture_ignores_an_absent_teacher_and_is_constant_without_any(mixture: str) -> None:
    densities = random_densities(2) * torch.tensor([1.0, 0.0])[:, None, None]
    torch.testing.assert_close(gates.mix(densities, torch.tensor([1.0, 0.0]), mixture), densities[0].log())
    nothing = gates.mix(torch.zeros(2, h, w), torch.zeros(2), mixture)
    assert nothing.isfinite().all()
    assert nothing.std() == 0
