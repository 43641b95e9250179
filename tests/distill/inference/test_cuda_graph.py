"""When calls are recorded and replayed; recording itself needs a GPU (tests/gpu)."""

import pytest
import torch
from torch import Tensor

from distill.inference import cuda_graph
from distill.inference.cuda_graph import WARM_UP, Function, GraphedCalls, graphed


def double(value: Tensor) -> tuple[Tensor]:
    return (2 * value,)


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes of the recorded inputs; a replay returns three times its input, to be told apart."""
    shapes: list[tuple[int, ...]] = []

    def record(function: Function, inputs: tuple[Tensor, ...]) -> Function:
        shapes.append(tuple(inputs[0].shape))
        return lambda value: (3 * value,)

    monkeypatch.setattr(cuda_graph, "record", record)
    return shapes


def test_function_off_a_gpu_is_not_graphed() -> None:
    assert graphed(double, torch.device("cpu")) is double


def test_calls_at_batch_size_1_are_recorded_once_per_shape_after_the_warm_up(
    recorded: list[tuple[int, ...]],
) -> None:
    function = GraphedCalls(double)
    for shape in ((1, 2), (1, 3)):
        found = [function(torch.ones(shape))[0].max().item() for _ in range(WARM_UP + 2)]
        assert found == [2] * WARM_UP + [3, 3]
    assert recorded == [(1, 2), (1, 3)]


def test_larger_batches_are_not_recorded(recorded: list[tuple[int, ...]]) -> None:
    function = GraphedCalls(double)
    assert [function(torch.ones(2, 2))[0].max().item() for _ in range(WARM_UP + 2)] == [2] * (WARM_UP + 2)
    assert not recorded


def test_call_that_cannot_be_recorded_runs_as_usual(monkeypatch: pytest.MonkeyPatch) -> None:
    attempts = []

    def record(function: Function, inputs: tuple[Tensor, ...]) -> Function:
        attempts.append(inputs)
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(cuda_graph, "record", record)
    function = GraphedCalls(double)
    assert [function(torch.ones(1, 2))[0].max().item() for _ in range(WARM_UP + 3)] == [2] * (WARM_UP + 3)
    assert len(attempts) == 1
