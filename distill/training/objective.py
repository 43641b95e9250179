"""Weighted sum of named loss terms, against the ground truth or against a teacher.

Training a teacher, training a student and distilling differ only in these terms. A term is the mean of one loss
over the maps of the step that have what it needs: ground-truth terms average over the labelled maps, a teacher's
terms over the maps with a target of this teacher (or the pairs of neighbouring maps that both have one, or the
clips whose maps all have one). A team's maps are weighted, without a change of the denominator: where its gates are
low, a map counts less. Means are taken over the whole step (all accumulated batches of all processes), so
that the distribution of the clips over batches does not matter: `Objective.counts` counts a batch's maps, and the
loop sums the counts before the first backward pass.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from distill import saliency
from distill.models.device import moved
from distill.training.losses import LOSSES
from distill.training.teachers import TeacherOutput, present_maps
from distill.training.terms import ALL, TEACHER, TRUTH, LossSection, Unit

ClipBatch = Mapping[str, Any]
"""A collated batch of clips (`distill/data/loader.py`)."""

COUNTS = ("maps", "pairs", "clips", "labelled")
"""What is counted for each teacher: maps with a target, pairs and clips of them, and the labelled ones of them."""


@dataclass(frozen=True)
class StepLoss:
    """One batch's contribution to a step: the loss to differentiate and its shares of the logged means."""

    loss: Tensor
    """Weighted sum of the terms, a scalar."""
    terms: dict[str, Tensor]
    """Unweighted share of each term's mean."""
    teacher: dict[str, Tensor]
    """Ground-truth terms of the teachers' maps, and their entropy in nats, which expose a poor teacher. The name of
    one of several teachers precedes its keys, as in `base/truth/cc`. For a team, also the mean weight of each
    teacher, as in `base/weight`."""


class Objective:
    """A weighted sum of terms, each against the ground truth or against one teacher (`RunConfig.terms`)."""

    def __init__(self, terms: Sequence[LossSection]) -> None:
        self.terms = list(terms)
        self.teachers = list(dict.fromkeys(term.against for term in self.terms if term.against != TRUTH))

    def counts(self, batch: ClipBatch) -> Tensor:
        """Return what a batch adds to the denominators of the means, float32 (2 + 4 per teacher,).

        These are the numbers of labelled maps and of all maps, then `COUNTS` of each teacher, on the device of the
        batch's flags: the loop keeps these on the host.
        """
        labelled = batch["labelled"]
        values = [labelled.sum(), torch.ones_like(labelled).sum()]
        for name in self.teachers:
            present = present_maps(batch, name)
            values += [_mask(present, unit).sum() for unit in ("maps", "pairs", "clips")]
            values.append((present & labelled).sum())
        return torch.stack(values).float()

    def record(self, counts: Tensor) -> dict[str, int]:
        """Return for the log how many maps a step has, with ground truth and with a target of each teacher.

        Pairs and clips are added as `base/pairs` for the teachers that have such a term.
        """
        labelled, every, *rest = (round(value) for value in counts.tolist())
        record = {ALL: every, TRUTH: labelled}
        for number, name in enumerate(self.teachers):
            values = dict(zip(COUNTS, rest[number * len(COUNTS) :], strict=False))
            record[name] = values["maps"]
            units = dict.fromkeys(term.unit for term in self.terms if term.against == name)
            record |= {f"{name}/{unit}": values[unit] for unit in units if unit != "maps"}
        return record

    def weights(self, progress: float) -> dict[str, float]:
        """Return the current weights of the terms whose weight changes over the run."""
        return {term.label: term.weight_at(progress) for term in self.terms if term.final_weight is not None}

    def __call__(
        self,
        batch: ClipBatch,
        log_saliency: Tensor,
        teachers: Mapping[str, TeacherOutput],
        counts: Tensor,
        *,
        heads: Mapping[str, Tensor] | None = None,
        progress: float = 0.0,
    ) -> StepLoss:
        """Return the loss of one batch and its share of each term.

        Args:
            batch: a collated batch with density and fixations (B, N, h, w) and labelled (B, N).
            log_saliency: the model's maps, (B, N, h, w).
            teachers: output of each teacher by name, with log-saliency (B, N, any size).
            counts: `counts` summed over the step; a term without any map in the step is zero.
            heads: outputs of the heads, by the terms' `head`.
            progress: position in the run, from 0 (first step) to 1 (last step).

        Raises:
            ValueError: a teacher's output requires a gradient, as the model's own maps would.
        """
        maps, heads = log_saliency.float(), heads or {}
        labelled = batch["labelled"]
        chosen = _places(labelled, maps.device)
        labelled_count, _, *rest = counts.clamp_min(1)
        loss = maps.new_zeros(())
        shares, teacher_shares = {}, {}
        densities = {name: _density(teachers[name], maps) for name in self.teachers}
        count_of = {
            name: dict(zip(COUNTS, rest[number * len(COUNTS) :], strict=False))
            for number, name in enumerate(self.teachers)
        }
        for term in self.terms:
            predicted = heads[term.head] if term.head else maps
            if term.against == TRUTH:
                truth = batch[LOSSES[term.name].target][chosen]  # (M, h, w), the labelled maps only
                share = term(predicted[chosen][None], truth[None]).sum() / labelled_count
                if not term.head:
                    for name, density in densities.items():
                        both = _places(labelled & present_maps(batch, name), maps.device)
                        log_teacher = density[both].clamp_min(torch.finfo(maps.dtype).tiny).log()
                        truth = batch[LOSSES[term.name].target][both]
                        values = term(log_teacher[None], truth[None])
                        teacher_shares[_prefix(name) + term.label] = values.sum() / count_of[name]["labelled"]
            else:
                share = self._share(term, predicted, densities[term.against], teachers[term.against])
                share = share / count_of[term.against][term.unit]
            loss = loss + term.weight_at(progress) * share
            shares[term.label] = share.detach()
        for name, density in densities.items():
            present = moved(teachers[name].present, maps.device)
            entropy = torch.special.entr(density) * present[..., None, None]
            teacher_shares[f"{_prefix(name)}entropy"] = entropy.sum() / count_of[name]["maps"]
            for member, share in teachers[name].shares.items():
                teacher_shares[f"{_prefix(name)}{member}/weight"] = share.sum() / count_of[name]["maps"]
        return StepLoss(loss, shares, teacher_shares)

    def _share(self, term: LossSection, predicted: Tensor, density: Tensor, output: TeacherOutput) -> Tensor:
        """Return the sum of a term over the maps, pairs or clips of a batch that have a target of the teacher."""
        if term.teacher and term.teacher not in output.features:  # the teacher had no clip of this batch
            return predicted.float().sum() * 0
        values = term(predicted, output.features[term.teacher] if term.teacher else density)
        values = values * moved(_mask(output.present, term.unit), values.device)
        if output.weights is not None:
            values = values * _weights(output.weights, term.unit).to(values.device)
        return values.sum()


def _places(flags: Tensor, device: torch.device) -> tuple[Tensor, ...]:
    """Return the indices of the set flags (B, N), on a device.

    For flags on the host nothing waits for the device, as indexing with flags does.
    """
    return tuple(moved(index, device) for index in flags.nonzero(as_tuple=True))


def _density(output: TeacherOutput, maps: Tensor) -> Tensor:
    """Return a teacher's densities at the size of the model's maps, (B, N, h, w)."""
    if any(each.requires_grad for each in (output.maps, *output.features.values())):
        raise ValueError("the teacher's output requires a gradient; are teacher and student swapped?")
    return saliency.resize_density(saliency.density(output.maps), (maps.shape[-2], maps.shape[-1]))


def _mask(present: Tensor, unit: Unit) -> Tensor:
    """Return which maps (B, N), pairs of neighbouring maps (B, N - 1) or clips (B, 1) have all their targets."""
    if unit == "pairs":
        return present[:, 1:] & present[:, :-1]
    return present.all(dim=1, keepdim=True) if unit == "clips" else present


def _weights(weights: Tensor, unit: Unit) -> Tensor:
    """Return the weights of maps (B, N), or the lowest of pairs of neighbours (B, N - 1) or of clips (B, 1)."""
    if unit == "pairs":
        return torch.minimum(weights[:, 1:], weights[:, :-1])
    return weights.amin(dim=1, keepdim=True) if unit == "clips" else weights


def _prefix(name: str) -> str:
    """Return what precedes the keys of a teacher in the log; nothing for a teacher without a name."""
    return "" if name == TEACHER else f"{name}/"
