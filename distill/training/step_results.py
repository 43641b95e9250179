"""Results of a training step, copied from the device to the host at once.

This is the only time in a step that Python waits for the device, before the optimiser, which must not see a NaN.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor

from distill.models.device import moved
from distill.training import sharding
from distill.training.objective import StepLoss


@dataclass(frozen=True)
class StepResults:
    """Results of a step on the host."""

    losses: list[float]
    """Loss of each batch of this process."""
    norm: float
    """Norm of the gradient."""
    counts: Tensor
    """`Objective.counts` of the step."""
    loss: float
    """Loss of the step, over all processes."""
    terms: dict[str, float]
    """Unweighted mean of each term, over all processes."""
    teacher: dict[str, float]
    """Means of the teachers' own terms, over all processes."""
    stopped: bool
    """Whether any process is to stop after the step."""


def read_results(
    accelerator: Accelerator, losses: Sequence[StepLoss], norm: Tensor, counts: Tensor, *, stopped: bool
) -> StepResults:
    """Return the results of a step; every process calls this.

    Args:
        accelerator: the accelerator of the run.
        losses: results of this process's batches.
        norm: norm of the gradient, which may be sharded.
        counts: `Objective.counts`, summed over batches and processes.
        stopped: whether this process is to stop.
    """
    terms, teacher = tuple(losses[0].terms), tuple(losses[0].teacher)
    own = torch.stack([each.loss.detach() for each in losses])
    shares = [torch.stack([each.terms[name] for each in losses]).sum() for name in terms]
    shares += [torch.stack([each.teacher[name] for each in losses]).sum() for name in teacher]
    stop = moved(torch.tensor(float(stopped)), own.device)
    sums = accelerator.reduce(torch.stack([stop, own.sum(), *shares]))
    on_host = torch.cat([own, sharding.unsharded(norm)[None], counts, sums]).cpu()
    values, size, total_counts, totals = on_host.split([len(own), 1, len(counts), len(sums)])
    stops, loss, *means = totals.tolist()
    return StepResults(
        losses=values.tolist(),
        norm=size.item(),
        counts=total_counts,
        loss=loss,
        terms=dict(zip(terms, means[: len(terms)], strict=True)),
        teacher=dict(zip(teacher, means[len(terms) :], strict=True)),
        stopped=stops > 0,
    )
