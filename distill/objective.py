"""From a batch and a model's maps to named loss terms, with or without a teacher.

Training a teacher, training a student and distilling differ in this file's terms and in nothing else. A term is
the mean of one loss over the maps that can be judged by it: ground-truth terms over the labelled maps of the step,
teacher terms over all. The means are taken over the whole step (all accumulated batches of all processes), so that
how labelled clips fall on batches does not matter: `counts` tells beforehand how many maps a batch has for each
term, and the loop adds those up before the first gradient.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from distill import saliency
from distill.losses import LOSSES, TARGETS

Batch = Mapping[str, Any]


@dataclass(frozen=True)
class Term:
    """One weighted loss: `loss(log_saliency, target, **options) -> (B, N)`, against the truth or the teacher."""

    loss: str
    against: str = "truth"
    weight: float = 1.0
    options: Mapping[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The term's name in logs, for example `teacher/kldiv`; a temperature other than 1 is part of it."""
        suffix = "".join(f"@{value:g}" for value in self.options.values())
        return f"{self.against}/{self.loss}{suffix}"

    def __call__(self, log_saliency: Tensor, target: Tensor) -> Tensor:
        """Return the loss of every map, (B, N)."""
        function: Callable[..., Tensor] = LOSSES[self.loss]
        return function(log_saliency, target, **self.options)


@dataclass(frozen=True)
class Outcome:
    """What one batch adds to a step: the loss to differentiate, and the shares of the logged means."""

    loss: Tensor
    """Weighted sum of the terms, a scalar."""
    terms: dict[str, Tensor]
    """Unweighted share of each term's mean."""
    teacher: dict[str, Tensor]
    """The teacher's own shares: its terms against the truth and its entropy in nats, so that a bad one shows."""


class Objective:
    """A sum of terms."""

    def __init__(self, terms: Sequence[Term]) -> None:
        self.terms = list(terms)
        self.has_teacher = any(term.against == "teacher" for term in terms)

    def counts(self, batch: Batch) -> Tensor:
        """Count the maps of a batch: (2,) float32, the labelled ones and all."""
        labelled = batch["labelled"]
        return torch.tensor([labelled.sum(), labelled.numel()], dtype=torch.float32, device=labelled.device)

    def __call__(self, batch: Batch, log_saliency: Tensor, teacher_maps: Tensor | None, counts: Tensor) -> Outcome:
        """Compare a model's maps with what is known about the batch.

        Args:
            batch: as `distill.data` makes them; density and fixations (B, N, h, w), labelled (B, N).
            log_saliency: the model's maps, (B, N, h, w).
            teacher_maps: the teacher's log-saliency, (B, N, any size), or None.
            counts: `counts` added up over the step; a term without any map in the step is zero.
        """
        maps = log_saliency.float()
        labelled = batch["labelled"]
        labelled_count, all_count = counts.clamp_min(1)
        teacher_density = None
        if teacher_maps is not None:
            size = (maps.shape[-2], maps.shape[-1])
            teacher_density = saliency.resize_density(saliency.density(teacher_maps), size)  # (B, N, h, w)

        loss = maps.new_zeros(())
        shares, of_teacher = {}, {}
        for term in self.terms:
            if term.against == "teacher":
                assert teacher_density is not None, "a teacher term needs the teacher's maps"
                share = term(maps, teacher_density).sum() / all_count
            else:
                truth = batch[TARGETS[term.loss]][labelled]  # (M, h, w), the labelled maps alone
                share = term(maps[labelled][None], truth[None]).sum() / labelled_count
                if teacher_density is not None:
                    log_teacher = teacher_density[labelled].clamp_min(torch.finfo(maps.dtype).tiny).log()
                    of_teacher[term.name] = term(log_teacher[None], truth[None]).sum() / labelled_count
            loss = loss + term.weight * share
            shares[term.name] = share.detach()
        if teacher_density is not None:
            of_teacher["entropy"] = torch.special.entr(teacher_density).sum() / all_count
        return Outcome(loss, shares, of_teacher)
