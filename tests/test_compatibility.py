"""Files that version 0.1.0 wrote still load: weights, an interrupted run, a target store, an exported model."""

import shutil
from pathlib import Path

import pytest
import torch
from helpers.places import REPOSITORY

from distill.data.fit import fit_of
from distill.data.sets.find import find_videos
from distill.evaluation.references import score
from distill.models.references import load_model
from distill.targets.store import TargetStore
from distill.targets.verify import verify_store
from distill.training.config import load_config
from distill.training.step_log import read_log
from distill.training.train import train

WRITTEN = REPOSITORY / "tests" / "data" / "version-0.1.0"
"""A run of 4 steps that was stopped after step 2, its teacher and target store, and what it led to."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the old files, which is the working directory: their paths are relative."""
    shutil.copytree(WRITTEN, tmp_path / "old")
    monkeypatch.chdir(tmp_path / "old")
    return tmp_path / "old"


def test_weight_file_gives_the_scores_of_its_version() -> None:
    videos = find_videos("synthetic", "", videos=["blob6"])
    for reference in ("best.safetensors", "exported.onnx"):
        scores = score(WRITTEN / reference, videos, every=8, metrics=("cc", "nss"), progress=False)[0]
        assert scores.per_video["cc"] == pytest.approx(0.11389044409982385, abs=1e-5)
        assert scores.per_video["nss"] == pytest.approx(0.7292374628144508, abs=1e-4)


def test_files_without_a_fit_mean_stretch() -> None:
    for reference in ("best.safetensors", "teacher.safetensors", "exported.onnx"):
        assert fit_of(load_model(WRITTEN / reference).network) == "stretch"
    assert "fit" not in TargetStore.open(WRITTEN / "store").fingerprint["input"]


def test_exported_file_equals_the_network_it_was_made_from() -> None:
    network, exported = load_model(WRITTEN / "best.safetensors"), load_model(WRITTEN / "exported.onnx")
    assert exported.stride == network.stride == 2
    clip = torch.randint(0, 256, (2, 3, 16, 32, 48), dtype=torch.uint8)
    with torch.no_grad():
        maps = [model.network(clip) for model in (network, exported)]
    difference = maps[0] - maps[1]
    assert (difference - difference.mean(dim=(-2, -1), keepdim=True)).abs().max() < 1e-4


def test_interrupted_run_resumes_to_the_losses_of_its_version(folder: Path) -> None:
    train(load_config("run/config.yaml", ["resume=auto"]))
    losses = {
        line["step"]: line["loss"] for line in read_log(folder / "run" / "log.jsonl") if line["kind"] == "train"
    }
    expected = [3.5150959491729736, 3.485492467880249, 3.4858429431915283, 3.4571118354797363]
    assert losses == {step: pytest.approx(loss, abs=1e-5) for step, loss in enumerate(expected, 1)}


def test_target_store_verifies_against_its_teacher(folder: Path) -> None:
    store = TargetStore.open("store")
    assert store.complete
    assert verify_store("store", sample=8, device="cpu").ok
