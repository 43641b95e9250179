"""Quantized files keep the maps, inputs and outputs of the file in fp32, or are not written."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from helpers.model_cases import loaded
from helpers.quantized_files import SPOILT, ClipModel, draw_clips, spoil, stream, write
from helpers.still_files import picture
from onnx import TensorProto, helper
from PIL import Image

from distill.benchmark.precisions import compare_precisions
from distill.cli.main import main
from distill.data.sets.find import find_videos
from distill.deploy import calibration_clips
from distill.deploy import quantize as module
from distill.deploy.calibration_clips import agreement, predict_maps, read_calibration_clips, run_calls
from distill.deploy.int8 import LAYERS, Int8Graph, between
from distill.deploy.quantize import Converted, Trial, quantize, quantize_files, to_fp16
from distill.errors import UserError
from distill.models.onnx import load_onnx

SPOTS = draw_clips((64, 96), 8)

SETTINGS = {"max_loss": 0.02, "threads": 1, "progress": False}
"""Rounding costs an untrained network more than a trained one."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The streaming student in each precision."""
    folder = tmp_path_factory.mktemp("quantized")
    made = {"fp32": write(stream(), folder / "s.onnx")}
    for precision in ("fp16", "int8"):
        made[precision] = folder / f"s-{precision}.onnx"
        quantize(made["fp32"], made[precision], SPOTS, to=precision, **SETTINGS)
    return made


def interface(path: Path) -> list[tuple[str, str, list]]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return [(each.name, each.type, each.shape) for each in (*session.get_inputs(), *session.get_outputs())]


def constants(graph: onnx.GraphProto) -> dict[str, np.ndarray]:
    return {each.name: onnx.numpy_helper.to_array(each) for each in graph.initializer}


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_quantize_keeps_interface_and_metadata(files: dict[str, Path], precision: str) -> None:
    assert interface(files[precision]) == interface(files["fp32"])
    old, new = (load_onnx(files[each]).edge for each in ("fp32", precision))
    assert new.metadata["precision"] == precision
    made = new.metadata["quantization"]
    assert (made["frames_of"], made["held_out"], made["calibrated_on"]) == (
        "generated spots",
        8,
        24 * (precision == "int8"),
    )
    changed = ("precision", "quantization")
    assert {**new.metadata, **dict.fromkeys(changed)} == {**old.metadata, **dict.fromkeys(changed)}
    assert [each.key for each in onnx.load(files[precision]).metadata_props] == ["saldistill", "saldistill_sha256"]
    size = {each: path.stat().st_size for each, path in files.items()}
    assert size[precision] < 0.65 * size["fp32"]


@pytest.mark.parametrize(("precision", "least"), [("fp16", 0.999), ("int8", 0.97)])
def test_quantized_maps_on_new_frames_agree_with_fp32(files: dict[str, Path], precision: str, least: float) -> None:
    other = draw_clips((64, 96), 12, calibration=0, held_out=2).held_out
    reference = predict_maps(load_onnx(files["fp32"]).edge, other)
    assert reference.std(0).max() > 0.05  # the maps depend on the frames
    cc = agreement(predict_maps(load_onnx(files[precision]).edge, other), reference)
    assert least < cc.mean() < 1
    assert len(cc) == 24


def test_int8_batch_equals_single_frames(files: dict[str, Path]) -> None:
    edge = load_onnx(files["int8"]).edge
    frames = np.stack([clip[0] for clip in SPOTS.calibration])
    together, _ = edge.step(frames, edge.initial_state(3))
    alone = [edge.step(frame[None], edge.initial_state())[0][0] for frame in frames]
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_int8_has_scale_per_channel_and_keeps_narrow_layers_map_and_state(files: dict[str, Path]) -> None:
    graph = onnx.load(files["int8"]).graph
    values = constants(graph)
    made_by = {output: node for node in graph.node for output in node.output}
    kinds: dict[str, int] = {"int8": 0, "float32": 0}
    for node in graph.node:
        if node.op_type not in LAYERS:
            continue
        source = made_by.get(node.input[1])
        if source is None:
            weights = values[node.input[1]]
            assert weights.dtype == np.float32
            groups = next(each.i for each in node.attribute if each.name == "group")
            narrow = min(weights.shape[0], weights.shape[1] * groups) < 4
            assert narrow or node.name == "decoder.reduce.2.space.0.1/Conv"  # depth-wise, just before the map
        else:
            weights, scale = (values[name] for name in source.input[:2])
            assert source.op_type == "DequantizeLinear"
            assert weights.dtype == np.int8
            assert scale.shape == (weights.shape[0],)
            activations = made_by[node.input[0]]
            assert activations.op_type == "DequantizeLinear"
            assert values[activations.input[2]].dtype == np.uint8
        kinds[weights.dtype.name] += 1
    assert kinds == {"int8": 24, "float32": 3}
    inputs = [node.input[0] for node in graph.node if node.op_type == "QuantizeLinear"]
    rounded = {made_by[name].op_type for name in inputs if name in made_by}
    assert not rounded & {"LogSoftmax", "Exp", "Sub"}
    assert made_by["next_past0"].op_type != "DequantizeLinear"  # the state is not rounded


def test_int8_layer_with_large_loss_stays_in_floating_point(files: dict[str, Path], tmp_path: Path) -> None:
    source = spoil(files["fp32"], tmp_path / "spoilt.onnx")
    report = quantize(source, tmp_path / "q.onnx", SPOTS, **SETTINGS)
    assert report.kept == (SPOILT,)
    assert report.layers == 24
    others = [loss for layer, loss in report.losses.items() if layer != SPOILT]
    assert report.losses[SPOILT] > 5 * max(others)
    assert 1 - report.cc[0] <= 0.02
    assert f"in floating point, because of their loss of CC: {SPOILT} (" in str(report)
    assert report.metadata["quantization"]["in_floating_point"] == [SPOILT]
    kept = next(node for node in onnx.load(tmp_path / "q.onnx").graph.node if node.name == SPOILT)
    assert kept.input[1] in constants(onnx.load(tmp_path / "q.onnx").graph)
    with pytest.raises(UserError, match=r"no layer can be quantized to INT8 with a loss of at most 1e-09 CC"):
        quantize(source, tmp_path / "r.onnx", SPOTS, max_loss=1e-9, threads=1, progress=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["q.onnx", "spoilt.onnx"]


def test_choose_bisection_keeps_fewest_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = Int8Graph.__new__(Int8Graph)
    graph.layers = [f"layer{index}" for index in range(20)]
    cost = {layer: 2.0**-index for index, layer in enumerate(graph.layers)}
    monkeypatch.setattr(Int8Graph, "quantized", lambda self, layers: list(layers))
    asked = []

    def loss(layers: list[str]) -> float:
        asked.append(layers)
        return sum(cost[layer] for layer in layers)

    kept, own = graph.choose(loss, 0.1, progress=False)  # 2**-4 + 2**-5 + ... < 2**-3
    assert kept == graph.layers[:5]
    assert own == cost
    assert len(asked) <= 1 + 20 + 5
    assert graph.choose(loss, 2.0, progress=False) == ([], {})


def test_between_yields_inner_joins_and_following_activations() -> None:
    def node(kind: str, inputs: str, output: str) -> onnx.NodeProto:
        return helper.make_node(kind, inputs.split(), [output], name=output)

    def value(name: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, None)

    nodes = [
        node("Conv", "x w", "a"),
        node("Relu", "a", "a_relu"),
        node("Concat", "past a_relu", "joined"),
        node("Conv", "joined w", "b"),
        node("Add", "a_relu b", "sum"),
        node("Conv", "sum w", "c"),
        node("Clip", "c", "c_clip"),
        node("Add", "c_clip prior", "map"),
        node("Concat", "past b", "next_past"),
    ]
    graph = helper.make_graph(nodes, "g", [value("x")], [value("map"), value("next_past")])
    assert list(between(graph, ["a", "b", "c"])) == ["a_relu", "joined", "sum", "c_clip"]
    assert list(between(graph, ["a"])) == ["a_relu"]
    assert list(between(graph, ["a", "b"])) == ["a_relu", "joined"]
    assert list(between(graph, ["b", "c"])) == ["sum", "c_clip"]
    assert list(between(graph, [])) == []


def test_quantize_clip_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distill.runtimes.export.gflops_if_known", lambda model, **_: 1.0)
    source = write(loaded(ClipModel()), tmp_path / "clip.onnx")
    spots = draw_clips((16, 24), 4)
    for precision, layers in (("int8", 1), ("fp16", 0)):
        report = quantize(source, tmp_path / f"{precision}.onnx", spots, to=precision, threads=1, progress=False)
        assert report.layers == layers
        assert report.cc[1] > 0.99
        assert interface(tmp_path / f"{precision}.onnx") == interface(source)
    rows = compare_precisions([source, tmp_path / "int8.onnx"], spots, threads=1, rounds=1, progress=False)
    assert [row["precision"] for row in rows] == ["fp32", "int8"]
    assert rows[0]["speed"] == rows[0]["agreement"] == 1
    assert rows[1]["agreement"] == pytest.approx(quantized_cc(tmp_path / "int8.onnx"), abs=1e-6)


def quantized_cc(path: Path) -> float:
    return load_onnx(path).edge.metadata["quantization"]["cc"]["mean"]


def test_run_calls_carries_state_through_clip(files: dict[str, Path]) -> None:
    edge = load_onnx(files["fp32"]).edge
    (clip,) = SPOTS.held_out
    feeds, maps = zip(*run_calls(edge, clip), strict=True)
    state = edge.initial_state()
    for frame, feed, found in zip(clip, feeds, maps, strict=True):
        np.testing.assert_array_equal(feed["frame"], frame[None])
        for name, value in state.items():
            np.testing.assert_array_equal(feed[name], value)
        expected, state = edge.step(frame[None], state)
        np.testing.assert_array_equal(found, expected)


def test_agreement_of_constant_and_nan_maps() -> None:
    ramp = np.arange(12.0).reshape(3, 4)
    flat, broken = np.full((3, 4), 0.5), np.full((3, 4), np.nan)
    maps = np.stack([ramp, 3 * ramp + 1, 11 - ramp, flat, flat, ramp, broken])
    reference = np.stack([ramp, ramp, ramp, flat, ramp, flat, ramp])
    np.testing.assert_allclose(agreement(maps, reference), [1, 1, -1, 1, 0, 0, 0], atol=1e-12)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two videos of 40 and 24 frames; the red channel is the frame number."""
    for name, count in (("long", 40), ("short", 24)):
        (tmp_path / "videos" / name).mkdir(parents=True)
        for index in range(count):
            Image.new("RGB", (96, 64), (index, 100, 200)).save(tmp_path / "videos" / name / f"{index + 1:03d}.png")
    return tmp_path / "videos"


def test_calibration_clips_are_spread_over_videos(files: dict[str, Path], pictures: Path) -> None:
    model = load_onnx(files["fp32"])
    found = read_calibration_clips(pictures, model, frames=48, progress=False)
    first = [clip[:, 0, 0, 0].tolist() for clip in (*found.calibration, *found.held_out)]
    assert first == [list(range(2, 18)), list(range(4, 20)), list(range(22, 38))]  # long, short, long again
    assert found.counts == (32, 16)
    assert found.calibration[0].shape == (16, 3, 64, 96)
    assert found.calibration[0][0, :, 5, 5].tolist() == [2, 100, 200]
    with pytest.raises(UserError, match=r"24 frames are too few .* two clips of 16 frames"):
        read_calibration_clips(pictures / "short", model, progress=False)


def test_calibration_clips_have_training_stride(files: dict[str, Path], pictures: Path) -> None:
    model = load_onnx(files["fp32"])
    model.edge.metadata["notes"] = {"stride": 2}
    with pytest.raises(UserError, match="too few"):  # a clip spans 31 frames: one fits into `long`
        read_calibration_clips(pictures, model, progress=False)
    model.edge.metadata["notes"] = {"stride": "60fps"}  # folders play at 30, so that each frame comes twice
    model.edge.reach = 16
    found = read_calibration_clips(pictures, model, frames=32, progress=False)
    assert np.diff(found.held_out[0][:, 0, 0, 0]).tolist() == [0, 1] * 7 + [0]


def test_stills_calibrate_only_without_videos(files: dict[str, Path], pictures: Path, tmp_path: Path) -> None:
    model = load_onnx(files["fp32"])
    stills = [picture(tmp_path / f"stills/{number}.png", (40 + number, 60)) for number in range(9)]
    found = read_calibration_clips(f"images:{tmp_path / 'stills'}", model, frames=64, progress=False)
    assert found.counts == (48, 16)
    assert all(bool((clip == clip[:1]).all()) for clip in (*found.calibration, *found.held_out))
    videos = [*find_videos("images", tmp_path / "stills"), *find_videos("folder", pictures)]
    chosen = {video.name for video, _ in calibration_clips._places(videos, 16, 1, 4)}
    assert (len(videos), chosen) == (len(stills) + 2, {"long", "short"})


def test_quantize_interrupted_leaves_no_file(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(path: Path) -> None:
        assert path.exists()
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "check_file", stop)
    with pytest.raises(KeyboardInterrupt):
        quantize(files["fp32"], tmp_path / "q.onnx", SPOTS, to="fp16", progress=False)
    assert list(tmp_path.iterdir()) == []


def test_quantize_with_large_loss_leaves_no_file(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(trial: Trial) -> Converted:
        converted = to_fp16(trial)
        for each in converted.graph.graph.initializer:
            if "head.weight" in each.name:
                each.CopyFrom(onnx.numpy_helper.from_array(np.full(each.dims, np.nan, np.float16), each.name))
        return converted

    monkeypatch.setitem(module.PRECISIONS, "fp16", broken)
    with pytest.raises(UserError, match=r"in fp16, the maps lose 1\.0000 CC compared with s\.onnx; at most 0\.01"):
        quantize(files["fp32"], tmp_path / "q.onnx", SPOTS, to="fp16", progress=False)
    assert list(tmp_path.iterdir()) == []


def test_quantize_invalid_input_is_rejected(files: dict[str, Path], tmp_path: Path) -> None:
    taken = tmp_path / "taken.onnx"
    taken.write_bytes(b"mine")
    theirs = tmp_path / "theirs.onnx"
    model = onnx.load(files["fp32"])
    del model.metadata_props[:]
    onnx.save(model, theirs)
    weights = tmp_path / "big.onnx"
    shutil.copy(files["fp32"], weights)
    (tmp_path / "big.onnx.data").write_bytes(b"")
    new = tmp_path / "new.onnx"
    for source, path, settings, message in (
        (files["fp32"], taken, {}, "taken.onnx: the quantized file already exists"),
        (files["int8"], new, {}, "s-int8.onnx: is already in int8; expected the file in fp32"),
        (theirs, new, {}, 'theirs.onnx: has no "saldistill" metadata'),
        (tmp_path / "none.onnx", new, {}, "none.onnx: no such file"),
        (weights, new, {}, "big.onnx: models of 2 GB or more, with a separate weight file"),
        (files["fp32"], tmp_path / "q.tflite", {}, "q.tflite: expected a file name ending in .onnx"),
        (files["fp32"], new, {"to": "int4"}, "to: expected one of fp16, int8, got 'int4'"),
        (files["fp32"], new, {"max_loss": 0}, "max_loss: expected a correlation between 0 and 1"),
    ):
        with pytest.raises(UserError) as caught:
            quantize(source, path, SPOTS, progress=False, **settings)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)
    assert taken.read_bytes() == b"mine"
    assert not new.exists()
    with pytest.raises(UserError, match="one file name for 2 precisions"):
        quantize_files(files["fp32"], tmp_path, to=("fp16", "int8"), out=new)
    with pytest.raises(UserError, match="nowhere: no such video or folder; for a data set, add its name"):
        read_calibration_clips("nowhere", load_onnx(files["fp32"]))
    with pytest.raises(UserError, match="a file or folder has no splits"):
        read_calibration_clips(tmp_path, load_onnx(files["fp32"]), split="train")


def test_quantize_command_writes_and_compares_files(
    files: dict[str, Path], tmp_path: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "s.onnx"
    shutil.copy(files["fp32"], source)
    words = [
        "quantize",
        str(source),
        "--to",
        "fp16,int8",
        "--on",
        str(pictures),
        "--frames",
        "32",
        "--max-loss",
        "0.5",
    ]
    assert main([*words, "--rounds", "1", "--threads", "1", "--measurements", str(tmp_path / "t.json")]) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[0].split()[:3] == ["file", "precision", "runtime"]
    assert [line.split()[:2] for line in table[1:4]] == [
        ["s.onnx", "fp32"],
        ["s-fp16.onnx", "fp16"],
        ["s-int8.onnx", "int8"],
    ]
    rows = json.loads((tmp_path / "t.json").read_text())["rows"]
    assert [row["precision"] for row in rows] == ["fp32", "fp16", "int8"]
    assert all(row["milliseconds"] > 0 for row in rows)
    assert main(words) == 2
    assert "s-fp16.onnx: the quantized file already exists" in capsys.readouterr().err


def test_compare_precisions_invalid_input_is_rejected(files: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="name at least one"):
        compare_precisions([], SPOTS)
    with pytest.raises(UserError, match="runtimes: expected one or more of ONNX Runtime, OpenVINO, got 'TensorRT'"):
        compare_precisions([files["fp32"]], SPOTS, runtimes=["TensorRT"])
