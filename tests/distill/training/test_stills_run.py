"""Runs on stills and videos of several shapes: a virtual camera, and models with different fits."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.runs import config, losses
from helpers.still_files import still_set

from distill.models.references import load_model
from distill.models.registry import create_model
from distill.models.weight_files import save_model
from distill.training.config import RunConfig
from distill.training.setup import build_store
from distill.training.train import train

WITH_HEADS = [
    {"name": "kldiv"},
    {"name": "kldiv", "against": "teacher"},
    {"name": "kldiv", "against": "teacher", "student": "stage2"},
    {"name": "hint", "against": "teacher", "student": "stage4", "teacher": "encoder"},
]


def mixed_run(out: Path, root: Path, **changes: Any) -> RunConfig:
    """A letterboxed student, trained on stills of three shapes and on videos, with every augmentation."""
    data = {
        "train": [
            {"dataset": "synthetic", "videos": ["blob0"], "frames": [1, 8], "clips_per_video": 3},
            {"dataset": "stills", "root": str(root)},
        ],
        "stride": 2,
        "crop": {"area": [0.5, 1.0]},
        "colour": {"brightness": 0.2},
        "camera": {"speed": 2.0},
        "workers": 0,
    }
    model = {"name": "student/thtdnet", "variant": "micro", "arguments": {"fit": "letterbox"}}
    training = {"steps": 3, "batch_size": 2, "checkpoint_every": 1, "keep": 5}
    return config(out, **{"model": model, "data": data, "training": training, **changes})


@pytest.fixture
def teacher(tmp_path: Path) -> str:
    """A teacher that crops."""
    torch.manual_seed(1)
    save_model(create_model("teacher/salfom:micro", fit="crop"), tmp_path / "teacher.safetensors")
    return str(tmp_path / "teacher.safetensors")


def test_run_with_an_online_teacher_of_another_fit(teacher: str, tmp_path: Path) -> None:
    section = {"source": "online", "model": teacher, "stride": 2}
    run = train(mixed_run(tmp_path / "run", still_set(tmp_path / "set"), teacher=section, losses=WITH_HEADS))
    assert all(math.isfinite(line[1]) for line in losses(run))
    assert load_model(run).network.fit == "letterbox"


def test_run_with_a_target_store_resumes_bit_identically(teacher: str, tmp_path: Path) -> None:
    root = still_set(tmp_path / "set")
    section = {"source": "cached", "model": teacher, "stride": 2, "store": str(tmp_path / "store"), "mirror": True}
    terms = [{"name": "kldiv"}, {"name": "kldiv", "against": "teacher"}]
    whole = mixed_run(tmp_path / "whole", root, teacher=section, losses=terms)
    build_store(whole)
    train(whole)
    parts = mixed_run(tmp_path / "parts", root, teacher=section, losses=terms, resume="auto")
    with pytest.raises(KeyboardInterrupt):
        train(parts, stop=lambda step, batch: step == 0)
    train(parts)
    assert losses(tmp_path / "whole") == losses(tmp_path / "parts")


def test_camera_and_fit_change_the_loss(tmp_path: Path) -> None:
    root = still_set(tmp_path / "set")
    plain = mixed_run(tmp_path / "plain", root)
    fixed = plain.data.model_copy(update={"camera": None})
    train(plain)
    train(plain.model_copy(update={"out": str(tmp_path / "fixed"), "data": fixed}))
    first, other = losses(tmp_path / "plain"), losses(tmp_path / "fixed")
    assert first != other
