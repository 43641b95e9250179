"""Tests of the metrics against hand-computed values, a textbook loop and the official code's numbers."""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
from helpers.metric_cases import (
    EIGHT_BIT,
    FRAME,
    GOLDEN_CASES,
    POINTS,
    RANDOM,
    RNG,
    SALIENCY,
    SIZE,
    Frame,
    Score,
    binary,
    gaussian,
    golden_frame,
    one_by_one,
)
from helpers.textbook_metrics import textbook_auc_judd

from distill.evaluation.imresize import imresize
from distill.evaluation.metric_parts import draw_negatives
from distill.evaluation.metrics import (
    METRICS,
    auc_judd,
    auc_shuffled,
    cc,
    info_gain,
    kldiv,
    nss,
    sim,
)

# analytic truths


@pytest.mark.parametrize(
    ("saliency", "closed_form"),
    [
        ([4, 4, 4, 4, 0], 2 / 3 + 0.25 * (2 / 3) * (2 / 3)),
        # others at 1, 1 and 0: of each tie one half, and m / (m + 1) of the lowest hit's
        ([1, 0, 1, 1, 0], 1 - (0.5 * 2 / 3 + 2.5 / 3) / 2 + 0.25 * 2.5 / 3),
    ],
)
def test_auc_judd_with_ties_is_mean_over_orders(score: Score, saliency: list[int], closed_form: float) -> None:
    frame = {"fixations": np.array([[1, 1, 0, 0, 0]])}
    orders = [np.add(saliency, order)[None] for order in itertools.permutations([0, 0.1, 0.2, 0.3, 0.4])]
    assert np.mean([score("auc_judd", order, frame) for order in orders]) == pytest.approx(closed_form)
    assert score("auc_judd", [saliency], frame) == pytest.approx(closed_form)


def test_auc_judd_equals_mean_over_jitter() -> None:
    jittered = [auc_judd(EIGHT_BIT, FRAME["fixations"], jitter=True, seed=seed) for seed in range(300)]
    mean = pytest.approx(np.mean(jittered), abs=5 * np.std(jittered) / 300**0.5)
    assert auc_judd(EIGHT_BIT, FRAME["fixations"]) == mean
    assert np.std(jittered) > 1e-4


def test_auc_judd_keeps_ties_of_resized_maps() -> None:
    # 20 x 20 pixels of two values: where a patch is even, so must the enlarged map be
    coarse = np.full((20, 20), 0.1)
    coarse[:10] = 0.7
    fixations = binary((60, 60), [(2, 2), (3, 40)])  # both in the upper half
    assert auc_judd(coarse.astype(np.float32), fixations) == auc_judd(
        imresize(coarse.astype(np.float32), (60, 60)).round(6), fixations
    )


@pytest.mark.parametrize("jitter", [False, True])
def test_auc_judd_of_best_and_worst_map(jitter: bool) -> None:
    fixations = FRAME["fixations"]
    assert auc_judd(fixations, fixations, jitter=jitter) == pytest.approx(1)
    # every other pixel comes before the first hit, on a straight segment that ends at 1 / N
    assert auc_judd(-fixations, fixations, jitter=jitter) == pytest.approx(0.5 / len(POINTS))


def test_auc_judd_is_rank_statistic_plus_segment_term() -> None:
    fixated = FRAME["fixations"] > 0
    hits, rest = SALIENCY[fixated], SALIENCY[~fixated]
    rank = (hits[:, None] > rest).mean()
    false_at_last_hit = (rest > hits.min()).mean()
    assert auc_judd(SALIENCY, fixated) == pytest.approx(rank + 0.5 * false_at_last_hit / len(hits))


def test_jitter_drowns_density_but_not_peak_map() -> None:
    peak = gaussian(SIZE, 12, 22, 4)
    fixations = binary(SIZE, [(12, 22), (10, 20)])
    assert auc_judd(peak, fixations, jitter=True) == pytest.approx(auc_judd(peak, fixations), abs=1e-3)
    drowned = [auc_judd(1e-9 * peak, fixations, jitter=True, seed=seed) for seed in range(50)]
    assert np.mean(drowned) < 0.8 < 0.95 < auc_judd(1e-9 * peak, fixations)


@pytest.mark.parametrize(
    ("metric", "maps", "expected"),
    [
        # falling values: hit, miss, hit, miss: (0, 0) (0, 1/2) (1/2, 1) (1, 1)
        (auc_judd, ([[0.9, 0.7, 0.5, 0.1]], [[1, 0, 1, 0]]), 0.5 * (0.5 + 1) / 2 + 0.5),
        (nss, ([[1, 2, 3, 6]], [[0, 1, 0, 1]]), ((2 - 3) + (6 - 3)) / 2 / math.sqrt((4 + 1 + 0 + 9) / 3)),
        (cc, ([[1, 2, 3]], [[2, 4, 6]]), 1),
        (cc, ([[1, 2, 3]], [[6, 4, 2]]), -1),
        (cc, ([[1, 2, 3]], [[1, 3, 2]]), 0.5),
        (sim, ([[0, 1, 0, 0]], [[0, 0, 1, 0]]), 0),
        (sim, ([[0, 1, 1, 0]], [[0, 0, 1, 0]]), 0.5),
        (sim, ([[1, 2, 1, 1]], [[0, 1, 0, 0]]), 1),  # the floor is subtracted
        (kldiv, ([[1, 1, 1, 1]], [[1, 0, 0, 0]]), math.log(4)),
        (kldiv, ([[3, 1]], [[1, 1]]), 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)),
        (kldiv, ([[0, 1]], [[1, 0]]), -math.log(np.finfo(float).eps)),
        # above the floor, half and a quarter of the mass are on the fixated pixel: one bit
        (info_gain, ([[0, 2, 2]], [[0, 1, 0]], [[0, 1, 3]]), 1),
        # hits at 1 and .5, negative at .25: (0, 0), from 1 to .6 (0, .5), from .5 on (0, 1), from .2 on (1, 1)
        (auc_shuffled, ([[1.0, 0.5, 0.25, 0.0]], [[1, 1, 0, 0]], [[0, 0, 1, 0]]), 1),
        # hit at .25, negative at 1: the hit is counted only after all negatives
        (auc_shuffled, ([[1.0, 0.5, 0.25, 0.0]], [[0, 0, 1, 0]], [[1, 0, 0, 0]]), 0),
        # hit and negative between the same two thresholds
        (auc_shuffled, ([[1.0, 0.55, 0.52, 0.0]], [[0, 0, 1, 0]], [[0, 1, 0, 0]]), 0.5),
    ],
)
def test_metric_of_few_pixels_matches_hand_computation(
    metric: Score, maps: tuple[list[list[float]], ...], expected: float
) -> None:
    assert metric(*maps) == pytest.approx(expected)


def test_auc_shuffled_cancels_centre_bias() -> None:
    # truth and negatives from one distribution: a map of that distribution is no better than chance
    draws = RNG.normal((18, 32), (5, 9), (2, 400, 2)).astype(int).clip(0, (35, 63))
    here, elsewhere = (binary(SIZE, [(int(r), int(c)) for r, c in one]) for one in draws)
    centre = gaussian(SIZE, 18, 32, 9)
    assert auc_shuffled(centre, here, elsewhere) == pytest.approx(0.5, abs=0.05)
    assert auc_judd(centre, here) > 0.75


def test_auc_shuffled_uses_all_negatives_if_few() -> None:
    few = binary(SIZE, [(18, 32)])
    assert auc_shuffled(SALIENCY, FRAME["fixations"], few, seed=1) == auc_shuffled(
        SALIENCY, FRAME["fixations"], few, seed=2
    )


def test_draw_negatives_is_uniform_without_replacement() -> None:
    draws = draw_negatives(10, 4, 3000, 0)
    assert draws.shape == (3000, 4)
    assert all(len(set(row)) == 4 for row in draws.tolist())
    counts = np.bincount(draws.ravel(), minlength=10)
    assert (abs(counts - 1200) < 5 * (3000 * 0.4 * 0.6) ** 0.5).all()
    assert draw_negatives(3, 4, 50, 0).tolist() == [[0, 1, 2]]


# the oracle


@pytest.mark.parametrize("kind", ["float", "eight bit", "noise", "constant", "small"])
@pytest.mark.parametrize("fixations", [1, 6, 400])
def test_auc_judd_equals_textbook_loop(kind: str, fixations: int) -> None:
    rng = np.random.default_rng(fixations)
    saliency = {
        "float": SALIENCY,
        "eight bit": (SALIENCY / SALIENCY.max() * 255).astype(np.uint8),
        "noise": rng.random(SIZE),
        "constant": np.full(SIZE, 0.25),
        "small": imresize(SALIENCY, (9, 16)),
    }[kind]
    fixated = np.zeros(SIZE)
    fixated.flat[rng.choice(fixated.size, fixations, replace=False)] = 1
    for seed in range(3):
        wanted = textbook_auc_judd(saliency, fixated, seed=seed)
        assert auc_judd(saliency, fixated, jitter=True, seed=seed) == pytest.approx(wanted, abs=1e-12)
    if kind in ("float", "noise", "small"):  # no ties
        assert auc_judd(saliency, fixated) == pytest.approx(
            textbook_auc_judd(saliency, fixated, seed=None), abs=1e-12
        )


# the official code's numbers


def check(case: str, truth: dict[str, float | None], spreads: dict[str, float | None], frame: Frame) -> None:
    for name, wanted in truth.items():
        got = one_by_one(name, frame["saliency"], frame)
        # the random ones within five of the official code's own spreads over five runs, or .005
        tolerance = max(5e-3, 5 * (spreads[name] or 0)) if name in RANDOM else 1e-3 if name == "auc_judd" else 1e-5
        if wanted is None or math.isnan(wanted):
            assert math.isnan(got), f"{case}: {name}"
        else:
            assert got == pytest.approx(wanted, abs=tolerance), f"{case}: {name}"


@pytest.mark.parametrize("case", GOLDEN_CASES)
def test_metrics_match_golden_values(case: str) -> None:
    assert GOLDEN_CASES[case]["scores"].keys() == METRICS.keys()
    check(case, GOLDEN_CASES[case]["scores"], GOLDEN_CASES[case]["spreads"], golden_frame(case))


@pytest.mark.parametrize("case", GOLDEN_CASES)
def test_golden_auc_judd_with_jitter(case: str) -> None:
    frame, wanted = golden_frame(case), GOLDEN_CASES[case]["scores"]["auc_judd"]
    assert auc_judd(frame["saliency"], frame["fixations"], jitter=True) == pytest.approx(wanted, abs=1e-3)


@pytest.mark.parametrize("case", ["real_prediction_kimono_40", "real_prediction_kimono_200", "noise"])
def test_golden_from_shared_folder(case: str, shared: Path) -> None:
    arrays = np.load(shared / "golden" / "metrics_golden.npz")
    scores = json.loads((shared / "golden" / "metrics_golden.json").read_text())[case]
    scores = {name.replace("sauc", "auc_shuffled"): value for name, value in scores.items()}
    index = list(arrays["cases"]).index(case)
    frame = {kind: arrays[f"{index}_{kind}"] for kind in ("saliency", "fixations", "density")}
    frame |= {"other_fixations": arrays[f"{index}_other"], "baseline": arrays["baseline"]}
    spreads = {name.removesuffix("_std"): value for name, value in scores.items() if name.endswith("_std")}
    check(case, {name: scores[name] for name in METRICS}, spreads, frame)
