"""A moving average of a model's weights: what is validated and kept, while training goes on with the weights.

After step s the average keeps min(decay, (1 + s) / (10 + s)) of itself, so that the random first weights are soon
forgotten. That share is a function of the step, and the average is stored in float32 as it is, so a resumed run
goes on to the bit.

Source: Polyak and Juditsky, "Acceleration of Stochastic Approximation by Averaging", 1992; the warm-up is that of
TensorFlow's ExponentialMovingAverage.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Ema:
    """The average of a model's state; what is not a floating-point number is copied.

    Args:
        model: the bare model, on its device.
        decay: the share of the average that a late step keeps, in (0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay = model, decay
        self.average: dict[str, Tensor] = {key: value.clone() for key, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after step `step`, counted from 1."""
        keep = min(self.decay, (1 + step) / (10 + step))
        for key, value in self.model.state_dict().items():
            if value.is_floating_point():
                self.average[key].lerp_(value, 1 - keep)
            else:
                self.average[key].copy_(value)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Put the average into the model for the length of a block, and the weights back after it."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for key, value in self.model.state_dict().items():
            weights = value.clone()
            value.copy_(self.average[key])
            self.average[key].copy_(weights)
