"""Weighted sum of named loss terms, against the ground truth or against a teacher.

Training a teacher, training a student and distilling differ only in these terms. A term is the mean of one loss:
ground-truth terms average over the labelled maps of the step, teacher terms over all maps (or all pairs of
neighbouring maps, or all clips). Means are taken over the whole step (all accumulated batches of all processes),
so that the distribution of labelled clips over batches does not matter: `Objective.counts` counts a batch's maps,
and the loop sums the counts before the first backward pass.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from distill import saliency
from distill.training.losses import LOSSES
from distill.training.terms import LossSection

ClipBatch = Mapping[str, Any]
"""A collated batch of clips (`distill/data/loader.py`)."""


@dataclass(frozen=True)
class StepLoss:
    """One batch's contribution to a step: the loss to differentiate and its shares of the logged means."""

    loss: Tensor
    """Weighted sum of the terms, a scalar."""
    terms: dict[str, Tensor]
    """Unweighted share of each term's mean."""
    teacher: dict[str, Tensor]
    """Ground-truth terms of the teacher's maps, and their entropy in nats, which expose a poor teacher."""


class Objective:
    """A weighted sum of terms."""

    def __init__(self, terms: Sequence[LossSection]) -> None:
        self.terms = list(terms)

    def counts(self, batch: ClipBatch) -> Tensor:
        """Return the number of labelled maps and the number of all maps of a batch, (2,) float32."""
        labelled = batch["labelled"]
        return torch.tensor([labelled.sum(), labelled.numel()], dtype=torch.float32, device=labelled.device)

    def weights(self, progress: float) -> dict[str, float]:
        """Return the current weights of the terms whose weight changes over the run."""
        return {term.label: term.weight_at(progress) for term in self.terms if term.final_weight is not None}

    def __call__(
        self,
        batch: ClipBatch,
        log_saliency: Tensor,
        teacher_maps: Tensor | None,
        counts: Tensor,
        *,
        heads: Mapping[str, Tensor] | None = None,
        features: Mapping[str, Tensor] | None = None,
        progress: float = 0.0,
    ) -> StepLoss:
        """Return the loss of one batch and its share of each term.

        Args:
            batch: a collated batch with density and fixations (B, N, h, w) and labelled (B, N).
            log_saliency: the model's maps, (B, N, h, w).
            teacher_maps: the teacher's log-saliency, (B, N, any size), or None.
            counts: `counts` summed over the step; a term without any map in the step is zero.
            heads: outputs of the heads, by the terms' `head`.
            features: the teacher's features, by the terms' `teacher`.
            progress: position in the run, from 0 (first step) to 1 (last step).

        Raises:
            ValueError: the teacher's output requires a gradient, as the model's own maps would.
        """
        maps, heads, features = log_saliency.float(), heads or {}, features or {}
        labelled = batch["labelled"]
        labelled_count, all_count = counts.clamp_min(1)
        teacher_density = None
        if teacher_maps is not None:
            if any(each.requires_grad for each in (teacher_maps, *features.values())):
                raise ValueError("the teacher's output requires a gradient; are teacher and student swapped?")
            size = (maps.shape[-2], maps.shape[-1])
            teacher_density = saliency.resize_density(saliency.density(teacher_maps), size)  # (B, N, h, w)

        loss = maps.new_zeros(())
        shares, teacher_shares = {}, {}
        for term in self.terms:
            predicted = heads[term.head] if term.head else maps
            if term.against == "teacher":
                assert teacher_density is not None, "a teacher term needs the teacher's maps"
                values = term(predicted, features[term.teacher] if term.teacher else teacher_density)
                share = values.sum() / (all_count * values.shape[1] / maps.shape[1])  # of all maps, pairs or clips
            else:
                truth = batch[LOSSES[term.name].target][labelled]  # (M, h, w), the labelled maps only
                share = term(predicted[labelled][None], truth[None]).sum() / labelled_count
                if teacher_density is not None and not term.head:
                    log_teacher = teacher_density[labelled].clamp_min(torch.finfo(maps.dtype).tiny).log()
                    teacher_shares[term.label] = term(log_teacher[None], truth[None]).sum() / labelled_count
            loss = loss + term.weight_at(progress) * share
            shares[term.label] = share.detach()
        if teacher_density is not None:
            teacher_shares["entropy"] = torch.special.entr(teacher_density).sum() / all_count
        return StepLoss(loss, shares, teacher_shares)
