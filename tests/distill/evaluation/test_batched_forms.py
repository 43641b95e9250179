"""Tests that batched scores equal those of the single-frame functions."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from helpers.metric_cases import (
    ALL,
    FRAME,
    GOLDEN_CASES,
    SALIENCY,
    SIZE,
    binary,
    gaussian,
    golden_frame,
    one_by_one,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.evaluation import batched_forms
from distill.evaluation.imresize import imresize
from distill.evaluation.metrics import METRICS, Metric, score_frames

Truth = dict[str, list[np.ndarray]]


def assert_same(saliency: Sequence[Any], truth: Truth, seeds: Sequence[int], metrics: Sequence[str] = ALL) -> None:
    """Compare with the functions in METRICS; NaN equals NaN."""
    together = score_frames(metrics, saliency, truth, seeds=seeds)
    assert list(together) == list(metrics)
    for name in metrics:
        frames = [{kind: truth[kind][i] for kind in METRICS[name].truth} for i in range(len(saliency))]
        alone = [one_by_one(name, *case, seed=seed) for *case, seed in zip(saliency, frames, seeds, strict=True)]
        tolerance = 1e-12 if name.startswith("auc") else 1e-9
        np.testing.assert_allclose(together[name], alone, rtol=0, atol=tolerance, err_msg=name)


def make_truth(rng: np.random.Generator, size: tuple[int, int], frames: int, fixations: int) -> Truth:
    def points(count: int) -> np.ndarray:
        counts = np.zeros(size, dtype=np.float32)
        np.add.at(counts.ravel(), rng.integers(counts.size, size=count), 1)
        return counts

    density = [gaussian(size, *rng.uniform(0, size), 3).astype(np.float32) for _ in range(frames)]
    return {
        "fixations": [points(fixations) for _ in range(frames)],
        "other_fixations": [points(3 * fixations) > 0 for _ in range(frames)],
        "density": [each / each.sum() for each in density],
        "baseline": [rng.random((5, 7)) for _ in range(frames)],
    }


@pytest.mark.parametrize("case", GOLDEN_CASES)
def test_score_frames_matches_golden_cases(case: str) -> None:
    frame = golden_frame(case)
    assert_same([frame.pop("saliency")], {kind: [values] for kind, values in frame.items()}, [0])


@pytest.mark.parametrize("prediction", [(45, 80), (20, 31), (64, 100)], ids=["same", "smaller", "larger"])
@pytest.mark.parametrize("kind", ["float64", "float32", "float16", "uint8", "few values", "signed", "with a floor"])
def test_score_frames_matches_functions(kind: str, prediction: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    maps = [imresize(rng.random((6, 9)), prediction) for _ in range(4)]
    made = {
        "few values": lambda values: np.round(3 * values),
        "signed": lambda values: values - 0.5,
        "with a floor": lambda values: values + 1e5,
        "uint8": lambda values: (255 * values.clip(0, 1)).astype(np.uint8),
    }
    maps = [made[kind](values) if kind in made else values.astype(kind) for values in maps]
    assert_same(maps, make_truth(rng, (45, 80), 4, 60), [3, 1, 4, 1])


@pytest.mark.parametrize("metrics", [[name] for name in ALL] + [ALL[::-1], ("cc", "kldiv", "auc_judd")], ids=str)
def test_score_frames_is_independent_of_other_metrics(metrics: Sequence[str]) -> None:
    rng = np.random.default_rng(2)
    truth = make_truth(rng, SIZE, 3, 10)
    needed = {kind: truth[kind] for name in metrics for kind in METRICS[name].truth}
    assert_same([rng.random((9, 16)) for _ in range(3)], needed, range(3), metrics)


def test_degenerate_frames_do_not_affect_neighbours() -> None:
    rng = np.random.default_rng(3)
    truth = make_truth(rng, SIZE, 8, 10)
    broken = SALIENCY.copy()
    broken[0, 0] = np.nan
    infinite = np.full((9, 16), np.inf)
    maps = [SALIENCY, broken, SALIENCY[:9, :16], np.zeros(SIZE), infinite, np.ones((4, 4)), SALIENCY, -SALIENCY]
    truth["fixations"][6] = np.zeros(SIZE)
    truth["density"][6] = np.zeros(SIZE)
    truth["fixations"][7] = binary(SIZE, [(3, 4)])
    assert_same(maps, truth, range(8))


@pytest.mark.parametrize("depth", [1e-3, 1.0, 1e6])
def test_constant_map_with_a_pit_keeps_precision(depth: float) -> None:
    # the worst for a variation that is a difference of sums: every pixel but one is far above the floor
    pit = np.ones((360, 640))
    pit[3, 4] -= depth
    density = np.ones((360, 640))
    density[20, 30] = 0
    truth = {"fixations": [binary((360, 640), [(3, 4)])], "density": [density]}
    assert_same([pit], truth, [0], ("nss", "cc", "sim", "kldiv"))


@pytest.mark.parametrize("floor", [0.0, 1e-30, 1e-12, 1e-3])
def test_density_with_a_floor(floor: float) -> None:
    density = FRAME["density"] * (FRAME["density"] > 1e-9) + floor
    assert_same([SALIENCY], {**{kind: [values] for kind, values in FRAME.items()}, "density": [density]}, [0])


@pytest.mark.parametrize("bins", [1, 2, 16])
def test_pixels_in_the_same_bin_are_ordered(monkeypatch: pytest.MonkeyPatch, bins: int) -> None:
    rng = np.random.default_rng(5)
    monkeypatch.setattr(batched_forms, "BINS", bins)
    maps = [rng.random(SIZE), np.round(20 * rng.random(SIZE))]
    assert_same(maps, make_truth(rng, SIZE, 2, 40), [0, 0], ["auc_judd"])


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    size=st.tuples(st.integers(1, 12), st.integers(1, 12)).filter(lambda size: size[0] * size[1] > 1),
    prediction=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    values=st.integers(1, 300),
    fixations=st.integers(0, 30),
    exponent=st.integers(-20, 20),
)
def test_score_frames_matches_functions_on_random_frames(
    seed: int, size: tuple[int, int], prediction: tuple[int, int], values: int, fixations: int, exponent: int
) -> None:
    rng = np.random.default_rng(seed)
    maps = [10.0**exponent * rng.integers(0, values, prediction) for _ in range(2)]
    assert_same(maps, make_truth(rng, size, 2, fixations), [seed, seed + 1])


def test_score_frames_is_thread_safe_and_pure() -> None:
    rng = np.random.default_rng(6)
    truth = make_truth(rng, (90, 160), 6, 50)
    maps = [rng.random((45, 80)) if i % 2 else rng.random((90, 160)) for i in range(6)]
    everything = [*maps, *(values for kind in truth.values() for values in kind)]
    copies = [values.copy() for values in everything]
    alone = score_frames(ALL, maps, truth, seeds=range(6))
    with ThreadPoolExecutor(4) as pool:
        tasks = [pool.submit(score_frames, ALL, maps, truth, seeds=range(6)) for _ in range(8)]
        for task in tasks:
            for name, values in task.result().items():
                np.testing.assert_array_equal(values, alone[name])
    assert all((values == copy).all() for values, copy in zip(everything, copies, strict=True))


def test_new_metric_without_batched_form_is_scored_by_its_function(monkeypatch: pytest.MonkeyPatch) -> None:
    metric = Metric(
        name="mse", title="MSE", function=lambda s, d: float(((s - d) ** 2).mean()), truth=("density",), help=""
    )
    monkeypatch.setitem(METRICS, "mse", metric)
    scores = score_frames(["mse", "cc"], [SALIENCY], {"density": [FRAME["density"]]}, seeds=[0])
    assert scores["mse"][0] == ((SALIENCY - FRAME["density"]) ** 2).mean()


def test_score_frames_without_metrics_or_frames() -> None:
    assert score_frames([], [SALIENCY], {}, seeds=[0]) == {}
    assert score_frames(["cc"], [], {"density": []}, seeds=[])["cc"].shape == (0,)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metrics": ["psnr"]}, "expected one or more of auc_judd, .*; got 'psnr'"),
        ({"metrics": ["auc_shuffled"]}, "auc_shuffled needs other_fixations, got fixations, density"),
        ({"seeds": [0]}, "expected 2 of everything, .*; got {'seeds': 1}"),
        (
            {"truth": {"fixations": [FRAME["fixations"]] * 3, "density": [FRAME["density"]] * 2}},
            "expected 2 of everything, .*; got {'fixations': 3}",
        ),
        (
            {"truth": {"fixations": [FRAME["fixations"]] * 2, "density": [np.ones((3, 4))] * 2}},
            r"expected one shape, got \[\(3, 4\), \(36, 64\)\]",
        ),
    ],
)
def test_score_frames_invalid_arguments_raise(changes: dict[str, Any], message: str) -> None:
    truth = {kind: [FRAME[kind]] * 2 for kind in ("fixations", "density")}
    arguments = {"metrics": ["nss", "cc"], "saliency": [SALIENCY] * 2, "truth": truth, "seeds": [0, 1], **changes}
    with pytest.raises(ValueError, match=message):
        score_frames(**arguments)
