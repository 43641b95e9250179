"""Tests of every CUDA branch: `pytest -m gpu tests/gpu` on a GPU; elsewhere the same bodies run on the CPU."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def full_precision() -> Iterator[None]:
    """Turn TF32 off, so that fp32 means the same on both devices; convolutions use it by default."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before
