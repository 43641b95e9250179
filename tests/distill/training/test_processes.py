"""Several processes through accelerate: the same run as one process with the same clips per step.

On the CPU, `accelerate launch` itself starts one process; torchrun starts several, which accelerate joins by gloo.
"""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.places import REPOSITORY
from helpers.runs import config, launch, losses
from safetensors.torch import load_file

from distill.claims import lock
from distill.errors import UserError
from distill.models.cost import count_weights
from distill.models.registry import create_model
from distill.training.checkpoint import newest_checkpoint
from distill.training.config import RunConfig, save_config
from distill.training.train import train

MODEL = {
    "name": "teacher/salfom",
    "variant": "micro",
}  # no stochastic depth, which processes draw differently
TRAINING = {"steps": 3, "accumulate": 2, "clip_norm": 1.0, "checkpoint_every": 1}
OPTIONS = {"ema": 0.9, "freeze": 1, "recompute": True}


def run_on(folder: Path, *, batch_size: int, options: dict[str, Any]) -> RunConfig:
    optimizer = {"name": "adam", "lr": 1e-3, "layer_decay": 0.7 if options else 1.0}
    training = {**TRAINING, **options, "batch_size": batch_size}
    return config(folder / "run", model=MODEL, training=training, optimizer=optimizer)


@pytest.mark.parametrize(
    "options", [{}, OPTIONS, OPTIONS | {"shard": True}], ids=["plain", "with every option", "sharded"]
)
def test_two_processes_equal_one(tmp_path: Path, options: dict[str, Any]) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    two.mkdir()
    train(run_on(one, batch_size=4, options={**options, "shard": False} if options else {}))
    save_config(run_on(two, batch_size=2, options=options), two / "run.yaml")
    launch(str(REPOSITORY / "scripts" / "train_teacher.py"), str(two / "run.yaml"))
    ours, theirs = losses(one / "run"), losses(two / "run")
    assert len(ours) == len(theirs) == 3
    for here, there in zip(ours, theirs, strict=True):
        assert there[1] == pytest.approx(here[1], abs=1e-5)
        assert there[2] == pytest.approx(here[2], abs=1e-5)  # each term
        assert there[4] == pytest.approx(here[4], rel=1e-4)  # the gradient's norm
    # equal losses in two steps would hide a clip that was seen twice or not at all
    assert len({round(line[1], 4) for line in ours}) == 3
    for name in ("model.safetensors", *(["ema.safetensors"] if options else [])):
        folders = [newest_checkpoint(folder / "run") for folder in (one, two)]
        first, second = (load_file(folder / name) for folder in folders if folder is not None)
        assert all(torch.allclose(first[key], second[key], atol=2e-5) for key in first | second)


def test_two_processes_fall_back_to_the_older_checkpoint(tmp_path: Path) -> None:
    program = str(REPOSITORY / "scripts" / "train_teacher.py")
    save_config(run_on(tmp_path, batch_size=2, options={}), tmp_path / "run.yaml")
    launch(program, str(tmp_path / "run.yaml"))
    before = losses(tmp_path / "run")
    newest = newest_checkpoint(tmp_path / "run")
    assert newest is not None
    content = (newest / "state.safetensors").read_bytes()
    (newest / "state.safetensors").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    launch(program, str(tmp_path / "run.yaml"), "resume=auto")
    assert losses(tmp_path / "run") == before


def test_second_run_of_two_processes_is_refused(tmp_path: Path) -> None:
    save_config(run_on(tmp_path, batch_size=2, options={}), tmp_path / "run.yaml")
    with lock(tmp_path / "run"), pytest.raises(AssertionError, match="another process is training in this folder"):
        launch(str(REPOSITORY / "scripts" / "train_teacher.py"), str(tmp_path / "run.yaml"))
    assert not (tmp_path / "run").exists()


def test_sharding_splits_the_weights_over_processes() -> None:
    printed = launch(str(REPOSITORY / "tests" / "helpers" / "shard_program.py"))
    lines = re.findall(r"rank \d: keeps \d+, moved \w+, back (?:True|False)", printed)  # two ranks may share a line
    assert len(lines) == 2
    weights = count_weights(create_model("teacher/salfom:micro").network)
    kept = [int(line.split("keeps ")[1].split(",")[0]) for line in lines]
    assert sum(kept) == weights  # each weight is on one process
    assert max(kept) < 0.6 * weights  # a dimension of 1 cannot be halved
    assert [line.split(", ", 1)[1] for line in lines] == ["moved True, back True"] * 2


def test_sharding_on_one_process_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"training\.shard: expected several processes, got 1"):
        train(run_on(tmp_path, batch_size=2, options={"shard": True}))
    assert not (tmp_path / "run").exists()
