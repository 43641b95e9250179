"""CUDA graphs: the kernels of a repeated call are recorded once and then launched together.

At batch size 1 a GPU computes many kernels faster than Python launches them; a graph removes that limit.
"""

import logging
from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor

log = logging.getLogger(__name__)

Function = Callable[..., tuple[Tensor, ...]]
"""A function from tensors to tensors that depends on nothing else that changes."""

WARM_UP = 3
"""Calls with inputs of the same shapes that run as usual before one is recorded; libraries set themselves up in
them."""


def graphed(function: Function, device: torch.device) -> Function:
    """Return a function that replays CUDA graphs of its calls at batch size 1; off a GPU, the function itself."""
    return GraphedCalls(function) if device.type == "cuda" else function


class GraphedCalls:
    """A function whose calls at batch size 1 are recorded, once per set of shapes, and replayed.

    Args:
        function: the function. The tensors that it closes over, such as weights, must stay where they are.
    """

    def __init__(self, function: Function) -> None:
        self.function = function
        self.calls: Counter[tuple[object, ...]] = Counter()
        self.recordings: dict[tuple[object, ...], Function] = {}

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the function's outputs for the inputs (B, ...), which are not changed."""
        if len(inputs[0]) != 1:
            return self.function(*inputs)
        shapes = tuple((value.shape, value.dtype) for value in inputs)
        if shapes not in self.recordings:
            self.calls[shapes] += 1
            if self.calls[shapes] <= WARM_UP:
                return self.function(*inputs)
            self.recordings[shapes] = self._record(inputs)
        return self.recordings[shapes](*inputs)

    def _record(self, inputs: tuple[Tensor, ...]) -> Function:
        """Return a replay of the function, or the function itself if it cannot be recorded."""
        try:
            return record(self.function, inputs)
        except RuntimeError as error:
            log.debug("not recorded as a CUDA graph: %s", error)
            return self.function


def record(function: Function, inputs: tuple[Tensor, ...]) -> Function:
    """Return a function that replays the kernels of a call on other inputs of the same shapes.

    Raises:
        RuntimeError: the call does what a graph cannot contain, such as waiting for the GPU.
    """
    device = inputs[0].device
    own = tuple(value.clone() for value in inputs)
    graph = torch.cuda.CUDAGraph()
    # Other threads decode and copy frames meanwhile. Casts of weights that autocast keeps lie outside of the graph.
    precision = torch.autocast(
        "cuda",
        dtype=torch.get_autocast_dtype("cuda"),
        enabled=torch.is_autocast_enabled("cuda"),
        cache_enabled=False,
    )
    with (
        torch.cuda.device(device),
        torch.cuda.stream(torch.cuda.current_stream(device)),  # restored even if recording fails
        torch.cuda.graph(graph, stream=torch.cuda.Stream(device), capture_error_mode="thread_local"),
        precision,
    ):
        outputs = function(*own)

    def replay(*values: Tensor) -> tuple[Tensor, ...]:
        for ours, value in zip(own, values, strict=True):
            ours.copy_(value)
        graph.replay()
        return tuple(output.clone() for output in outputs)  # the next replay overwrites them

    return replay
