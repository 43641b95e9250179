"""The choice of a runtime: the rules of `auto`, what is refused, and that results do not depend on it."""

import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.places import SAMPLE

from distill.cli.main import main
from distill.data.sets.find import find_videos
from distill.errors import UserError
from distill.evaluation.references import resolve_source, score
from distill.evaluation.scores import Scores
from distill.inference import runtime
from distill.inference.predictor import Predictor
from distill.inference.runtime import MIN_FRAMES, run_in
from distill.inference.settings import InferenceSettings
from distill.models.loaded import LoadedModel
from distill.models.onnx import OnnxModel
from distill.models.references import load_model
from distill.runtimes import openvino_runtime
from distill.runtimes.graph_cache import cached_graph
from distill.validation import read_json

AUTO = InferenceSettings(runtime="auto")
ONNX = InferenceSettings(runtime="onnx")


@pytest.fixture
def model() -> LoadedModel:
    return load_model("student/stream:micro")


@pytest.fixture
def never_exports(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> OnnxModel:
        pytest.fail("the network was exported")

    monkeypatch.setattr(runtime, "cached_graph", refuse)


@pytest.fixture
def onnx_file(graphs: Path, model: LoadedModel, tmp_path: Path) -> Path:
    return Path(shutil.copy(cached_graph(model).path, tmp_path / "student.onnx"))


@pytest.mark.usefixtures("never_exports", "empty_cache")
@pytest.mark.parametrize(
    ("settings", "frames"),
    [
        (InferenceSettings(), 10**6),
        (InferenceSettings(runtime="pytorch"), 10**6),
        (AUTO, MIN_FRAMES - 1),
        (replace(AUTO, precision="bf16"), 10**6),
        (replace(AUTO, device=torch.device("cuda")), 10**6),
        (replace(AUTO, device=torch.device("mps")), 10**6),
    ],
)
def test_runs_in_pytorch(model: LoadedModel, settings: InferenceSettings, frames: int) -> None:
    running = run_in(model, settings, frames=frames)
    assert (running.network, running.runtime) == (model.network, "PyTorch")
    assert running.settings == replace(settings, runtime=None)  # it is chosen


@pytest.mark.usefixtures("never_exports", "empty_cache")
def test_large_network_runs_in_pytorch_and_says_why(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(runtime, "MAX_GRAPH_BYTES", 1000)
    with caplog.at_level(logging.INFO):
        assert run_in(model, AUTO, frames=10**6).runtime == "PyTorch"
    assert "runs in PyTorch, because its weights have" in caplog.text


def test_auto_exports_for_many_frames_and_reuses_the_graph_for_few(
    graphs: Path, model: LoadedModel, sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported = cached_graph(model).path
    monkeypatch.setenv("SALDISTILL_CACHE", str(tmp_path))
    monkeypatch.setattr("distill.runtimes.export.export", lambda _, path, **options: shutil.copy(exported, path))
    assert run_in(model, AUTO, frames=1).runtime == "PyTorch"
    many = run_in(model, AUTO, frames=MIN_FRAMES, example=sample / "video" / "002.AVI")
    assert (many.runtime, many.settings) == ("ONNX Runtime", replace(AUTO, device="cpu", runtime=None))
    assert isinstance(many.network, OnnxModel)
    assert run_in(model, AUTO, frames=1).runtime == "ONNX Runtime"
    assert not isinstance(model.network, OnnxModel)  # fingerprints are computed from it


def test_failed_export_falls_back_to_pytorch_only_under_auto(
    model: LoadedModel, empty_cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any, **options: Any) -> None:
        raise UserError("a.onnx: the exported graph differs from PyTorch")

    monkeypatch.setattr("distill.runtimes.export.export", broken)
    assert run_in(model, AUTO, frames=MIN_FRAMES).network is model.network
    assert len([line for line in caplog.messages if "runs in PyTorch, because ONNX Runtime cannot" in line]) == 1
    with pytest.raises(UserError, match="differs from PyTorch"):
        run_in(model, ONNX, frames=MIN_FRAMES)


def test_named_runtime_refuses_other_precisions(model: LoadedModel) -> None:
    with pytest.raises(UserError, match="precision: exported networks run in fp32, got bf16"):
        run_in(model, replace(ONNX, precision="bf16"), frames=1)


def test_unknown_runtime_is_refused() -> None:
    with pytest.raises(UserError, match="runtime: expected one of auto, pytorch, onnx, openvino, got 'tensorrt'"):
        InferenceSettings(runtime="tensorrt")


def test_openvino_that_is_not_installed_is_named(model: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_runtime, "is_installed", lambda: False)
    with pytest.raises(UserError, match=r"pip install 'saldistill\[openvino\]'"):
        run_in(model, InferenceSettings(runtime="openvino"), frames=1)


@pytest.mark.skipif(not openvino_runtime.is_installed(), reason="OpenVINO is not installed")
def test_openvino_gives_the_scores_of_pytorch(graphs: Path) -> None:
    assert_same_scores(*(scores("student/stream:micro", name) for name in ("pytorch", "openvino")))


@pytest.mark.parametrize("name", [None, "auto", "onnx"])
def test_onnx_file_runs_as_it_is(onnx_file: Path, name: str | None) -> None:
    model = load_model(onnx_file)
    settings = InferenceSettings(device=torch.device("cuda"), runtime=name)
    running = run_in(model, settings, frames=1)
    assert (running.network, running.runtime) == (model.network, "ONNX Runtime")
    assert running.settings.device == torch.device("cpu")


def test_onnx_file_cannot_run_in_pytorch(onnx_file: Path) -> None:
    with pytest.raises(UserError, match=r"student\.onnx: an \.onnx file cannot run in PyTorch"):
        run_in(load_model(onnx_file), InferenceSettings(runtime="pytorch"), frames=1)


def scores(reference: str, name: str, **settings: Any) -> Scores:
    """Return scores of frames of video 002 in a runtime."""
    videos = find_videos("dhf1k", SAMPLE, videos=["002"])
    options = {"every": 60, "metrics": ("auc_judd", "nss", "cc", "sim", "kldiv", "info_gain"), "progress": False}
    return score(reference, videos, InferenceSettings(runtime=name, **settings), **options)[0]


def assert_same_scores(one: Scores, other: Scores) -> None:
    for first, second in zip(one.rows, other.rows, strict=True):
        assert first.values == pytest.approx(second.values, abs=1e-4)


@pytest.mark.parametrize("reference", ["student/stream:micro", "teacher/salfom:micro"])
def test_scores_are_those_of_pytorch(graphs: Path, reference: str) -> None:
    pytorch, onnx = (scores(reference, name, batch_size=3) for name in ("pytorch", "onnx"))
    assert (pytorch.how["runtime"], onnx.how["runtime"]) == ("PyTorch", "ONNX Runtime")
    assert_same_scores(pytorch, onnx)


def test_provenance_does_not_depend_on_the_runtime(graphs: Path) -> None:
    sources = [
        resolve_source("student/stream:micro", InferenceSettings(runtime=name)) for name in ("pytorch", "onnx")
    ]
    assert [source.runtime for source in sources] == ["PyTorch", "ONNX Runtime"]
    assert sources[0].provenance() == sources[1].provenance()


def test_evaluate_command_records_the_runtime(graphs: Path, tmp_path: Path) -> None:
    options = ["--videos", "002", "--every", "100", "--device", "cpu", "--metrics", "cc"]
    found = {}
    for name in ("pytorch", "onnx", "auto"):
        out = tmp_path / name
        command = [
            "evaluate",
            "student/stream:micro",
            f"dhf1k:{SAMPLE}",
            *options,
            "--runtime",
            name,
            "-o",
            str(out),
        ]
        assert main(command) == 0
        found[name] = read_json(out / "scores.json", dict[str, Any], "scores")["how"]["runtime"]
    assert found == {"pytorch": "PyTorch", "onnx": "ONNX Runtime", "auto": "ONNX Runtime"}  # few frames, but cached


def test_predictor_uses_the_graph_until_the_weights_change(
    graphs: Path, model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached_graph(model)
    frames = np.random.default_rng(0).integers(0, 256, (5, 48, 80, 3), dtype=np.uint8)
    expected = Predictor(model, InferenceSettings(stride=None, runtime="pytorch")).predict(frames)
    predictor, chosen = Predictor(model), []
    real = run_in

    def spy(*arguments: Any, **options: Any) -> Any:
        chosen.append(real(*arguments, **options))
        return chosen[-1]

    monkeypatch.setattr("distill.inference.predictor.run_in", spy)
    for _ in range(2):
        assert predictor.predict(frames) == pytest.approx(expected, abs=1e-4)
    assert [running.runtime for running in chosen] == ["ONNX Runtime"]
    with torch.no_grad():
        for weight in predictor.network.parameters():
            weight.mul_(1.5)
    changed = predictor.predict(frames)
    assert [running.runtime for running in chosen] == ["ONNX Runtime", "PyTorch"]  # few frames, and not cached
    assert np.abs(changed - expected).max() > 1e-3
