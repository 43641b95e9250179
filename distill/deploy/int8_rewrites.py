"""Rewrites of a graph before and after INT8 quantization, so that ONNX Runtime computes more of it on bytes.

Before it, the first convolution is made to read pixels. After it, the frame enters that convolution as it is, and a
choice between a state and a frame's own values is made between bytes.
"""

import numpy as np
from onnx_ir.passes.common import RemoveUnusedNodesPass
from onnxscript import ir

from distill.runtimes.onnx_rewrites import constant, initializer, inputs_of, only_use, shape, value_name

PIXELS = "pixels"
"""Name of the tensor of whole numbers that enters the first convolution, if it reads pixels."""

ZERO = "pixels.zero"
"""Name of the constant that was subtracted from them."""

CHANNELS = 4
"""INT8 products process four numbers at a time."""


def before(model: ir.Model) -> str | None:
    """Let the first convolution read pixels, if it can; return its name, or None if it cannot."""
    found = next((node.name for node in list(model.graph) if read_pixels(model.graph, node)), None)
    RemoveUnusedNodesPass()(model)
    return found


def read_pixels(graph: ir.Graph, node: ir.Node) -> bool:
    """Let a convolution of normalised uint8 pixels read the pixels minus a whole number; return whether it does.

    slope * x + shift = slope * ((x - zero) + rest), where zero = round(-shift / slope). The slope goes into the
    weights and the rest, at most half a level, into the bias. At the border, where the convolution pads with zeros,
    the bias is therefore off by up to half a level. Channels must share slope and zero.

    Channels without weight fill the frame up to a multiple of `CHANNELS`: for the stem of `nano`, a quantized
    convolution of three channels took 452 us in ONNX Runtime on one thread, one of four 208 us.
    """
    added = inputs_of(node.inputs[0], "Add") if node.op_type == "Conv" and len(node.inputs) == 3 else []
    multiplied = inputs_of(added[0], "Mul") if added else []
    cast_of = inputs_of(multiplied[0], "Cast") if multiplied else []
    frame = cast_of[0] if cast_of else None
    if frame is None or frame.dtype != ir.DataType.UINT8 or not frame.is_graph_input() or len(shape(frame)) != 4:
        return False
    values = [constant(each) for each in (multiplied[1], added[1], node.inputs[1], node.inputs[2])]
    slopes, shifts, weight, bias = (None if each is None else each.astype(np.float64) for each in values)
    if slopes is None or shifts is None or weight is None or bias is None:
        return False
    slope, shift = slopes.flat[0], shifts.flat[0]
    zero = round(-shift / slope)
    if np.ptp(slopes) > 1e-9 or np.ptp(shifts) > 1e-6 or not 0 <= zero <= 255:
        return False
    more = -weight.shape[1] % CHANNELS
    bias = bias + weight.sum((1, 2, 3)) * (shift + slope * zero)
    weight = np.pad(weight * slope, [(0, 0), (0, more), (0, 0), (0, 0)])
    pads = initializer(graph, "pixels.pads", np.array([0, 0, 0, 0, 0, more, 0, 0]))
    wide = ir.node("Pad", [frame, pads], name="pixels.wide")
    cast = ir.node("Cast", wide.outputs, {"to": ir.DataType.FLOAT}, name="pixels.cast")
    pixels = ir.node("Sub", [*cast.outputs, initializer(graph, ZERO, np.array(zero, np.float32))], name=PIXELS)
    for new, kind in ((wide, ir.DataType.UINT8), (cast, ir.DataType.FLOAT), (pixels, ir.DataType.FLOAT)):
        new.outputs[0].name, new.outputs[0].dtype = new.name, kind
        new.outputs[0].shape = ir.Shape([shape(frame)[0], weight.shape[1], *shape(frame)[2:]])
    graph.insert_before(node, [wide, cast, pixels])
    node.replace_input_with(0, pixels.outputs[0])
    for place, value in ((1, weight), (2, bias)):
        name = f"{value_name(node.inputs[place])}.{PIXELS}"
        node.replace_input_with(place, initializer(graph, name, value.astype(np.float32)))
    return True


def after(model: ir.Model) -> None:
    """Remove the floating-point detour of the frame and of chosen states in a quantized graph."""
    for node in list(model.graph):
        if node.op_type == "QuantizeLinear":
            feed_pixels(node)
            choose_bytes(model.graph, node)
    RemoveUnusedNodesPass()(model)


def feed_pixels(quantize: ir.Node) -> None:
    """Replace the quantized whole numbers of `read_pixels` by the frame, which they equal."""
    if quantize.inputs[0] is not None and quantize.inputs[0].name == PIXELS:
        (frame,) = inputs_of(inputs_of(quantize.inputs[0], "Sub")[0], "Cast")
        _replace(quantize.outputs[0], frame)


def choose_bytes(graph: ir.Graph, quantize: ir.Node) -> None:
    """Quantize before a Where, whose other values are quantized with the same scale, instead of after it."""
    chosen, *scale = quantize.inputs
    choice = inputs_of(chosen, "Where")
    same = inputs_of(choice[2], "DequantizeLinear") if choice else []
    if chosen is None or not only_use(chosen) or not same or not _equal(scale, same[1:]):
        return
    first = ir.node("QuantizeLinear", [choice[1], *scale], name=f"{quantize.name}.state")
    where = ir.node("Where", [choice[0], first.outputs[0], same[0]], name=f"{quantize.name}.where")
    zero = constant(scale[1])
    assert zero is not None
    for new in (first, where):
        new.outputs[0].name, new.outputs[0].shape = new.name, chosen.shape
        new.outputs[0].dtype = ir.DataType.from_numpy(zero.dtype)
    graph.insert_before(quantize, [first, where])
    _replace(quantize.outputs[0], where.outputs[0])


def _equal(first: list[ir.Value | None], second: list[ir.Value]) -> bool:
    """Return whether two lists have the same constants."""
    pairs = [(constant(a), constant(b)) for a, b in zip(first, second, strict=False)]
    equal = [a is not None and b is not None and np.array_equal(a, b) for a, b in pairs]
    return len(first) == len(second) == 2 and all(equal)


def _replace(old: ir.Value, new: ir.Value) -> None:
    for user, place in list(old.uses()):
        user.replace_input_with(place, new)
