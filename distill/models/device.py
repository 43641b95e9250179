"""Devices, precisions, threads, and running out of a device's memory."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from distill.errors import RunError, UserError
from distill.models.protocols import Network

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Precision -> dtype of autocast; None computes in float32."""

OUT_OF_MEMORY = ("CUDA error: out of memory", "_STATUS_ALLOC_FAILED", "DefaultCPUAllocator: can't allocate memory")
"""Texts of the RuntimeErrors that mean out of memory and are no torch.OutOfMemoryError."""


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


def moved(values: Tensor, device: torch.device) -> Tensor:
    """Return a small tensor on a device, such as indices; a copy from the host to a GPU waits for nothing."""
    return values.to(device, non_blocking=device.type == "cuda")


@contextmanager
def torch_threads(count: int | None) -> Iterator[int]:
    """Set the number of PyTorch's CPU threads within a block, and yield it; None leaves it unchanged."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield count or before
    finally:
        torch.set_num_threads(before)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that a device's memory was not sufficient."""
    known = isinstance(error, RuntimeError) and any(text in str(error) for text in OUT_OF_MEMORY)
    return known or isinstance(error, torch.OutOfMemoryError)


@contextmanager
def memory_needed(what: str, device: torch.device, remedy: str) -> Iterator[None]:
    """Turn running out of memory within a block into one sentence.

    The tensors of the functions that failed are released, so that a caller can try again with a smaller batch.

    Args:
        what: the setting that determines the memory, with its value, e.g. "training.batch_size 8".
        device: device of the work.
        remedy: what to do, e.g. "use a smaller batch size".

    Raises:
        RunError: the block ran out of memory.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        traceback.clear_frames(error.__traceback__)
        raise RunError(f"{what}: out of memory on {_with_memory(device)}; {remedy}") from None


def _with_memory(device: torch.device) -> str:
    """Return a device's name for messages, with its memory if it is a GPU."""
    if device.type != "cuda":
        return f"the {device.type.upper()}"
    found = torch.cuda.get_device_properties(device)
    return f"{device} ({found.name}, {found.total_memory / 2**30:.0f} GiB)"
