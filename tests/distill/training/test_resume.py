"""Resuming what was damaged, interrupted or left behind: nothing damaged is used, nothing readable is lost."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers.places import REPOSITORY
from helpers.runs import STEPS, assert_same_run, config, losses
from helpers.waiting import wait_until

from distill.claims import lock
from distill.errors import RunError, Terminated, UserError
from distill.models.references import checkpoint_folders
from distill.training.checkpoint import check_checkpoint, newest_checkpoint, newest_intact_checkpoint
from distill.training.config import RunConfig, save_config
from distill.training.losses import LOSSES
from distill.training.step_log import StepLog, keep_until, read_log
from distill.training.train import train

TRAINING = {"steps": STEPS, "batch_size": 2, "accumulate": 3, "clip_norm": 1.0, "checkpoint_every": 1, "ema": 0.9}
LOSS = [{"name": "kldiv"}, {"name": "cc"}, {"name": "cc", "student": "a3"}]
FILES = ("model.safetensors", "state.safetensors", "heads.safetensors", "ema.safetensors", "state.json")


def run_in(folder: Path, **changes: Any) -> RunConfig:
    return config(folder / "run", **{"training": TRAINING, "losses": LOSS, **changes})


def start_long_run(folder: Path) -> subprocess.Popen[str]:
    """Start a run with two loader workers as a command in its own session; return after its first checkpoint."""
    run = run_in(folder, training={**TRAINING, "steps": 10_000})
    run = run.model_copy(update={"data": run.data.model_copy(update={"workers": 2})})
    save_config(run, folder / "run.yaml")
    command = [sys.executable, "-m", "distill.cli.main", "train", str(folder / "run.yaml")]
    process = subprocess.Popen(
        command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    wait_until(lambda: newest_checkpoint(folder / "run"), process)
    return process


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(run_in(tmp_path_factory.mktemp("straight")))


@pytest.fixture(scope="module")
def _stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stopped")
    with pytest.raises(KeyboardInterrupt):
        train(run_in(folder), stop=lambda step, batch: step == 2)
    return folder / "run"


@pytest.fixture
def stopped(_stopped: Path, tmp_path: Path) -> Path:
    """A copy of a run that was stopped after step 3, with the checkpoints of steps 2 and 3."""
    shutil.copytree(_stopped, tmp_path / "run")
    assert [each.name for each in checkpoint_folders(tmp_path / "run")] == ["step-000003", "step-000002"]
    return tmp_path / "run"


def flip(path: Path, position: int = -1, bit: int = 6) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1 << bit
    path.write_bytes(content)


@pytest.mark.parametrize("name", FILES)
def test_any_flipped_bit_in_a_checkpoint_is_found(name: str, stopped: Path) -> None:
    folder = checkpoint_folders(stopped)[0]
    check_checkpoint(folder)
    path, draw = folder / name, random.Random(1)
    content = path.read_bytes()
    for position in range(0, len(content), 40) if name == "state.json" else draw.sample(range(len(content)), 30):
        flip(path, position, draw.randrange(8))
        try:
            check_checkpoint(folder)
        except UserError:
            pass
        else:
            assert name == "state.json"
            assert json.loads(path.read_bytes()) == json.loads(content)  # white space
        path.write_bytes(content)
    path.unlink()
    with pytest.raises(UserError, match=name):
        check_checkpoint(folder)


@pytest.mark.parametrize("name", FILES)
def test_resume_falls_back_to_the_older_checkpoint(
    name: str, straight: Path, stopped: Path, caplog: pytest.LogCaptureFixture
) -> None:
    damaged = checkpoint_folders(stopped)[0] / name
    flip(damaged, len(damaged.read_bytes()) // 2)
    train(run_in(stopped.parent, resume="auto"))
    [message] = [each.message for each in caplog.records if "older checkpoint" in each.message]
    assert str(damaged) in message
    assert message.endswith("resuming from the older checkpoint step-000002")
    assert_same_run(straight, stopped)
    assert [each.name for each in checkpoint_folders(stopped)] == ["step-000005", "step-000004"]


def test_resume_with_damaged_checkpoints_only_is_refused(stopped: Path) -> None:
    for folder in checkpoint_folders(stopped):
        flip(folder / "model.safetensors")
    with pytest.raises(
        UserError, match=r"step-000003/model\.safetensors: .*; no older checkpoint can be read: remove"
    ):
        train(run_in(stopped.parent, resume="auto"))
    assert len(checkpoint_folders(stopped)) == 2


@pytest.mark.parametrize(
    "change",
    [
        lambda state: [],
        lambda state: {**state, "step": "3"},
        lambda state: {**state, "step": -1},
        lambda state: {**state, "memory": None},
        lambda state: {**state, "optimizer": 5},
        lambda state: {**state, "files": {"../../config.yaml": "0"}},
        lambda state: {key: value for key, value in state.items() if key != "sha256"},
        lambda state: {key: value for key, value in state.items() if key != "optimizer"},
        lambda state: {**state, "more": 1},
    ],
)
def test_state_of_wrong_types_counts_as_damaged(change: Callable[[Any], Any], stopped: Path) -> None:
    path = checkpoint_folders(stopped)[0] / "state.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    assert newest_intact_checkpoint(stopped) == checkpoint_folders(stopped)[1]
    for content in (b"", b"\xff\xfe", b"[" * 200_000, b"nonsense"):
        path.write_bytes(content)
        assert newest_intact_checkpoint(stopped) == checkpoint_folders(stopped)[1]


def test_old_state_of_wrong_types_is_one_sentence(stopped: Path) -> None:
    """Without checksums, as version 0.1.0 wrote it."""
    shutil.rmtree(checkpoint_folders(stopped)[1])
    path = checkpoint_folders(stopped)[0] / "state.json"
    state = {key: value for key, value in json.loads(path.read_text()).items() if key not in ("files", "sha256")}
    for setting, value in (("lr", "fast"), ("betas", [0.9]), ("params", [0])):
        [group, *others] = state["optimizer"]
        path.write_text(json.dumps({**state, "optimizer": [{**group, setting: value}, *others]}))
        with pytest.raises(
            UserError, match=r"state\.safetensors: cannot be read as the optimiser state .*" + setting
        ):
            train(run_in(stopped.parent, resume="auto"))
    path.write_text(json.dumps(state))
    train(run_in(stopped.parent, resume="auto"))


def test_keep_sets_the_number_of_checkpoints(tmp_path: Path) -> None:
    run = train(run_in(tmp_path, training={**TRAINING, "keep": 1, "batch_size": 1, "accumulate": 1}))
    assert [each.name for each in checkpoint_folders(run)] == ["step-000005"]


def test_resume_with_damaged_best_weights_is_one_sentence(straight: Path, tmp_path: Path) -> None:
    shutil.copytree(straight, tmp_path / "run")
    flip(tmp_path / "run" / "best.safetensors")
    with pytest.raises(
        UserError, match=r"best\.safetensors: .* does not match its checksum; .*; without this file"
    ):
        train(run_in(tmp_path, resume="auto"))
    (tmp_path / "run" / "best.safetensors").unlink()
    train(run_in(tmp_path, resume="auto"))


def test_nan_in_the_first_step_after_resuming_suspects_the_checkpoint(
    stopped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = replace(LOSSES["kldiv"], function=lambda maps, target: maps.sum((-2, -1)) * float("nan"))
    monkeypatch.setitem(LOSSES, "kldiv", loss)
    with pytest.raises(RunError, match=r"step 4: the loss is nan.*checkpoint of step 3 may be damaged") as error:
        train(run_in(stopped.parent, resume="auto"))
    assert "optimizer.lr" not in str(error.value)


# ---------------------------------------------------------------- one writer


def test_second_run_in_a_folder_is_refused_before_anything_is_written(stopped: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in stopped.rglob("*")}
    link = stopped.parent / "link"
    link.symlink_to(stopped)
    with lock(stopped):
        for out in (stopped, link):
            for resume in ("auto", "never"):
                second = config(out, training=TRAINING, losses=LOSS, resume=resume, seed=1)
                with pytest.raises(UserError, match="another process is training in this folder"):
                    train(second)
    assert {path: path.stat().st_mtime_ns for path in stopped.rglob("*")} == before


def test_of_two_runs_started_at_once_one_is_refused(tmp_path: Path) -> None:
    processes = []
    for seed in (0, 1):
        save_config(config(tmp_path / "run", seed=seed, training={"steps": 3}), tmp_path / f"{seed}.yaml")
        command = [sys.executable, "-m", "distill.cli.main", "train", str(tmp_path / f"{seed}.yaml")]
        processes.append(
            subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
    errors = [process.communicate()[1] for process in processes]
    assert sorted(process.returncode for process in processes) == [0, 2]
    loser = next(seed for seed in (0, 1) if processes[seed].returncode == 2)
    assert "another process is training in this folder" in errors[loser] or "a run already exists" in errors[loser]
    assert "Traceback" not in "".join(errors)
    assert f"seed: {1 - loser}\n" in (tmp_path / "run" / "config.yaml").read_text()


def test_leftovers_of_killed_runs_are_removed(straight: Path, stopped: Path) -> None:
    leftovers = [
        stopped / "checkpoints" / ".step-000004.0123abcd.tmp",
        stopped / ".best.0123abcd.tmp.safetensors",
        stopped / ".log.0123abcd.tmp.jsonl",
        stopped / ".config.0123abcd.tmp.yaml",
    ]
    leftovers[0].mkdir()
    for path in (leftovers[0] / "model.safetensors", *leftovers[1:]):
        path.write_bytes(b"half")
    (stopped / "mine.txt").write_text("kept")
    train(run_in(stopped.parent, resume="auto"))
    assert not any(path.exists() for path in leftovers)
    assert (stopped / "mine.txt").read_text() == "kept"
    assert_same_run(straight, stopped)


# ---------------------------------------------------------------- the log


UNREADABLE = (b'{"kind": "train", "st', b"\xff\xfe\x00", b"[1, 2]", b"7", b'{"kind": "train"}', b"[" * 100_000)


@pytest.mark.parametrize("line", UNREADABLE, ids=range(len(UNREADABLE)))
def test_unreadable_line_is_moved_aside_and_later_lines_are_kept(
    line: bytes, straight: Path, stopped: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = stopped / "log.jsonl"
    first, *others = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + line + b"\n" + b"".join(others) + line)
    assert [each["step"] for each in read_log(path)] == [1, 2, 3]
    assert f"{path}: 2 unreadable lines skipped" in caplog.text
    keep_until(path, 3)
    assert f"{path}: 2 unreadable lines moved to log.unreadable.jsonl" in caplog.text
    assert path.read_bytes() == first + b"".join(others)
    assert (stopped / "log.unreadable.jsonl").read_bytes() == (line + b"\n") * 2


def test_log_of_an_undamaged_run_is_not_rewritten(stopped: Path) -> None:
    before = (stopped / "log.jsonl").stat()
    keep_until(stopped / "log.jsonl", 3)
    assert (stopped / "log.jsonl").stat().st_ino == before.st_ino


def test_resume_with_a_torn_log_repeats_nothing_twice(straight: Path, stopped: Path) -> None:
    with (stopped / "log.jsonl").open("ab") as file:
        file.write(b'{"kind": "train", "step": 4, "lo')
    train(run_in(stopped.parent, resume="auto"))
    assert_same_run(straight, stopped)


# ---------------------------------------------------------------- signals


def test_sigterm_saves_the_state_and_ends_as_terminated(
    straight: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def terminate(step: int, batch: int) -> bool:
        if (step, batch) == (1, 1):
            os.kill(os.getpid(), signal.SIGTERM)
        return False

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Terminated):
        train(run_in(tmp_path), stop=terminate)
    assert signal.getsignal(signal.SIGTERM) == before
    assert "stopped after step 2 of 5; to resume, add resume=auto" in capsys.readouterr().err
    train(run_in(tmp_path, resume="auto"))
    assert_same_run(straight, tmp_path / "run")


def test_sigterm_in_a_validation_stops_at_once_and_resuming_repeats_it(
    straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def terminate(*_: object) -> dict[str, float]:
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("not reached")

    with monkeypatch.context() as patch:
        patch.setattr("distill.training.train.validate", terminate)
        with pytest.raises(Terminated):
            train(run_in(tmp_path))
    assert "stopped in the validation after step 5; to resume, add resume=auto" in capsys.readouterr().err
    train(run_in(tmp_path, resume="auto"))
    assert_same_run(straight, tmp_path / "run")
    assert [line["kind"] for line in read_log(tmp_path / "run" / "log.jsonl")].count("validation") == 1


def test_progress_bar_ends_with_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    with StepLog(tmp_path, start=2, steps=50) as log:
        for step in range(2, 50):
            log.step({"step": step + 1, "loss": 1.0, "lr": 0.1, "clips_per_second": 1.0})
    assert f"training {tmp_path.name}: 50 steps, 48 of them now in " in caplog.text


@pytest.mark.parametrize("to_group", [False, True], ids=["main process", "all processes"])
def test_sigterm_to_a_command_with_workers_saves_the_state(to_group: bool, tmp_path: Path) -> None:
    process = start_long_run(tmp_path)
    (os.killpg if to_group else os.kill)(process.pid, signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143, err
    assert "Traceback" not in err
    assert "to resume, add resume=auto" in err
    newest = newest_checkpoint(tmp_path / "run")
    assert newest is not None
    assert newest.name == f"step-{losses(tmp_path / 'run')[-1][0]:06d}"


def test_killed_run_with_workers_frees_its_folder_at_once(tmp_path: Path) -> None:
    with start_long_run(tmp_path) as process:  # closes the pipes, which the workers may hold open, and waits
        process.kill()
    with lock(tmp_path / "run") as free:
        assert free
