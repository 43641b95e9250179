"""The learning rate as a pure function of the step, so that resuming needs no state of its own."""

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
