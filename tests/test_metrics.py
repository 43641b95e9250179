"""The metrics: analytic truths, properties shared by named sets of them, and the official code's numbers."""

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distill.metrics import (
    LOWER_IS_BETTER,
    METRICS,
    RANDOM,
    TITLES,
    TRUTHS,
    auc_borji,
    auc_judd,
    auc_shuffled,
    cc,
    imresize,
    info_gain,
    kldiv,
    nss,
    sim,
)

GOLDEN = Path(__file__).parent / "data" / "golden" / "metrics_golden"
RNG = np.random.default_rng(7)
SIZE = (36, 64)


def gaussian(size: tuple[int, int], row: float, column: float, sigma: float) -> np.ndarray:
    rows, columns = np.mgrid[: size[0], : size[1]]
    return np.exp(-0.5 * ((rows - row) ** 2 + (columns - column) ** 2) / sigma**2)


def binary(size: tuple[int, int], points: list[tuple[int, int]]) -> np.ndarray:
    fixations = np.zeros(size)
    for point in points:
        fixations[point] = 1
    return fixations


POINTS = [(10, 20), (12, 22), (11, 30), (20, 40), (25, 33), (18, 31)]
FRAME: dict[str, np.ndarray] = {
    "fixations": binary(SIZE, POINTS),
    "density": gaussian(SIZE, 12, 22, 4) + 0.5 * gaussian(SIZE, 22, 36, 5),
    "other_fixations": binary(SIZE, [(int(r), int(c)) for r, c in RNG.integers(0, (36, 64), (40, 2))]),
    "baseline": gaussian(SIZE, 18, 32, 12),
}
SALIENCY = gaussian(SIZE, 14, 25, 7) + 0.05 * RNG.random(SIZE)

# what holds for which metric
ALL = sorted(METRICS)
ORDER_ONLY = ["auc_judd"]  # any rising function of the map gives the same score
AFFINE = ["auc_shuffled", "auc_borji", "nss", "cc", "sim", "info_gain"]  # a * map + b gives the same score
SCALE = [*AFFINE, "kldiv"]  # a * map
FIXATIONS = [name for name in ALL if "fixations" in TRUTHS[name]]
DENSITY = [name for name in ALL if "density" in TRUTHS[name]]
MIRROR = [name for name in ALL if name not in RANDOM] + ["auc_judd_exact"]


def score(name: str, saliency: Any, frame: dict[str, np.ndarray] = FRAME, **options: Any) -> float:
    if name == "auc_judd_exact":
        name, options = "auc_judd", {"jitter": False, **options}
    return METRICS[name](saliency, *(frame[kind] for kind in TRUTHS[name]), **options)


def judd_by_the_book(saliency: np.ndarray, fixations: np.ndarray, *, seed: int = 0) -> float:
    """AUC-Judd as the textbook has it: min-max, and a loop over thresholds. The oracle."""
    values = imresize(saliency, fixations.shape)
    values = values + np.random.default_rng(seed).random(values.shape) / 10_000_000
    values = (values - values.min()) / (values.max() - values.min())
    thresholds = np.sort(values[fixations > 0])[::-1]
    count = len(thresholds)
    true, false = np.zeros(count + 2), np.zeros(count + 2)
    true[-1] = false[-1] = 1
    for i, threshold in enumerate(thresholds, start=1):
        above = (values >= threshold).sum()
        true[i] = i / count
        false[i] = (above - i) / (values.size - count)
    return float(np.trapezoid(true, false))


# analytic truths


def test_auc_judd_of_three_pixels_by_hand() -> None:
    # falling values: hit, miss, hit, miss: (0, 0) (0, 1/2) (1/2, 1) (1, 1)
    area = auc_judd([[0.9, 0.7, 0.5, 0.1]], [[1, 0, 1, 0]], jitter=False)
    assert area == pytest.approx(0.5 * (0.5 + 1) / 2 + 0.5)
    assert auc_judd([[0.9, 0.7, 0.5, 0.1]], [[1, 0, 1, 0]]) == pytest.approx(area)


def test_auc_judd_of_tied_pixels_is_the_mean_over_their_orders() -> None:
    # two hits and two misses of one value above a miss: all 4! orders by hand, and the closed form
    fixations = np.array([[1, 1, 0, 0, 0]])
    orders = [[*order, 0] for order in itertools.permutations([1, 2, 3, 4])]
    mean = np.mean([auc_judd([order], fixations, jitter=False) for order in orders])
    assert auc_judd([[4, 4, 4, 4, 0]], fixations, jitter=False) == pytest.approx(mean)
    assert mean == pytest.approx(2 / 3 + 0.25 * (2 / 3) * (2 / 3))


def test_auc_judd_without_jitter_is_the_mean_of_jittered_ones() -> None:
    coarse = np.round(SALIENCY * 8)
    jittered = [auc_judd(coarse, FRAME["fixations"], seed=seed) for seed in range(300)]
    assert score("auc_judd_exact", coarse) == pytest.approx(np.mean(jittered), abs=5 * np.std(jittered) / 300**0.5)
    assert np.std(jittered) > 1e-4


@pytest.mark.parametrize("name", ["auc_judd", "auc_judd_exact"])
def test_auc_judd_of_perfect_and_of_worst_map(name: str) -> None:
    count = len(POINTS)
    assert score(name, FRAME["fixations"]) == pytest.approx(1)
    # every other pixel comes before the first hit, on a straight segment that ends at 1 / N
    assert score(name, -FRAME["fixations"]) == pytest.approx(0.5 / count)


def test_auc_judd_is_the_rank_statistic_plus_what_the_straight_segments_add() -> None:
    fixated = FRAME["fixations"] > 0
    hits, rest = SALIENCY[fixated], SALIENCY[~fixated]
    rank = (hits[:, None] > rest).mean()
    false_at_last_hit = (rest > hits.min()).mean()
    assert auc_judd(SALIENCY, fixated, jitter=False) == pytest.approx(rank + 0.5 * false_at_last_hit / len(hits))


def test_nss_by_hand() -> None:
    values, fixations = np.array([[1.0, 2.0, 3.0, 6.0]]), np.array([[0, 1, 0, 1]])
    spread = math.sqrt((4 + 1 + 0 + 9) / 3)
    assert nss(values, fixations) == pytest.approx(((2 - 3) + (6 - 3)) / 2 / spread)


def test_cc_by_hand() -> None:
    assert cc([[1, 2, 3]], [[2, 4, 6]]) == pytest.approx(1)
    assert cc([[1, 2, 3]], [[6, 4, 2]]) == pytest.approx(-1)
    assert cc([[1, 2, 3]], [[1, 3, 2]]) == pytest.approx(0.5)


def test_sim_by_hand() -> None:
    assert sim([[0, 1, 0, 0]], [[0, 0, 1, 0]]) == 0
    assert sim([[0, 1, 1, 0]], [[0, 0, 1, 0]]) == pytest.approx(0.5)
    assert sim([[1, 2, 1, 1]], [[0, 1, 0, 0]]) == pytest.approx(1)  # the floor is taken off


def test_kldiv_by_hand() -> None:
    assert kldiv([[1, 1, 1, 1]], [[1, 0, 0, 0]]) == pytest.approx(math.log(4))
    assert kldiv([[3, 1]], [[1, 1]]) == pytest.approx(0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25))
    assert kldiv([[0, 1]], [[1, 0]]) == pytest.approx(-math.log(np.finfo(float).eps))


def test_info_gain_by_hand() -> None:
    # of the mass above the floor, half and a quarter lie on the fixated pixel: one bit
    assert info_gain([[0, 2, 2]], [[0, 1, 0]], [[0, 1, 3]]) == pytest.approx(1)


def test_auc_borji_and_shuffled_of_perfect_maps() -> None:
    apart = binary(SIZE, [(30, 2), (31, 3)])
    assert auc_shuffled(FRAME["fixations"], FRAME["fixations"], apart) == pytest.approx(1)
    assert auc_borji(FRAME["fixations"], FRAME["fixations"]) == pytest.approx(1, abs=0.01)


def test_shuffled_auc_cancels_the_bias_to_the_centre() -> None:
    # truth and negatives from one distribution: a map of that distribution is no better than chance
    draws = RNG.normal((18, 32), (5, 9), (2, 400, 2)).astype(int).clip(0, (35, 63))
    here, elsewhere = (binary(SIZE, [(int(r), int(c)) for r, c in one]) for one in draws)
    centre = gaussian(SIZE, 18, 32, 9)
    assert auc_shuffled(centre, here, elsewhere) == pytest.approx(0.5, abs=0.05)
    assert auc_judd(centre, here) > 0.75


def test_shuffled_auc_uses_all_negatives_where_there_are_few() -> None:
    few = binary(SIZE, [(18, 32)])
    assert auc_shuffled(SALIENCY, FRAME["fixations"], few, seed=1) == auc_shuffled(
        SALIENCY, FRAME["fixations"], few, seed=2
    )


# the resizing


def test_imresize_doubles_as_matlab() -> None:
    """MATLAB's documented kernel at offsets of 1/4 pixel, by hand."""
    resized = imresize([[0, 0, 0, 1, 0, 0, 0]], (1, 14))
    near, far = 0.8671875, 0.2265625  # the kernel at 1/4 and 3/4
    outer, last = -0.0703125, -0.0234375  # at 5/4 and 7/4
    wanted = [0, 0, 0, last, outer, far, near, near, far, outer, last, 0, 0, 0]
    np.testing.assert_allclose(resized, [wanted], atol=1e-12)


def test_imresize_halves_with_a_kernel_twice_as_wide() -> None:
    resized = imresize([[0, 0, 0, 0, 1, 0, 0, 0, 0, 0]], (1, 5))
    near, far = 0.8671875 / 2, 0.2265625 / 2
    np.testing.assert_allclose(resized, [[-0.0234375 / 2, far, near, -0.0703125 / 2, 0]], atol=1e-12)


def test_imresize_mirrors_at_the_border() -> None:
    row = RNG.random(9)
    mirrored = imresize([np.concatenate([row[::-1], row, row[::-1]])], (1, 60))
    np.testing.assert_allclose(imresize([row], (1, 20)), mirrored[:, 20:40], atol=1e-12)


@pytest.mark.parametrize("size", [(360, 640), (7, 5), (36, 20), (1, 1), (100, 20)])
def test_imresize_keeps_constants_exactly_and_means_nearly(size: tuple[int, int]) -> None:
    assert (imresize(np.full((36, 64), 0.1), size) == 0.1).all()
    assert imresize(SALIENCY, size).mean() == pytest.approx(SALIENCY.mean(), rel=0.02)


def test_imresize_keeps_a_ramp_straight_inside() -> None:
    ramp = np.tile(np.arange(32.0), (8, 1))
    inside = imresize(ramp, (8, 64))[:, 4:-4]
    np.testing.assert_allclose(inside, np.tile((np.arange(64)[4:-4] + 0.5) / 2 - 0.5, (8, 1)), atol=1e-12)


@pytest.mark.parametrize("name", ALL)
def test_the_prediction_is_resized_first(name: str) -> None:
    small = imresize(SALIENCY, (12, 20))
    assert score(name, small) == score(name, imresize(small, SIZE))


# properties


@pytest.mark.parametrize("name", ["auc_judd_exact", *ORDER_ONLY])
def test_only_the_order_of_pixels_counts(name: str) -> None:
    assert score(name, np.exp(3 * SALIENCY)) == pytest.approx(score(name, SALIENCY), abs=1e-4)


@pytest.mark.parametrize("name", AFFINE)
def test_unchanged_by_a_floor_and_a_scale(name: str) -> None:
    assert score(name, 5 * SALIENCY + 3) == pytest.approx(score(name, SALIENCY), abs=1e-9)


@pytest.mark.parametrize("name", SCALE)
@pytest.mark.parametrize("scale", [1e-6, 255, 1e6])
def test_unchanged_by_a_scale(name: str, scale: float) -> None:
    assert score(name, scale * SALIENCY) == pytest.approx(score(name, SALIENCY), abs=1e-9)


def test_a_floor_changes_kldiv() -> None:
    assert score("kldiv", SALIENCY + 3) > score("kldiv", SALIENCY) + 0.1


@pytest.mark.parametrize("name", DENSITY)
def test_unchanged_by_the_scale_of_the_density(name: str) -> None:
    scaled = {**FRAME, "density": 255 * FRAME["density"]}
    assert score(name, SALIENCY, scaled) == pytest.approx(score(name, SALIENCY), abs=1e-9)


@pytest.mark.parametrize("name", FIXATIONS)
def test_counts_and_binary_maps_are_the_same(name: str) -> None:
    for fixations in (FRAME["fixations"] * 3, FRAME["fixations"] > 0, FRAME["fixations"].astype(np.uint8)):
        assert score(name, SALIENCY, {**FRAME, "fixations": fixations}) == score(name, SALIENCY)


@pytest.mark.parametrize("name", MIRROR)
def test_mirroring_everything_changes_nothing(name: str) -> None:
    mirrored = {kind: values[:, ::-1] for kind, values in FRAME.items()}
    assert score(name, SALIENCY[:, ::-1], mirrored) == pytest.approx(score(name, SALIENCY), abs=1e-12)


@pytest.mark.parametrize("name", ALL)
def test_better_maps_score_better(name: str) -> None:
    frame = {**FRAME, "fixations": binary(SIZE, [(12, 22), (11, 21), (22, 36)])}
    good, bad = score(name, frame["density"], frame), score(name, gaussian(SIZE, 33, 4, 3), frame)
    assert (good < bad) if name in LOWER_IS_BETTER else (good > bad)


@pytest.mark.parametrize("name", ALL)
def test_inputs_are_left_alone_and_the_answer_is_a_python_float(name: str) -> None:
    copies = {kind: values.copy() for kind, values in FRAME.items()}
    saliency = SALIENCY.copy()
    assert type(score(name, saliency, copies)) is float
    assert (saliency == SALIENCY).all()
    assert all((copies[kind] == FRAME[kind]).all() for kind in FRAME)


@pytest.mark.parametrize("name", ALL)
def test_float32_and_lists_are_welcome(name: str) -> None:
    single = SALIENCY.astype(np.float32)
    assert score(name, single) == score(name, single.astype(np.float64)) == score(name, single.tolist())


@pytest.mark.parametrize("name", sorted(RANDOM))
def test_random_metrics_repeat_by_seed(name: str) -> None:
    eight_bit = np.round(SALIENCY / SALIENCY.max() * 20).astype(np.uint8)  # with ties, so that jitter matters
    first = score(name, eight_bit, seed=3)
    assert first == score(name, eight_bit, seed=3)
    assert first != score(name, eight_bit, seed=4)


def test_tables_speak_of_every_metric() -> None:
    assert METRICS.keys() == TRUTHS.keys() == TITLES.keys()
    assert METRICS.keys() >= RANDOM | LOWER_IS_BETTER


# the oracle


@pytest.mark.parametrize("kind", ["float", "eight bit", "noise", "constant", "small"])
@pytest.mark.parametrize("fixations", [1, 6, 400])
def test_auc_judd_equals_the_loop_over_thresholds(kind: str, fixations: int) -> None:
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
        assert auc_judd(saliency, fixated, seed=seed) == pytest.approx(
            judd_by_the_book(saliency, fixated, seed=seed), abs=1e-12
        )


# degenerate input


@pytest.mark.parametrize("name", FIXATIONS)
def test_no_fixation_is_nan(name: str) -> None:
    assert math.isnan(score(name, SALIENCY, {**FRAME, "fixations": np.zeros(SIZE)}))


@pytest.mark.parametrize("name", DENSITY)
def test_no_density_is_nan(name: str) -> None:
    assert math.isnan(score(name, SALIENCY, {**FRAME, "density": np.zeros(SIZE)}))


def test_no_other_fixation_is_nan() -> None:
    assert math.isnan(score("auc_shuffled", SALIENCY, {**FRAME, "other_fixations": np.zeros(SIZE)}))


@pytest.mark.parametrize("name", ["auc_judd", "auc_judd_exact"])
def test_every_pixel_fixated_is_nan_for_auc_judd(name: str) -> None:
    assert math.isnan(score(name, SALIENCY, {**FRAME, "fixations": np.ones(SIZE)}))


@pytest.mark.parametrize(
    ("name", "fits"),
    [
        ("auc_judd", True),
        ("auc_judd_exact", True),
        ("nss", True),
        ("info_gain", True),
        ("auc_shuffled", True),
        ("auc_borji", False),  # as the official code
    ],
)
def test_one_fixation(name: str, fits: bool) -> None:
    assert math.isnan(score(name, SALIENCY, {**FRAME, "fixations": binary(SIZE, [(14, 25)])})) is not fits


@pytest.mark.parametrize("size", [SIZE, (9, 16)])
@pytest.mark.parametrize("value", [0.0, 0.1, -2.0])
def test_constant_prediction(value: float, size: tuple[int, int]) -> None:
    flat = np.full(size, value)
    for name in ("nss", "cc", "info_gain", "auc_borji", "auc_shuffled"):
        assert math.isnan(score(name, flat))
    assert score("auc_judd_exact", flat) == pytest.approx(0.5 + 0.5 / (len(POINTS) + 1))
    assert 0 <= score("auc_judd", flat) <= 1
    assert score("sim", flat) == 0 if value == 0 else math.isnan(score("sim", flat))
    uniform = (FRAME["density"] / FRAME["density"].sum() * np.log(FRAME["density"] / FRAME["density"].mean())).sum()
    assert score("kldiv", flat) == pytest.approx(uniform) if value > 0 else score("kldiv", flat) > 25


def test_constant_prediction_has_the_stated_mean_under_jitter() -> None:
    one = binary(SIZE, [(3, 4)])
    scores = [auc_judd(np.zeros(SIZE), one, seed=seed) for seed in range(400)]
    assert np.mean(scores) == pytest.approx(0.75, abs=0.03)
    assert auc_judd(np.zeros(SIZE), one, jitter=False) == pytest.approx(0.75, abs=1e-12)


@pytest.mark.parametrize("name", DENSITY)
def test_constant_density(name: str) -> None:
    answer = score(name, SALIENCY, {**FRAME, "density": np.ones(SIZE)})
    assert answer > 0 if name == "kldiv" else math.isnan(answer)


@pytest.mark.parametrize("size", [SIZE, (9, 16)])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", [*ALL, "auc_judd_exact"])
def test_one_bad_pixel_spoils_the_map(name: str, value: float, size: tuple[int, int]) -> None:
    broken = imresize(SALIENCY, size).copy()
    broken[0, 0] = value
    assert math.isnan(score(name, broken))
    assert math.isnan(score(name, np.full(size, value)))


@pytest.mark.parametrize("name", [*ALL, "auc_judd_exact"])
def test_negative_values_have_a_finite_answer(name: str) -> None:
    assert math.isfinite(score(name, SALIENCY - 0.5))


def test_kldiv_counts_negative_values_as_zero() -> None:
    assert score("kldiv", SALIENCY - 0.1) == score("kldiv", np.maximum(SALIENCY - 0.1, 0))


def test_eight_bit_ties_move_auc_judd_little() -> None:
    eight_bit = np.round(SALIENCY / SALIENCY.max() * 255).astype(np.uint8)
    assert score("auc_judd_exact", eight_bit) == pytest.approx(score("auc_judd", SALIENCY), abs=0.01)


@pytest.mark.parametrize("kind", ["fixations", "density", "other_fixations"])
@pytest.mark.parametrize("broken", [np.ones(5), np.ones((0, 4)), np.full(SIZE, math.nan), np.full(SIZE, -1.0)])
def test_broken_ground_truth_is_an_error(kind: str, broken: np.ndarray) -> None:
    for name in ALL:
        if kind in TRUTHS[name]:
            with pytest.raises(ValueError, match="ground truth must"):
                score(name, SALIENCY, {**FRAME, kind: broken})


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("broken", [np.ones((2, 3, 4)), np.ones((0, 4)), 3.0])
def test_a_prediction_that_is_no_map_is_an_error(name: str, broken: Any) -> None:
    with pytest.raises(ValueError, match="two dimensions"):
        score(name, broken)


def test_negatives_of_another_size_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"expected the shape of fixations \(36, 64\), got \(4, 4\)"):
        auc_shuffled(SALIENCY, FRAME["fixations"], np.ones((4, 4)))


# the official code's numbers


def tolerance(name: str, case: str, spread: float | None) -> float:
    if name == "auc_judd":  # its jitter has a spread of its own where 8-bit maps are resized
        return max(1e-3, 5 * (spread or 0))
    if name in RANDOM:
        return max(5e-3, 5 * (spread or 0))
    return 1e-3 if "resizing" in case or "real" in case else 1e-5


def check(case: str, truth: dict[str, float | None], spreads: dict[str, float | None], frame: Any) -> None:
    for name, wanted in truth.items():
        got = score(name, frame["saliency"], frame)
        if wanted is None:
            assert math.isnan(got), f"{case}: {name}"
        else:
            assert got == pytest.approx(wanted, abs=tolerance(name, case, spreads.get(name))), f"{case}: {name}"


CASES = json.loads(GOLDEN.with_suffix(".json").read_text())["cases"]


@pytest.mark.parametrize("case", CASES)
def test_golden(case: str) -> None:
    arrays = dict(np.load(GOLDEN.with_suffix(".npz")))
    arrays["centre_prior"] = np.outer(arrays.pop("centre_prior_down"), arrays.pop("centre_prior_across"))
    arrays["noise"] = arrays["noise"] / 65535
    frame = {}
    for role, name in CASES[case]["arrays"].items():
        frame[role] = arrays[name]
        if "fixations" in role:
            frame[role] = np.zeros((360, 640), dtype=bool)
            frame[role][tuple(arrays[name].T)] = True
    assert CASES[case]["scores"].keys() == METRICS.keys()
    check(case, CASES[case]["scores"], CASES[case]["spreads"], frame)


@pytest.mark.parametrize("case", ["real_prediction_kimono_40", "real_prediction_kimono_200", "noise"])
def test_golden_that_cannot_be_shipped(case: str, shared: Path) -> None:
    arrays = np.load(shared / "golden" / "metrics_golden.npz")
    scores = json.loads((shared / "golden" / "metrics_golden.json").read_text())[case]
    scores = {name.replace("sauc", "auc_shuffled"): value for name, value in scores.items()}
    index = list(arrays["cases"]).index(case)
    frame = {kind: arrays[f"{index}_{kind}"] for kind in ("saliency", "fixations", "density")}
    frame |= {"other_fixations": arrays[f"{index}_other"], "baseline": arrays["baseline"]}
    spreads = {name.removesuffix("_std"): value for name, value in scores.items() if name.endswith("_std")}
    check(case, {name: scores[name] for name in METRICS}, spreads, frame)
