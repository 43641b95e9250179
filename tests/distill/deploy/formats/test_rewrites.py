"""Rewritten graphs return the maps and states of the original, in ONNX Runtime."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from helpers.quantized_files import draw_clips, stream, write

from distill.deploy.formats import rewrites


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(stream(), tmp_path_factory.mktemp("rewrites") / "step.onnx")


def run(model: onnx.ModelProto, steps: int = 4) -> list[np.ndarray]:
    """Return all outputs of steps from the initial state."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_outputs()]
    state = {
        each.name: np.zeros([1, *each.shape[1:]], np.float32)
        for each in session.get_inputs()
        if each.name != "frame"
    }
    kind = np.float32 if session.get_inputs()[0].type == "tensor(float)" else np.uint8
    found = []
    for frame in draw_clips((64, 96), steps).held_out[0]:
        outputs = dict(zip(names, session.run(names, {"frame": frame[None].astype(kind), **state}), strict=True))
        found += [outputs[name] for name in sorted(outputs) if name != "next_started"]
        state = {name: outputs.get(f"next_{name}", np.ones((1, 1, 1, 1), np.float32)) for name in state}
    return found


@pytest.mark.parametrize(
    "rewrite",
    [
        rewrites.blend_where,
        rewrites.started_from_input,
        rewrites.fixed_batch,
        lambda graph: rewrites.without_output(graph, "next_started"),
    ],
)
def test_rewritten_graph_is_equal(file: Path, rewrite: Callable[[onnx.GraphProto], None]) -> None:
    expected, model = run(onnx.load(str(file))), onnx.load(str(file))
    rewrite(model.graph)
    onnx.checker.check_model(model)
    for one, other in zip(run(model), expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_blend_where_leaves_neither_where_nor_comparison(file: Path) -> None:
    model = onnx.load(str(file))
    rewrites.blend_where(model.graph)
    assert not {node.op_type for node in model.graph.node} & {"Where", "Greater"}


def test_without_output_removes_nodes_that_nothing_needs(file: Path) -> None:
    model = onnx.load(str(file))
    rewrites.without_output(model.graph, "next_started")
    assert "next_started" not in {each.name for each in model.graph.output}
    assert "next_started" not in {name for node in model.graph.node for name in node.output}


def test_fixed_batch_sets_every_input_and_output(file: Path) -> None:
    model = onnx.load(str(file))
    rewrites.fixed_batch(model.graph)
    batches = {value.type.tensor_type.shape.dim[0].dim_value for value in (*model.graph.input, *model.graph.output)}
    assert batches == {1}
