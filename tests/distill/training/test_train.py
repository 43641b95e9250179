import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.places import REPOSITORY
from helpers.runs import STEPS, assert_same_run, config, losses
from safetensors.torch import load_file
from torch import Tensor

from distill.errors import RunError, UserError
from distill.models.references import load_model
from distill.models.registry import create_model
from distill.models.weight_files import save_model, weights_fingerprint
from distill.training.checkpoint import newest_checkpoint
from distill.training.losses import LOSSES
from distill.training.run_folder import best_notes, keep_best
from distill.training.step_log import read_log
from distill.training.train import train


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(config(tmp_path_factory.mktemp("straight") / "run"))


def test_run_folder_is_complete(straight: Path) -> None:
    names = {path.name for path in straight.iterdir()}
    assert {"config.yaml", "log.jsonl", "best.safetensors", "checkpoints", "summary.json"} <= names
    assert {path.name for path in (straight / "checkpoints").iterdir()} == {"step-000004", f"step-{STEPS:06d}"}
    lines = read_log(straight / "log.jsonl")
    assert [line["step"] for line in lines if line["kind"] == "train"] == list(range(1, STEPS + 1))
    assert set(lines[0]["terms"]) == {"truth/kldiv", "truth/cc"}
    assert [line["step"] for line in lines if line["kind"] == "validation"] == [STEPS]
    assert json.loads((straight / "summary.json").read_text())["best"]["step"] == STEPS
    assert lines[0]["loss"] == pytest.approx(sum(lines[0]["terms"].values()), rel=1e-6)


def test_training_lowers_the_loss(tmp_path: Path) -> None:
    longer = config(tmp_path / "run", training={"steps": 30, "batch_size": 4}, schedule={"warmup_steps": 0})
    values = [line[1] for line in losses(train(longer))]
    assert sum(values[-5:]) / 5 < sum(values[:5]) / 5 - 0.1


@pytest.mark.parametrize(
    "where", [(0, 0), (2, 1), (3, 2)], ids=["first batch", "mid-accumulation", "last batch of a step"]
)
def test_resume_after_stop_is_bit_identical(straight: Path, tmp_path: Path, where: Any) -> None:
    first = config(tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        train(first, stop=lambda step, batch: (step, batch) == where)
    assert len(losses(tmp_path / "run")) == where[0] + 1
    train(first.model_copy(update={"resume": "auto"}))
    assert_same_run(straight, tmp_path / "run")


def test_ctrl_c_saves_and_prints_how_to_resume(
    straight: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def press_ctrl_c(step: int, batch: int) -> bool:
        if (step, batch) == (1, 1):
            os.kill(os.getpid(), signal.SIGINT)
        return False

    with pytest.raises(KeyboardInterrupt):
        train(config(tmp_path / "run"), stop=press_ctrl_c)
    assert "stopped after step 2 of 5; to resume, add resume=auto" in capsys.readouterr().err
    train(config(tmp_path / "run", resume="auto"))
    assert_same_run(straight, tmp_path / "run")


def test_resume_after_crash_repeats_the_steps_since_the_checkpoint(straight: Path, tmp_path: Path) -> None:
    def crash(step: int, batch: int) -> bool:
        if (step, batch) == (3, 1):
            raise OSError("power cut")
        return False

    with pytest.raises(OSError, match="power cut"):
        train(config(tmp_path / "run"), stop=crash)
    assert len(losses(tmp_path / "run")) == 3  # one more than the checkpoint
    with (tmp_path / "run" / "log.jsonl").open("a") as file:
        file.write('{"kind": "train", "st')  # an incomplete line
    train(config(tmp_path / "run", resume="auto"))
    assert_same_run(straight, tmp_path / "run")


def test_number_of_workers_changes_nothing(straight: Path, tmp_path: Path) -> None:
    run = config(tmp_path / "run")
    data = run.data.model_copy(update={"workers": 2})
    assert_same_run(straight, train(run.model_copy(update={"data": data})))


def test_resumed_distillation_is_bit_identical(tmp_path: Path) -> None:
    teacher = tmp_path / "teacher.safetensors"
    save_model(create_model("teacher/salfom", variant="micro"), teacher)
    student = {
        "model": {"name": "student/thtdnet", "variant": "micro", "arguments": {"drop_path": 0.2}},
        "teacher": {"source": "online", "model": str(teacher)},
        "losses": [{"name": "cc"}, {"name": "kldiv", "against": "teacher", "temperature": 2}],
    }
    train(config(tmp_path / "straight", **student))
    with pytest.raises(KeyboardInterrupt):
        train(config(tmp_path / "stopped", **student), stop=lambda step, batch: (step, batch) == (2, 1))
    train(config(tmp_path / "stopped", resume="auto", **student))
    assert_same_run(tmp_path / "straight", tmp_path / "stopped")


def test_nan_score_is_never_the_best(tmp_path: Path) -> None:
    run, model = config(tmp_path), create_model("teacher/salfom", variant="micro")
    for step, score in enumerate([float("nan"), 0.5, float("nan"), 0.4]):
        keep_best(run, model, step, {"cc": score})
    best = best_notes(tmp_path / "best.safetensors")
    assert best is not None
    assert (best["step"], best["validation"]) == (1, {"cc": 0.5})


def test_nan_gradient_stops_before_the_optimiser_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Bad(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, maps: Tensor) -> Tensor:
            return maps.mean((-2, -1))

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            return torch.full((*gradient.shape, 32, 48), float("nan"))

    def break_loss(step: int, batch: int) -> bool:
        if step == 1:
            loss = replace(LOSSES["kldiv"], function=lambda maps, target: Bad.apply(maps))
            monkeypatch.setitem(LOSSES, "kldiv", loss)
        return False

    training = {"steps": 5, "batch_size": 1, "checkpoint_every": 1}
    with pytest.raises(RunError, match="step 3: the gradient's norm is nan"):
        train(config(tmp_path / "run", training=training), stop=break_loss)
    checkpoint = newest_checkpoint(tmp_path / "run")
    assert checkpoint is not None
    assert checkpoint.name == "step-000002"
    assert all(value.isfinite().all() for value in load_file(checkpoint / "model.safetensors").values())


def test_validation_video_without_ground_truth_is_refused_at_the_start(tmp_path: Path, sample: Path) -> None:
    run = config(tmp_path / "run")
    unlabelled = {"dataset": "dhf1k", "root": str(sample), "videos": ["068"]}
    data = run.data.model_dump() | {"validation": [unlabelled]}
    with pytest.raises(UserError, match=r"068\.AVI: the video has no ground truth to score against"):
        train(config(tmp_path / "run", data=data))
    assert not (tmp_path / "run").exists()


def test_resume_after_crash_in_validation_repeats_the_validation_only(
    straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> dict[str, float]:
        raise OSError("a damaged map")

    with monkeypatch.context() as patch:
        patch.setattr("distill.training.train.validate", broken)
        with pytest.raises(OSError, match="a damaged map"):
            train(config(tmp_path / "run"))
    assert not (tmp_path / "run" / "best.safetensors").exists()
    train(config(tmp_path / "run", resume="auto"))
    assert_same_run(straight, tmp_path / "run")
    assert (tmp_path / "run" / "best.safetensors").exists()
    [line] = [line for line in read_log(tmp_path / "run" / "log.jsonl") if line["kind"] == "validation"]
    assert line["step"] == STEPS


def test_resume_refuses_a_folder_that_is_not_a_run(tmp_path: Path) -> None:
    (tmp_path / "best.safetensors").write_text("other")
    with pytest.raises(UserError, match="something other than a run"):
        train(config(tmp_path, resume="auto"))
    assert (tmp_path / "best.safetensors").read_text() == "other"


def test_resume_of_a_finished_run_changes_nothing(straight: Path) -> None:
    before = losses(straight)
    train(config(straight, resume="auto"))
    assert losses(straight) == before


def test_losses_equal_pinned_values(straight: Path) -> None:
    """A refactoring keeps these numbers; a deliberate change updates them and gives the reason."""
    expected = json.loads((REPOSITORY / "tests" / "data" / "pinned_losses.json").read_text())
    assert [line[1] for line in losses(straight)] == pytest.approx(expected, abs=1e-6)


def test_existing_run_is_not_overwritten(straight: Path) -> None:
    with pytest.raises(UserError, match="a run already exists; resume=auto resumes it"):
        train(config(straight))


def test_resume_with_another_config_is_refused(straight: Path) -> None:
    with pytest.raises(UserError, match=r"optimizer.lr was 0.001 and is now 0.1"):
        train(config(straight, resume="auto", optimizer={"lr": 0.1}))


def test_missing_device_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cuda:99"):
        train(config(tmp_path / "run", device="cuda:99"))
    assert not (tmp_path / "run").exists()


def test_nan_loss_names_step_and_clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loss = replace(LOSSES["kldiv"], function=lambda maps, target: maps.sum((-2, -1)) * float("nan"))
    monkeypatch.setitem(LOSSES, "kldiv", loss)
    with pytest.raises(RunError, match=r"step 1: the loss is nan, on clips \S+ \(frame \d+\), \S+ \(frame \d+\);"):
        train(config(tmp_path / "run"))


def test_bf16_trains(tmp_path: Path) -> None:
    training = {"steps": 2, "batch_size": 1, "precision": "bf16"}
    assert len(losses(train(config(tmp_path / "run", training=training)))) == 2


def test_teacher_trains_without_the_student_package(tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['student'] = None\n"
        "from distill.training.config import RunConfig\n"
        "from distill.training.train import train\n"
        f"train(RunConfig.model_validate_json({config(tmp_path / 'run').model_dump_json()!r}))\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
    assert len(losses(tmp_path / "run")) == STEPS


def test_only_the_last_validation_runs_in_the_named_runtime(tmp_path: Path, graphs: Path) -> None:
    often = config(tmp_path / "onnx", training={"steps": 2, "batch_size": 2, "validate_every": 1})
    train(often, runtime="onnx")
    train(often.model_copy(update={"out": str(tmp_path / "pytorch")}))
    (first, last), (_, expected) = (
        [line for line in read_log(tmp_path / name / "log.jsonl") if line["kind"] == "validation"]
        for name in ("onnx", "pytorch")
    )
    assert [line["runtime"] for line in (first, last, expected)] == ["PyTorch", "ONNX Runtime", "PyTorch"]
    assert last["scores"] == pytest.approx(expected["scores"], abs=1e-4)
    assert len(list(graphs.glob("*.onnx"))) >= 1
    assert weights_fingerprint(load_model(tmp_path / "onnx").network) == weights_fingerprint(
        load_model(tmp_path / "pytorch").network
    )


def test_runtime_of_the_validation_is_checked_against_the_precision_at_the_start(tmp_path: Path) -> None:
    half = config(tmp_path / "run", training={"steps": 1, "precision": "bf16"})
    with pytest.raises(UserError, match=r"exported networks run in fp32, and training\.precision is bf16"):
        train(half, runtime="onnx")
    assert not (tmp_path / "run").exists()
