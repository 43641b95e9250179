"""Learning rate and loss weights as pure functions of the step, so that resuming needs no scheduler state."""

import math


def learning_rate_factor(step: int, *, steps: int, name: str, warmup_steps: int = 0, final: float = 0.0) -> float:
    """Return the factor in [0, 1] by which the configured learning rate is multiplied at a step.

    Args:
        step: step, from 0.
        steps: length of the run.
        name: `constant` or `cosine`.
        warmup_steps: steps over which the factor rises linearly from 1 / warmup_steps to 1.
        final: factor of a cosine after the last step.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if name == "constant":
        return 1.0
    assert name == "cosine", name
    progress = (step - warmup_steps) / max(1, steps - warmup_steps)
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def ramp(progress: float, *, first: float, last: float, over: tuple[float, float], shape: str) -> float:
    """Return a loss weight that changes from `first` to `last`.

    Args:
        progress: position in the run, from 0 (first step) to 1 (last step).
        first: weight before the ramp.
        last: weight after the ramp.
        over: start and end of the ramp, in units of `progress`; equal values make a jump.
        shape: `linear`, or `cosine`, which is slow at both ends.
    """
    begin, end = over
    if progress >= end:
        return last
    share = (progress - begin) / (end - begin) if progress > begin else 0.0
    if shape == "cosine":
        share = 0.5 * (1 - math.cos(math.pi * share))
    return first + (last - first) * share
