"""Prediction, evaluation and target stores on a GPU, compared with the CPU."""

import os
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.devices import DEVICES, cases
from helpers.places import REPOSITORY
from PIL import Image
from torch import Tensor

from distill.benchmark.models import benchmark_models
from distill.cli.main import main
from distill.data.clips import Video
from distill.data.sets import synthetic
from distill.errors import RunError
from distill.evaluation.evaluate import evaluate
from distill.evaluation.map_sources import model_maps
from distill.evaluation.metrics import cc
from distill.inference.settings import InferenceSettings
from distill.inference.sliding_window import slide
from distill.models.device import memory_needed
from distill.models.loaded import LoadedModel
from distill.models.references import load_model
from distill.models.registry import create_model
from distill.targets.build import build
from distill.targets.store import TargetStore
from distill.targets.verify import map_errors, verify
from distill.training.config import RunConfig, save_config

MODELS = ("teacher/salfom:micro", "teacher/salfom:micro-swin", "student/thtdnet:micro", "stream-nano")

CPU = torch.device("cpu")


def loaded(name: str) -> LoadedModel:
    torch.manual_seed(1)
    return load_model(name) if name == "stream-nano" else create_model(name)


def video(frames: int = 20, size: tuple[int, int] = (72, 128)) -> Video:
    return synthetic.video("one", 1, (frames, *size))


def maps_on(device: str, name: str, precision: str = "fp32", **options: Any) -> Tensor:
    model = loaded(name)
    model.network.to(torch.device(device))
    settings = InferenceSettings(device=device, precision=precision, batch_size=6, **options)
    return torch.cat([maps for _, maps in slide(model.network, video(), range(3, 20), settings)])


@pytest.mark.parametrize(("device", "name"), cases(MODELS, MODELS))
def test_maps_in_fp32_are_those_of_the_cpu(device: str, name: str) -> None:
    maps = maps_on(device, name)
    assert maps.device == CPU
    assert maps.dtype == torch.float32
    torch.testing.assert_close(maps, maps_on("cpu", name), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize(("device", "name"), cases(("stream-nano",), MODELS))
def test_maps_in_half_precision_correlate_with_those_in_fp32(device: str, name: str, precision: str) -> None:
    """An untrained network's map is nearly uniform, so that its logarithm is compared."""
    half, full = maps_on(device, name, precision).numpy(), maps_on("cpu", name).numpy()
    assert half.dtype == np.float32
    if name == "stream-nano":
        half, full = np.exp(half), np.exp(full)
    found = [cc(one, other) for one, other in zip(half, full, strict=True)]
    assert min(found) > (0.999 if name == "stream-nano" else 0.99)


@pytest.mark.parametrize("device", DEVICES)
def test_mirrored_and_strided_windows_are_those_of_the_cpu(device: str) -> None:
    model = loaded("teacher/salfom:micro")
    found = []
    for where in ("cpu", device):
        model.network.to(torch.device(where))
        settings = InferenceSettings(device=where, batch_size=4, stride=2, first_frames="flip")
        found.append(
            torch.cat([maps for _, maps in slide(model.network, video(), range(8), settings, flipped=True)])
        )
    torch.testing.assert_close(found[1], found[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("device", DEVICES)
def test_predict_command_writes_the_maps_of_the_cpu(device: str, tmp_path: Path) -> None:
    written = []
    for where in ("cpu", device):
        out = tmp_path / f"{where}{len(written)}"
        path = str(video(6).path)
        arguments = ["predict", "stream-nano", path, "-o", f"{out}.mp4", "--maps", str(out), "--device", where]
        assert main([*arguments, "--runtime", "pytorch"]) == 0
        written.append(sorted(out.rglob("*.png")))
    assert len(written[0]) == len(written[1]) == 6
    for one, other in zip(*written, strict=True):
        pixels = [np.asarray(Image.open(path)).astype(int) for path in (one, other)]
        assert np.abs(pixels[0] - pixels[1]).max() <= 1  # of 255


@pytest.mark.parametrize("device", DEVICES)
def test_scores_are_those_of_the_cpu(device: str) -> None:
    model, found = loaded("stream-nano"), []
    for where in ("cpu", device):
        settings = InferenceSettings(device=where, batch_size=4)
        source = model_maps(model.network.to(torch.device(where)), settings)
        found.append(evaluate(source, [video(12)], metrics=("nss", "cc", "sim", "auc_judd"), progress=False))
    assert found[1].pooled == pytest.approx(found[0].pooled, abs=1e-3)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_store_built_on_a_device_verifies_on_the_cpu_and_back(device: str, precision: str, tmp_path: Path) -> None:
    model, videos = loaded("stream-nano"), [video(12)]
    stores = {}
    for where in ("cpu", device):
        settings = InferenceSettings(device=where, batch_size=5, precision=precision)
        stores[where] = build(model, videos, tmp_path / where, settings, views=("plain", "flipped"), progress=False)
        assert stores[where].complete
    for where, other in (("cpu", device), (device, "cpu")):
        report = verify(tmp_path / where, model, videos, sample=24, device=other)
        assert report.damage == []
        assert len(report.errors) >= 24
        assert report.kl_max < 1e-3, str(report)
        assert min(each.cc for each in report.errors) > 0.999
        assert report.ok or precision == "bf16", str(report)
    errors = [
        map_errors(stores["cpu"].read("one", frame, view), stores[device].read("one", frame, view))
        for frame in range(12)
        for view in ("plain", "flipped")
    ]
    assert min(each.cc for each in errors) > 0.999


@pytest.mark.parametrize("device", DEVICES)
def test_out_of_memory_in_prediction_is_one_sentence(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = loaded("student/thtdnet:micro")

    def too_large(clip: Tensor) -> Tensor:
        return torch.empty(2**50, dtype=torch.uint8, device=clip.device)

    monkeypatch.setattr(model.network, "forward", too_large)
    settings = InferenceSettings(device=device, batch_size=7)
    with pytest.raises(RunError) as caught:
        list(slide(model.network.to(torch.device(device)), video(), range(20), settings))
    where = "the CPU" if device == "cpu" else "cuda"
    assert str(caught.value).startswith(f"batch size 7: out of memory on {where}")
    assert str(caught.value).endswith("; use a smaller batch size or precision bf16")


@pytest.mark.parametrize("device", DEVICES)
def test_tensors_of_a_failed_call_are_released(device: str) -> None:
    alive: list[Callable[[], object]] = []

    def fail() -> None:
        large = torch.ones(1000, device=device)
        alive.append(weakref.ref(large))
        torch.empty(2**50, dtype=torch.uint8, device=device)

    with pytest.raises(RunError, match=r"^batch size 1: out of memory") as caught:  # noqa: SIM117
        with memory_needed("batch size 1", torch.device(device), "try again"):
            fail()
    assert alive[0]() is None, caught
    with pytest.raises(RuntimeError, match="of another kind"), memory_needed("x", torch.device(device), "y"):
        raise RuntimeError("of another kind")


@pytest.mark.parametrize("device", DEVICES)
def test_benchmark_of_models_runs_on_the_device(device: str) -> None:
    table = benchmark_models(
        [loaded("student/thtdnet:micro"), loaded("stream-nano")],
        rounds=1,
        batch_size=(1, 2),
        device=device,
        precision=("fp32", "bf16"),
        progress=False,
    )
    assert len(table) == 8
    assert all(row["milliseconds"] > 0 and row["share"] > 0 for row in table)
    if device == "cuda":
        assert all(row["memory_mb"] > 0 for row in table)


@pytest.mark.parametrize(
    "device",
    [pytest.param("cpu", marks=pytest.mark.slow), *DEVICES[1:]],
)
def test_two_processes_on_one_device_share_a_store(device: str, tmp_path: Path) -> None:
    """On the CPU also in tests/distill/targets/test_build_processes.py."""
    run = RunConfig.model_validate(
        {
            "out": str(tmp_path / "run"),
            "device": device,
            "model": {"name": "student/thtdnet", "variant": "micro"},
            "data": {"train": [{"dataset": "synthetic", "videos": ["blob0", "blob1"], "frames": [1, 48]}]},
            "teacher": {"model": "stream-nano", "store": str(tmp_path / "store"), "batch_size": 1},
            "losses": [{"name": "kldiv", "against": "teacher"}],
            "training": {"steps": 1},
        }
    )
    save_config(run, tmp_path / "run.yaml")
    command = [sys.executable, "-m", "distill.cli.main", "cache", "build", str(tmp_path / "run.yaml")]
    path = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
    processes = [
        subprocess.Popen(command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=200)
        assert process.returncode == 0, errors.decode()[-2000:]
    store = TargetStore.open(tmp_path / "store")
    assert store.complete
    assert store.damage() == []
    assert store.count_committed() == 96
