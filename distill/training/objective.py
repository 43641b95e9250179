"""From a batch and a model's maps to named loss terms, with or without a teacher.

Training a teacher, training a student and distilling differ in this file's terms and in nothing else. A term is
the mean of one loss over the maps that can be judged by it: ground-truth terms over the labelled maps of the step,
teacher terms over all (or all pairs of neighbouring maps, or all clips). The means are taken over the whole step
(all accumulated batches of all processes), so that how labelled clips fall on batches does not matter: `counts`
tells beforehand how many maps a batch has for each term, and the loop adds those up before the first gradient.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from distill import saliency
from distill.training.heads import hint
from distill.training.losses import LOSSES, TARGETS
from distill.training.schedule import ramp

Batch = Mapping[str, Any]


@dataclass(frozen=True)
class Term:
    """One weighted loss: `loss(log_saliency, target, **options) -> (B, N)`, against the truth or the teacher.

    Attributes:
        loss: a name in LOSSES, or `hint`.
        against: `truth` or `teacher`.
        weight: what it is multiplied with in the sum, at the start of the run.
        options: keyword arguments of the loss.
        student: the model's features that a side map is read from, or that a hint projects; none compares the
            model's own map.
        teacher: the teacher's features that a hint compares with.
        final_weight: where the weight goes to; none keeps it.
        over: the part of the run in which it goes there, from 0 (the first step) to 1 (the last).
        shape: how it goes there: `linear` or `cosine`.
    """

    loss: str
    against: str = "truth"
    weight: float = 1.0
    options: Mapping[str, float] = field(default_factory=dict)
    student: str = ""
    teacher: str = ""
    final_weight: float | None = None
    over: tuple[float, float] = (0.0, 1.0)
    shape: str = "linear"

    @property
    def name(self) -> str:
        """The term's name in logs: `teacher/kldiv@4`, `teacher/kldiv:stage2`, `teacher/hint:stage4-encoder`.

        A temperature other than 1 stands behind an @, the head whose output is compared behind a colon.
        """
        suffix = "".join(f"@{value:g}" for value in self.options.values())
        return f"{self.against}/{self.loss}{suffix}" + (f":{self.head}" if self.head else "")

    @property
    def head(self) -> str:
        """The name of the head whose output is compared, such as `stage4-encoder`; none for the model's own map."""
        return f"{self.student}-{self.teacher}" if self.teacher else self.student

    def weight_at(self, progress: float) -> float:
        """Return the weight at a moment of the run, from 0 (its first step) to 1 (its last)."""
        if self.final_weight is None:
            return self.weight
        return ramp(progress, first=self.weight, last=self.final_weight, over=self.over, shape=self.shape)

    def __call__(self, predicted: Tensor, target: Tensor) -> Tensor:
        """Return the loss of every map, (B, N), of every pair of neighbouring maps, (B, N - 1), or clip, (B, 1)."""
        function: Callable[..., Tensor] = hint if self.loss == "hint" else LOSSES[self.loss]
        return function(predicted, target, **self.options)


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

    def weights(self, progress: float) -> dict[str, float]:
        """Return the weights at a moment of the run of those terms whose weights change over it."""
        return {term.name: term.weight_at(progress) for term in self.terms if term.final_weight is not None}

    def __call__(
        self,
        batch: Batch,
        log_saliency: Tensor,
        teacher_maps: Tensor | None,
        counts: Tensor,
        *,
        heads: Mapping[str, Tensor] | None = None,
        features: Mapping[str, Tensor] | None = None,
        progress: float = 0.0,
    ) -> Outcome:
        """Compare a model's maps with what is known about the batch.

        Args:
            batch: as `distill.data` makes them; density and fixations (B, N, h, w), labelled (B, N).
            log_saliency: the model's maps, (B, N, h, w).
            teacher_maps: the teacher's log-saliency, (B, N, any size), or None.
            counts: `counts` added up over the step; a term without any map in the step is zero.
            heads: what the heads made of the model's features, by the terms' `head`.
            features: the teacher's features, by the terms' `teacher`.
            progress: how far the run is, from 0 in its first step to 1 in its last.

        Raises:
            ValueError: if what the teacher says carries a gradient, as the model's own maps would.
        """
        maps, heads, features = log_saliency.float(), heads or {}, features or {}
        labelled = batch["labelled"]
        labelled_count, all_count = counts.clamp_min(1)
        teacher_density = None
        if teacher_maps is not None:
            if any(each.requires_grad for each in (teacher_maps, *features.values())):
                raise ValueError("the teacher's maps carry a gradient; are teacher and student swapped?")
            size = (maps.shape[-2], maps.shape[-1])
            teacher_density = saliency.resize_density(saliency.density(teacher_maps), size)  # (B, N, h, w)

        loss = maps.new_zeros(())
        shares, of_teacher = {}, {}
        for term in self.terms:
            predicted = heads[term.head] if term.head else maps
            if term.against == "teacher":
                assert teacher_density is not None, "a teacher term needs the teacher's maps"
                values = term(predicted, features[term.teacher] if term.teacher else teacher_density)
                share = values.sum() / (all_count * values.shape[1] / maps.shape[1])  # of all maps, pairs or clips
            else:
                truth = batch[TARGETS[term.loss]][labelled]  # (M, h, w), the labelled maps alone
                share = term(predicted[labelled][None], truth[None]).sum() / labelled_count
                if teacher_density is not None and not term.head:
                    log_teacher = teacher_density[labelled].clamp_min(torch.finfo(maps.dtype).tiny).log()
                    of_teacher[term.name] = term(log_teacher[None], truth[None]).sum() / labelled_count
            loss = loss + term.weight_at(progress) * share
            shares[term.name] = share.detach()
        if teacher_density is not None:
            of_teacher["entropy"] = torch.special.entr(teacher_density).sum() / all_count
        return Outcome(loss, shares, of_teacher)
