"""Change the graph of an exported file: take its log-saliency, weight its past, and append a calibration."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from distill.calibration.maps import blurs, centre_prior, log_bias
from distill.calibration.numbers import FLOOR, Calibration
from distill.errors import UserError
from distill.models.onnx import OnnxModel, load_onnx
from distill.runtimes.onnx_graph import CALIBRATION, save_sealed

RECORD = "calibration"
"""Metadata key of the numbers, the data and the measured gains."""

OUTPUT = "saliency"

LOG_MAP = f"{CALIBRATION}/log_saliency"

TIME = re.compile(r"decoder\.reduce\.\d+\.time\.")
"""Names of the streaming student's convolutions of past and present features (`student.stream.Reduce`)."""

MIN_OPSET = 18
"""First opset in which ReduceMax takes its axes as an input, and which `export` writes by default."""


def load_source(path: str | Path, *, threads: int | None = None) -> OnnxModel:
    """Return an exported model that can be calibrated.

    Raises:
        UserError: the file is not an export, is calibrated already, has an old opset, or has its weights in another
            file.
    """
    model = load_onnx(path, threads=threads)
    if RECORD in model.edge.metadata:
        raise UserError(f"{path}: is calibrated already; expected the file that it was made from")
    if len(model.files) > 1:
        raise UserError(f"{path}: models of 2 GB or more, with a separate weight file, cannot be calibrated")
    opset = next((each.version for each in onnx.load(str(path)).opset_import if each.domain in ("", "ai.onnx")), 0)
    if opset < MIN_OPSET:
        raise UserError(f"{path}: has opset {opset}; expected at least {MIN_OPSET}; export the model again")
    return model


def motion_layers(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Return the convolutions that read past and present features; empty if any is not in floating point."""
    sources = _sources(graph)
    constants = {each.name for each in graph.initializer if each.data_type in _FLOATS}
    found = [node for node in graph.node if node.op_type == "Conv" and TIME.match(node.name)]
    for node in found:
        joined = sources.get(node.input[0])
        if joined is None or joined.op_type != "Concat" or len(joined.input) != 2:
            return []
        if _stored(node.input[1], sources) not in constants:
            return []
    return found


def motion_layers_of(model: OnnxModel) -> list[onnx.NodeProto]:
    """Return the `motion_layers` of a file."""
    return motion_layers(onnx.load(str(model.path)).graph)


def weight_motion(graph: onnx.GraphProto, weight: float) -> None:
    """Weight the change since past frames, in place: the past features become now + weight * (past - now).

    This is linear in both, so that the convolution that reads them absorbs it: W_past becomes weight * W_past, and
    W_now becomes W_now + (1 - weight) * W_past.

    Args:
        graph: a graph with `motion_layers`.
        weight: 1 changes nothing; with 0 every frame has the map of a still image.
    """
    sources = _sources(graph)
    tensors = {each.name: each for each in graph.initializer}
    for node in motion_layers(graph):
        tensor = tensors[_stored(node.input[1], sources)]
        values = numpy_helper.to_array(tensor)
        past, now = np.split(values.astype(np.float64), 2, axis=1)  # (width, width, 1, 1) each
        changed = np.concatenate([weight * past, now + (1 - weight) * past], axis=1)
        tensor.CopyFrom(numpy_helper.from_array(changed.astype(values.dtype), tensor.name))


def save_log_variant(model: OnnxModel, path: Path, *, motion: float = 1.0, threads: int | None = None) -> OnnxModel:
    """Write a model that returns its log-saliency, with a weight of its motion, and load it.

    Its maps are exact, whereas those in [0, 1] have lost low values.
    """
    graph = onnx.load(str(model.path))
    if motion != 1:
        weight_motion(graph.graph, motion)
    expose_log_map(graph.graph, model.edge.metadata["output"]["values"])
    graph.graph.node.append(helper.make_node("Identity", [LOG_MAP], [OUTPUT], f"{CALIBRATION}/Identity"))
    metadata = model.edge.metadata
    save_sealed(graph, path, metadata | {"output": metadata["output"] | {"values": "log"}})
    return load_onnx(path, threads=threads, exact=True)


def append_calibration(model: OnnxModel, calibration: Calibration) -> onnx.ModelProto:
    """Return the graph of a model with a calibration between its log-saliency and its output values."""
    graph = onnx.load(str(model.path))
    if calibration.motion != 1:
        weight_motion(graph.graph, calibration.motion)
    values = model.edge.metadata["output"]["values"]
    expose_log_map(graph.graph, values)
    _Appender(graph.graph).append(calibration, model.map_size, values)
    return graph


def save_calibrated(graph: onnx.ModelProto, path: Path, model: OnnxModel, record: Mapping[str, Any]) -> None:
    """Save a calibrated graph with the metadata of the original and a record of the calibration."""
    save_sealed(graph, path, {**model.edge.metadata, RECORD: json.loads(json.dumps(record))})


def expose_log_map(graph: onnx.GraphProto, values: str) -> None:
    """Make the log-saliency, up to a constant per map, the value LOG_MAP, in place; no node writes OUTPUT then.

    Args:
        graph: a graph of `saldistill export`.
        values: its output values, a key of `onnx_graph.VALUES`.
    """
    last = _sources(graph)[OUTPUT]
    others = [node for node in graph.node if OUTPUT in node.input]
    if values != "log" and last.op_type == "Exp" and not others:
        graph.node.remove(last)
        graph.node.append(helper.make_node("Identity", [last.input[0]], [LOG_MAP], f"{CALIBRATION}/Identity_log"))
        return
    name = LOG_MAP if values == "log" else f"{CALIBRATION}/map"
    for node in others:
        node.input[:] = [name if each == OUTPUT else each for each in node.input]
    last.output[:] = [name if each == OUTPUT else each for each in last.output]
    if values != "log":
        append = _Appender(graph)
        append("Log", append("Max", name, append.constant("lowest", np.exp(FLOOR))), output=LOG_MAP)


class _Appender:
    """Appends nodes to a graph, each of which takes the names of its inputs and returns that of its output."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph

    def __call__(self, operator: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        count = sum(node.name.startswith(f"{CALIBRATION}/{operator}") for node in self.graph.node)
        name = f"{CALIBRATION}/{operator}" + (f"_{count + 1}" if count else "")
        self.graph.node.append(helper.make_node(operator, inputs, [output or name], name, **attributes))
        return output or name

    def constant(self, name: str, values: Any, dtype: Any = np.float32) -> str:
        """Add a constant and return its name."""
        name = f"{CALIBRATION}.{name}"
        self.graph.initializer.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def append(self, calibration: Calibration, size: tuple[int, int], values: str) -> None:
        """Append a calibration, from LOG_MAP (B, N, h, w) to OUTPUT; see numbers.py for the formula.

        Densities are scaled to a peak of 1 for the network's part, which suits half precision.
        """
        c, weights = calibration, calibration.weights
        floor = self.constant("floor", FLOOR)
        axes = self.constant("axes", [-2, -1], np.int64)

        def shifted(value: str) -> str:
            return self("Max", self("Sub", value, self("ReduceMax", value, axes, keepdims=1)), floor)

        source = shifted(LOG_MAP)
        total = self("Mul", source, self.constant("finest", weights[0]))
        for number, (down, across) in enumerate(blurs(size)):
            # sum_k a_k (G_k - G_(k+1)) = a_0 G_0 + sum_k (a_(k+1) - a_k) G_(k+1)
            rows = self.constant(f"rows.{number}", (weights[number + 1] - weights[number]) * down)
            columns = self.constant(f"columns.{number}", across.T)
            total = self("Add", total, self("MatMul", self("MatMul", rows, source), columns))
        total = self("Add", total, self.constant("bias", log_bias(size, c.tilt, c.curvature).numpy()))
        mix = self("Exp", shifted(total))
        if c.prior_weight:
            prior = centre_prior(size, torch.tensor(c.prior_place), torch.tensor(c.prior_width))
            share = c.prior_weight / (1 - c.prior_weight) * prior
            sums = self("ReduceSum", mix, axes, keepdims=1)
            mix = self("Add", mix, self("Mul", sums, self.constant("prior", share.numpy())))
        if values == "log":
            self("Log", mix, output=OUTPUT)
        else:
            over = "ReduceMax" if values == "peak" else "ReduceSum"
            self("Div", mix, self(over, mix, axes, keepdims=1), output=OUTPUT)


_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16)


def _sources(graph: onnx.GraphProto) -> dict[str, onnx.NodeProto]:
    """Return the node that computes each value."""
    return {name: node for node in graph.node for name in node.output}


def _stored(name: str, sources: Mapping[str, onnx.NodeProto]) -> str:
    """Return the name of the constant behind a value, which may be stored in half precision and cast."""
    node = sources.get(name)
    return node.input[0] if node is not None and node.op_type == "Cast" else name
