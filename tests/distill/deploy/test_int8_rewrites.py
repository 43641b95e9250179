"""A quantized graph reads the frame as it is and chooses states as bytes, and its maps stay those of fp32."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from helpers.quantized_files import draw_clips, stream, write
from onnx import TensorProto, helper, numpy_helper
from onnxscript import ir

from distill.deploy.calibration_clips import agreement, predict_maps
from distill.deploy.int8 import between, sort_layers
from distill.deploy.int8_rewrites import before
from distill.deploy.quantize import quantize
from distill.models.onnx import load_onnx

SPOTS = draw_clips((64, 96), 8)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A student whose channels share mean and standard deviation, in fp32 and in INT8."""
    folder, model = tmp_path_factory.mktemp("pixels"), stream()
    model.network.mean.fill_(0.5)
    model.network.std.fill_(0.5)
    made = {"fp32": write(model, folder / "s.onnx"), "int8": folder / "s-int8.onnx"}
    quantize(made["fp32"], made["int8"], SPOTS, max_loss=0.02, threads=1, progress=False)
    return made


def test_int8_first_convolution_reads_frame(files: dict[str, Path]) -> None:
    graph = onnx.load(files["int8"]).graph
    constants = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    users = {name: node for node in graph.node for name in node.input}
    pad = users["frame"]
    dequantize = users[pad.output[0]]
    assert (pad.op_type, dequantize.op_type) == ("Pad", "DequantizeLinear")
    assert constants[dequantize.input[1]] == 1
    assert constants[dequantize.input[2]] in (127, 128)  # the mean is 127.5
    stem = users[dequantize.output[0]]
    assert stem.name == "encoder.bn1/Conv"
    assert "Cast" not in {node.op_type for node in graph.node}


def test_int8_state_is_chosen_between_bytes(files: dict[str, Path]) -> None:
    graph = onnx.load(files["int8"]).graph
    made_by = {name: node.op_type for node in graph.node for name in node.output}
    chosen = [node for node in graph.node if node.op_type == "Where" and made_by.get(node.input[1])]
    assert len(chosen) == 2  # one for each scale whose state is one frame
    assert all(made_by[name] == "QuantizeLinear" for node in chosen for name in node.input[1:])


def test_int8_maps_of_pixels_agree_with_fp32(files: dict[str, Path]) -> None:
    maps = [predict_maps(load_onnx(files[each], threads=1).edge, SPOTS.held_out) for each in ("int8", "fp32")]
    assert agreement(*maps).mean() > 0.98


def test_pixels_of_channels_with_other_means_keep_their_normalisation(tmp_path: Path) -> None:
    model = ir.from_proto(onnx.load(write(stream(), tmp_path / "s.onnx")))
    nodes = len(list(model.graph))
    assert before(model) is None
    assert len(list(model.graph)) == nodes


def test_last_depthwise_layer_and_what_it_feeds_stay_in_floating_point() -> None:
    shapes = {"a": (8, 8, 1, 1), "b": (8, 1, 3, 3), "c": (8, 8, 1, 1), "d": (8, 1, 3, 3), "e": (1, 8, 1, 1)}

    def layer(x: str, name: str) -> onnx.NodeProto:
        groups = shapes[name][0] // shapes[name][1] if name in "bd" else 1
        return helper.make_node("Conv", [x, f"w{name}"], [name], name=name, group=groups)

    nodes = [
        *(layer(x, name) for x, name in zip("xabc", "abcd", strict=True)),
        helper.make_node("Add", ["c", "d"], ["sum"], name="sum"),
        layer("sum", "e"),
    ]
    weights = [numpy_helper.from_array(np.zeros(s, np.float32), f"w{name}") for name, s in shapes.items()]
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "g", [value], [], weights)
    layers, floating = sort_layers(graph)
    assert (layers, floating) == (["a", "b", "c"], {"d", "e"})
    assert list(between(graph, layers, floating)) == []  # half of the sum is in floating point
    assert list(between(graph, [*layers, "d"], {"e"})) == ["sum"]
