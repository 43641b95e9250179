"""torch.compile: every network is one graph, which serves all batch sizes."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounter

from distill.models.registry import create_model


def clip(network: Any, size: int) -> tuple[Tensor]:
    return (torch.zeros(size, 3, network.num_frames, *network.size, dtype=torch.uint8),)


def with_state(network: Any, size: int, frames: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    return frames, network.initial_state(size)


CASES: dict[str, tuple[str, str, bool, Callable[[Any, int], tuple[Any, ...]]]] = {
    "salfom": ("teacher/salfom:micro", "forward", False, clip),
    "salfom in training": ("teacher/salfom:micro", "forward", True, clip),
    "thtdnet": ("student/thtdnet:micro", "forward", False, clip),
    "thtdnet in training": ("student/thtdnet:micro", "forward", True, clip),
    "stream, clip": ("student/stream:micro", "forward", False, clip),
    "stream, step": (
        "student/stream:micro",
        "step",
        False,
        lambda network, size: with_state(network, size, clip(network, size)[0][:, :, 0].contiguous()),
    ),
    "stream, steps": (
        "student/stream:micro",
        "steps",
        False,
        lambda network, size: with_state(network, size, *clip(network, size)),
    ),
}


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_network_compiles_once_without_graph_breaks_for_all_batch_sizes(case: str) -> None:
    name, method, training, inputs = CASES[case]
    # at least 16 images per batch: below, PyTorch guards on the number, because convolutions on a CPU depend on it
    arguments = {"num_frames": 8} if "stream" in name else {}
    network = create_model(name, **arguments).network.train(training)
    counter = CompileCounter()
    compiled = torch.compile(getattr(network, method), backend=counter, fullgraph=True)
    try:
        for size in (2, 3, 4):
            values = inputs(network, size)
            for value in (values[0], *(values[1].values() if len(values) > 1 else ())):
                torch._dynamo.mark_dynamic(value, 0)  # an error if the graph serves one size only
            compiled(*values)
    finally:
        torch.compiler.reset()
    assert counter.frame_count == 1
