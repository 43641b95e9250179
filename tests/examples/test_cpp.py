"""The C++ runner of examples/cpp: builds without warnings, and its maps equal those of student/edge.py."""

import importlib.util
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
from helpers.edge_models import SmallModel, small_stream, with_broken_weights, with_metadata
from helpers.places import REPOSITORY

from distill.data.video.open import open_video
from distill.deploy.formats import openvino_ir
from distill.deploy.formats.format import Source
from distill.deploy.golden_vectors import compute_vectors, write_kit
from distill.models.onnx import load_onnx
from distill.models.references import load_model
from distill.runtimes.export import export, graph_of
from distill.runtimes.onnx_graph import ClipGraph
from student import edge

pytestmark = pytest.mark.slow

VIDEOS = REPOSITORY / "tests" / "data" / "dhf1k" / "video"


def write_ir(source: Path, path: Path, section: str = openvino_ir.SECTION, **changes: str) -> Path:
    """Convert an .onnx file in step mode to OpenVINO IR with internal state, and return the .xml file.

    Args:
        source: the .onnx file.
        path: the .xml file to write.
        section: section of the metadata in the file.
        changes: metadata in the file that differ from those of the .onnx file.
    """
    metadata = json.loads({each.key: each.value for each in onnx.load(source).metadata_props}["saldistill"])
    texts_of = openvino_ir.texts_of
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(openvino_ir, "SECTION", section)
        patch.setattr(openvino_ir, "texts_of", lambda metadata: {**texts_of(metadata), **changes})
        openvino_ir.convert(Source(ClipGraph(SmallModel(), values="peak"), (), source, metadata, []), path)
    return path


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory, nano: Path) -> Path:
    """The golden vectors of `stream-nano`."""
    folder, model = tmp_path_factory.mktemp("vectors") / "kit", load_model("stream-nano")
    metadata = load_onnx(nano.with_suffix(".onnx")).edge.metadata
    write_kit(compute_vectors(graph_of(model, metadata), metadata, model.network), folder)
    return folder


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled program; any warning is an error."""
    for tool in ("cmake", "c++"):
        if not shutil.which(tool):
            pytest.skip(f"needs {tool}, which is not installed")
    found = importlib.util.find_spec("openvino")
    if found is None or found.origin is None:
        pytest.skip("needs OpenVINO: pip install 'saldistill[openvino]'")
    cmake = Path(found.origin).parent / "cmake"
    if not cmake.is_dir():
        pytest.skip(f"this installation of OpenVINO has no {cmake} for C++ programs")
    build = tmp_path_factory.mktemp("build")
    source = REPOSITORY / "examples" / "cpp"
    flags = "-Werror -Wconversion -Wshadow"
    configure = [
        "cmake",
        "-S",
        str(source),
        "-B",
        str(build),
        f"-DOpenVINO_DIR={cmake}",
        f"-DCMAKE_CXX_FLAGS={flags}",
    ]
    for command in (configure, ["cmake", "--build", str(build)]):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    return build / "saliency"


@pytest.fixture(scope="module")
def nano(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`stream-nano` as .onnx and .xml, both in fp32; returns the path without its suffix."""
    path = tmp_path_factory.mktemp("nano") / "nano"
    export(load_model("stream-nano"), path.with_suffix(".onnx"), batches=(1,))
    write_ir(path.with_suffix(".onnx"), path.with_suffix(".xml"))
    return path


@pytest.fixture
def exact_resize(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make edge.py resize with numpy, as if neither PyAV nor OpenCV were installed."""
    monkeypatch.setattr(edge, "_optional", lambda name: None)


def wide_frames(height: int = 300, count: int = 10) -> np.ndarray:
    """Two scenes of real frames (2 * count, height, 640, 3) uint8, of another aspect ratio than the models."""
    scenes = [open_video(VIDEOS / f"{name}.AVI").read(range(count)) for name in ("068", "002")]
    return np.ascontiguousarray(np.concatenate(scenes)[:, :height])


def run(*command: object, frames: np.ndarray | bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run the program with frames on its standard input."""
    given = frames if isinstance(frames, bytes) else frames.tobytes()
    return subprocess.run([*map(str, command)], input=given, capture_output=True, timeout=300)


def expected_maps(model: Path, frames: np.ndarray, stride: int | None, cuts: float | None = edge.CUT) -> np.ndarray:
    stream = edge.Stream(edge.EdgeModel(model, threads=1), stride, cuts=cuts)
    return np.stack([stream(frame) for frame in frames])


def test_kit_with_equal_maps_passes(program: Path, nano: Path, kit: Path) -> None:
    done = run(program, nano.with_suffix(".xml"), "--kit", kit, "--threads", 1)
    found = re.match(rb"24 calls; max error (\S+), lowest CC (\S+); latency first \S+ ms, then \S+ ms", done.stdout)
    assert (done.returncode, done.stderr) == (0, b"")
    assert found
    assert float(found[1]) < 1e-4
    assert float(found[2]) > 0.99999


def test_kit_with_one_other_value_fails(program: Path, nano: Path, kit: Path, tmp_path: Path) -> None:
    shutil.copytree(kit, tmp_path / "kit")
    maps = np.fromfile(tmp_path / "kit" / "maps.bin", np.float32)
    maps[-1] += 0.01
    maps.tofile(tmp_path / "kit" / "maps.bin")
    arguments = [program, nano.with_suffix(".xml"), "--kit", tmp_path / "kit"]
    done = run(*arguments)
    assert done.returncode == 1
    assert b"maps differ" in done.stderr
    assert run(*arguments, "--max-error", 0.011).returncode == 0
    maps[-1] = np.nan
    maps.tofile(tmp_path / "kit" / "maps.bin")
    assert run(*arguments, "--max-error", 0.011).returncode == 1


@pytest.mark.parametrize("stride", [None, 1, 3])
def test_maps_of_letterboxed_video_equal_those_of_edge(
    program: Path, nano: Path, tmp_path: Path, exact_resize: None, stride: int | None
) -> None:
    frames = wide_frames()
    option = [] if stride is None else ["--stride", stride]  # that of the training is 2
    arguments = ["--raw", "640x300", "--threads", 1, "--maps", tmp_path / "maps.bin", *option]
    done = run(program, nano.with_suffix(".xml"), *arguments, frames=frames)
    assert (done.returncode, done.stderr) == (0, b"")
    assert re.match(rb"20 frames; latency per frame p50 \S+ ms, p99 \S+ ms .*; 1 scene cuts\n", done.stdout)
    expected = expected_maps(nano.with_suffix(".onnx"), frames, stride)
    maps = np.fromfile(tmp_path / "maps.bin", np.float32).reshape(expected.shape)
    np.testing.assert_allclose(maps, expected, atol=2e-3)


def test_cuts_off_keeps_the_past(program: Path, nano: Path, tmp_path: Path, exact_resize: None) -> None:
    frames = wide_frames()
    arguments = ["--raw", "640x300", "--cuts", "off", "--maps", tmp_path / "maps.bin"]
    done = run(program, nano.with_suffix(".xml"), *arguments, frames=frames)
    assert done.stdout.endswith(b"; 0 scene cuts\n")
    kept, reset = (expected_maps(nano.with_suffix(".onnx"), frames, None, cuts) for cuts in (None, edge.CUT))
    maps = np.fromfile(tmp_path / "maps.bin", np.float32).reshape(kept.shape)
    np.testing.assert_allclose(maps, kept, atol=2e-3)
    assert np.abs(kept - reset).max() > 0.02


@pytest.mark.parametrize(
    ("fit", "values", "input_type", "height"),
    [("stretch", "sigmoid", "uint8", 300), ("crop", "log", "float32", 300), ("crop", "peak", "uint8", 360)],
)
def test_other_fits_values_and_input_types_equal_edge(
    program: Path, tmp_path: Path, exact_resize: None, fit: str, values: str, input_type: str, height: int
) -> None:
    exported, model = tmp_path / "exported.onnx", tmp_path / "model.onnx"
    export(small_stream(), exported, values=values, input_type=input_type, notes={"stride": 1}, batches=(1,))
    with_metadata(exported, model, fit=fit, format=3)
    write_ir(model, tmp_path / "model.xml")
    frames = wide_frames(height, count=4)
    arguments = ["--raw", f"640x{height}", "--threads", 1, "--maps", tmp_path / "maps.bin"]
    done = run(program, tmp_path / "model.xml", *arguments, frames=frames)
    assert (done.returncode, done.stderr) == (0, b"")
    expected = expected_maps(model, frames, None)
    maps = np.fromfile(tmp_path / "maps.bin", np.float32).reshape(expected.shape)
    np.testing.assert_allclose(maps, expected, atol=2e-3 * expected.max())


def test_overlay_equals_that_of_edge(program: Path, nano: Path, tmp_path: Path, exact_resize: None) -> None:
    frames = wide_frames(count=3)
    outputs = ["--maps", tmp_path / "maps.bin", "--overlay", tmp_path / "overlay.rgb24"]
    done = run(program, nano.with_suffix(".xml"), "--raw", "640x300", *outputs, frames=frames)
    assert (done.returncode, done.stderr) == (0, b"")
    maps = np.fromfile(tmp_path / "maps.bin", np.float32).reshape(6, 40, 64)
    painted = np.fromfile(tmp_path / "overlay.rgb24", np.uint8).reshape(frames.shape).astype(int)
    expected = np.stack([edge.overlay(frame, saliency) for frame, saliency in zip(frames, maps, strict=True)])
    assert np.abs(painted - expected).max() <= 4  # one level of the map, where rounding differs
    assert np.abs(painted - expected).mean() < 0.01
    assert np.abs(painted - frames).mean() > 5


def test_existing_output_is_kept(program: Path, nano: Path, tmp_path: Path) -> None:
    (tmp_path / "maps.bin").write_bytes(b"precious")
    arguments = [program, nano.with_suffix(".xml"), "--raw", "64x32", "--maps", tmp_path / "maps.bin"]
    done = run(*arguments, frames=bytes(64 * 32 * 3))
    assert done.returncode == 2
    assert b"already exists" in done.stderr
    assert (tmp_path / "maps.bin").read_bytes() == b"precious"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ("missing.xml --raw 64x32", "missing.xml: no such file"),
        ("other.xml --raw 64x32", "other.xml: is not an .xml file of OpenVINO"),
        ("cut.xml --raw 64x32", "cut.xml: OpenVINO cannot read it"),
        ("weightless.xml --raw 64x32", "weightless.xml: OpenVINO cannot read it"),
        ("foreign.xml --raw 64x32", 'foreign.xml: has no section "saldistill"'),
        ("clip.xml --raw 64x32", "clip.xml: is in clip mode"),
        ("new.xml --raw 64x32", 'new.xml: has format "99"'),
        ("rate.xml --raw 64x32", "rate.xml: was trained at a stride of 25fps"),
        ("nan.xml --raw 64x32", "nan.xml: the map contains NaN"),
        ("model.xml --raw 64x31", "standard input ends inside frame 2"),
        ("model.xml --raw 64", "--raw 64: expected a size"),
        ("model.xml --raw 64x0", "--raw 64x0: expected a size"),
        ("model.xml --raw 64x32x3", "--raw 64x32x3: expected a size"),
        ("model.xml --raw 65536x65536", "--raw 65536x65536: expected a size"),
        ("model.xml --raw 64x32 --threads 0", "--threads 0: expected a whole number"),
        ("model.xml --raw 64x32 --stride 25fps", "--stride 25fps: expected a whole number"),
        ("model.xml --raw 64x32 --cuts many", "--cuts many: expected a number"),
        ("model.xml --raw 64x32 --maps missing/maps.bin", "missing/maps.bin: cannot be written"),
        ("model.xml --raw 64x32 --live yes", "--live: unknown option"),
        ("model.xml --raw", "--raw: expected a value"),
        ("model.xml", "expected a model, and either --raw WIDTHxHEIGHT or --kit KIT"),
        ("model.xml --kit kit --maps maps.bin", "--maps: does not apply to --kit"),
        ("model.xml --kit kit", "frames.bin: cannot be read"),
        ("model.xml --kit short", "frames.bin: has 5 bytes; expected a multiple of"),
    ],
)
def test_invalid_input_is_one_sentence(program: Path, models: Path, arguments: str, reason: str) -> None:
    done = subprocess.run([program, *arguments.split()], input=bytes(64 * 32 * 3), capture_output=True, cwd=models)
    lines = done.stderr.decode().splitlines()
    assert (done.returncode, done.stdout, len(lines)) == (2, b"", 1)
    assert reason in lines[0]


def test_no_frames_is_an_error(program: Path, models: Path) -> None:
    done = run(program, models / "model.xml", "--raw", "64x32")
    assert (done.returncode, done.stderr[:37]) == (2, b"saliency: standard input has no frame")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small model, and with files that are not valid models or kits."""
    folder = tmp_path_factory.mktemp("models")
    export(small_stream(), folder / "model.onnx", notes={"stride": 1}, batches=(1,))
    with_broken_weights(folder / "model.onnx", folder / "nan.onnx")
    for name, changes in (
        ("model", {}),
        ("foreign", {"section": "other"}),
        ("clip", {"mode": "clip"}),
        ("new", {"format": "99"}),
        ("rate", {"stride": "25fps"}),
    ):
        write_ir(folder / "model.onnx", folder / f"{name}.xml", **changes)
    write_ir(folder / "nan.onnx", folder / "nan.xml")
    (folder / "other.xml").write_text("<svg/>")
    (folder / "cut.xml").write_bytes((folder / "model.xml").read_bytes()[:-1000])
    shutil.copy(folder / "model.xml", folder / "weightless.xml")  # without its .bin file
    (folder / "short").mkdir()
    (folder / "short" / "frames.bin").write_bytes(b"short")
    return folder
