"""Property tests of the metrics, single-frame and batched; a property must fail for metrics that lack it."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers.metric_cases import (
    ALL,
    DENSITY,
    EIGHT_BIT,
    FIXATIONS,
    FRAME,
    RANDOM,
    RNG,
    SALIENCY,
    SIZE,
    Score,
    binary,
    gaussian,
    one_by_one,
)

from distill.evaluation.imresize import imresize
from distill.evaluation.metrics import METRICS, auc_judd

Change = Callable[[np.ndarray], np.ndarray]
Case = tuple[np.ndarray, dict[str, np.ndarray]]

ORDER = np.random.default_rng(3).permutation(SALIENCY.size)


def prediction(change: Change) -> Callable[[], Case]:
    return lambda: (change(SALIENCY), FRAME)


def truth(change: Change, *kinds: str) -> Callable[[], Case]:
    return lambda: (SALIENCY, {**FRAME, **{kind: change(FRAME[kind]) for kind in kinds}})


def everything(change: Change) -> Callable[[], Case]:
    return lambda: (change(SALIENCY), {kind: change(values) for kind, values in FRAME.items()})


def swapped() -> Case:
    return FRAME["density"], {**FRAME, "density": SALIENCY}


AFFINE = {"auc_judd", "auc_shuffled", "auc_borji", "nss", "cc", "sim", "info_gain"}

SWAPPED = "prediction and density swapped"
UNCHANGED: dict[str, tuple[Callable[[], Case], set[str]]] = {
    "a scale": (prediction(lambda s: 5 * s), {*AFFINE, "kldiv"}),
    "a tiny scale": (prediction(lambda s: 1e-6 * s), {*AFFINE, "kldiv"}),
    "a huge scale": (prediction(lambda s: 1e6 * s), {*AFFINE, "kldiv"}),
    "a floor": (prediction(lambda s: s + 3), AFFINE),
    "a scale and a floor below zero": (prediction(lambda s: 5 * s - 2), AFFINE),
    "an increasing function": (prediction(lambda s: np.exp(3 * s)), {"auc_judd"}),
    "permuted pixels": (
        everything(lambda values: values.ravel()[ORDER].reshape(SIZE)),
        {*ALL} - RANDOM,
    ),
    "a mirror": (everything(lambda values: values[:, ::-1]), {*ALL} - RANDOM),
    "a transposition": (everything(lambda values: values.T), {*ALL} - RANDOM),
    "counts instead of a binary map": (truth(lambda f: 3 * f, "fixations", "other_fixations"), {*ALL}),
    "a scale of the density": (truth(lambda d: 255 * d, "density"), {*ALL}),
    "a floor under the density": (truth(lambda d: d + 1, "density"), {*ALL} - {"kldiv"}),
    "a scale and a floor of the baseline": (truth(lambda b: 5 * b + 3, "baseline"), {*ALL}),
    SWAPPED: (swapped, {"cc", "sim"}),
}
"""Change -> its function, and the metrics that it leaves unchanged; it must change the others."""

BOUNDS = {
    "auc_judd": (0, 1),
    "auc_shuffled": (0, 1),
    "auc_borji": (0, 1),
    "cc": (-1, 1),
    "sim": (0, 1),
    "kldiv": (0, -math.log(np.finfo(float).eps)),
    "nss": (-math.inf, math.inf),
    "info_gain": (-math.inf, math.inf),
}

PERFECT = {"auc_judd": 1, "auc_shuffled": 1, "auc_borji": 1, "cc": 1, "sim": 1, "kldiv": 0}
"""Score of the ground truth itself, fixations or density."""


CASES = [(change, name) for change in UNCHANGED for name in ALL if name in DENSITY or change != SWAPPED]


@pytest.mark.parametrize(("change", "name"), CASES)
def test_invariance(score: Score, change: str, name: str) -> None:
    make, members = UNCHANGED[change]
    difference = abs(score(name, *make()) - score(name, SALIENCY))
    assert difference < 1e-9 if name in members else difference > 1e-4


@pytest.mark.parametrize("name", ALL)
def test_negated_prediction_negates_nss_and_cc_only(score: Score, name: str) -> None:
    turned = score(name, -SALIENCY) == pytest.approx(-score(name, SALIENCY), abs=1e-9)
    assert turned is (name in {"nss", "cc"})


@pytest.mark.parametrize("name", ALL)
def test_scores_are_within_bounds(score: Score, name: str) -> None:
    low, high = BOUNDS[name]
    maps = [RNG.random(SIZE) ** power for power in (0.1, 1, 10, 100)]
    maps += [FRAME["fixations"], 1 - FRAME["fixations"], FRAME["density"], 1 - FRAME["density"], SALIENCY - 0.5]
    for saliency in maps:
        assert low - 1e-12 <= score(name, saliency) <= high + 1e-12


@pytest.mark.parametrize("name", PERFECT)
def test_truth_has_perfect_score(score: Score, name: str) -> None:
    apart = {**FRAME, "other_fixations": binary(SIZE, [(30, 2), (31, 3)])}
    got = score(name, FRAME["density" if name in DENSITY else "fixations"], apart)
    # Borji's negatives may fall onto a hit
    assert got == pytest.approx(PERFECT[name], abs=0.01 if name == "auc_borji" else 1e-9)


def test_info_gain_of_baseline_is_zero(score: Score) -> None:
    assert score("info_gain", FRAME["baseline"]) == pytest.approx(0, abs=1e-12)
    assert score("info_gain", 7 * FRAME["baseline"] + 1) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(("name", "chance"), [("auc_judd", 0.5), ("auc_borji", 0.5), ("nss", 0), ("cc", 0)])
def test_noise_scores_chance(score: Score, name: str, chance: float) -> None:
    rng = np.random.default_rng(5)
    many = (rng.random(SIZE) < 0.3).astype(float)
    scores = [score(name, rng.random(SIZE), {**FRAME, "fixations": many, "density": many}) for _ in range(20)]
    assert np.mean(scores) == pytest.approx(chance, abs=0.01)


@pytest.mark.parametrize("name", ALL)
def test_better_map_scores_better(score: Score, name: str) -> None:
    frame = {**FRAME, "fixations": binary(SIZE, [(12, 22), (11, 21), (22, 36)])}
    good, bad = score(name, frame["density"], frame), score(name, gaussian(SIZE, 33, 4, 3), frame)
    assert (good > bad) if METRICS[name].higher_is_better else (good < bad)


@pytest.mark.parametrize("name", ALL)
def test_prediction_is_resized_first(score: Score, name: str) -> None:
    small = imresize(SALIENCY, (12, 20))
    assert score(name, small) == pytest.approx(score(name, imresize(small, SIZE)), abs=1e-12)


@pytest.mark.parametrize("name", ALL)
def test_inputs_are_not_modified(score: Score, name: str) -> None:
    copies = {kind: values.copy() for kind, values in FRAME.items()}
    saliency = SALIENCY.copy()
    assert type(score(name, saliency, copies)) is float
    assert (saliency == SALIENCY).all()
    assert all((copies[kind] == FRAME[kind]).all() for kind in FRAME)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("kind", [np.float32, np.float16, np.uint8, list])
def test_prediction_dtype_does_not_matter(score: Score, name: str, kind: Any) -> None:
    values = EIGHT_BIT.tolist() if kind is list else EIGHT_BIT.astype(kind)
    assert score(name, values) == pytest.approx(score(name, EIGHT_BIT.astype(np.float64)), abs=1e-12)


@pytest.mark.parametrize("name", FIXATIONS)
@pytest.mark.parametrize("kind", [np.float32, np.uint8, np.bool_])
def test_fixation_dtype_does_not_matter(score: Score, name: str, kind: type) -> None:
    frame = {**FRAME, "fixations": FRAME["fixations"].astype(kind)}
    assert score(name, SALIENCY, frame) == score(name, SALIENCY)


@pytest.mark.parametrize("name", ALL)
def test_only_random_metrics_depend_on_seed(score: Score, name: str) -> None:
    first = score(name, EIGHT_BIT, seed=3)
    assert first == score(name, EIGHT_BIT, seed=3)
    assert (first != score(name, EIGHT_BIT, seed=4)) is (name in RANDOM)


def test_jitter_depends_on_seed() -> None:
    first, again, other = (auc_judd(EIGHT_BIT, FRAME["fixations"], jitter=True, seed=seed) for seed in (3, 3, 4))
    assert first == again != other
    assert auc_judd(EIGHT_BIT, FRAME["fixations"], seed=3) == one_by_one("auc_judd", EIGHT_BIT)
