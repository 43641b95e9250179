"""EdgeModel: maps equal to the network's in both modes, and errors for invalid input."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from helpers.edge_models import (
    SmallModel,
    frames,
    peak,
    small_stream,
    with_broken_weights,
    with_metadata,
    without_checksum,
)
from helpers.model_cases import loaded
from onnx import TensorProto, helper
from PIL import Image

from distill.inference.overlay import overlay
from distill.runtimes.export import export
from student import edge
from student.edge import EdgeModel, Stream


def test_edge_model_in_clip_mode_equals_network(exported: Path) -> None:
    model = EdgeModel(exported, threads=1)
    assert (model.mode, model.num_frames, model.reach, model.state_shapes) == ("clip", 8, 8, {})
    assert (model.size, model.target_frames, model.map_size) == ((16, 24), (7,), (8, 12))
    assert model.metadata["output"]["values"] == "peak"
    clip = frames(16).reshape(2, 8, 16, 24, 3).transpose(0, 4, 1, 2, 3)
    maps = model(clip)
    assert (maps.dtype, maps.shape) == (np.float32, (2, 1, 8, 12))
    np.testing.assert_allclose(maps, peak(SmallModel()(torch.from_numpy(clip.copy()))), atol=1e-5)


@pytest.mark.parametrize(("values", "input_type"), [("log", "float32"), ("sigmoid", "uint8")])
def test_edge_model_with_other_values_has_maps_in_unit_range(tmp_path: Path, values: str, input_type: str) -> None:
    export(loaded(SmallModel()), tmp_path / "s.onnx", values=values, input_type=input_type, batches=(1,))
    clip = frames(8).transpose(3, 0, 1, 2)[None]
    log_saliency = SmallModel()(torch.from_numpy(clip.copy())).detach()
    expected = log_saliency.exp().numpy() if values == "sigmoid" else peak(log_saliency)
    np.testing.assert_allclose(EdgeModel(tmp_path / "s.onnx")(clip), expected, atol=1e-5)


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_edge_model_in_step_mode_equals_network(step_file: Path, batch: int) -> None:
    model, network = EdgeModel(step_file, threads=1), small_stream().network
    assert (model.mode, model.num_frames, model.reach, model.target_frames) == ("step", 1, 5, (0,))
    assert (model.size, model.map_size) == ((64, 96), (16, 24))
    assert model.state_shapes == network.state_shapes
    state, expected_state = model.initial_state(batch), network.initial_state(batch)
    video = frames(8 * batch, (64, 96)).reshape(8, batch, 64, 96, 3).transpose(0, 1, 4, 2, 3)
    for now in video:
        before = {name: value.copy() for name, value in state.items()}
        maps, after = model.step(now, state)
        with torch.inference_mode():
            expected, expected_state = network.step(torch.from_numpy(now.copy()), expected_state)
        assert (maps.dtype, maps.shape) == (np.float32, (batch, 1, 16, 24))
        np.testing.assert_allclose(maps, peak(expected), atol=1e-5)
        assert list(after) == list(expected_state)
        for name, value in after.items():
            np.testing.assert_allclose(value, expected_state[name], atol=1e-4)
            assert np.array_equal(state[name], before[name])
        state = after


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        (np.zeros((1, 3, 8, 16, 25), np.uint8), r"\(batch, 3, 8, 16, 24\).*got uint8 of shape \(1, 3, 8, 16, 25\)"),
        (np.zeros((1, 3, 8, 16, 24), np.float32), "got float32"),
        (np.zeros((3, 8, 16, 24), np.uint8), "got uint8 of shape"),
        (np.zeros((0, 3, 8, 16, 24), np.uint8), r"shape \(0, 3"),
    ],
)
def test_edge_model_invalid_clip_is_rejected(exported: Path, clip: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EdgeModel(exported)(clip)


def test_edge_model_invalid_frame_or_state_is_rejected(step_file: Path) -> None:
    model = EdgeModel(step_file)
    frame, state = np.zeros((1, 3, 64, 96), np.uint8), model.initial_state()
    for wrong in (frame[:, :, 1:], frame[0], frame.astype(np.float32), frame[:0]):
        with pytest.raises(ValueError, match=r"expected uint8 frames of shape \(batch, 3, 64, 96\)"):
            model.step(wrong, state)
    for name in state:
        for value, got in (
            (state[name][:, :, :-1], "float32 of shape"),
            (state[name].astype(np.float64), "float64"),
            (model.initial_state(2)[name], r"got float32 of shape \(2, "),
        ):
            with pytest.raises(ValueError, match=rf"stream\.onnx: state {name}: expected .*{got}"):
                model.step(frame, {**state, name: value})
    with pytest.raises(ValueError, match=r"state past1: expected .*, got nothing"):
        model.step(frame, {name: value for name, value in state.items() if name != "past1"})


def test_edge_model_call_of_other_mode_is_rejected(exported: Path, step_file: Path) -> None:
    with pytest.raises(ValueError, match=r"stream\.onnx: is in step mode; call step\(frame, state\)"):
        EdgeModel(step_file)(np.zeros((1, 3, 5, 64, 96), np.uint8))
    with pytest.raises(ValueError, match=r"student\.onnx: is in clip mode, which has no state"):
        EdgeModel(exported).step(np.zeros((1, 3, 16, 24), np.uint8), {})


def test_edge_model_external_file_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such file"):
        EdgeModel(tmp_path / "nowhere.onnx")
    (tmp_path / "text.onnx").write_text("hello")
    with pytest.raises(ValueError, match=r"text\.onnx: ONNX Runtime cannot load it"):
        EdgeModel(tmp_path / "text.onnx")
    tensor = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "g",
        [tensor],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
    )
    other = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(other, tmp_path / "other.onnx")
    with pytest.raises(ValueError, match=r"other\.onnx: has no .saldistill. metadata"):
        EdgeModel(tmp_path / "other.onnx")


def test_edge_model_inconsistent_metadata_is_rejected(tmp_path: Path, exported: Path, step_file: Path) -> None:
    state = EdgeModel(step_file).metadata["state"]
    larger = [*state[:-1], {**state[-1], "shape": ["batch", 8, 16, 25]}]
    renamed = [*state[:-1], {**state[-1], "output": "next_past9"}]
    for source, changes, message in (
        (step_file, {"state": larger}, "inputs, outputs or state differ from the metadata"),
        (step_file, {"state": renamed}, "inputs, outputs or state differ"),
        (step_file, {"state": []}, "inputs, outputs or state differ"),
        (exported, {"frames": 9}, "inputs, outputs or state differ"),
        (exported, {"frames": None}, "metadata is invalid: frames: expected an integer from 1 to 1000; export the"),
        (
            step_file,
            {"state": [{"input": "past0"}]},
            "metadata is invalid: state: expected a list of",
        ),
        (exported, {"map_size": [8, 13]}, "gives maps of shape"),
        (exported, {"format": 9}, r"has format 9, mode 'clip'; .*the version that exported it"),
        (step_file, {"mode": "dream"}, r"mode 'dream'.*the version that exported it"),
    ):
        path = with_metadata(source, tmp_path / "changed.onnx", **changes)
        with pytest.raises(ValueError, match=rf"changed\.onnx: .*{message}"):
            EdgeModel(path)(np.zeros((1, 3, 8, 16, 24), np.uint8))


WRONG = (None, True, -1, 0, 1.5, 10**30, "5", "", [], {}, [1], [True, True], [[1], [2]], {"type": 1}, float("nan"))
REQUIRED = ("format", "mode", "frames", "size", "map_size", "target_frames", "input", "output", "state", "reach")
OPTIONAL = ("notes", "precision", "weights", "gflops_per_map", "fit")


@pytest.mark.parametrize("key", [*REQUIRED, *OPTIONAL, "notes.stride", "state.shape", "state.input"])
def test_metadata_of_wrong_types_is_one_sentence(tmp_path: Path, step_file: Path, key: str) -> None:
    """Only a key that may be missing has values among the wrong ones that fit it."""
    said = EdgeModel(step_file).metadata
    name, _, inner = key.partition(".")
    accepted = []
    for value in WRONG:
        changed: Any = value
        if inner:
            changed = [{**said[name][0], inner: value}, *said[name][1:]] if name == "state" else {inner: value}
        path = with_metadata(step_file, tmp_path / "changed.onnx", **{name: changed})
        message = refusal_of(path)
        if message is None:
            accepted.append(value)
        else:
            assert message.startswith((f"{path}: ", "stride")), value
            assert "\n" not in message, value
            assert len(message) < 400, value
    assert not accepted or name in OPTIONAL, accepted


def refusal_of(path: Path) -> str | None:
    """Return the error of a file; None if it runs."""
    try:
        Stream(EdgeModel(path))(frames(1)[0])
    except ValueError as error:
        return str(error)
    return None


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", "3", "[" * 200_000, f'{{"format": {"9" * 5000}}}', "NaN"])
def test_metadata_that_is_no_json_object_is_rejected(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError, match=r"x\.onnx: its .* metadata is invalid: .*export the model again"):
        edge.read_metadata({"saldistill": text}, tmp_path / "x.onnx")


def test_every_flipped_byte_is_found(tmp_path: Path, step_file: Path) -> None:
    content = step_file.read_bytes()
    path = tmp_path / "flipped.onnx"
    for place in np.random.default_rng(0).integers(0, len(content), 60):
        path.write_bytes(content[:place] + bytes([content[place] ^ 16]) + content[place + 1 :])
        assert refusal_of(path) is not None, place


def test_file_without_checksum_runs_and_with_a_wrong_one_is_rejected(tmp_path: Path, step_file: Path) -> None:
    model = without_checksum(step_file)
    onnx.save(model, tmp_path / "old.onnx")
    assert refusal_of(tmp_path / "old.onnx") is None
    assert (EdgeModel(step_file).has_checksum, EdgeModel(tmp_path / "old.onnx").has_checksum) == (True, False)
    for value in ("", "0" * 64, "x" * 10_000):
        model.metadata_props.add(key="saldistill_sha256", value=value)
        onnx.save(model, tmp_path / "wrong.onnx")
        message = refusal_of(tmp_path / "wrong.onnx")
        assert message is not None
        assert message.startswith(f"{tmp_path / 'wrong.onnx'}: its checksum differs")
        model.metadata_props.pop()


@pytest.mark.parametrize("values", ["peak", "log", "sigmoid"])
def test_map_with_nan_or_infinity_is_rejected(tmp_path: Path, values: str) -> None:
    export(loaded(SmallModel()), tmp_path / "s.onnx", values=values, batches=(1,))
    path = with_broken_weights(tmp_path / "s.onnx", tmp_path / "nan.onnx")
    clip = np.zeros((2, 3, 8, 16, 24), np.uint8)
    with pytest.raises(ValueError, match=r"nan\.onnx: the map contains NaN or infinity; its weights are damaged"):
        EdgeModel(path)(clip)
    assert np.isnan(EdgeModel(path, check=False)(clip)).all()


def test_map_of_a_step_with_nan_is_rejected(tmp_path: Path, step_file: Path) -> None:
    model = EdgeModel(with_broken_weights(step_file, tmp_path / "nan.onnx"))
    with pytest.raises(ValueError, match=r"nan\.onnx: the map contains NaN or infinity"):
        model.step(np.zeros((1, 3, 64, 96), np.uint8), model.initial_state())


STRIDES = ("٣", f"{'9' * 400}fps", "0fps", 0, 1001, True, "2\n", -1, 1.5, None, [], "1001fps")


@pytest.mark.parametrize("stride", STRIDES)
def test_impossible_stride_is_rejected(stride: Any) -> None:
    with pytest.raises(ValueError, match="stride: expected a positive number of frames or a rate such as 25fps"):
        edge.step_of(stride, 30)


@pytest.mark.parametrize("fps", [None, 0, -1, float("nan"), float("inf")])
def test_rate_in_a_video_of_unknown_rate_is_rejected(fps: float | None) -> None:
    with pytest.raises(ValueError, match="stride 25fps: a rate needs the frame rate of the video"):
        edge.step_of("25fps", fps)


def test_stride_that_needs_too_much_memory_is_rejected(exported: Path) -> None:
    with pytest.raises(ValueError, match=r"needs 241\.9 GB of past frames or states, over the limit of 2\.1 GB"):
        Stream(EdgeModel(exported), "0.000001fps", 30)


@pytest.mark.parametrize("missing", [(), ("av",), ("av", "cv2")])
def test_resize_with_any_library_agrees_with_pillow(
    monkeypatch: pytest.MonkeyPatch, missing: tuple[str, ...]
) -> None:
    if "av" in missing and "cv2" not in missing:
        pytest.importorskip("cv2")
    monkeypatch.setattr(edge, "_modules", dict.fromkeys(missing))
    rows, columns = np.mgrid[:90, :160]
    waves = [127 + 120 * np.sin(rows / a) * np.cos(columns / b) for a, b in ((9, 15), (14, 8), (20, 30))]
    frame = np.stack(waves, axis=2).astype(np.uint8)
    for size in ((32, 48), (180, 200)):
        wanted = np.asarray(Image.fromarray(frame).resize(size[::-1], Image.Resampling.BICUBIC)).astype(int)
        got = edge.resize(frame, size)
        assert got.shape == (*size, 3)
        assert np.abs(got - wanted).mean() < (0.6 if missing == ("av", "cv2") else 4)
    assert edge.resize(frame, (90, 160)) is frame


@pytest.mark.parametrize("shape", [(16, 24), (16, 24, 4), (0, 24, 3)])
def test_resize_frame_of_other_shape_is_rejected(exported: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected a uint8 RGB frame of shape \(height, width, 3\)"):
        Stream(EdgeModel(exported))(np.zeros(shape, np.uint8))


def test_overlay_equals_toolkit() -> None:
    frame = frames(1, (40, 60))[0]
    saliency = np.random.default_rng(1).random((40, 60), np.float32)
    ours, theirs = edge.overlay(frame, saliency), overlay(frame, saliency)
    difference = np.abs(ours.astype(int) - theirs)
    assert difference.max() <= 16  # nine colours instead of 256
    assert difference.mean() < 2
