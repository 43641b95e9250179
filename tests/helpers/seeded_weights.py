"""Weights and inputs that are a pure function of their names and shapes."""

import math
import zlib
from collections.abc import Callable

import numpy as np
import torch
from torch import nn


def seeded(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Return standard-normal numbers seeded by a name."""
    generator = np.random.default_rng(zlib.crc32(name.encode()))
    return torch.from_numpy(generator.standard_normal(shape, dtype=np.float32))


def seeded_weight(key: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Return weights seeded by the published key: norms near 1, small biases, the rest scaled by fan-in."""
    noise = seeded(key, shape)
    if len(shape) == 1:
        return 0.02 * noise + (1.0 if key.endswith("weight") else 0.0)
    gain = 0.5 if len(shape) == 2 else 1.2
    return noise * (gain / math.sqrt(math.prod(shape[1:])))


def fill(module: nn.Module, rename: Callable[[str], str]) -> None:
    """Fill every weight except the position table with its seeded value."""
    for key, value in module.state_dict().items():
        if not key.endswith("position"):
            value.copy_(seeded_weight(rename(key), tuple(value.shape)))
    module.eval()
