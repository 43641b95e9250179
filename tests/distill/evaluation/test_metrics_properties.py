"""What holds for which metric, as named sets over all of them, of both ways to score; what is no member fails."""

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
    PATHS,
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

UNCHANGED: dict[str, tuple[Callable[[], Case], set[str]]] = {
    "a scale": (prediction(lambda s: 5 * s), {*AFFINE, "kldiv"}),
    "a tiny scale": (prediction(lambda s: 1e-6 * s), {*AFFINE, "kldiv"}),
    "a huge scale": (prediction(lambda s: 1e6 * s), {*AFFINE, "kldiv"}),
    "a floor": (prediction(lambda s: s + 3), AFFINE),
    "a scale and a floor below zero": (prediction(lambda s: 5 * s - 2), AFFINE),
    "a rising function": (prediction(lambda s: np.exp(3 * s)), {"auc_judd"}),
    "the other places of pixels": (
        everything(lambda values: values.ravel()[ORDER].reshape(SIZE)),
        {*ALL} - RANDOM,
    ),
    "a mirror": (everything(lambda values: values[:, ::-1]), {*ALL} - RANDOM),
    "turning": (everything(lambda values: values.T), {*ALL} - RANDOM),
    "counts in place of a binary map": (truth(lambda f: 3 * f, "fixations", "other_fixations"), {*ALL}),
    "the scale of the density": (truth(lambda d: 255 * d, "density"), {*ALL}),
    "a floor under the density": (truth(lambda d: d + 1, "density"), {*ALL} - {"kldiv"}),
    "a scale and a floor of the baseline": (truth(lambda b: 5 * b + 3, "baseline"), {*ALL}),
    "prediction and density swapped": (swapped, {"cc", "sim"}),
}
"""Change -> how it is made, and the metrics that it leaves as they are."""

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
"""The score of the truth itself, of fixations or of the density."""


@pytest.fixture(params=PATHS, ids=[path.replace(" ", "_") for path in PATHS])
def score(request: pytest.FixtureRequest) -> Score:
    return PATHS[request.param]


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("change", UNCHANGED)
def test_what_leaves_a_score_as_it_is(score: Score, change: str, name: str) -> None:
    make, members = UNCHANGED[change]
    if change == "prediction and density swapped" and name not in DENSITY:
        return  # they know no density
    difference = abs(score(name, *make()) - score(name, SALIENCY))
    assert difference < 1e-9 if name in members else difference > 1e-4


@pytest.mark.parametrize("name", ALL)
def test_what_a_negative_of_the_map_turns_round(score: Score, name: str) -> None:
    turned = score(name, -SALIENCY) == pytest.approx(-score(name, SALIENCY), abs=1e-9)
    assert turned is (name in {"nss", "cc"})


@pytest.mark.parametrize("name", ALL)
def test_bounds(score: Score, name: str) -> None:
    low, high = BOUNDS[name]
    maps = [RNG.random(SIZE) ** power for power in (0.1, 1, 10, 100)]
    maps += [FRAME["fixations"], 1 - FRAME["fixations"], FRAME["density"], 1 - FRAME["density"], SALIENCY - 0.5]
    for saliency in maps:
        assert low - 1e-12 <= score(name, saliency) <= high + 1e-12


@pytest.mark.parametrize("name", PERFECT)
def test_the_truth_itself_is_perfect(score: Score, name: str) -> None:
    apart = {**FRAME, "other_fixations": binary(SIZE, [(30, 2), (31, 3)])}
    got = score(name, FRAME["density" if name in DENSITY else "fixations"], apart)
    # Borji's negatives may fall onto a hit
    assert got == pytest.approx(PERFECT[name], abs=0.01 if name == "auc_borji" else 1e-9)


def test_the_baseline_gains_nothing_over_itself(score: Score) -> None:
    assert score("info_gain", FRAME["baseline"]) == pytest.approx(0, abs=1e-12)
    assert score("info_gain", 7 * FRAME["baseline"] + 1) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(("name", "chance"), [("auc_judd", 0.5), ("auc_borji", 0.5), ("nss", 0), ("cc", 0)])
def test_noise_scores_chance(score: Score, name: str, chance: float) -> None:
    rng = np.random.default_rng(5)
    many = (rng.random(SIZE) < 0.3).astype(float)
    scores = [score(name, rng.random(SIZE), {**FRAME, "fixations": many, "density": many}) for _ in range(20)]
    assert np.mean(scores) == pytest.approx(chance, abs=0.01)


@pytest.mark.parametrize("name", ALL)
def test_better_maps_score_better(score: Score, name: str) -> None:
    frame = {**FRAME, "fixations": binary(SIZE, [(12, 22), (11, 21), (22, 36)])}
    good, bad = score(name, frame["density"], frame), score(name, gaussian(SIZE, 33, 4, 3), frame)
    assert (good > bad) if METRICS[name].higher_is_better else (good < bad)


@pytest.mark.parametrize("name", ALL)
def test_the_prediction_is_resized_first(score: Score, name: str) -> None:
    small = imresize(SALIENCY, (12, 20))
    assert score(name, small) == pytest.approx(score(name, imresize(small, SIZE)), abs=1e-12)


@pytest.mark.parametrize("name", ALL)
def test_inputs_are_left_alone(score: Score, name: str) -> None:
    copies = {kind: values.copy() for kind, values in FRAME.items()}
    saliency = SALIENCY.copy()
    assert type(score(name, saliency, copies)) is float
    assert (saliency == SALIENCY).all()
    assert all((copies[kind] == FRAME[kind]).all() for kind in FRAME)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("kind", [np.float32, np.float16, np.uint8, list])
def test_every_type_of_number_is_welcome(score: Score, name: str, kind: Any) -> None:
    values = EIGHT_BIT.tolist() if kind is list else EIGHT_BIT.astype(kind)
    assert score(name, values) == pytest.approx(score(name, EIGHT_BIT.astype(np.float64)), abs=1e-12)


@pytest.mark.parametrize("name", FIXATIONS)
@pytest.mark.parametrize("kind", [np.float32, np.uint8, np.bool_])
def test_fixations_of_every_type_are_welcome(score: Score, name: str, kind: type) -> None:
    frame = {**FRAME, "fixations": FRAME["fixations"].astype(kind)}
    assert score(name, SALIENCY, frame) == score(name, SALIENCY)


@pytest.mark.parametrize("name", ALL)
def test_what_is_random_repeats_by_seed(score: Score, name: str) -> None:
    first = score(name, EIGHT_BIT, seed=3)
    assert first == score(name, EIGHT_BIT, seed=3)
    assert (first != score(name, EIGHT_BIT, seed=4)) is (name in RANDOM)


def test_jitter_repeats_by_seed() -> None:
    first, again, other = (auc_judd(EIGHT_BIT, FRAME["fixations"], jitter=True, seed=seed) for seed in (3, 3, 4))
    assert first == again != other
    assert auc_judd(EIGHT_BIT, FRAME["fixations"], seed=3) == one_by_one("auc_judd", EIGHT_BIT)
