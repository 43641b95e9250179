"""Every shipped config: it loads, its full model exists, and it runs for two steps with a tiny variant and data."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import REPOSITORY

from distill import build
from distill.config import RunConfig, SourceSection, load_config
from distill.jobs import build_store
from distill.models import create_model, save_model
from distill.runlog import read_log
from distill.train import train

CONFIGS = sorted((REPOSITORY / "configs").rglob("*.yaml"))

RUNS: dict[str, Path] = {}
"""Runs that are done, by what was run: configs that differ in data alone are the same run on generated videos."""

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


def test_what_it_is_scored_on_is_not_trained_on(path: Path) -> None:
    """By the words of the file, since the data are elsewhere."""
    data = load_config(path).data
    for train_source, scored in itertools.product(data.train, [*data.validation, *data.test]):
        if (train_source.dataset, train_source.root) == (scored.dataset, scored.root):
            assert are_apart(train_source, scored), f"{train_source} and {scored}"


def are_apart(one: SourceSection, other: SourceSection) -> bool:
    """Whether two selections of one data set can have no frame in common."""
    splits = {one.split, other.split}
    if len(splits) == 2 and not splits & {None, "all"}:
        return True
    if one.videos and other.videos and not set(one.videos) & set(other.videos):
        return True
    if one.frames and other.frames and (one.frames[1] < other.frames[0] or other.frames[1] < one.frames[0]):
        return True
    if one.share and other.share and one.share_seed == other.share_seed:
        return one.share[1] <= other.share[0] or other.share[1] <= one.share[0]
    return False


def test_it_runs_two_steps(path: Path, tmp_path: Path) -> None:
    config = tiny(load_config(path), tmp_path)
    same = config.model_dump_json().replace(str(tmp_path), "")
    if same not in RUNS:
        if config.teacher is not None and config.teacher.source == "cached":
            build_store(config)
        RUNS[same] = train(config)
    run = RUNS[same]
    lines = read_log(run / "log.jsonl")
    assert [line["step"] for line in lines] == [1, 2, 2]
    assert set(lines[-1]["scores"]) >= {"nss", "cc"}
    assert build.build_objective(config.losses).has_teacher == ("teacher" in lines[0])
