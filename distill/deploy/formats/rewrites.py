"""Rewrites of an exported ONNX graph around faults of other runtimes, which golden vectors showed.

Each returns the same maps and states as the original; `started` is 0 or 1.
"""

import numpy as np
import onnx
from onnx import helper, numpy_helper

ONE = "one"


def blend_where(graph: onnx.GraphProto) -> None:
    """Replace each `Where(started > 0.5, a, b)` by started * a + (1 - started) * b.

    ncnn has no Where, and MNN 3.6 repeats `b` over the steps of the state in the wrong order. `a` must be finite,
    also where `started` is 0.
    """
    _add_one(graph)
    same = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Greater"}
    nodes = []
    for node in graph.node:
        node.input[:] = [same.get(name, name) for name in node.input]
        if node.op_type == "Where":
            chosen, first, second = node.input
            rest, kept, added = (f"{node.name}/{part}" for part in ("rest", "kept", "added"))
            nodes += [
                helper.make_node("Sub", [ONE, chosen], [rest], rest),
                helper.make_node("Mul", [first, chosen], [kept], kept),
                helper.make_node("Mul", [second, rest], [added], added),
                helper.make_node("Add", [kept, added], [node.output[0]], node.name),
            ]
        elif node.op_type != "Greater":
            nodes.append(node)
    _replace_nodes(graph, nodes)


def started_from_input(graph: onnx.GraphProto) -> None:
    """Compute `next_started` as the maximum of `started` and 1 instead of a constant.

    OpenVINO 2026.4 keeps a state of 0 if its next value is a constant.
    """
    _add_one(graph)
    nodes = [node for node in graph.node if "next_started" not in node.output]
    nodes.append(helper.make_node("Max", ["started", ONE], ["next_started"], "next_started"))
    _replace_nodes(graph, nodes)


def without_output(graph: onnx.GraphProto, name: str) -> None:
    """Remove an output, and the nodes that nothing else needs."""
    outputs = [each for each in graph.output if each.name != name]
    needed, nodes = {each.name for each in outputs}, []
    for node in reversed(graph.node):
        if needed & set(node.output):
            needed |= set(node.input)
            nodes.append(node)
    _replace_nodes(graph, nodes[::-1])
    del graph.output[:]
    graph.output.extend(outputs)


def fixed_batch(graph: onnx.GraphProto) -> None:
    """Set the batch of all inputs and outputs to 1."""
    for value in (*graph.input, *graph.output):
        batch = value.type.tensor_type.shape.dim[0]
        batch.Clear()
        batch.dim_value = 1


def _add_one(graph: onnx.GraphProto) -> None:
    if not any(each.name == ONE for each in graph.initializer):
        graph.initializer.append(numpy_helper.from_array(np.ones((1, 1, 1, 1), np.float32), ONE))


def _replace_nodes(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
