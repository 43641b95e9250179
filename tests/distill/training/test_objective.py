import math
from typing import Any

import pytest
import torch
from torch import Tensor

from distill.saliency import density
from distill.training.losses import LOSSES, hint
from distill.training.objective import Objective, StepLoss
from distill.training.teachers import TeacherOutput
from distill.training.terms import LossSection

B, N, h, w = 3, 2, 6, 8


def term(name: str, against: str = "truth", **more: Any) -> LossSection:
    return LossSection.model_validate({"name": name, "against": against, **more})


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


def taught(
    log_saliency: Tensor, features: dict[str, Tensor] | None = None, present: Tensor | None = None
) -> TeacherOutput:
    """A teacher's output, with a target for every map by default."""
    everywhere = torch.ones(log_saliency.shape[:2], dtype=torch.bool)
    return TeacherOutput(log_saliency, features or {}, everywhere if present is None else present)


def teacher(log_saliency: Tensor, features: dict[str, Tensor] | None = None) -> dict[str, TeacherOutput]:
    """The output of a run's only teacher."""
    return {"teacher": taught(log_saliency, features)}


def test_perfect_map_has_kl_zero_and_cc_minus_one() -> None:
    batch = make_batch()
    objective = Objective([term("kldiv"), term("cc", weight=2.0)])
    result = objective(batch, batch["density"].log(), {}, objective.counts(batch))
    assert result.terms["truth/kldiv"].item() == pytest.approx(0, abs=1e-6)
    assert result.terms["truth/cc"].item() == pytest.approx(-1, abs=1e-5)
    assert result.loss.item() == pytest.approx(-2, abs=1e-5)


def test_unlabelled_maps_do_not_change_truth_terms() -> None:
    labelled = [[True, True], [False, False], [True, False]]
    batch = make_batch(labelled=labelled)
    objective = Objective([term("kldiv"), term("nss")])
    counts = objective.counts(batch)
    assert counts.tolist() == [3, 6]
    prediction = maps(1)
    one = objective(batch, prediction, {}, counts)
    prediction[~batch["labelled"]] = 50 * torch.rand_like(prediction[~batch["labelled"]])
    other = objective(batch, prediction, {}, counts)
    assert one.loss.item() == other.loss.item()


def test_batch_without_labels_gives_zero_loss_and_gradient() -> None:
    batch = make_batch(labelled=[[False] * N] * B)
    objective = Objective([term("kldiv"), term("cc"), term("sim"), term("nss")])
    prediction = maps(1).requires_grad_()
    result = objective(batch, prediction, {}, objective.counts(batch))
    result.loss.backward()
    assert result.loss.item() == 0
    assert prediction.grad is not None
    assert prediction.grad.abs().max() == 0


def test_swapping_teacher_and_student_changes_the_loss() -> None:
    batch, student, other = make_batch(), maps(1), 2 * maps(2)
    objective = Objective([term("kldiv", against="teacher")])
    counts = objective.counts(batch)
    right = objective(batch, student, teacher(other), counts).loss
    p, q = density(other), density(student)
    by_hand = (p * (p.log() - q.log())).sum((-2, -1)).mean()
    assert right.item() == pytest.approx(by_hand.item(), rel=1e-5)
    assert objective(batch, other, teacher(student), counts).loss.item() != pytest.approx(right.item(), rel=1e-2)


def test_teacher_score_and_entropy_are_reported() -> None:
    batch = make_batch()
    objective = Objective([term("cc"), term("kldiv", against="teacher", temperature=2)])
    result = objective(batch, maps(1), teacher(batch["density"].log()), objective.counts(batch))
    assert set(result.terms) == {"truth/cc", "teacher/kldiv@2"}
    assert result.teacher["truth/cc"].item() == pytest.approx(-1, abs=1e-5)
    uniform = objective(batch, maps(1), teacher(torch.zeros(B, N, h, w)), objective.counts(batch))
    assert uniform.teacher["entropy"].item() == pytest.approx(math.log(h * w), rel=1e-5)


def test_teacher_maps_of_another_size_are_resized() -> None:
    batch, objective = make_batch(), Objective([term("kldiv", against="teacher")])
    flat = objective(
        batch, torch.zeros(B, N, h, w), teacher(torch.zeros(B, N, 2 * h, 3 * w)), objective.counts(batch)
    )
    assert flat.loss.item() == pytest.approx(0, abs=1e-6)


def test_teacher_with_other_target_frames_raises() -> None:
    batch, objective = make_batch(), Objective([term("kldiv", against="teacher")])
    with pytest.raises(ValueError, match=r"one shape \(B, N, h, w\), got \(3, 2, 6, 8\) and \(3, 1, 6, 8\)"):
        objective(batch, maps(1), teacher(maps(2)[:, :1]), objective.counts(batch))


def test_teacher_output_with_gradient_raises() -> None:
    """A symmetric loss would not show that the student's maps were passed in its place."""
    batch, objective = make_batch(), Objective([term("cc", against="teacher")])
    student, other = maps(1).requires_grad_(), maps(2)
    with pytest.raises(ValueError, match="are teacher and student swapped"):
        objective(batch, other, teacher(student), objective.counts(batch))
    with pytest.raises(ValueError, match="are teacher and student swapped"):
        objective(batch, student, teacher(other, {"encoder": student}), objective.counts(batch))


# ---------------------------------------------------------------- terms over pairs, clips and heads

HEADS = {"stage2": maps(3), "stage4-encoder": torch.randn(B, 5, 2, 3, 4)}
FEATURES = {"encoder": torch.randn(B, 5, 4, 6, 8)}
EVERY_TERM = [
    term("kldiv"),
    term("nss"),
    term("kldiv", "teacher", temperature=4),
    term("reverse_kldiv", "teacher"),
    term("cc", "teacher"),
    term("log_mse", "teacher"),
    term("temporal", "teacher"),
    term("kldiv", "teacher", student="stage2"),
    term("nss", student="stage2"),
    term("hint", "teacher", student="stage4", teacher="encoder"),
]


def test_term_labels() -> None:
    assert [each.label for each in EVERY_TERM] == [
        "truth/kldiv",
        "truth/nss",
        "teacher/kldiv@4",
        "teacher/reverse_kldiv",
        "teacher/cc",
        "teacher/log_mse",
        "teacher/temporal",
        "teacher/kldiv:stage2",
        "truth/nss:stage2",
        "teacher/hint:stage4-encoder",
    ]


def test_term_is_the_mean_of_its_loss_over_maps_pairs_or_clips() -> None:
    labelled = [[True, True], [False, False], [True, False]]
    batch, objective = make_batch(labelled=labelled), Objective(EVERY_TERM)
    student, other = maps(1), maps(2)
    found = objective(batch, student, teacher(other, FEATURES), objective.counts(batch), heads=HEADS).terms
    target, side = density(other), HEADS["stage2"]
    where = batch["labelled"]
    wanted = {
        "teacher/reverse_kldiv": LOSSES["reverse_kldiv"](student, target),
        "teacher/log_mse": LOSSES["log_mse"](student, target),
        "teacher/temporal": LOSSES["temporal"](student, target),
        "teacher/kldiv:stage2": LOSSES["kldiv"](side, target),
        "truth/nss:stage2": LOSSES["nss"](side, batch["fixations"])[where],
        "teacher/hint:stage4-encoder": hint(HEADS["stage4-encoder"], FEATURES["encoder"]),
    }
    assert [values.numel() for values in wanted.values()] == [6, 6, 3, 6, 3, 3]
    for name, values in wanted.items():
        assert found[name].item() == pytest.approx(values.mean().item(), rel=1e-5)


def test_terms_sum_over_the_batches_of_a_step() -> None:
    whole = make_batch(labelled=[[True, True], [False, False], [True, False]])
    objective, student, other = Objective(EVERY_TERM), maps(1), maps(2)
    counts = objective.counts(whole)

    def part(first: int, last: int) -> StepLoss:
        rows = slice(first, last)
        return objective(
            {key: value[rows] for key, value in whole.items()},
            student[rows],
            teacher(other[rows], {key: value[rows] for key, value in FEATURES.items()}),
            counts,
            heads={key: value[rows] for key, value in HEADS.items()},
        )

    rows = [{key: value[i : i + 1] for key, value in whole.items()} for i in range(B)]
    assert torch.equal(sum(objective.counts(row) for row in rows), counts)
    at_once, apart = part(0, B), [part(0, 1), part(1, B)]
    assert sum(each.loss for each in apart).item() == pytest.approx(at_once.loss.item(), rel=1e-5)
    for name, value in at_once.terms.items():
        assert sum(each.terms[name] for each in apart).item() == pytest.approx(value.item(), rel=1e-5)


def test_loss_is_the_weighted_sum_along_the_ramps() -> None:
    terms = [
        term("kldiv", weight=2.0),
        term("cc", "teacher", weight=1.0, final_weight=0.0, ramp=(0.5, 1.0)),
        term("hint", "teacher", weight=0, student="stage4", teacher="encoder", final_weight=3.0, shape="cosine"),
    ]
    batch, objective = make_batch(), Objective(terms)
    counts = objective.counts(batch)
    for progress, weights in ((0.0, (2, 1, 0)), (0.5, (2, 1, 1.5)), (0.75, (2, 0.5, 2.5607)), (1.0, (2, 0, 3))):
        result = objective(batch, maps(1), teacher(maps(2), FEATURES), counts, heads=HEADS, progress=progress)
        wanted = sum(weight * value for weight, value in zip(weights, result.terms.values(), strict=True))
        assert result.loss.item() == pytest.approx(wanted.item(), rel=1e-4)
        assert objective.weights(progress) == pytest.approx(
            {"teacher/cc": weights[1], "teacher/hint:stage4-encoder": weights[2]}, rel=1e-4
        )
    assert Objective([term("kldiv")]).weights(0.5) == {}


def test_zero_weight_leaves_the_gradient_bit_identical() -> None:
    batch, counts = make_batch(), None
    gradients = []
    against_teacher = [
        term(name, "teacher", weight=0) for name in ("kldiv", "reverse_kldiv", "cc", "log_mse", "temporal")
    ]
    for terms in ([term("kldiv")], [term("kldiv"), *against_teacher]):
        objective = Objective(terms)
        counts = objective.counts(batch)
        prediction = maps(1).requires_grad_()
        objective(batch, prediction, teacher(maps(2)), counts).loss.backward()
        gradients.append(prediction.grad)
    assert torch.equal(*gradients)


# ---------------------------------------------------------------- without waiting for the device


def test_objective_reads_no_value_of_the_device() -> None:
    """Tensors on the device `meta` have no values, so that reading one is an error; the flags are on the host."""
    batch = make_batch(labelled=[[True, True], [False, False], [True, False]])
    objective = Objective(EVERY_TERM)
    counts = objective.counts(batch)
    flags = batch["labelled"]
    there = {key: value if value is flags else value.to("meta") for key, value in batch.items()}
    output = TeacherOutput(
        maps(2).to("meta"),
        {name: value.to("meta") for name, value in FEATURES.items()},
        torch.ones(B, N, dtype=bool),
    )
    heads = {name: value.to("meta") for name, value in HEADS.items()}
    student = maps(1).to("meta").requires_grad_()
    result = objective(there, student, {"teacher": output}, counts.to("meta"), heads=heads)
    result.loss.backward()
    assert result.loss.device.type == "meta"
    assert len(result.terms) == len(EVERY_TERM)
