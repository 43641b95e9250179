"""Tests of bootstrap intervals: closed forms, properties and coverage."""

import numpy as np
import pytest

from distill.evaluation.statistics import bootstrap_means, bootstrap_ratio


def column(*values: float) -> np.ndarray:
    return np.array(values)[:, None]


@pytest.mark.parametrize(
    ("values", "groups", "level", "expected"),
    [
        ([2.0, 2.0, 2.0], "abc", 0.95, [2, 2]),
        # a resample is (0, 0), (0, 1), (1, 0) or (1, 1): a quarter of the means is 0 and a quarter 1
        ([0.0, 1.0], "ab", 0.95, [0, 1]),
        ([0.0, 1.0], "ab", 0.4, [0.5, 0.5]),
        # groups are weighted by their rows: one of each is the pooled mean, not 0.5
        ([*[0.0] * 9, 1.0], "aaaaaaaaab", 0.4, [0.1, 0.1]),
    ],
)
def test_few_groups_match_enumeration(
    values: list[float], groups: str, level: float, expected: list[float]
) -> None:
    assert bootstrap_means(column(*values), list(groups), level=level)[:, 0].tolist() == expected


def test_independent_rows_match_normal_approximation() -> None:
    values = np.random.default_rng(1).normal(5, 2, 400)
    low, high = bootstrap_means(values[:, None], [f"{i:03d}" for i in range(400)])[:, 0]
    error = 1.96 * values.std() / 20
    assert low == pytest.approx(values.mean() - error, abs=0.1 * error)
    assert high == pytest.approx(values.mean() + error, abs=0.1 * error)


def test_rows_of_a_group_are_drawn_together() -> None:
    """Repeating each group's row 50 times tells nothing new, however many rows there are."""
    values = np.random.default_rng(2).normal(size=12)
    names = [f"{i:02d}" for i in range(12)]
    once = bootstrap_means(values[:, None], names)
    often = bootstrap_means(np.repeat(values, 50)[:, None], list(np.repeat(names, 50)))
    assert often == pytest.approx(once)
    # taken for independent, the rows would claim to know seven times as much
    alone = bootstrap_means(np.repeat(values, 50)[:, None], [f"{i:03d}" for i in range(600)])
    assert np.diff(alone, axis=0) < 0.25 * np.diff(once, axis=0)


def test_nan_is_left_out_of_its_column_only() -> None:
    values = np.array([[1.0, 1.0], [2.0, np.nan], [3.0, 3.0], [4.0, np.nan]])
    both = bootstrap_means(values, ["a", "b", "c", "d"])
    assert both[:, 0] == pytest.approx(bootstrap_means(values[:, :1], ["a", "b", "c", "d"])[:, 0])
    assert both[:, 1].tolist() == [1, 3]
    assert np.isfinite(both).all()


@pytest.mark.parametrize("groups", [["a", "a", "a"], ["a", "b", "b"]])
def test_fewer_than_two_groups_give_nan(groups: list[str]) -> None:
    assert np.isnan(bootstrap_means(column(np.nan, 1.0, 2.0), groups)).all()


def test_interval_is_independent_of_row_order() -> None:
    rng = np.random.default_rng(3)
    values, groups = rng.normal(size=(30, 2)), np.array([f"{i % 7}" for i in range(30)])
    order = rng.permutation(30)
    assert bootstrap_means(values[order], list(groups[order])) == pytest.approx(
        bootstrap_means(values, list(groups))
    )


def test_interval_depends_on_seed() -> None:
    values = np.random.default_rng(4).normal(size=(9, 1))
    names = [str(i) for i in range(9)]
    assert (bootstrap_means(values, names) == bootstrap_means(values, names, seed=0)).all()
    assert (bootstrap_means(values, names) != bootstrap_means(values, names, seed=1)).any()


def test_interval_coverage_is_nominal() -> None:
    """Of 200 samples of 40 recordings with frames that resemble each other, about 95% hold the mean."""
    rng, held = np.random.default_rng(5), 0
    groups = [f"{i:02d}" for i in range(40) for _ in range(5)]
    for seed in range(200):
        values = np.repeat(rng.normal(size=40), 5) + 0.1 * rng.normal(size=200)
        low, high = bootstrap_means(values[:, None], groups, resamples=400, seed=seed)[:, 0]
        held += low <= 0 <= high
    assert 180 <= held <= 197


def test_ratio_of_proportional_rows_has_no_spread() -> None:
    values = np.random.default_rng(3).uniform(1, 2, 20)
    ends = bootstrap_ratio(0.25 * values, values, [f"{i:02d}" for i in range(20)])
    assert ends == pytest.approx((0.25, 0.25), abs=1e-12)


def test_ratio_of_two_groups_matches_enumeration() -> None:
    # a resample is (a, a), (a, b), (b, a) or (b, b), with ratios 1/2, (1 + 4) / (2 + 2) twice, and 4/2
    one, other = np.array([1.0, 4.0]), np.array([2.0, 2.0])
    assert bootstrap_ratio(one, other, ["a", "b"]) == (0.5, 2)
    assert bootstrap_ratio(one, other, ["a", "b"], level=0.4) == (1.25, 1.25)


def test_ratio_to_one_equals_interval_of_the_mean() -> None:
    values = np.random.default_rng(4).normal(size=30)
    names = [f"{i % 11:02d}" for i in range(30)]
    ends = bootstrap_ratio(values, np.ones(30), names)
    assert ends == pytest.approx(bootstrap_means(values[:, None], names)[:, 0])


@pytest.mark.parametrize(("denominators", "groups"), [([1.0, -1.0], "ab"), ([1.0, 0.0], "ab"), ([1.0, 1.0], "aa")])
def test_ratio_without_bounded_interval_is_nan(denominators: list[float], groups: str) -> None:
    assert np.isnan(bootstrap_ratio(np.ones(2), np.array(denominators), list(groups))).all()
