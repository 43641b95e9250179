"""The devices that a test of GPU code runs on: the CPU in the default suite, CUDA with `-m gpu`."""

from typing import Any

import pytest
import torch

NEEDS_CUDA: list[Any] = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device"),
]

CUDA = pytest.param("cuda", marks=NEEDS_CUDA)

DEVICES = ["cpu", CUDA]
"""Parameters of a test whose body runs on both devices."""


def cases(cpu: tuple[str, ...], cuda: tuple[str, ...]) -> list[Any]:
    """Return parameters (device, value) for the values that each device supports."""
    return [("cpu", each) for each in cpu] + [pytest.param("cuda", each, marks=NEEDS_CUDA) for each in cuda]
