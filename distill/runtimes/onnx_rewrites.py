"""Rewrites of exported graphs that save operators and passes over memory; the maps keep their values.

`simplify` is for every runtime. `select_states` follows the costs of ONNX Runtime on a CPU, whose Where takes three
passes while Concat and GatherND take one each; other runtimes lack GatherND, so that it is for INT8 files only.
"""

from typing import Any

import numpy as np
from onnx_ir.passes.common import RemoveUnusedNodesPass
from onnxscript import ir


def simplify(model: ir.Model) -> None:
    """Merge convolutions, and drop what cancels out."""
    for node in list(model.graph):
        if node.op_type == "Conv":
            merge_convolutions(model.graph, node)
        elif node.op_type == "Sub":
            drop_log_softmax(node)
    RemoveUnusedNodesPass()(model)


def select_states(model: ir.Model) -> None:
    """Choose states of several frames by channel, see `select_state`."""
    for node in list(model.graph):
        if node.op_type == "Where":
            select_state(model.graph, node)
    RemoveUnusedNodesPass()(model)


def merge_convolutions(graph: ir.Graph, node: ir.Node) -> None:
    """Merge a pointwise convolution into the convolution that alone feeds it, if that saves multiplications.

    Nothing lies between them, e.g. no activation: W2 (W1 x + b1) + b2 = (W2 W1) x + (W2 b1 + b2).
    """
    first = node.inputs[0].producer() if node.inputs[0] is not None else None
    if first is None or first.op_type != "Conv" or not only_use(first.outputs[0]):
        return
    inner, outer = _parameters(first), _parameters(node)
    if inner is None or outer is None or first.attributes.get_int("group", 1) != 1:
        return
    (w1, b1), (w2, b2) = inner, outer
    if w2[0, 0].size != 1 or not _plain(node):
        return
    matrix = w2.reshape(w2.shape[:2])
    weight = np.tensordot(matrix, w1, 1)  # (outputs, inputs, *kernel)
    if weight.size >= w1.size + w2.size:
        return
    inputs = [
        initializer(graph, f"{value_name(node.inputs[1])}.{name}", value.astype(np.float32))
        for name, value in (("merged", weight), ("merged_bias", matrix @ b1 + b2))
    ]
    merged = ir.node("Conv", [first.inputs[0], *inputs], metadata_props=dict(node.metadata_props))
    merged.attributes.update(first.attributes)
    _take_over(node.outputs[0], merged.outputs[0])
    graph.insert_before(node, merged)


def drop_log_softmax(node: ir.Node) -> None:
    """Replace log_softmax(x) - max(log_softmax(x)) over a map by x - max(x)."""
    log, highest = node.inputs
    reduced = inputs_of(highest, "ReduceMax")
    if log is None or len(reduced) != 2 or reduced[0] is not log or len(log.uses()) != 2:
        return
    axes = constant(reduced[1])
    reshaped = inputs_of(log, "Reshape")
    flat = inputs_of(reshaped[0], "LogSoftmax") if reshaped else []
    before = inputs_of(flat[0], "Reshape") if flat else []
    if axes is None or sorted(axes.tolist()) != [-2, -1] or not before or not only_use(reshaped[0]):
        return
    h, w = shape(log)[-2:]
    rank, axis = len(shape(flat[0])), reshaped[0].producer().attributes.get_int("axis", -1)  # type: ignore[union-attr]
    if axis not in (-1, rank - 1) or not isinstance(h, int) or not isinstance(w, int):
        return
    if shape(flat[0])[-1] != h * w:
        return
    for user, place in list(log.uses()):
        if shape(before[0]) == shape(log):
            user.replace_input_with(place, before[0])
    reshape = log.producer()
    assert reshape is not None
    reshape.replace_input_with(0, before[0])


def select_state(graph: ir.Graph, node: ir.Node) -> None:
    """Replace the Where that keeps or restarts a state by a choice of channels, so that every value is copied once.

        kept = Where(started, state (B, n * c, h, w), Concat(x (B, c, h, w), ..., x))
        past, next_state = kept[:, :c], Concat(kept[:, c:], x)

    becomes GatherND of Concat(state, x), whose indices are chosen by `started` instead of the values.
    """
    started, state, filled = node.inputs
    copies = inputs_of(filled, "Concat")
    if started is None or state is None or shape(started)[1:] != (1, 1, 1) or len(set(copies)) != 1:
        return
    x, n = copies[0], len(copies)
    c = (shape(x) or (0, 0))[1]
    if not isinstance(c, int):
        return
    slices = {_channels(user): user for user, _ in node.outputs[0].uses()}
    if shape(state)[1:2] != (n * c,) or set(slices) != {(0, c), (c, n * c)}:
        return
    past, rest = slices[0, c], slices[c, n * c].outputs[0]
    join = next(iter(rest.uses())).node if only_use(rest) else None
    if join is None or join.op_type != "Concat" or join.attributes.get_int("axis") != 1:
        return
    if list(join.inputs) != [rest, x]:
        return
    axis = graph.initializers.get("state.axis") or initializer(graph, "state.axis", np.array([3]))
    both = _node(node, "Concat", [state, x], axis=1)
    flag = _node(node, "Squeeze", [started, axis])  # (B, 1, 1)
    new = [both, flag]
    channels, newest = np.arange(c), n * c + np.arange(c)
    for old, continued, restarted in (
        (past, channels, newest),
        (join, c + np.arange(n * c), np.tile(newest, n)),
    ):
        indices = [
            initializer(graph, f"{old.name}.{name}", value.reshape(1, -1, 1).astype(np.int64))
            for name, value in (("continued", continued), ("restarted", restarted))
        ]
        index = _node(old, "Where", [flag.outputs[0], *indices])  # (B, channels, 1)
        new += [index, _node(old, "GatherND", [both.outputs[0], index.outputs[0]], batch_dims=1)]
        _take_over(old.outputs[0], new[-1].outputs[0])
    graph.insert_before(node, new)


def inputs_of(value: ir.Value | None, kind: str) -> list[ir.Value]:
    """Return the inputs of the node that makes a value, if it has a kind; otherwise, and if one is left out, []."""
    node = value.producer() if value is not None else None
    if node is None or node.op_type != kind:
        return []
    inputs = [each for each in node.inputs if each is not None]
    return inputs if len(inputs) == len(node.inputs) else []


def shape(value: ir.Value | None) -> tuple[Any, ...]:
    """Return the dimensions of a value, symbols where they are free; () if unknown."""
    return tuple(value.shape) if value is not None and value.shape is not None else ()


def only_use(value: ir.Value) -> bool:
    """Return whether one input of a node is all that a value is used for."""
    return len(value.uses()) == 1 and not value.is_graph_output()


def constant(value: ir.Value | None) -> np.ndarray | None:
    """Return a constant value; None if it depends on the inputs."""
    tensor = ir.convenience.get_const_tensor(value) if value is not None else None
    return None if tensor is None else tensor.numpy()


def initializer(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    """Add a constant to a graph."""
    value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
    value.shape, value.dtype = ir.Shape(array.shape), ir.DataType.from_numpy(array.dtype)
    graph.register_initializer(value)
    return value


def value_name(value: ir.Value | None) -> str:
    """Return the name of a value that has one."""
    assert value is not None
    assert value.name is not None
    return value.name


def _parameters(node: ir.Node) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the weight and bias of a convolution as float64; None unless they are constant."""
    weight, *bias = (constant(value) for value in node.inputs[1:])
    if weight is None or any(value is None for value in bias):
        return None
    return weight.astype(np.float64), np.asarray(bias[0] if bias else np.zeros(len(weight)), np.float64)


def _plain(node: ir.Node) -> bool:
    """Return whether a convolution has stride 1, no padding and one group."""
    attributes = node.attributes
    return (
        attributes.get_int("group", 1) == 1
        and set(attributes.get_ints("strides", [1])) == {1}
        and not any(attributes.get_ints("pads", [0]))
        and attributes.get_string("auto_pad", "NOTSET") == "NOTSET"
    )


def _channels(node: ir.Node) -> tuple[int, int] | None:
    """Return the range of channels (axis 1) of a Slice with step 1; None for another node or slice."""
    if node.op_type != "Slice":
        return None
    values = [constant(value) for value in node.inputs[1:]]
    numbers = [int(value.item()) for value in values if value is not None and value.size == 1]
    total = (shape(node.inputs[0]) or (0, 0))[1]
    if len(numbers) != len(values) or numbers[2:] not in ([1], [1, 1]) or not isinstance(total, int):
        return None
    return slice(*numbers[:2]).indices(total)[:2]


def _node(like: ir.Node, kind: str, inputs: list[ir.Value], **attributes: int) -> ir.Node:
    """Return a new node that is named after the module of another one."""
    return ir.node(kind, inputs=inputs, attributes=attributes, metadata_props=dict(like.metadata_props))


def _take_over(old: ir.Value, new: ir.Value) -> None:
    """Use a new value wherever an old one was used, also as an output of the graph."""
    new.shape, new.type = old.shape, old.type
    if old.is_graph_output():
        new.name, old.name = old.name, None
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
