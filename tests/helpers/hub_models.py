"""A run folder that looks as if it came from a user's machine, and repositories with models."""

import json
from pathlib import Path

from distill.models.loaded import LoadedModel
from distill.models.weight_files import save_model
from distill.training.config import RunConfig, save_config
from helpers.pretrained_models import placeholder

USER = "alice"

NAME = "me/student"
"""Repository of the tests."""


def write_run(folder: Path) -> LoadedModel:
    """Write a run folder whose config and notes name folders of the user alice; return its model."""
    model = placeholder()
    home = f"/home/{USER}"
    run = {
        "out": f"{home}/runs/mine",
        "model": {"name": "student/stream", "variant": "micro", "weights": f"{home}/runs/first/best.safetensors"},
        "data": {
            "train": [
                {"dataset": "dhf1k", "root": f"{home}/DHF1K", "split": "train"},
                {"dataset": "folder", "root": home, "name": "own"},
            ]
        },
        "teacher": {"name": "teacher", "model": "hf://me/teacher", "store": f"~/{USER}/targets"},
        "losses": [{"name": "kldiv", "against": "teacher"}],
        "training": {"steps": 100, "batch_size": 2},
    }
    folder.mkdir(parents=True)
    save_config(RunConfig.model_validate(run), folder / "config.yaml")
    notes = {
        "step": 80,
        "stride": 2,
        "validation": {"nss": 2.5, "cc": 0.55},
        "trained_on": [{"dataset": "dhf1k", "split": "train"}],
        "comment": f"started on {home}/laptop.txt, with {home}",
        "checkpoint": f"{home}/runs/first/best.safetensors",
    }
    save_model(model, folder / "best.safetensors", notes=notes)
    return model


def files_of(folder: Path) -> dict[str, bytes]:
    """Return name -> content of the files of a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def edited(original: dict[str, bytes], **changes: object) -> dict[str, bytes]:
    """Return the files with other values in saldistill.json."""
    manifest = json.loads(original["saldistill.json"]) | changes
    return {**original, "saldistill.json": json.dumps(manifest).encode()}
