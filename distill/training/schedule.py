"""Learning rate and weights of losses as pure functions of the step, so that resuming needs no state of its own."""

import math


def learning_rate_factor(step: int, *, steps: int, name: str, warmup_steps: int = 0, final: float = 0.0) -> float:
    """Return what the configured learning rate is multiplied with at a step.

    Args:
        step: 0 for the first step.
        steps: length of the run.
        name: `constant` or `cosine`.
        warmup_steps: steps over which the factor rises linearly; the first one is 1 / warmup_steps, not 0.
        final: the factor that a cosine reaches after the last step.

    Returns:
        A factor in [0, 1].
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if name == "constant":
        return 1.0
    assert name == "cosine", name
    progress = (step - warmup_steps) / max(1, steps - warmup_steps)
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def ramp(progress: float, *, first: float, last: float, over: tuple[float, float], shape: str) -> float:
    """Return a loss's weight at a moment of the run.

    Args:
        progress: 0 in the run's first step, 1 in its last one.
        first: the weight up to the ramp's beginning.
        last: the weight from the ramp's end on.
        over: beginning and end, in the units of `progress`; the same number twice is a jump.
        shape: `linear`, or `cosine`, which is slow at both ends.
    """
    begin, end = over
    if progress >= end:
        return last
    share = (progress - begin) / (end - begin) if progress > begin else 0.0
    if shape == "cosine":
        share = 0.5 * (1 - math.cos(math.pi * share))
    return first + (last - first) * share
