from itertools import pairwise

import pytest

from distill.schedule import learning_rate_factor


def test_cosine_starts_at_one_and_ends_at_final() -> None:
    factors = [learning_rate_factor(step, steps=100, name="cosine", final=0.1) for step in range(101)]
    assert factors[0] == 1
    assert factors[50] == pytest.approx(0.55)
    assert factors[100] == pytest.approx(0.1)
    assert all(after <= before for before, after in pairwise(factors))


def test_warm_up_rises_linearly_to_one_and_never_starts_at_zero() -> None:
    factors = [learning_rate_factor(step, steps=10, name="constant", warmup_steps=4) for step in range(6)]
    assert factors == [0.25, 0.5, 0.75, 1, 1, 1]


def test_a_run_shorter_than_its_warm_up_is_all_warm_up() -> None:
    assert learning_rate_factor(1, steps=2, name="cosine", warmup_steps=4) == 0.5
