"""Calibrated files: their maps are those of the fit, in every mode, precision and output value."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from helpers.model_cases import loaded
from helpers.quantized_files import ClipModel, draw_clips, stream, write
from onnx import numpy_helper

from distill.calibration.graph import (
    RECORD,
    append_calibration,
    load_source,
    motion_layers,
    save_calibrated,
    save_log_variant,
    weight_motion,
)
from distill.calibration.maps import calibrate_maps
from distill.calibration.numbers import Calibration
from distill.deploy.calibration_clips import predict_maps
from distill.deploy.half_storage import store_halves
from distill.deploy.int8 import sort_layers
from distill.deploy.quantize import quantize
from distill.errors import UserError
from distill.models.onnx import OnnxModel, load_onnx
from distill.runtimes.export import export
from distill.runtimes.onnx_check import check_file

NUMBERS = Calibration(
    temperature=1.4,
    gains=(0.3, 0.7, 1.3),
    tilt=(0.5, -0.8),
    curvature=(3.0, -2.0),
    prior_weight=0.2,
    prior_place=(0.4, 0.6),
    prior_width=(0.15, 0.2),
)

CLIPS = draw_clips((64, 96), 8, calibration=0, held_out=2).held_out


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The streaming student as different files."""
    folder = tmp_path_factory.mktemp("calibrated")
    model = stream()
    made = {"peak": write(model, folder / "peak.onnx")}
    for values in ("sigmoid", "log"):
        made[values] = folder / f"{values}.onnx"
        export(model, made[values], batches=(1,), values=values)
    made["float32"] = folder / "float32.onnx"
    export(model, made["float32"], batches=(1,), input_type="float32")
    made["clip"] = folder / "clip.onnx"
    export(model, made["clip"], batches=(1,), mode="clip")
    made["halves"] = folder / "halves.onnx"
    store_halves(made["peak"], made["halves"])
    for precision in ("fp16", "int8"):
        made[precision] = folder / f"{precision}.onnx"
        quantize(
            made["peak"], made[precision], draw_clips((64, 96), 8), to=precision, max_loss=0.02, progress=False
        )
    return made


def calibrated(source: Path, path: Path, numbers: Calibration) -> OnnxModel:
    model = load_source(source)
    save_calibrated(append_calibration(model, numbers), path, model, {"numbers": numbers.as_dict()})
    check_file(path)
    return load_onnx(path)


def clips_for(model: OnnxModel) -> list[np.ndarray]:
    return [clip[: model.num_frames] for clip in CLIPS] if model.edge.mode == "clip" else CLIPS


def log_maps(model: OnnxModel, folder: Path, motion: float = 1.0) -> torch.Tensor:
    """Return the log-saliency (n, h, w) of the clips."""
    exact = save_log_variant(model, folder / "log.onnx", motion=motion)
    return torch.from_numpy(predict_maps(exact.edge, clips_for(model)))


@pytest.mark.parametrize("name", ["peak", "sigmoid", "log", "float32", "clip", "halves", "fp16", "int8"])
@pytest.mark.parametrize("numbers", [NUMBERS, Calibration()], ids=["all", "none"])
def test_file_has_the_maps_of_the_fit(
    files: dict[str, Path], tmp_path: Path, name: str, numbers: Calibration
) -> None:
    model = load_source(files[name])
    written = calibrated(files[name], tmp_path / "calibrated.onnx", numbers)
    expected = calibrate_maps(log_maps(model, tmp_path), numbers).exp().numpy()
    if name != "sigmoid":
        expected /= expected.max(axis=(-2, -1), keepdims=True)
    found = predict_maps(written.edge, clips_for(model))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    before = predict_maps(model.edge, clips_for(model))
    change = np.abs(found / found.max() - before / before.max()).max()
    assert change > 0.1 if numbers == NUMBERS else change < (0.01 if name == "fp16" else 1e-4)


def test_batch_of_several_maps_is_that_of_single_ones(tmp_path: Path) -> None:
    source = tmp_path / "two.onnx"
    export(loaded(ClipModel()), source, mode="clip", batches=(1, 2))
    written = calibrated(source, tmp_path / "calibrated.onnx", NUMBERS)
    clips = np.random.default_rng(0).integers(0, 256, (3, 3, 4, 16, 24), dtype=np.uint8)
    together = written.edge(clips)
    assert together.shape == (3, 2, 8, 12)
    np.testing.assert_allclose(together, np.concatenate([written.edge(clip[None]) for clip in clips]), atol=1e-6)
    assert written.edge.metadata[RECORD]["numbers"]["temperature"] == 1.4


@pytest.mark.parametrize("name", ["peak", "halves", "clip", "fp16"])
def test_no_weight_of_motion_equals_still_frames(files: dict[str, Path], tmp_path: Path, name: str) -> None:
    model = load_source(files[name])
    moving, without = log_maps(model, tmp_path), log_maps(model, tmp_path, motion=0.0)
    clips = clips_for(model)
    stills = [np.stack([clip[-1]] * len(clip)) for clip in clips]
    exact = load_onnx(tmp_path / "log.onnx", exact=True)
    still = torch.from_numpy(predict_maps(exact.edge, stills))
    steps = len(moving) // len(clips)
    last = slice(steps - 1, None, steps)  # the last map of each clip
    atol = 0.03 if name == "fp16" else 1e-3
    torch.testing.assert_close(without[last].softmax(-1), still[last].softmax(-1), atol=atol, rtol=0)
    assert float((moving - without).abs().max()) > 0.1


def test_weight_of_motion_keeps_still_videos_and_one_changes_nothing(
    files: dict[str, Path], tmp_path: Path
) -> None:
    graph = onnx.load(str(files["peak"]))
    assert len(motion_layers(graph.graph)) == 3
    before = {each.name: numpy_helper.to_array(each).copy() for each in graph.graph.initializer}
    weight_motion(graph.graph, 1.0)
    for each in graph.graph.initializer:
        np.testing.assert_array_equal(numpy_helper.to_array(each), before[each.name])
    weight_motion(graph.graph, 1.5)
    model = load_onnx(files["peak"])
    save_calibrated(graph, tmp_path / "more.onnx", model, {})
    more = load_onnx(tmp_path / "more.onnx")
    still = [np.stack([clip[0]] * 8) for clip in CLIPS]
    np.testing.assert_allclose(predict_maps(more.edge, still), predict_maps(model.edge, still), atol=1e-4)
    assert np.abs(predict_maps(more.edge, CLIPS) - predict_maps(model.edge, CLIPS)).max() > 1e-3


def test_int8_and_other_networks_offer_no_weight_of_motion(files: dict[str, Path], tmp_path: Path) -> None:
    assert motion_layers(onnx.load(str(files["int8"])).graph) == []
    assert motion_layers(onnx.load(str(files["fp16"])).graph)
    source = tmp_path / "other.onnx"
    export(loaded(ClipModel()), source, mode="clip", batches=(1,))
    assert motion_layers(onnx.load(str(source)).graph) == []


def test_calibrated_file_is_quantized_with_its_calibration_in_floating_point(
    files: dict[str, Path], tmp_path: Path
) -> None:
    path = tmp_path / "calibrated.onnx"
    model = calibrated(files["peak"], path, NUMBERS)
    layers, floating = sort_layers(onnx.load(str(path)).graph)
    assert not [name for name in layers if name.startswith("calibration/")]
    assert len([name for name in floating if name.startswith("calibration/")]) == 3
    assert layers == sort_layers(onnx.load(str(files["peak"])).graph)[0]
    report = quantize(path, tmp_path / "int8.onnx", draw_clips((64, 96), 8), max_loss=0.05, progress=False)
    assert load_onnx(report.path).edge.metadata[RECORD] == model.edge.metadata[RECORD]
    store_halves(path, tmp_path / "halves.onnx")
    halves = predict_maps(load_onnx(tmp_path / "halves.onnx").edge, CLIPS)
    np.testing.assert_allclose(halves, predict_maps(model.edge, CLIPS), atol=0.02)


def test_sources_that_cannot_be_calibrated_are_refused(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calibrated(files["peak"], tmp_path / "once.onnx", NUMBERS)
    (tmp_path / "text.onnx").write_text("no graph")
    big = tmp_path / "big.onnx"
    big.write_bytes(files["peak"].read_bytes())
    (tmp_path / "big.onnx.data").write_bytes(b"")
    for path, message in (
        (tmp_path / "once.onnx", "is calibrated already; expected the file that it was made from"),
        (tmp_path / "text.onnx", "ONNX Runtime cannot load it"),
        (tmp_path / "none.onnx", "no such file"),
        (big, "with a separate weight file, cannot be calibrated"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            load_source(path)
        assert "\n" not in str(caught.value)
    monkeypatch.setattr("distill.calibration.graph.MIN_OPSET", 19)
    with pytest.raises(UserError, match=r"peak\.onnx: has opset 18; expected at least 19; export the model again"):
        load_source(files["peak"])
