"""Check an ONNX graph against what the runtimes of devices accept, without running them."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from distill.data.text import plural
from distill.deploy.device_runtimes import DEVICE_RUNTIMES, DeviceRuntime
from distill.errors import UserError, reading
from distill.runtimes.onnx_graph import METADATA_KEY

QUANTIZATION = ("QuantizeLinear", "DequantizeLinear")

UNSIGNED = (onnx.TensorProto.UINT4, onnx.TensorProto.UINT8, onnx.TensorProto.UINT16)


@dataclass(frozen=True)
class Finding:
    """One thing in a graph that a runtime does not accept, or that could not be checked.

    Attributes:
        runtime: key of DEVICE_RUNTIMES.
        where: the part of the graph, e.g. "operator Unique" or "input frame".
        what: what is wrong, and what the runtime needs.
    """

    runtime: str
    where: str
    what: str

    def __str__(self) -> str:
        return f"{DEVICE_RUNTIMES[self.runtime].title}: {self.where}: {self.what}"


@dataclass(frozen=True)
class Graph:
    """What the checks read of a file.

    Attributes:
        nodes: nodes of the main graph.
        inputs, outputs: tensors with type and shape.
        ranks: number of dimensions of every tensor whose shape is known, by name.
        constants: constants that are stored in the file itself, by name.
        states: width (last dimension) of each state input whose width is fixed, by name.
    """

    nodes: list[onnx.NodeProto]
    inputs: list[onnx.ValueInfoProto]
    outputs: list[onnx.ValueInfoProto]
    ranks: dict[str, int]
    constants: dict[str, onnx.TensorProto]
    states: dict[str, int]


def lint(path: Path, *, runtimes: Iterable[str] | None = None) -> list[Finding]:
    """Return what runtimes that cannot run here would reject in an ONNX file, by their published lists.

    A file without findings can still be rejected: types, attributes and sizes are not checked, nor are the bodies
    of If, Loop and Scan.

    Args:
        path: .onnx file; of files that are not from `saldistill export`, states are not checked.
        runtimes: keys of DEVICE_RUNTIMES; defaults to all.

    Returns:
        Findings in the order of the runtimes; empty if there are none.

    Raises:
        UserError: the file is missing or damaged, or a runtime is unknown.
    """
    names = list(DEVICE_RUNTIMES) if runtimes is None else list(runtimes)
    for name in names:
        if name not in DEVICE_RUNTIMES:
            raise UserError(f"runtimes: expected some of {', '.join(DEVICE_RUNTIMES)}, got {name!r}")
    graph = read_graph(Path(path))
    checks = (operators, ranks, free_dimensions, pixels, zero_points, state_widths)
    return [
        Finding(name, where, what)
        for name in names
        for check in checks
        for where, what in check(graph, DEVICE_RUNTIMES[name])
    ]


def read_graph(path: Path) -> Graph:
    """Read an ONNX file and infer its shapes.

    Raises:
        UserError: the file is missing, damaged, or has no inputs and nodes.
    """
    with reading(path, "an ONNX file"):
        model = onnx.load(str(path), load_external_data=False)
        inferred = onnx.shape_inference.infer_shapes(model).graph
        properties = {each.key: each.value for each in model.metadata_props}
        state = json.loads(properties.get(METADATA_KEY, "{}")).get("state", [])
        states = {each["input"]: each["shape"][-1] for each in state if isinstance(each["shape"][-1], int)}
    graph = model.graph
    if not graph.node or not graph.input:
        raise UserError(f"{path}: has no inputs or no nodes; expected an ONNX file, it may be truncated or damaged")
    stored = {each.name for each in graph.initializer}
    values = [*inferred.input, *inferred.value_info, *inferred.output]
    shapes = {each.name: each.type.tensor_type.shape for each in values if each.type.tensor_type.HasField("shape")}
    return Graph(
        nodes=list(graph.node),
        inputs=[each for each in graph.input if each.name not in stored],
        outputs=list(graph.output),
        ranks={each.name: len(each.dims) for each in graph.initializer}
        | {name: len(shape.dim) for name, shape in shapes.items()},
        constants={
            each.name: each for each in graph.initializer if each.data_location != onnx.TensorProto.EXTERNAL
        },
        states=states,
    )


Found = Iterator[tuple[str, str]]
"""`where` and `what` of findings."""


def operators(graph: Graph, runtime: DeviceRuntime) -> Found:
    """Find operators outside the runtime's list; Constant nodes are data, not operators."""
    if runtime.operators is None:
        yield "operators", f"cannot be checked, because {runtime.title} publishes no list"
        return
    names = [full_name(node) for node in graph.nodes]
    for name, count in Counter(names).items():
        if name not in runtime.operators and name != "Constant":
            node = graph.nodes[names.index(name)]
            label = node.name or node.output[0]
            yield f"operator {name}", f"not in {runtime.title}'s list ({plural(count, 'node')}, e.g. {label})"


def ranks(graph: Graph, runtime: DeviceRuntime) -> Found:
    """Find tensors with too many dimensions."""
    if runtime.max_rank is None:
        return
    high = [name for name, rank in graph.ranks.items() if rank > runtime.max_rank]
    if high:
        where = f"tensor {high[0]}" if len(high) == 1 else f"{len(high)} tensors, e.g. {high[0]}"
        yield where, f"{graph.ranks[high[0]]} dimensions; {runtime.title} takes at most {runtime.max_rank}"


def free_dimensions(graph: Graph, runtime: DeviceRuntime) -> Found:
    """Find inputs and outputs whose shape is open, in the batch (the first dimension) or elsewhere."""
    for kind, values in (("input", graph.inputs), ("output", graph.outputs)):
        for value in values:
            free = free_axes(value)
            if any(axis > 0 for axis in free):
                axes = ", ".join(str(axis) for axis in free if axis > 0)
                yield f"{kind} {value.name}", f"free dimension at axis {axes}; only the batch may be free"
    if runtime.free_batch:
        return
    batches = [value.name for value in graph.inputs if 0 in free_axes(value)]
    if batches:
        kind = "input" if len(batches) == 1 else "inputs"
        yield f"{kind} {', '.join(batches)}", f"free batch; {runtime.title} needs a fixed one"


def pixels(graph: Graph, runtime: DeviceRuntime) -> Found:
    """Find inputs of uint8 pixels where the runtime needs floats."""
    for value in graph.inputs:
        if value.type.tensor_type.elem_type == onnx.TensorProto.UINT8 and not runtime.uint8_input:
            yield f"input {value.name}", f"uint8; {runtime.title} needs float"


def zero_points(graph: Graph, runtime: DeviceRuntime) -> Found:
    """Find quantization that is unsigned or has zero points other than 0."""
    if not runtime.signed_quantization:
        return
    quantized = [node for node in graph.nodes if node.op_type in QUANTIZATION]
    found = [node for node in quantized if any(is_unsigned(graph.constants.get(name)) for name in node.input[2:3])]
    if found:
        label = found[0].name or found[0].output[0]
        where = f"{plural(len(found), 'node')} of {' and '.join(QUANTIZATION)}, e.g. {label}"
        yield where, f"unsigned, or zero point not 0; {runtime.title} needs signed types and zero points of 0"


def state_widths(graph: Graph, runtime: DeviceRuntime) -> Found:
    """Find states whose width is not a multiple of what the runtime needs."""
    odd = {name: width for name, width in graph.states.items() if width % runtime.state_multiple}
    if odd:
        widths = ", ".join(f"{name} {width}" for name, width in odd.items())
        what = f"not a multiple of {runtime.state_multiple}, which states on Apple's Neural Engine need"
        yield f"state width {widths}", what


def full_name(node: onnx.NodeProto) -> str:
    """Return a node's operator, with its domain if that is not ONNX's."""
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}:{node.op_type}"


def free_axes(value: onnx.ValueInfoProto) -> list[int]:
    """Return the axes of a tensor that have no fixed size."""
    dimensions = value.type.tensor_type.shape.dim
    return [axis for axis, size in enumerate(dimensions) if not (size.HasField("dim_value") and size.dim_value > 0)]


def is_unsigned(zero_point: onnx.TensorProto | None) -> bool:
    """Return whether a zero point is of an unsigned type or not 0; False if it is not a constant of the file."""
    if zero_point is None:
        return False
    return zero_point.data_type in UNSIGNED or bool(np.any(numpy_helper.to_array(zero_point) != 0))
