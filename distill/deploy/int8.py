"""A graph in INT8 by ONNX Runtime's own quantizer, and which of its layers to leave in floating point.

Static quantization in the QDQ format: weights int8, a scale a channel; activations uint8, with the ranges seen on
real frames. Quantized are convolutions and products with constant weights (the layers), and what lies between two
of them: Relu and Clip, which vanish into the rounding, Add, Concat and Resize.

What stays in floating point from the start gains nothing from INT8 where it was measured (ONNX Runtime on x86):
layers with fewer than four channels on one side, such as the first and the last, and all that leads to the map and
to the state, which would be rounded for nothing.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QDQQuantizer,
    QuantType,
    create_calibrator,
)
from tqdm import tqdm

from distill.deploy.calibration import calls
from distill.errors import UserError

LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Operators that have weights."""

ACTIVATIONS = ("Relu", "Clip")
"""Operators that are quantized where a quantized layer is before them."""

JOINS = ("Add", "Concat", "Resize")
"""Operators that are quantized where they lie between quantized layers."""

FEWEST_CHANNELS = 4
"""An INT8 product takes four numbers at a time."""


class Int8Graph:
    """A graph with calibrated ranges, which can be quantized again and again with other layers left out.

    Args:
        path: the .onnx file, in floating point.
        edge: the same file as a `student.edge.EdgeModel`.
        stretches: (L, 3, H, W) uint8 RGB each, to calibrate on.
        folder: an empty folder for files in between.
        threads: to calibrate with; ONNX Runtime's choice when None.
        progress: show a bar.

    Attributes:
        layers: names of the nodes that can be quantized, in the order of the data.
    """

    def __init__(
        self,
        path: Path,
        edge: Any,
        stretches: Sequence[np.ndarray],
        folder: Path,
        *,
        threads: int | None = None,
        progress: bool = True,
    ) -> None:
        self.model = onnx.load(str(path))
        weights = {each.name: list(each.dims) for each in self.model.graph.initializer}
        self.layers = [
            node.name
            for node in self.model.graph.node
            if node.op_type in LAYERS and _channels(node, weights) >= FEWEST_CHANNELS
        ]
        watched = folder / "calibration.onnx"  # gives the least and the greatest value of each tensor
        calibrator = create_calibrator(
            str(path),
            [*LAYERS, *ACTIVATIONS, *JOINS],
            augmented_model_path=str(watched),
            calibrate_method=CalibrationMethod.MinMax,
        )
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads or 0
        # its own session leaves the graph as it is, which takes half as long again, and takes all cores
        calibrator.infer_session = onnxruntime.InferenceSession(
            str(watched), options, providers=["CPUExecutionProvider"]
        )
        calibrator.collect_data(_Feeds(edge, stretches, progress=progress))
        self.ranges = calibrator.compute_data()

    def quantized(self, layers: Collection[str]) -> onnx.ModelProto:
        """Return the graph with some of its layers in INT8, and what lies between them."""
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        if not layers:
            return model
        quantizer = QDQQuantizer(
            model,
            per_channel=True,
            reduce_range=False,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QUInt8,
            tensors_range=self.ranges,
            nodes_to_quantize=[*layers, *between(self.model.graph, layers)],
            nodes_to_exclude=[],
            op_types_to_quantize=[*LAYERS, *ACTIVATIONS, *JOINS],
            extra_options={"MatMulConstBOnly": True},
        )
        quantizer.quantize_model()
        quantizer.model.topological_sort()  # what it adds stands at the end
        quantized: onnx.ModelProto = quantizer.model.model
        return quantized

    def choose(
        self, loss: Callable[[onnx.ModelProto], float], most: float, *, progress: bool = True
    ) -> tuple[list[str], dict[str, float]]:
        """Leave as few layers in floating point as needed, those that hurt most.

        All layers are quantized if that is good enough. If not, each is quantized alone, which gives its own loss;
        then the worst stay in floating point, so many that the loss of all others together is small enough
        (found by bisection).

        Args:
            loss: from a graph to what it loses against the one in floating point.
            most: loss that is allowed.
            progress: show a bar.

        Returns:
            The layers that stay, the worst first, and each layer's own loss; both empty where all are quantized.

        Raises:
            UserError: if not even one layer can be quantized.
        """
        if not self.layers:
            raise UserError("there is no layer in this file that can be quantized to INT8; use fp16")
        if loss(self.quantized(self.layers)) <= most:
            return [], {}
        bar = tqdm(self.layers, desc="loss of each layer", unit="layer", disable=not progress)
        own = {layer: loss(self.quantized([layer])) for layer in bar}
        worst = sorted(self.layers, key=lambda layer: -own[layer])
        too_few, enough = 0, len(worst)
        while enough - too_few > 1:
            count = (too_few + enough) // 2
            if loss(self.quantized(worst[count:])) <= most:
                enough = count
            else:
                too_few = count
        if enough == len(worst):
            raise UserError(
                f"no layer can be quantized to INT8 with a loss of at most {most:g} CC; allow more, or use fp16"
            )
        return worst[:enough], own


def between(graph: onnx.GraphProto, layers: Collection[str]) -> Iterator[str]:
    """Yield the names of nodes without weights that are to be quantized with the given layers."""
    layers = set(layers)
    made_by = {output: node for node in graph.node for output in node.output}
    behind: set[str] = set()  # they get numbers that are quantized
    for node in graph.node:
        sources = {made_by[name].name for name in node.input if name in made_by}
        if node.op_type in (*ACTIVATIONS, *JOINS) and sources & (layers | behind):
            behind.add(node.name)
    before: set[str] = set()  # and they hand on to what is quantized
    for node in reversed(graph.node):
        if node.name in layers | before:
            sources = {made_by[name].name for name in node.input if name in made_by}
            before |= {name for name in sources if name in behind}
    for node in graph.node:
        if node.name in behind and (node.op_type in ACTIVATIONS or node.name in before):
            yield node.name


def _channels(node: onnx.NodeProto, weights: dict[str, list[int]]) -> int:
    """Return the channels on a layer's narrower side; 0 where its weights are no constant."""
    shape = weights.get(node.input[1], [])
    if len(shape) < 2:
        return 0
    groups = next((each.i for each in node.attribute if each.name == "group"), 1)
    return min(shape[0] * (groups if node.op_type == "ConvTranspose" else 1), shape[1] * groups)


class _Feeds(CalibrationDataReader):
    """The inputs of every call of a model over stretches, the state included, one by one."""

    def __init__(self, edge: Any, stretches: Sequence[np.ndarray], *, progress: bool) -> None:
        total = sum(1 if edge.mode == "clip" else len(stretch) for stretch in stretches)
        feeds = (feed for stretch in stretches for feed, _ in calls(edge, stretch))
        self.feeds = iter(tqdm(feeds, total=total, desc="calibrating", unit="call", disable=not progress))

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next inputs; None after the last."""
        return next(self.feeds, None)
