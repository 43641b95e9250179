from itertools import pairwise

import pytest

from distill.training.schedule import learning_rate_factor, ramp


def test_cosine_falls_from_one_to_final() -> None:
    factors = [learning_rate_factor(step, steps=100, name="cosine", final=0.1) for step in range(101)]
    assert factors[0] == 1
    assert factors[50] == pytest.approx(0.55)
    assert factors[100] == pytest.approx(0.1)
    assert all(after <= before for before, after in pairwise(factors))


def test_warmup_rises_linearly_from_above_zero() -> None:
    factors = [learning_rate_factor(step, steps=10, name="constant", warmup_steps=4) for step in range(6)]
    assert factors == [0.25, 0.5, 0.75, 1, 1, 1]


def test_run_shorter_than_its_warmup() -> None:
    assert learning_rate_factor(1, steps=2, name="cosine", warmup_steps=4) == 0.5


@pytest.mark.parametrize("shape", ["linear", "cosine"])
def test_ramp_is_constant_outside_and_monotonic_inside(shape: str) -> None:
    weights = [ramp(i / 100, first=2, last=0.5, over=(0.2, 0.6), shape=shape) for i in range(101)]
    assert set(weights[:21]) == {2}
    assert set(weights[60:]) == {0.5}
    assert weights[40] == pytest.approx(1.25)
    assert all(after < before for before, after in pairwise(weights[20:61]))
    slow_start = weights[20] - weights[22] < weights[39] - weights[41] - 1e-6
    assert slow_start == (shape == "cosine")


def test_ramp_of_zero_length_is_a_jump() -> None:
    assert [ramp(at, first=0, last=1, over=(0.5, 0.5), shape="linear") for at in (0, 0.49, 0.5, 1)] == [0, 0, 1, 1]
