"""Every shipped config loads, builds its full model, and trains for two steps with a tiny variant and data."""

import itertools
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.places import REPOSITORY

from distill.models.registry import create_model
from distill.models.weight_files import save_model
from distill.training.config import RunConfig, SourceSection, load_config
from distill.training.setup import build_stores
from distill.training.step_log import read_log
from distill.training.train import train

FOLDER = REPOSITORY / "configs"

KINDS = ("teacher", "student", "distill", "pretrained")

CONFIGS = sorted(path for kind in KINDS for path in (FOLDER / kind).rglob("*.yaml"))

RUNS: dict[str, Path] = {}
"""Finished runs by resolved config: configs that differ in data only are one run on generated videos."""


def name_of(path: Path) -> str:
    return str(path.relative_to(FOLDER).with_suffix(""))


each_config = pytest.mark.parametrize("path", CONFIGS, ids=map(name_of, CONFIGS))


def head_of(path: Path) -> str:
    return "".join(line for line in path.read_text().splitlines(keepends=True) if line.startswith("#"))


def runs_of(path: Path) -> list[list[str]]:
    """Return the overrides of each train or distill command in the head."""
    command = rf"saldistill (?:train|distill) @{re.escape(name_of(path))}(.*)"
    return [shlex.split(settings, comments=True) for settings in re.findall(command, head_of(path))]


def tiny(config: RunConfig, folder: Path) -> RunConfig:
    """Return the same run with the smallest variants, two steps and generated videos."""
    values: dict[str, Any] = config.model_dump()
    values |= {"out": str(folder / "run"), "device": "cpu"}
    arguments = {key: value for key, value in config.model.arguments.items() if key not in ("num_frames", "size")}
    values["model"] |= {"variant": "micro", "weights": None, "arguments": arguments}
    values["data"]["train"] = [{"dataset": "synthetic", "split": "test", "frames": [1, 24]}]
    values["data"]["validation"] = [{"dataset": "synthetic", "split": "validation", "every": 12}]
    values["data"] |= {"test": [], "workers": 0}
    values["training"] |= {"steps": 2, "epochs": None, "batch_size": 2, "precision": "fp32"}
    values["training"]["validate_every"] = None
    if config.teacher_sections:
        teacher = folder / "teacher.safetensors"
        save_model(create_model("teacher/salfom", variant="micro"), teacher)
        same = {"model": str(teacher), "precision": "fp32"}
        if config.teacher is not None:
            values["teacher"] |= {**same, "store": str(folder / "targets")}
        for name in config.teachers or {}:
            values["teachers"][name] |= {**same, "store": str(folder / name), "sources": None}
    return RunConfig.model_validate(values)


@each_config
def test_head_has_requirements_and_command(path: Path) -> None:
    head = head_of(path)
    assert f"saldistill {'distill' if load_config(path).teacher_sections else 'train'} @{name_of(path)}" in head
    assert [] in runs_of(path)
    assert "What must exist" in head


@each_config
def test_full_model_can_be_built(path: Path) -> None:
    model = load_config(path).model
    with torch.device("meta"):
        built = create_model(model.name, variant=model.variant, **model.arguments).network
    assert sum(weight.numel() for weight in built.parameters()) > 0


@each_config
def test_scored_frames_are_not_trained_on(path: Path) -> None:
    """As far as the config shows: the data sets are not available here."""
    data = load_config(path).data
    for train_source, scored in itertools.product(data.train, [*data.validation, *data.test]):
        if (train_source.dataset, train_source.root) == (scored.dataset, scored.root):
            assert are_disjoint(train_source, scored), f"{train_source} and {scored}"


def are_disjoint(one: SourceSection, other: SourceSection) -> bool:
    """Return whether two selections of one data set are disjoint by their settings."""
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


@pytest.mark.parametrize("name", ["dhf1k", "hollywood2", "ucf_sports"])
def test_student_config_is_its_distilled_counterpart_without_the_teacher(name: str) -> None:
    distilled = load_config(FOLDER / "distill" / f"salfom_thtdnet_{name}.yaml").model_dump(
        exclude={"out", "teacher"}
    )
    alone = load_config(FOLDER / "student" / f"thtdnet_{name}.yaml").model_dump(exclude={"out", "teacher"})
    distilled["losses"] = [loss for loss in distilled["losses"] if loss["against"] == "truth"]
    assert distilled == alone


def test_both_students_share_one_target_store() -> None:
    one, other = (
        load_config(FOLDER / "distill" / f"salfom_{student}_dhf1k.yaml") for student in ("thtdnet", "stream")
    )
    assert one.teacher == other.teacher
    assert one.data == other.data


@pytest.mark.parametrize(
    ("path", "settings"),
    [
        pytest.param(path, settings, id=" ".join([name_of(path), *settings]))
        for path in CONFIGS
        for settings in runs_of(path)
    ],
)
def test_config_runs_two_steps(path: Path, settings: list[str], tmp_path: Path) -> None:
    config = tiny(load_config(path, settings), tmp_path)
    same = config.model_dump_json().replace(str(tmp_path), "")
    if same not in RUNS:
        if any(teacher.source == "cached" for teacher in config.teacher_sections):
            build_stores(config)
        RUNS[same] = train(config)
    run = RUNS[same]
    lines = read_log(run / "log.jsonl")
    assert [line["step"] for line in lines] == [1, 2, 2]
    assert set(lines[-1]["scores"]) >= {"nss", "cc"}
    assert bool(config.teacher_sections) == ("teacher" in lines[0])
