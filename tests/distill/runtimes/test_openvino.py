"""OpenVINO returns the maps of ONNX Runtime, for files in fp32, fp16 and INT8 and in both modes."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from helpers.model_cases import loaded
from helpers.quantized_files import ClipModel, draw_clips, stream, write

from distill.benchmark.precisions import compare_precisions
from distill.deploy.calibration_clips import agreement, predict_maps
from distill.deploy.quantize import quantize
from distill.errors import UserError
from distill.models.onnx import load_onnx
from distill.models.registry import create_model
from distill.runtimes import openvino_runtime as module
from distill.runtimes.openvino_runtime import load_in_openvino

needs_openvino = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="OpenVINO is not installed (pip install openvino)"
)

MAX_ERROR = 1e-4
"""For maps in [0, 1], in floating point."""

# once OpenVINO was loaded, a test worker died twice in a later test that starts processes
pytestmark = pytest.mark.slow

MIN_CC = {"fp32": 0.99999, "fp16": 0.9999, "int8": 0.995}
"""The runtimes round ties to INT8 in different directions."""

SPOTS = {"step": draw_clips((64, 96), 8), "clip": draw_clips((16, 24), 4)}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    """(mode, precision) -> file."""
    folder = tmp_path_factory.mktemp("openvino")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("distill.runtimes.export.gflops_if_known", lambda model, **_: 1.0)
        made = {("step", "fp32"): write(stream(), folder / "step.onnx")}
        made["clip", "fp32"] = write(loaded(ClipModel()), folder / "clip.onnx")
    for mode, spots in SPOTS.items():
        for precision in ("fp16", "int8"):
            path = made[mode, precision] = folder / f"{mode}-{precision}.onnx"
            settings = {"to": precision, "max_loss": 0.05, "threads": 1, "progress": False}
            quantize(made[mode, "fp32"], path, spots, **settings)
    return made


@needs_openvino
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("mode", ["step", "clip"])
def test_openvino_maps_equal_onnx_runtime(files: dict[tuple[str, str], Path], mode: str, precision: str) -> None:
    path = files[mode, precision]
    frames = SPOTS[mode].held_out
    expected = predict_maps(load_onnx(path, threads=1).edge, frames)
    found = predict_maps(load_in_openvino(path, threads=1).edge, frames)
    assert found.shape == expected.shape
    assert found.dtype == np.float32
    assert expected.std(axis=(1, 2)).min() > 0.01
    assert agreement(found, expected).min() > MIN_CC[precision]
    if precision == "fp32":
        assert np.abs(found - expected).max() < MAX_ERROR


@needs_openvino
def test_openvino_batch_and_state_equal_onnx_runtime(files: dict[tuple[str, str], Path]) -> None:
    edges = [load(files["step", "fp32"], threads=1).edge for load in (load_onnx, load_in_openvino)]
    frames = np.stack(SPOTS["step"].calibration)  # (3, L, 3, H, W)
    states = [edge.initial_state(3) for edge in edges]
    for step in range(3):
        maps, states = zip(
            *(edge.step(frames[:, step], state) for edge, state in zip(edges, states, strict=True)), strict=True
        )
        np.testing.assert_allclose(maps[1], maps[0], atol=MAX_ERROR)
        for name, value in states[0].items():
            np.testing.assert_allclose(states[1][name], value, atol=1e-3, err_msg=name)


@needs_openvino
def test_compare_precisions_in_both_runtimes_has_row_for_each(files: dict[tuple[str, str], Path]) -> None:
    paths = [files["clip", "fp32"], files["clip", "int8"]]
    runtimes = ["ONNX Runtime", "OpenVINO"]
    rows = compare_precisions(paths, SPOTS["clip"], runtimes=runtimes, threads=1, rounds=1, progress=False)
    assert [(row["runtime"], row["precision"]) for row in rows] == [
        (r, p) for r in runtimes for p in ("fp32", "int8")
    ]
    assert all(row["milliseconds"] > 0 for row in rows)
    assert rows[2]["agreement"] == pytest.approx(1, abs=1e-5)


@needs_openvino
def test_openvino_rejected_graph_is_folded_first(
    files: dict[tuple[str, str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import openvino

    core, asked = openvino.Core(), []

    class Strict:
        def compile_model(self, path: str, *rest: object) -> object:
            asked.append(Path(path).name)
            if len(asked) == 1:
                raise RuntimeError("ScatterND")
            return core.compile_model(path, *rest)

    monkeypatch.setattr(openvino, "Core", Strict)
    path, frames = files["clip", "fp32"], SPOTS["clip"].held_out
    found = predict_maps(load_in_openvino(path, threads=1).edge, frames)
    np.testing.assert_allclose(found, predict_maps(load_onnx(path, threads=1).edge, frames), atol=MAX_ERROR)
    assert asked == ["clip.onnx", "folded.onnx"]


@needs_openvino
def test_openvino_thtdnet_equals_onnx_runtime(tmp_path: Path) -> None:
    model = create_model("student/thtdnet", variant="micro")
    path = write(model, tmp_path / "t.onnx")
    frames = draw_clips(model.network.size, model.network.num_frames).held_out
    found = predict_maps(load_in_openvino(path, threads=1).edge, frames)
    np.testing.assert_allclose(found, predict_maps(load_onnx(path, threads=1).edge, frames), atol=MAX_ERROR)


@needs_openvino
def test_openvino_damaged_file_is_rejected(files: dict[tuple[str, str], Path], tmp_path: Path) -> None:
    path = tmp_path / "s.onnx"
    path.write_bytes(files["clip", "fp32"].read_bytes())
    model = load_onnx(path, threads=1)
    path.write_bytes(b"no graph")
    with pytest.raises(UserError, match=r"s\.onnx: OpenVINO cannot load it: ") as caught:
        module.OpenVinoSession(model.path, 1)
    assert "\n" not in str(caught.value)


def test_openvino_not_installed_names_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "is_installed", lambda: False)
    with pytest.raises(UserError, match=r"OpenVINO is not installed; pip install 'saldistill\[openvino\]'"):
        load_in_openvino(tmp_path / "s.onnx")
