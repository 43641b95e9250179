"""Copies between the host and the device of a network that do not make a GPU wait.

Frames are sent from pinned memory on a stream of their own while the previous batch is computed. Maps are received
while the next one is. On other devices than a GPU, these are ordinary copies.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class Sender:
    """Sends tensors to a device, from any thread.

    Args:
        device: the device.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def send(self, values: Tensor, prepare: Callable[[Tensor], Tensor]) -> Callable[[], Tensor]:
        """Start to copy values to the device and to prepare them there.

        Args:
            values: a tensor on the host.
            prepare: function of the tensor on the device, for example one that changes its layout.

        Returns:
            A function that returns the result for use on the current stream, without waiting for it on the host.
        """
        if self.stream is None:
            here = prepare(values.to(self.device))
            return lambda: here
        with torch.cuda.stream(self.stream):
            sent = prepare(values.pin_memory().to(self.device, non_blocking=True))
            done = self.stream.record_event()

        def arrived() -> Tensor:
            current = torch.cuda.current_stream(self.device)
            current.wait_event(done)
            sent.record_stream(current)  # its memory must not be reused before the current stream is done with it
            return sent

        return arrived


def receive(values: Tensor) -> Callable[[], Tensor]:
    """Start to copy a tensor to the host; return a function that waits for the copy and returns it."""
    if not values.is_cuda:
        here = values.cpu()
        return lambda: here
    host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    host.copy_(values, non_blocking=True)
    done = torch.cuda.current_stream(values.device).record_event()

    def arrived() -> Tensor:
        done.synchronize()
        return host

    return arrived


def ahead(items: Iterable[T], count: int) -> Iterator[T]:
    """Yield items in order, each after up to `count` later ones have been taken from the iterable."""
    taken: deque[T] = deque()
    for item in items:
        taken.append(item)
        if len(taken) > count:
            yield taken.popleft()
    yield from taken
