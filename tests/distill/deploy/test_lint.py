"""The lint names what a runtime would reject in an ONNX graph, and nothing else."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from helpers.places import REPOSITORY
from helpers.quantized_files import stream, write
from onnx import NodeProto, TensorProto, helper, numpy_helper
from onnxruntime.tools.onnx_model_utils import make_dim_param_fixed

from distill.deploy.device_runtimes import DEVICE_RUNTIMES
from distill.deploy.lint import Finding, lint
from distill.errors import UserError

FIXED = (1, 8, 4, 32)


def save(
    folder: Path,
    nodes: Sequence[NodeProto],
    *,
    shape: Sequence[int | str] = FIXED,
    kind: int = TensorProto.FLOAT,
    constants: dict[str, np.ndarray] | None = None,
    state: Sequence[dict] | None = None,
) -> Path:
    """Write a graph from `x` to `y` of a type and shape."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", kind, None)],
        [numpy_helper.from_array(values, name) for name, values in (constants or {}).items()],
    )
    versions = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=versions)
    if state is not None:
        helper.set_model_props(model, {"saldistill": json.dumps({"state": state})})
    path = folder / "graph.onnx"
    onnx.save(model, path)
    return path


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained streaming student."""
    return write(stream(), tmp_path_factory.mktemp("exported") / "s.onnx")


def relu(name: str = "relu") -> NodeProto:
    return helper.make_node("Relu", ["x"], ["y"], name)


def by_runtime(findings: Sequence[Finding], text: str) -> list[str]:
    """Return the runtimes with a finding that contains a text."""
    return [each.runtime for each in findings if text in str(each)]


def test_lint_of_plain_graph_finds_only_what_hailo_does_not_publish(tmp_path: Path) -> None:
    assert lint(save(tmp_path, [relu()])) == [
        Finding("hailo", "operators", "cannot be checked, because Hailo publishes no list")
    ]


def test_lint_names_operators_outside_the_list_with_their_number_and_a_node(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Neg", ["x"], ["a"], "first"),
        helper.make_node("Neg", ["a"], ["b"], "second"),
        helper.make_node("Compress", ["b", "mask"], ["y"], "third"),
    ]
    path = save(tmp_path, nodes, constants={"mask": np.array([True])})
    assert lint(path, runtimes=["tensorrt", "rknn"]) == [
        Finding("tensorrt", "operator Compress", "not in TensorRT's list (1 node, e.g. third)"),
        Finding("rknn", "operator Neg", "not in RKNN's list (2 nodes, e.g. first)"),
        Finding("rknn", "operator Compress", "not in RKNN's list (1 node, e.g. third)"),
    ]


def test_lint_names_operators_of_another_domain_with_the_domain(tmp_path: Path) -> None:
    path = save(tmp_path, [helper.make_node("Gelu", ["x"], ["y"], domain="com.microsoft")])
    assert by_runtime(lint(path), "operator com.microsoft:Gelu") == ["tensorrt", "coreml", "rknn"]


def test_lint_takes_constant_nodes_for_data(tmp_path: Path) -> None:
    constant = helper.make_node("Constant", [], ["one"], value_float=1.0)
    path = save(tmp_path, [constant, helper.make_node("Add", ["x", "one"], ["y"])])
    assert lint(path, runtimes=["qnn"]) == []


def test_lint_finds_ranks_that_only_shape_inference_knows(tmp_path: Path) -> None:
    axes = np.array([0, 1], np.int64)
    nodes = [
        helper.make_node("Unsqueeze", ["x", "axes"], ["high"]),
        helper.make_node("Relu", ["high"], ["higher"]),
        helper.make_node("Squeeze", ["higher", "axes"], ["y"]),
    ]
    found = lint(save(tmp_path, nodes, constants={"axes": axes}), runtimes=["tensorrt", "coreml", "qnn", "rknn"])
    assert found == [
        Finding(name, "2 tensors, e.g. high", f"6 dimensions; {DEVICE_RUNTIMES[name].title} takes at most 5")
        for name in ("coreml", "qnn")
    ]


def test_lint_finds_free_batch_where_it_has_to_be_fixed(tmp_path: Path) -> None:
    found = lint(save(tmp_path, [relu()], shape=("batch", *FIXED[1:])))
    assert by_runtime(found, "input x: free batch") == ["coreml", "qnn", "rknn", "hailo"]


def test_lint_finds_free_dimensions_other_than_the_batch_in_every_runtime(tmp_path: Path) -> None:
    found = lint(save(tmp_path, [relu()], shape=(1, 8, "height", "width")))
    assert by_runtime(found, "input x: free dimension at axis 2, 3") == list(DEVICE_RUNTIMES)
    assert by_runtime(found, "free batch") == []


def test_lint_finds_free_dimensions_of_outputs(tmp_path: Path) -> None:
    path = save(tmp_path, [relu()])
    model = onnx.load(path)
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 8, "height", 32)))
    onnx.save(model, path)
    assert by_runtime(lint(path), "output y: free dimension at axis 2;") == list(DEVICE_RUNTIMES)


def test_lint_finds_uint8_inputs_where_floats_are_needed(tmp_path: Path) -> None:
    found = lint(save(tmp_path, [helper.make_node("Identity", ["x"], ["y"])], kind=TensorProto.UINT8))
    assert by_runtime(found, "input x: uint8") == ["coreml", "qnn", "rknn", "hailo"]


@pytest.mark.parametrize(
    ("zero_point", "accepted"),
    [(np.int8(0), True), (np.int8(3), False), (np.uint8(0), False), (np.uint8(128), False)],
)
def test_lint_finds_quantization_that_tensorrt_rejects(
    tmp_path: Path, zero_point: np.generic, accepted: bool
) -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"], "quantize"),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
    ]
    constants = {"scale": np.float32(0.1), "zero": zero_point}
    path = save(tmp_path, nodes, constants={name: np.array(value) for name, value in constants.items()})
    assert by_runtime(lint(path), "2 nodes of QuantizeLinear") == ([] if accepted else ["tensorrt"])


def test_lint_finds_state_widths_that_the_neural_engine_rejects(tmp_path: Path) -> None:
    shapes = {"wide": (1, 10, 4, 64), "odd": (1, 32, 4, 10)}
    state = [{"input": name, "shape": ["batch", *shape[1:]]} for name, shape in shapes.items()]
    found = lint(save(tmp_path, [relu()], state=state))
    assert by_runtime(found, "state width") == ["coreml"]
    assert by_runtime(found, "state width odd 10: not a multiple of 32") == ["coreml"]


def test_lint_of_damaged_and_missing_files_fails_with_one_sentence(tmp_path: Path) -> None:
    damaged, empty = tmp_path / "damaged.onnx", tmp_path / "empty.onnx"
    damaged.write_bytes(save(tmp_path, [relu()]).read_bytes()[:-9])
    empty.write_bytes(b"")
    for path in (damaged, empty, tmp_path / "missing.onnx"):
        with pytest.raises(UserError) as failure:
            lint(path)
        assert str(failure.value).startswith(f"{path}: ")
        assert "\n" not in str(failure.value)


def test_lint_for_unknown_runtime_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected some of tensorrt, coreml, qnn, rknn, hailo, got 'tflite'"):
        lint(save(tmp_path, [relu()]), runtimes=["tflite"])


def test_findings_are_one_line_with_the_runtime_and_the_place() -> None:
    assert str(Finding("coreml", "input x", "uint8")) == "Core ML: input x: uint8"


def test_lint_of_a_real_export_finds_the_batch_the_pixels_and_the_state(exported: Path) -> None:
    assert lint(exported, runtimes=["tensorrt"]) == []
    found = [(each.runtime, each.what.split(";")[0].split(",")[0]) for each in lint(exported)]
    assert found == [
        ("coreml", "free batch"),
        ("coreml", "uint8"),
        ("coreml", "not a multiple of 32"),
        ("qnn", "free batch"),
        ("qnn", "uint8"),
        ("rknn", "free batch"),
        ("rknn", "uint8"),
        ("hailo", "cannot be checked"),
        ("hailo", "free batch"),
        ("hailo", "uint8"),
    ]


def test_export_with_float_pixels_and_fixed_batch_has_no_findings_and_the_same_maps(
    exported: Path, tmp_path: Path
) -> None:
    """The preparation of docs/how-to/other-runtimes.md."""
    path = tmp_path / "device.onnx"
    model = onnx.load(exported)
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT
    make_dim_param_fixed(model.graph, "batch", 1)
    onnx.save(model, path)
    onnx.checker.check_model(path, full_check=True)
    assert lint(path, runtimes=["tensorrt", "qnn", "rknn"]) == []
    before, after = (
        onnxruntime.InferenceSession(str(each), providers=["CPUExecutionProvider"]) for each in (exported, path)
    )
    frame, *states = after.get_inputs()
    pixels = np.random.default_rng(0).integers(0, 256, frame.shape, np.uint8)
    state = {each.name: np.zeros(each.shape, np.float32) for each in states}
    expected = before.run(None, {frame.name: pixels, **state})
    found = after.run(None, {frame.name: pixels.astype(np.float32), **state})
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "tensorrt", "widths"),
    [
        ("stream-small", ["190 nodes"], "started 1, past0 10, past1 20, past2 40, past3 80"),
        ("stream-nano", [], "started 1, past0 8, past1 16"),
    ],
)
def test_lint_of_the_shipped_students_finds_what_the_docs_say(name: str, tensorrt: list[str], widths: str) -> None:
    found = lint(REPOSITORY / "student" / "pretrained" / f"{name}.onnx")
    assert [each.where[: len("190 nodes")] for each in found if each.runtime == "tensorrt"] == tensorrt
    assert f"state width {widths}" in [each.where for each in found]
    assert not [each for each in found if each.where.startswith("operator ") or "dimensions" in each.what]
