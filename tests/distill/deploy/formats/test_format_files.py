"""Files of other formats: their metadata, the checks before a conversion, and models that keep their state."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.quantized_files import draw_clips, stream, write

from distill.benchmark.conform import RUNTIMES
from distill.deploy import export_format as module
from distill.deploy.export_format import export_format
from distill.deploy.formats.find import FORMATS, format_of, get_format
from distill.deploy.formats.format import Format, InternalState, files_of, load, read_metadata, write_metadata
from distill.deploy.formats.names import FORMAT_NAMES, PRECISIONS, RUNTIME_NAMES
from distill.errors import UserError
from distill.models.loaded import LoadedModel
from distill.models.onnx import load_onnx


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return stream()


@pytest.fixture(scope="module")
def onnx_file(model: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(model, tmp_path_factory.mktemp("formats") / "step.onnx")


class OnnxSession:
    """A runtime of the tests: ONNX Runtime under another suffix."""

    def __init__(self, path: Path, metadata: dict[str, Any], threads: int | None) -> None:
        import onnxruntime

        self.session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(self, names: Any, feed: Any) -> list[np.ndarray]:
        return self.session.run(list(names), feed)


def copy_graph(source: Any, path: Path) -> dict[str, Any]:
    path.write_bytes(source.onnx.read_bytes())
    path.with_suffix(".weights").write_bytes(b"weights")
    print("chatter of a converter")
    return {"made": "by a test"}


FAKE = Format(
    name="fake",
    runtime="Fake",
    suffix=".fake",
    second=".weights",
    converters=("onnx",),
    runners=("onnxruntime",),
    precisions=("fp32", "int8"),
    convert=copy_graph,
    open=OnnxSession,
    modes=("step",),
)


def test_names_for_the_command_line_are_those_of_the_registries() -> None:
    assert ("onnx", *FORMATS) == FORMAT_NAMES
    assert tuple(RUNTIMES) == RUNTIME_NAMES
    assert {precision for kind in FORMATS.values() for precision in kind.precisions} == set(PRECISIONS)
    suffixes = [kind.suffix for kind in FORMATS.values()]
    assert len(set(suffixes)) == len(suffixes)
    assert all(format_of(Path(f"model{kind.suffix}")) is kind for kind in FORMATS.values())
    assert format_of(Path("model.onnx")) is None
    with pytest.raises(UserError, match="format: expected one of onnx, openvino"):
        get_format("tensorflow")


def test_export_format_writes_files_with_metadata_and_verifies_them(
    model: LoadedModel, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    report = export_format(model, tmp_path / "a.fake", FAKE, progress=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.fake", "a.fake.json", "a.weights"]
    assert "chatter" not in "".join(capfd.readouterr())
    metadata = read_metadata(tmp_path / "a.fake")
    assert metadata["made"] == "by a test"
    assert set(metadata["files"]) == {"a.fake", "a.weights"}
    assert metadata["converted"]["with"]["onnx"] != "unknown"
    assert files_of(tmp_path / "a.fake") == [tmp_path / "a.fake", tmp_path / "a.weights"]
    assert report.replay.max_error < 1e-4
    assert "Fake vs PyTorch in 24 calls on real frames of 068.AVI" in str(report)
    json.dumps(report.as_dict())
    edge = load(FAKE, tmp_path / "a.fake")
    frame = draw_clips((64, 96), 1).held_out[0]
    found, _ = edge.step(frame, edge.initial_state())
    original = load_onnx(write(model, tmp_path / "same.onnx")).edge
    expected, _ = original.step(frame, original.initial_state())
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_export_format_of_wrong_maps_writes_nothing(model: LoadedModel, tmp_path: Path) -> None:
    def other_weights(source: Any, path: Path) -> dict[str, Any]:
        other = stream()
        for parameter in other.network.parameters():
            parameter.data = parameter.data + 0.05
        write(other, path.with_suffix(".onnx")).rename(path)
        return {}

    with pytest.raises(UserError, match="in Fake, the maps differ from PyTorch's: max error"):
        export_format(model, tmp_path / "a.fake", replace(FAKE, convert=other_weights), progress=False)
    assert list(tmp_path.iterdir()) == []


def test_export_format_with_failing_converter_is_one_sentence(model: LoadedModel, tmp_path: Path) -> None:
    def fail(source: Any, path: Path) -> dict[str, Any]:
        raise RuntimeError("operator GridSample is missing\nlong traceback")

    with pytest.raises(UserError) as caught:
        export_format(model, tmp_path / "a.fake", replace(FAKE, convert=fail), progress=False)
    assert str(caught.value) == "fake: onnx cannot convert this model in fp32: operator GridSample is missing"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("existing", ["a.fake", "a.fake.json", "a.weights"])
def test_export_format_replaces_no_file(model: LoadedModel, tmp_path: Path, existing: str) -> None:
    (tmp_path / existing).write_text("mine")
    with pytest.raises(UserError, match=f"{existing}: the exported model already exists"):
        export_format(model, tmp_path / "a.fake", FAKE, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == [existing]
    assert (tmp_path / existing).read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"path": "a.tflite"}, r"a\.tflite: expected a file name ending in \.fake"),
        ({"precision": "fp16"}, "precision: fake has fp32, int8, got 'fp16'"),
        ({"precision": "int8"}, "--on: INT8 needs real frames to calibrate on"),
        ({"mode": "clip"}, "fake: takes streaming students in step mode"),
        ({"kind": replace(FAKE, converters=("ncnn_of_the_tests",))}, "Fake: ncnn_of_the_tests is not installed"),
    ],
)
def test_export_format_invalid_settings_are_rejected(
    model: LoadedModel, tmp_path: Path, arguments: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(module.export_format.__globals__, "export", None)  # nothing is exported
    monkeypatch.setattr("distill.extras.EXTRAS", {"ncnn_of_the_tests": "ncnn"})
    options = {"path": "a.fake", "kind": FAKE, **arguments}
    with pytest.raises(UserError, match=message) as caught:
        export_format(model, tmp_path / options.pop("path"), options.pop("kind"), progress=False, **options)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "a.fake").unlink(), r"a\.fake: no such file"),
        (lambda folder: (folder / "a.fake.json").unlink(), r"a\.fake: a\.fake\.json is missing"),
        (lambda folder: (folder / "a.weights").unlink(), r"a\.weights: is missing; copy or export"),
        (lambda folder: (folder / "a.fake").write_text("other"), r"a\.fake: differs from the exported one"),
        (lambda folder: (folder / "a.fake.json").write_text("[]"), "metadata is invalid"),
        (lambda folder: (folder / "a.fake.json").write_text('{"format": 9}'), "has format 9, mode None"),
    ],
)
def test_damaged_files_are_rejected(onnx_file: Path, tmp_path: Path, change: Any, message: str) -> None:
    path, other = tmp_path / "a.fake", tmp_path / "a.weights"
    path.write_bytes(onnx_file.read_bytes())
    other.write_bytes(b"weights")
    write_metadata(path, load_onnx(onnx_file).edge.metadata, [other])
    load(FAKE, path)
    change(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        load(FAKE, path)
    assert "\n" not in str(caught.value)


def test_file_that_the_runtime_rejects_is_one_sentence(onnx_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.fake"
    path.write_bytes(b"no graph")
    write_metadata(path, load_onnx(onnx_file).edge.metadata, [])
    with pytest.raises(UserError, match=r"a\.fake: Fake cannot load it: ") as caught:
        load(FAKE, path)
    assert "\n" not in str(caught.value)


class Counter:
    """A session that keeps its state: each map is the number of frames since the reset."""

    frames = 0

    def reset(self) -> None:
        self.frames = 0


def test_internal_state_is_reset_and_runs_one_video_only() -> None:
    session = Counter()

    class Edge:
        path = Path("a.xml")

        def step(self, frame: Any, state: Any) -> Any:
            session.frames += 1
            return session.frames, {}

    edge = InternalState(Edge(), session)
    state = edge.initial_state()
    one, after_one = edge.step(None, state)
    two, _ = edge.step(None, after_one)
    assert (one, two) == (1, 2)
    with pytest.raises(ValueError, match=r"a\.xml: keeps one state itself"):
        edge.step(None, after_one)
    assert edge.step(None, edge.initial_state())[0] == 1
