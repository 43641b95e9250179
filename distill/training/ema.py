"""Exponential moving average (EMA) of a model's weights, which is validated and saved in place of the weights.

The decay of step s is min(decay, (1 + s) / (10 + s)), so that the random initial weights are soon forgotten. It
depends only on the step, and the average is checkpointed in full precision, so that a resumed run is bit-identical.

Source: Polyak and Juditsky, "Acceleration of Stochastic Approximation by Averaging", 1992; the warm-up is that of
TensorFlow's ExponentialMovingAverage.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from distill.models.protocols import Network


class Ema:
    """Average of a model's state; entries that are not floating-point are copied.

    Args:
        model: the unwrapped model, on its device.
        decay: decay per step after the warm-up, in (0, 1).
    """

    def __init__(self, model: Network, decay: float) -> None:
        self.model, self.decay = model, decay
        self.average: dict[str, Tensor] = {key: value.clone() for key, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Update the average with the weights after step `step`, counted from 1."""
        keep = min(self.decay, (1 + step) / (10 + step))
        for key, value in self.model.state_dict().items():
            if value.is_floating_point():
                self.average[key].lerp_(value, 1 - keep)
            else:
                self.average[key].copy_(value)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Swap the average into the model for the duration of a block."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for key, value in self.model.state_dict().items():
            swapped = value.clone()
            value.copy_(self.average[key])
            self.average[key].copy_(swapped)
