"""Tests of the metrics on degenerate input, for the single-frame and the batched forms."""

import math
from typing import Any

import numpy as np
import pytest
from helpers.metric_cases import ALL, DENSITY, FIXATIONS, FRAME, POINTS, SALIENCY, SIZE, Score, binary

from distill.evaluation.imresize import imresize
from distill.evaluation.metrics import METRICS, auc_judd, auc_shuffled

# the ground truth


@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name in ALL for kind in METRICS[name].truth])
def test_empty_ground_truth_is_nan(score: Score, name: str, kind: str) -> None:
    assert math.isnan(score(name, SALIENCY, {**FRAME, kind: np.zeros(SIZE)}))


@pytest.mark.parametrize("name", FIXATIONS)
def test_every_pixel_fixated_is_nan_for_auc_judd_only(score: Score, name: str) -> None:
    undefined = math.isnan(score(name, SALIENCY, {**FRAME, "fixations": np.ones(SIZE)}))
    assert undefined is (name == "auc_judd")  # there is nothing to separate them from


@pytest.mark.parametrize("name", FIXATIONS)
def test_one_fixation_is_nan_for_auc_borji_only(score: Score, name: str) -> None:
    undefined = math.isnan(score(name, SALIENCY, {**FRAME, "fixations": binary(SIZE, [(14, 25)])}))
    assert undefined is (name == "auc_borji")  # as the official code


@pytest.mark.parametrize("name", DENSITY)
def test_constant_density_is_nan_except_for_kldiv(score: Score, name: str) -> None:
    answer = score(name, SALIENCY, {**FRAME, "density": np.ones(SIZE)})
    assert answer > 0 if name == "kldiv" else math.isnan(answer)


@pytest.mark.parametrize("broken", [np.ones(5), np.ones((0, 4)), math.nan, math.inf, -1.0])
@pytest.mark.parametrize("name", ALL)
def test_invalid_ground_truth_raises(score: Score, name: str, broken: np.ndarray | float) -> None:
    for kind in {*METRICS[name].truth} - {"baseline"}:
        values, message = broken, "ground truth must have two dimensions"
        if isinstance(broken, float):  # in one pixel
            values, message = FRAME[kind].copy(), "ground truth must be finite and non-negative"
            values[3, 5] = broken
        with pytest.raises(ValueError, match=message):
            score(name, SALIENCY, {**FRAME, kind: values})


def test_auc_shuffled_negatives_of_other_shape_raise() -> None:
    with pytest.raises(ValueError, match=r"expected the shape of fixations \(36, 64\), got \(4, 4\)"):
        auc_shuffled(SALIENCY, FRAME["fixations"], np.ones((4, 4)))


# the prediction


@pytest.mark.parametrize("size", [SIZE, (9, 16)])
@pytest.mark.parametrize("value", [0.0, 0.1, -2.0])
def test_constant_prediction_has_documented_scores(score: Score, value: float, size: tuple[int, int]) -> None:
    flat = np.full(size, value)
    for name in ("nss", "cc", "info_gain", "auc_borji", "auc_shuffled"):
        assert math.isnan(score(name, flat))
    assert score("auc_judd", flat) == pytest.approx(0.5 + 0.5 / (len(POINTS) + 1))
    assert score("sim", flat) == 0 if value == 0 else math.isnan(score("sim", flat))
    uniform = (FRAME["density"] / FRAME["density"].sum() * np.log(FRAME["density"] / FRAME["density"].mean())).sum()
    assert score("kldiv", flat) == pytest.approx(uniform) if value > 0 else score("kldiv", flat) > 25


def test_constant_prediction_under_jitter_has_documented_mean() -> None:
    one = binary(SIZE, [(3, 4)])
    scores = [auc_judd(np.zeros(SIZE), one, jitter=True, seed=seed) for seed in range(400)]
    assert np.mean(scores) == pytest.approx(0.75, abs=0.03)
    assert auc_judd(np.zeros(SIZE), one) == pytest.approx(0.75, abs=1e-12)


@pytest.mark.parametrize("size", [SIZE, (9, 16)])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ALL)
def test_nonfinite_prediction_is_nan(score: Score, name: str, value: float, size: tuple[int, int]) -> None:
    broken = imresize(SALIENCY, size).copy()
    broken[0, 0] = value
    assert math.isnan(score(name, broken))
    assert math.isnan(score(name, np.full(size, value)))


@pytest.mark.parametrize("name", ALL)
def test_negative_predictions_have_finite_scores(score: Score, name: str) -> None:
    assert math.isfinite(score(name, SALIENCY - 0.5))
    assert math.isfinite(score(name, -SALIENCY))


def test_kldiv_counts_negative_values_as_zero(score: Score) -> None:
    clipped = np.maximum(SALIENCY - 0.1, 0)
    assert score("kldiv", SALIENCY - 0.1) == pytest.approx(score("kldiv", clipped), abs=1e-12)


@pytest.mark.parametrize("name", ALL)
def test_eight_bit_prediction_changes_scores_little(score: Score, name: str) -> None:
    eight_bit = np.round(SALIENCY / SALIENCY.max() * 255).astype(np.uint8)
    assert score(name, eight_bit) == pytest.approx(score(name, SALIENCY), abs=0.01)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("broken", [np.ones((2, 3, 4)), np.ones((0, 4)), 3.0])
def test_prediction_of_invalid_shape_raises(score: Score, name: str, broken: Any) -> None:
    with pytest.raises(ValueError, match="two dimensions"):
        score(name, broken)
