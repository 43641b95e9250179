"""Rewritten graphs compute what they computed before, and each rewrite leaves alone what it does not fit."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from helpers.quantized_files import stream, write
from onnx import helper, numpy_helper
from onnxscript import ir

from distill.runtimes.onnx_rewrites import select_states, simplify


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an exported student whose states are chosen by channel, as in INT8 files."""
    path = write(stream(), tmp_path_factory.mktemp("rewrites") / "s.onnx")
    model = ir.from_proto(onnx.shape_inference.infer_shapes(onnx.load(str(path))))
    select_states(model)
    chosen = path.with_name("chosen.onnx")
    onnx.save(ir.to_proto(model), str(chosen))
    return chosen


def test_restarted_state_is_not_read_and_each_video_restarts_alone(exported: Path) -> None:
    session = onnxruntime.InferenceSession(str(exported), providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()[1:]]
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (4, 2, 3, 64, 96), dtype=np.uint8)
    state = {each.name: np.zeros((2, *each.shape[1:]), np.float32) for each in session.get_inputs()[1:]}
    for frame in frames[:3]:
        _, *after = session.run(None, {"frame": frame, **state})
        state = dict(zip(names, after, strict=True))
    fresh = {name: np.zeros_like(value) for name, value in state.items()}
    mixed = {name: value.copy() for name, value in state.items()}
    for name, value in mixed.items():
        value[1] = 0 if name == "started" else np.nan
    results = [session.run(None, {"frame": frames[3], **each}) for each in (state, fresh, mixed)]
    for continued, restarted, both in zip(*results, strict=True):
        np.testing.assert_array_equal(both, np.stack([continued[0], restarted[1]]))
    assert np.abs(results[0][0][1] - results[1][0][1]).max() > 1e-4  # the past matters


def test_exported_state_is_chosen_by_channel(exported: Path) -> None:
    kinds = [node.op_type for node in onnx.load(exported).graph.node]
    assert kinds.count("GatherND") == 2  # one scale has a lag of two frames: its past and its next state
    assert kinds.count("Where") == 2 + 2  # their indices, and the states of one frame


def pair(*, between: str | None = None, growing: bool = False) -> onnx.ModelProto:
    """A 3x3 convolution, perhaps an activation, and a 1x1 convolution without bias."""
    rng = np.random.default_rng(0)
    out = 64 if growing else 4
    weights = {"w1": (16, 8, 3, 3), "b1": (16,), "w2": (out, 16, 1, 1)}
    constants = [
        numpy_helper.from_array(rng.standard_normal(s).astype(np.float32), name) for name, s in weights.items()
    ]
    nodes = [helper.make_node("Conv", ["x", "w1", "b1"], ["a"], name="first", strides=[2, 2], pads=[1] * 4)]
    if between is not None:
        nodes.append(helper.make_node(between, ["a"], ["r"], name="between"))
    nodes.append(helper.make_node("Conv", ["r" if between else "a", "w2"], ["y"], name="second"))
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", 1, ["b", 8, 10, 12])],
        [value("y", 1, ["b", out, 5, 6])],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def run(model: onnx.ModelProto) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    x = torch.randn(2, 8, 10, 12, generator=torch.Generator().manual_seed(1)).numpy()
    return session.run(None, {"x": x})[0]


@pytest.mark.parametrize(("options", "count"), [({}, 1), ({"between": "Relu"}, 2), ({"growing": True}, 2)], ids=str)
def test_linear_convolutions_merge_if_it_saves_products(options: dict, count: int) -> None:
    model = pair(**options)
    rewritten = ir.from_proto(model)
    simplify(rewritten)
    after = ir.to_proto(rewritten)
    onnx.checker.check_model(after, full_check=True)
    assert [node.op_type for node in after.graph.node].count("Conv") == count
    np.testing.assert_allclose(run(after), run(model), atol=1e-4)
