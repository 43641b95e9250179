"""Devices, precisions and threads."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from distill.errors import UserError
from distill.models.protocols import Network

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Precision -> dtype of autocast; None computes in float32."""


def resolve_device(name: str) -> torch.device:
    """Return the device of a name: `auto` (a GPU if there is one, else the CPU), `cpu`, `cuda`, `cuda:1`, `mps`.

    Raises:
        UserError: if this machine has no such device.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    available = (
        ["cpu"] + [f"cuda:{i}" for i in range(count)] + (["mps"] if torch.backends.mps.is_available() else [])
    )
    if name == "auto":
        return torch.device("cuda" if count else available[-1])
    if name in (*available, "cuda" if count else "cpu"):
        return torch.device(name)
    raise UserError(f"device '{name}': not available on this machine; expected auto, {', '.join(available)}")


def check_precision(name: str) -> None:
    """Raise UserError if a precision is not in PRECISIONS."""
    if name not in PRECISIONS:
        raise UserError(f"precision: expected one of {', '.join(PRECISIONS)}, got {name!r}")


def device_of(network: Network) -> torch.device:
    """Return the device of a network's weights; the CPU if it has none."""
    for tensor in (*network.parameters(), *network.buffers()):
        return tensor.device
    return torch.device("cpu")


@contextmanager
def torch_threads(count: int | None) -> Iterator[int]:
    """Set the number of PyTorch's CPU threads within a block, and yield it; None leaves it unchanged."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield count or before
    finally:
        torch.set_num_threads(before)
