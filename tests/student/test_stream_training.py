"""Distilling the streaming student: every frame of a clip has its own ground truth and teacher map."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.runs import config

from distill.data.clips import ClipSpec, Window
from distill.models.references import load_model
from distill.models.registry import create_model
from distill.models.weight_files import save_model
from distill.targets.store import TargetStore
from distill.training import setup
from distill.training.setup import build_store
from distill.training.sources import training_sources
from distill.training.step_log import read_log
from distill.training.train import train

STUDENT = {"name": "student/stream", "variant": "micro"}
LOSSES = [{"name": "kldiv"}, {"name": "cc"}, {"name": "kldiv", "against": "teacher"}]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The `teacher` section of a run with a target store, whose teacher predicts the last frame of a clip."""
    folder = tmp_path_factory.mktemp("teacher")
    torch.manual_seed(1)
    save_model(create_model("teacher/salfom", variant="micro"), folder / "teacher.safetensors")
    section = {
        "source": "cached",
        "model": str(folder / "teacher.safetensors"),
        "store": str(folder / "store"),
        "views": ["plain", "flipped"],
    }
    build_store(config(folder / "run", model=STUDENT, losses=LOSSES, teacher=section))
    return section


def test_cached_teacher_returns_one_map_per_frame(store: dict[str, Any], tmp_path: Path) -> None:
    run = config(tmp_path / "run", model=STUDENT, losses=LOSSES, teacher=store)
    sources = training_sources(run.data)
    spec = ClipSpec.of(create_model(**STUDENT).network)
    [teacher] = setup.build_teachers(run, sources, spec, torch.device("cpu"))
    [video, *_] = sources[0].videos
    maps = teacher.reader(Window(video, 9))["teacher_map"]
    kept = TargetStore.open(store["store"])
    assert len(maps) == 5
    for found, frame in zip(maps, (5, 6, 7, 8, 9), strict=True):
        assert torch.equal(found, torch.from_numpy(kept.read(video.name, frame, "plain")))


@pytest.mark.parametrize("targets", ["all", "last"])
def test_train_with_cached_teacher_lowers_both_losses(targets: str, store: dict[str, Any], tmp_path: Path) -> None:
    out = train(
        config(
            tmp_path / "run",
            model=STUDENT | {"arguments": {"targets": targets}},
            losses=LOSSES,
            teacher=store,
            training={"steps": 12, "batch_size": 2, "clip_norm": 1.0},
            schedule={"warmup_steps": 0},
        )
    )
    log = [line["terms"] for line in read_log(out / "log.jsonl") if line["kind"] == "train"]
    assert set(log[0]) == {"truth/kldiv", "truth/cc", "teacher/kldiv"}
    for term in ("truth/kldiv", "teacher/kldiv"):
        first, last = (math.fsum(line[term] for line in part) / 4 for part in (log[:4], log[-4:]))
        assert last < first
    model = load_model(out).network
    assert model.target_frames == ((0, 1, 2, 3, 4) if targets == "all" else (4,))
    with torch.no_grad():
        maps, _ = model.step(torch.rand(1, 3, *model.size), model.initial_state())
    assert maps.isfinite().all()
