"""`saldistill conform`: golden vectors replayed in fresh processes, verdicts, and messages for wrong input."""

import json
from pathlib import Path
from typing import Any

import pytest
from helpers.edge_models import with_broken_weights, with_metadata
from helpers.quantized_files import stream, write

from distill.benchmark import conform as module
from distill.benchmark.conform import conform
from distill.cli.main import main
from distill.deploy.golden_vectors import compute_vectors, write_kit
from distill.errors import UserError
from distill.models.onnx import load_onnx
from distill.runtimes.export import graph_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with step.onnx and its kit step.onnx.kit."""
    folder, model = tmp_path_factory.mktemp("conform"), stream()
    metadata = load_onnx(write(model, folder / "step.onnx")).edge.metadata
    write_kit(compute_vectors(graph_of(model, metadata), metadata, model.network), folder / "step.onnx.kit")
    return folder


def test_conform_of_file_finds_its_kit_and_passes(folder: Path) -> None:
    found = conform(folder / "step.onnx", runtimes=["onnx"], progress=False)
    (row,) = found
    assert (row["file"], row["precision"], row["runtime"], row["verdict"]) == (
        "step.onnx", "fp32", "ONNX Runtime", "pass"
    )  # fmt: skip
    assert row["max_error"] < 1e-4
    assert row["lowest_cc"] > 0.9999
    assert row["first_ms"] > 0
    assert row["steady_ms"] > 0
    assert row["memory_mb"] > 0
    assert found.failed == []
    assert "24 calls on frames of 068.AVI, 1 CPU threads" in str(found)


def test_conform_of_kit_runs_files_in_it_and_next_to_it(folder: Path, tmp_path: Path) -> None:
    kit = folder / "step.onnx.kit"
    assert [row["file"] for row in conform(kit, runtimes=["onnx"], progress=False)] == ["step.onnx"]
    copied = tmp_path / "kit"
    copied.mkdir()
    for file in (*kit.iterdir(), folder / "step.onnx"):
        (copied / file.name).write_bytes(file.read_bytes())
    assert [row["verdict"] for row in conform(copied, runtimes=["onnx"], progress=False)] == ["pass"]


def test_conform_names_files_whose_runtime_is_not_installed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in (folder / "step.onnx.kit").iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "step.tflite").write_bytes(b"")
    monkeypatch.setattr(module, "is_installed", lambda package: package == "onnxruntime")
    with pytest.raises(UserError, match=r"step\.tflite: LiteRT, which reads it, is not installed; pip install"):
        conform(tmp_path / "step.tflite", progress=False)
    (tmp_path / "step.onnx").symlink_to(folder / "step.onnx")
    found = conform(tmp_path, progress=False)
    assert "step.tflite: LiteRT, which reads it, is not installed" in str(found)
    assert [row["verdict"] for row in found] == ["pass", *["not run here"] * 5]


def test_conform_command_with_failing_file_exits_with_1(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = with_broken_weights(folder / "step.onnx", tmp_path / "broken.onnx", 0.01)
    command = ["conform", str(broken), "--kit", str(folder / "step.onnx.kit"), "--runtime", "onnx", "--json"]
    assert main(command) == 1
    said = capsys.readouterr()
    (row,) = json.loads(said.out)["rows"]
    assert row["verdict"] == "fail"
    assert row["reason"].startswith("max error ")
    assert "maps differ from PyTorch's: broken.onnx in ONNX Runtime" in said.err
    assert "Traceback" not in said.err


def test_conform_reports_nan_and_crash_as_reasons(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = with_broken_weights(folder / "step.onnx", tmp_path / "broken.onnx")
    (row,) = conform(broken, kit=folder / "step.onnx.kit", runtimes=["onnx"], progress=False)
    assert row["verdict"] == "fail"
    assert "max error nan" in row["reason"]

    def crash(*_: Any, **__: Any) -> Any:
        raise RuntimeError("crashed (Segmentation fault)")

    monkeypatch.setattr(module, "run_fresh", crash)
    found = conform(folder / "step.onnx", runtimes=["onnx"], progress=False)
    assert found.failed[0]["reason"] == "crashed (Segmentation fault)"
    assert "step.onnx in ONNX Runtime: crashed (Segmentation fault)" in str(found)


@pytest.mark.parametrize(
    ("where", "options", "message"),
    [
        ("nowhere.onnx", {}, r"nowhere\.onnx: no such file or folder; expected an exported model, or a kit"),
        ("notes.txt", {}, r"notes\.txt: expected a kit, or an exported model that ends in \.onnx, \.xml"),
        ("alone/step.onnx", {}, r"no kit; write one with `saldistill export MODEL -o FILE --kit`"),
        ("alone", {}, "alone: has no exported model in it|is not a kit"),
        ("step.onnx", {"runtimes": ["caffe"]}, "runtime: expected one or more of onnx, openvino-onnx"),
        (
            "step.onnx",
            {"runtimes": ["ncnn"]},
            r"runtime ncnn: ncnn is not installed; pip install 'saldistill\[ncnn\]'",
        ),
        ("other.onnx", {"kit": "step.onnx.kit"}, r"other\.onnx: the kit belongs to another model"),
        ("old.onnx", {"kit": "step.onnx.kit"}, "has format 9, mode 'step'; expected format"),
    ],
)
def test_conform_invalid_input_is_one_sentence(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, options: dict[str, Any], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for file in folder.iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone" / "step.onnx").write_bytes((folder / "step.onnx").read_bytes())
    (tmp_path / "notes.txt").write_text("notes")
    with_metadata(folder / "step.onnx", tmp_path / "other.onnx", weights_sha256="0" * 64)
    with_metadata(folder / "step.onnx", tmp_path / "old.onnx", format=9)
    monkeypatch.setattr(module, "is_installed", lambda package: package != "ncnn")
    with pytest.raises(UserError, match=message) as caught:
        conform(where, progress=False, **options)
    assert "\n" not in str(caught.value)
