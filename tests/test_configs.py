"""Every shipped config: it loads, its full model exists, and it runs for two steps with a tiny variant and data."""

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import REPOSITORY

from distill import build
from distill.config import RunConfig, load_config
from distill.jobs import build_store
from distill.models import create_model, save_model
from distill.runlog import read_log
from distill.train import train

CONFIGS = sorted((REPOSITORY / "configs").rglob("*.yaml"))

pytestmark = pytest.mark.parametrize("path", CONFIGS, ids=[f"{path.parent.name}/{path.stem}" for path in CONFIGS])


def tiny(config: RunConfig, folder: Path) -> RunConfig:
    """Return the same run with the smallest variants, two steps and generated videos."""
    values: dict[str, Any] = config.model_dump()
    values |= {"out": str(folder / "run"), "device": "cpu"}
    values["model"] = {"name": config.model.name, "variant": "micro"}
    values["data"]["train"] = [{"dataset": "synthetic", "split": "test"}]
    values["data"]["validation"] = [{"dataset": "synthetic", "split": "validation", "every": 12}]
    values["data"]["workers"] = 0
    values["training"] |= {"steps": 2, "epochs": None, "batch_size": 2, "precision": "fp32"}
    if config.teacher is not None:
        teacher = folder / "teacher.safetensors"
        save_model(create_model("teacher/salfom", variant="micro"), teacher)
        values["teacher"] |= {"model": str(teacher), "store": str(folder / "targets"), "precision": "fp32"}
    return RunConfig.model_validate(values)


def test_it_opens_with_what_it_is_and_the_command(path: Path) -> None:
    head = "".join(line for line in path.read_text().splitlines(keepends=True) if line.startswith("#"))
    assert f"saldistill {'distill' if path.parent.name == 'distill' else 'train'} configs/" in head
    assert str(path.relative_to(REPOSITORY)) in head
    assert "What must exist" in head


def test_its_full_model_can_be_built(path: Path) -> None:
    model = load_config(path).model
    with torch.device("meta"):
        built = create_model(model.name, variant=model.variant, **model.arguments)
    assert sum(weight.numel() for weight in built.parameters()) > 0


def test_it_runs_two_steps(path: Path, tmp_path: Path) -> None:
    config = tiny(load_config(path), tmp_path)
    if config.teacher is not None and config.teacher.source == "cached":
        build_store(config)
    run = train(config)
    lines = read_log(run / "log.jsonl")
    assert [line["step"] for line in lines] == [1, 2, 2]
    assert set(lines[-1]["scores"]) >= {"nss", "cc"}
    assert build.build_objective(config.losses).has_teacher == ("teacher" in lines[0])
