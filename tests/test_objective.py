import math

import pytest
import torch
from torch import Tensor

from distill.objective import Objective, Term
from distill.saliency import density

B, N, h, w = 3, 2, 6, 8


def make_batch(seed: int = 0, labelled: list[list[bool]] | None = None) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    where = torch.tensor(labelled if labelled is not None else [[True] * N] * B)
    truth = density(torch.randn(len(where), N, h, w, generator=generator))
    fixations = (torch.rand(len(where), N, h, w, generator=generator) > 0.9).float()
    fixations[..., 0, 0] = 1
    return {
        "density": truth * where[..., None, None],
        "fixations": fixations * where[..., None, None],
        "labelled": where,
    }


def maps(seed: int, batch: int = B) -> Tensor:
    return torch.randn(batch, N, h, w, generator=torch.Generator().manual_seed(100 + seed))


def test_a_perfect_map_has_kl_zero_and_cc_minus_one() -> None:
    batch = make_batch()
    objective = Objective([Term("kldiv"), Term("cc", weight=2.0)])
    outcome = objective(batch, batch["density"].log(), None, objective.counts(batch))
    assert outcome.terms["truth/kldiv"].item() == pytest.approx(0, abs=1e-6)
    assert outcome.terms["truth/cc"].item() == pytest.approx(-1, abs=1e-5)
    assert outcome.loss.item() == pytest.approx(-2, abs=1e-5)


def test_unlabelled_maps_do_not_touch_truth_terms() -> None:
    labelled = [[True, True], [False, False], [True, False]]
    batch = make_batch(labelled=labelled)
    objective = Objective([Term("kldiv"), Term("nss")])
    counts = objective.counts(batch)
    assert counts.tolist() == [3, 6]
    prediction = maps(1)
    one = objective(batch, prediction, None, counts)
    prediction[~batch["labelled"]] = 50 * torch.rand_like(prediction[~batch["labelled"]])
    other = objective(batch, prediction, None, counts)
    assert one.loss.item() == other.loss.item()


def test_a_batch_without_any_labelled_map_gives_zero_and_a_gradient() -> None:
    batch = make_batch(labelled=[[False] * N] * B)
    objective = Objective([Term("kldiv"), Term("cc"), Term("sim"), Term("nss")])
    prediction = maps(1).requires_grad_()
    outcome = objective(batch, prediction, None, objective.counts(batch))
    outcome.loss.backward()
    assert outcome.loss.item() == 0
    assert prediction.grad is not None
    assert prediction.grad.abs().max() == 0


def test_batches_of_unequal_labels_add_up_to_the_mean_over_the_step() -> None:
    whole = make_batch(labelled=[[True, True], [False, False], [True, False]])
    prediction, teacher = maps(1), maps(2)
    objective = Objective([Term("kldiv"), Term("kldiv", against="teacher", weight=0.5)])
    counts = objective.counts(whole)
    at_once = objective(whole, prediction, teacher, counts)
    parts = [{key: value[i : i + 1] for key, value in whole.items()} for i in range(B)]
    assert torch.equal(sum(objective.counts(part) for part in parts), counts)
    apart = [objective(part, prediction[i : i + 1], teacher[i : i + 1], counts) for i, part in enumerate(parts)]
    assert sum(outcome.loss for outcome in apart).item() == pytest.approx(at_once.loss.item(), rel=1e-6)


def test_swapping_teacher_and_student_is_noticed() -> None:
    batch, student, teacher = make_batch(), maps(1), 2 * maps(2)
    objective = Objective([Term("kldiv", against="teacher")])
    counts = objective.counts(batch)
    right = objective(batch, student, teacher, counts).loss
    p, q = density(teacher), density(student)
    by_hand = (p * (p.log() - q.log())).sum((-2, -1)).mean()
    assert right.item() == pytest.approx(by_hand.item(), rel=1e-5)
    assert objective(batch, teacher, student, counts).loss.item() != pytest.approx(right.item(), rel=1e-2)


def test_the_teachers_own_score_and_entropy_are_logged() -> None:
    batch = make_batch()
    objective = Objective([Term("cc"), Term("kldiv", against="teacher", options={"temperature": 2.0})])
    outcome = objective(batch, maps(1), batch["density"].log(), objective.counts(batch))
    assert set(outcome.terms) == {"truth/cc", "teacher/kldiv@2"}
    assert outcome.teacher["truth/cc"].item() == pytest.approx(-1, abs=1e-5)
    uniform = objective(batch, maps(1), torch.zeros(B, N, h, w), objective.counts(batch))
    assert uniform.teacher["entropy"].item() == pytest.approx(math.log(h * w), rel=1e-5)


def test_a_teacher_of_another_size_is_resized() -> None:
    batch, objective = make_batch(), Objective([Term("kldiv", against="teacher")])
    flat = objective(batch, torch.zeros(B, N, h, w), torch.zeros(B, N, 2 * h, 3 * w), objective.counts(batch))
    assert flat.loss.item() == pytest.approx(0, abs=1e-6)


def test_a_zero_weight_leaves_the_gradient_to_the_bit() -> None:
    batch, counts = make_batch(), None
    gradients = []
    for terms in ([Term("kldiv")], [Term("kldiv"), Term("kldiv", against="teacher", weight=0.0)]):
        objective = Objective(terms)
        counts = objective.counts(batch)
        prediction = maps(1).requires_grad_()
        objective(batch, prediction, maps(2) if objective.has_teacher else None, counts).loss.backward()
        gradients.append(prediction.grad)
    assert torch.equal(*gradients)
