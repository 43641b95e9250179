"""Whole runs with a teacher: what it leaves alone, its heads, and which models can teach."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.places import REPOSITORY
from helpers.runs import config, launch, losses
from safetensors.torch import load_file

from distill.errors import UserError
from distill.models.registry import create_model
from distill.models.weight_files import save_model
from distill.training.checkpoint import newest_checkpoint
from distill.training.config import RunConfig, save_config
from distill.training.setup import build_store
from distill.training.step_log import read_log
from distill.training.train import train

STUDENT = {"name": "student/thtdnet", "variant": "micro", "arguments": {"drop_path": 0.2}}
TRUTH = [{"name": "kldiv"}, {"name": "cc"}]
FEW = {
    "train": [{"dataset": "synthetic", "videos": ["blob0"], "frames": [1, 10], "clips_per_video": 4}],
    "workers": 0,
}
TRAINING = {"steps": 3, "batch_size": 2, "clip_norm": 1.0}

AGAINST_TEACHER = [
    {"name": "kldiv", "against": "teacher", "temperature": 4},
    {"name": "reverse_kldiv", "against": "teacher"},
    {"name": "cc", "against": "teacher"},
    {"name": "log_mse", "against": "teacher"},
]
WITH_HEADS = [
    {"name": "kldiv", "against": "teacher", "final_weight": 0.5, "ramp": [0, 0.5]},
    {"name": "kldiv", "against": "teacher", "student": "stage2"},
    {"name": "cc", "student": "stage3"},
    {"name": "hint", "against": "teacher", "student": "stage4", "teacher": "encoder"},
    {
        "name": "hint",
        "against": "teacher",
        "student": "decoder",
        "teacher": "a3",
        "final_weight": 0,
        "shape": "cosine",
    },
]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A teacher with distinct maps: its last layers are stronger than at initialisation."""
    path = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    torch.manual_seed(1)
    model: Any = create_model("teacher/salfom", variant="micro")
    with torch.no_grad():
        for weight in model.network.decoder.fusion.parameters():
            weight.mul_(3)
    save_model(model, path)
    return str(path)


def student(out: Path, online: str | None = None, **changes: Any) -> RunConfig:
    section = {} if online is None else {"teacher": {"source": "online", "model": online}}
    return config(out, **{"model": STUDENT, "losses": TRUTH, "training": TRAINING, **section, **changes})


def checkpoint(run: Path, name: str = "model") -> dict[str, torch.Tensor]:
    folder = newest_checkpoint(run)
    assert folder is not None
    return load_file(folder / f"{name}.safetensors")


# ---------------------------------------------------------------- a teacher without weight


@pytest.mark.parametrize("source", ["online", "cached"])
def test_teacher_terms_with_weight_zero_change_nothing(source: str, teacher: str, tmp_path: Path) -> None:
    silent = student(
        tmp_path / "silent",
        losses=[*TRUTH, *({**loss, "weight": 0} for loss in AGAINST_TEACHER)],
        data=FEW,
        teacher={
            "source": source,
            "model": teacher,
            "store": str(tmp_path / "store"),
            "views": ["plain", "flipped"],
        },
    )
    if source == "cached":
        build_store(silent)
    train(silent)
    train(student(tmp_path / "alone", data=FEW))
    ours, theirs = checkpoint(tmp_path / "alone"), checkpoint(tmp_path / "silent")
    assert all(torch.equal(ours[key], theirs[key]) for key in ours | theirs)
    ours, theirs = (checkpoint(tmp_path / name, "state") for name in ("alone", "silent"))
    assert all(torch.equal(ours[key], theirs[key]) for key in ours | theirs)
    assert [line[1] for line in losses(tmp_path / "alone")] == [line[1] for line in losses(tmp_path / "silent")]
    [*_, line] = [line for line in read_log(tmp_path / "silent" / "log.jsonl") if line["kind"] == "train"]
    assert all(line["terms"][name] != 0 for name in ("teacher/kldiv@4", "teacher/reverse_kldiv", "teacher/log_mse"))


# ---------------------------------------------------------------- heads


@pytest.fixture(scope="module")
def straight(teacher: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(student(tmp_path_factory.mktemp("heads") / "run", teacher, losses=[*TRUTH, *WITH_HEADS]))


def test_checkpoint_excludes_teacher_and_weight_file_excludes_heads(
    straight: Path,
) -> None:
    fresh = create_model(STUDENT["name"], variant="micro").network
    assert (
        checkpoint(straight).keys() == load_file(straight / "best.safetensors").keys() == fresh.state_dict().keys()
    )
    heads = checkpoint(straight, "heads")
    assert {key.split(".")[0] for key in heads} == {"stage2", "stage3", "stage4-encoder", "decoder-a3"}
    moments = {key.split(".")[0] for key in checkpoint(straight, "state")}
    trained = sum(weight.requires_grad for weight in fresh.parameters())
    assert len(moments) == trained + len(heads)  # the student's weights and the heads', each with its moments


def test_heads_learn_and_resume_bit_identically(straight: Path, teacher: str, tmp_path: Path) -> None:
    run = student(tmp_path / "run", teacher, losses=[*TRUTH, *WITH_HEADS])
    with pytest.raises(KeyboardInterrupt):
        train(run, stop=lambda step, batch: step == 1)
    halfway = checkpoint(tmp_path / "run", "heads")
    train(run.model_copy(update={"resume": "auto"}))
    assert losses(straight) == losses(tmp_path / "run")
    for name in ("model", "heads", "state"):
        ours, theirs = checkpoint(straight, name), checkpoint(tmp_path / "run", name)
        assert all(torch.equal(ours[key], theirs[key]) for key in ours | theirs)
    assert not any(torch.equal(halfway[key], value) for key, value in checkpoint(straight, "heads").items())


def test_log_has_every_term_and_changing_weight(straight: Path) -> None:
    lines = [line for line in read_log(straight / "log.jsonl") if line["kind"] == "train"]
    constant = {"truth/kldiv", "truth/cc", "teacher/kldiv:stage2", "truth/cc:stage3", "teacher/hint:stage4-encoder"}
    assert set(lines[0]["terms"]) == {*constant, "teacher/kldiv", "teacher/hint:decoder-a3"}
    assert set(lines[0]["teacher"]) == {"truth/kldiv", "truth/cc", "entropy"}
    changing = [(line["weights"]["teacher/kldiv"], line["weights"]["teacher/hint:decoder-a3"]) for line in lines]
    assert [pytest.approx(pair) for pair in changing] == [(1, 1), (0.5, 0.5), (0.5, 0)]
    for line in lines:
        wanted = sum(value * line["weights"].get(name, 1) for name, value in line["terms"].items())
        assert line["loss"] == pytest.approx(wanted, rel=1e-5)


def test_heads_work_with_every_option(teacher: str, tmp_path: Path) -> None:
    training = {**TRAINING, "ema": 0.9, "freeze": 1, "recompute": True, "precision": "bf16"}
    optimizer = {"name": "adamw", "lr": 1e-3, "layer_decay": 0.5}
    losses_ = [*TRUTH, *WITH_HEADS]
    run = student(tmp_path / "run", teacher, losses=losses_, training=training, optimizer=optimizer)
    cropped = {**run.data.model_dump(), "crop": {"area": [0.3, 0.6]}}
    run = run.model_validate({**run.model_dump(), "data": cropped})
    assert len(losses(train(run))) == 3


def test_impossible_head_is_refused_before_anything_is_written(teacher: str, tmp_path: Path) -> None:
    hint = {"name": "hint", "against": "teacher", "student": "stage4", "teacher": "encoder"}
    for loss, sentence in (
        (
            {**hint, "student": "stage9"},
            r"teacher/hint:stage9-encoder: the model has no features 'stage9'",
        ),
        (
            {**hint, "teacher": "decoder"},
            r"the teacher has no features 'decoder'; expected one of encoder, a1",
        ),
        (
            {"name": "temporal", "against": "teacher"},
            r"temporal needs at least 2 maps per clip, and student/thtdnet predicts 1",
        ),
    ):
        with pytest.raises(UserError, match=sentence):
            train(student(tmp_path / "run", teacher, losses=[*TRUTH, loss]))
        assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------- teachers


def test_exact_store_equals_its_online_teacher(teacher: str, tmp_path: Path) -> None:
    lines = []
    for source in ("online", "cached"):
        section = {"source": source, "model": teacher, "store": str(tmp_path / "store"), "codec": "exact"}
        run = student(
            tmp_path / source,
            teacher=section | {"views": ["plain", "flipped"]},
            losses=[*AGAINST_TEACHER, {"name": "kldiv", "against": "teacher", "student": "stage2"}],
            data=FEW,
        )
        if source == "cached":
            build_store(run)
        lines.append(losses(train(run)))
    for online, cached in zip(*lines, strict=True):
        assert cached[2] == pytest.approx(online[2], rel=1e-3)  # each term
        assert cached[4] == pytest.approx(online[4], rel=1e-2)  # the gradient's norm


@pytest.mark.parametrize("source", ["online", "cached"])
def test_trained_student_can_teach(source: str, straight: Path, tmp_path: Path) -> None:
    """As a teaching assistant; a run folder is a model reference."""
    teacher = {"source": source, "model": str(straight), "store": str(tmp_path / "store"), "codec": "exact"}
    run = student(tmp_path / "run", teacher=teacher, losses=[{"name": "kldiv", "against": "teacher"}], data=FEW)
    if source == "cached":
        build_store(run)
    [line, *_] = losses(train(run))
    assert line[2]["teacher/kldiv"] > 0


def test_hints_from_a_teacher_of_the_same_architecture(straight: Path, tmp_path: Path) -> None:
    hints = [{"name": "hint", "against": "teacher", "student": f"stage{i}", "teacher": f"stage{i}"} for i in (1, 4)]
    [line, *_] = losses(train(student(tmp_path / "run", str(straight), losses=[*TRUTH, *hints])))
    assert line[2]["teacher/hint:stage4-stage4"] > 0


def test_student_with_several_maps_learns_temporal_from_a_store(teacher: str, tmp_path: Path) -> None:
    """The maps of a teacher with one map per clip serve it once they are stored."""
    run = student(
        tmp_path / "run",
        model={"name": "student/stream", "variant": "micro"},
        teacher={"source": "cached", "model": teacher, "store": str(tmp_path / "store")},
        losses=[{"name": "kldiv", "against": "teacher"}, {"name": "temporal", "against": "teacher"}],
        data=FEW,
        training={"steps": 2, "batch_size": 2},
    )
    build_store(run)
    assert all(0 < line[2]["teacher/temporal"] < 2 for line in losses(train(run)))
    online = {"source": "online", "model": teacher}
    with pytest.raises(UserError, match=r"predict different frames: the teacher \[0\]"):
        train(run.model_validate({**run.model_dump(), "teacher": online, "out": str(tmp_path / "online")}))


def test_labelled_and_unlabelled_clips_mix_in_a_batch(teacher: str, sample: Path, tmp_path: Path) -> None:
    sources = [
        {"dataset": "dhf1k", "root": str(sample), "videos": [name], "frames": [1, 40]} for name in ("002", "068")
    ]
    run = student(
        tmp_path / "run",
        teacher,
        losses=[*TRUTH, *WITH_HEADS],
        data={"train": sources, "workers": 0},
        training={"steps": 1, "batch_size": 2},
    )
    [line] = losses(train(run))
    assert all(value != 0 for value in line[2].values())


# ---------------------------------------------------------------- several processes


@pytest.mark.parametrize("shard", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_two_processes_train_heads_like_one(shard: bool, teacher: str, tmp_path: Path) -> None:
    model = {**STUDENT, "arguments": {}}  # no stochastic depth: processes draw different random numbers
    for name, size in (("one", 4), ("two", 2)):
        training = {**TRAINING, "accumulate": 2, "batch_size": size, "shard": shard and name == "two"}
        run = student(
            tmp_path / name,
            teacher,
            model=model,
            losses=[*TRUTH, *WITH_HEADS],
            training=training,
            optimizer={"name": "sgd", "lr": 1e-2},  # Adam would amplify the rounding of tiny gradients
        )
        save_config(run, tmp_path / f"{name}.yaml")
        if name == "one":
            train(run)
        else:
            launch(str(REPOSITORY / "scripts" / "distill.py"), str(tmp_path / "two.yaml"))
    for here, there in zip(losses(tmp_path / "one"), losses(tmp_path / "two"), strict=True):
        assert there[1] == pytest.approx(here[1], abs=1e-5)
        assert there[2] == pytest.approx(here[2], abs=1e-5)  # each term
        assert there[4] == pytest.approx(here[4], rel=1e-4)  # the gradient's norm
    for name in ("model", "heads"):
        first, second = checkpoint(tmp_path / "one", name), checkpoint(tmp_path / "two", name)
        assert all(torch.allclose(first[key], second[key], atol=1e-6) for key in first | second)
