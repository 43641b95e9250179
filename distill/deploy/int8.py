"""INT8 quantization by ONNX Runtime's quantizer, and the choice of layers that stay in floating point.

Static quantization in QDQ format: int8 weights with one scale per channel, uint8 activations with the ranges
observed on real frames. Quantized are the layers (convolutions and products with constant weights) and what
connects them: Relu and Clip, which the rounding absorbs, Add, Concat and Resize.

The first convolution reads the pixels themselves if its channels share mean and standard deviation. Some parts
always stay in floating point because INT8 gains nothing there (measured in ONNX Runtime on x86): other layers with
fewer than four channels on either side, the depth-wise layer before the map, and everything that computes the map
and the state, which would only be rounded.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QDQQuantizer,
    QuantType,
    create_calibrator,
)
from onnxruntime.quantization.calibrate import TensorData
from onnxscript import ir

from distill.data.progress import ProgressBar
from distill.deploy.calibration_clips import run_calls
from distill.deploy.int8_rewrites import PIXELS, ZERO, after, before
from distill.errors import UserError
from distill.runtimes.onnx_check import open_session
from distill.runtimes.onnx_graph import CALIBRATION
from distill.runtimes.onnx_rewrites import select_states

LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Operators that have weights."""

ACTIVATIONS = ("Relu", "Clip")
"""Operators that are quantized after a quantized layer."""

JOINS = ("Add", "Concat", "Resize")
"""Operators that are quantized between quantized layers."""

MIN_CHANNELS = 4
"""INT8 products process four numbers at a time."""


class Int8Graph:
    """A graph with calibrated ranges, which can be quantized repeatedly with different layers.

    Args:
        path: the .onnx file, in floating point.
        edge: the same file as a `student.edge.EdgeModel`.
        clips: calibration clips, (L, 3, H, W) uint8 RGB each.
        folder: empty folder for intermediate files.
        threads: threads for calibration; defaults to ONNX Runtime's choice.
        progress: show a progress bar.

    Attributes:
        layers: names of the nodes that can be quantized, in data-flow order.
    """

    def __init__(
        self,
        path: Path,
        edge: Any,
        clips: Sequence[np.ndarray],
        folder: Path,
        *,
        threads: int | None = None,
        progress: bool = True,
    ) -> None:
        prepared = ir.from_proto(onnx.shape_inference.infer_shapes(onnx.load(str(path))))
        select_states(prepared)
        self.model = ir.to_proto(prepared)
        self.stem = before(prepared)
        self.prepared = ir.to_proto(prepared)
        self.layers, self.narrow = sort_layers(self.prepared.graph)
        path = folder / "prepared.onnx"
        onnx.save(self.prepared, str(path))
        watched = folder / "calibration.onnx"  # outputs the minimum and maximum of each tensor
        calibrator = create_calibrator(
            str(path),
            [*LAYERS, *ACTIVATIONS, *JOINS],
            augmented_model_path=str(watched),
            calibrate_method=CalibrationMethod.MinMax,
        )
        # the calibrator's own session does not optimise the graph (50 % slower) and takes all cores
        calibrator.infer_session = open_session(watched, threads=threads or 0)
        calibrator.collect_data(_Feeds(edge, clips, progress=progress))
        self.ranges = calibrator.compute_data()
        self._adjust_ranges()

    def quantized(self, layers: Collection[str]) -> onnx.ModelProto:
        """Return the graph with the given layers, and the operators between them, in INT8."""
        model = onnx.ModelProto()
        model.CopyFrom(self.prepared if self.stem in layers else self.model)
        if not layers:
            return model
        quantizer = QDQQuantizer(
            model,
            per_channel=True,
            reduce_range=False,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QUInt8,
            tensors_range=self.ranges,
            nodes_to_quantize=[*layers, *between(model.graph, layers, self.narrow)],
            nodes_to_exclude=[],
            op_types_to_quantize=[*LAYERS, *ACTIVATIONS, *JOINS],
            extra_options={"MatMulConstBOnly": True},
        )
        quantizer.quantize_model()
        quantizer.model.topological_sort()  # the quantizer appends new nodes at the end
        quantized = ir.from_proto(quantizer.model.model)
        after(quantized)
        return ir.to_proto(quantized)

    def _adjust_ranges(self) -> None:
        """Give pixels their whole range, and the inputs and the output of each Concat one range.

        ONNX Runtime then reads pixels without conversion, and copies the values of a Concat without rescaling them.
        """
        graph, ranges = self.prepared.graph, self.ranges
        for zero in (numpy_helper.to_array(each).item() for each in graph.initializer if each.name == ZERO):
            ranges[PIXELS] = TensorData(lowest=np.float32(-zero), highest=np.float32(255 - zero))
        for node in graph.node:
            names = [*node.input, *node.output]
            if node.op_type == "Concat" and all(name in ranges for name in names):
                lows, highs = zip(*(ranges[name].range_value for name in names), strict=True)
                for name in names:
                    ranges[name] = TensorData(lowest=min(lows), highest=max(highs))

    def choose(
        self, loss: Callable[[onnx.ModelProto], float], max_loss: float, *, progress: bool = True
    ) -> tuple[list[str], dict[str, float]]:
        """Choose as few layers as possible to keep in floating point, those with the largest loss.

        If quantizing all layers loses too much, each layer is quantized alone to get its own loss. Bisection then
        finds how many of the worst layers must stay in floating point.

        Args:
            loss: function from a quantized graph to its loss relative to floating point.
            max_loss: allowed loss.
            progress: show a progress bar.

        Returns:
            The layers to keep in floating point, worst first, and each layer's own loss; both empty if all layers
            can be quantized.

        Raises:
            UserError: not even one layer can be quantized.
        """
        if not self.layers:
            raise UserError("this file has no layer that can be quantized to INT8; use fp16")
        if loss(self.quantized(self.layers)) <= max_loss:
            return [], {}
        bar = ProgressBar("measuring the loss of each layer", "layer", self.layers, shown=progress)
        own = {layer: loss(self.quantized([layer])) for layer in bar}
        worst = sorted(self.layers, key=lambda layer: -own[layer])
        too_few, enough = 0, len(worst)
        while enough - too_few > 1:
            count = (too_few + enough) // 2
            if loss(self.quantized(worst[count:])) <= max_loss:
                enough = count
            else:
                too_few = count
        if enough == len(worst):
            raise UserError(
                f"no layer can be quantized to INT8 with a loss of at most {max_loss:g} CC; allow more, or use fp16"
            )
        return worst[:enough], own


def sort_layers(graph: onnx.GraphProto) -> tuple[list[str], set[str]]:
    """Return the layers to quantize, in data-flow order, and those that stay in floating point.

    These are layers with too few channels, the blurs of a calibration, and depth-wise convolutions whose values
    reach no other layer than these: ONNX Runtime's depth-wise INT8 convolution of few channels is slower than in
    floating point, so that it does not pay to return to INT8 just before the map.
    """
    weights = {each.name: list(each.dims) for each in graph.initializer}
    layers: list[str] = []
    floating: set[str] = set()
    readers: dict[str, set[str]] = {}  # value -> the layers that it reaches first
    for node in reversed(graph.node):
        reached = set().union(*(readers.get(name, set()) for name in node.output))
        if node.op_type in LAYERS and (channels := _channels(node, weights)):
            depthwise = weights[node.input[1]][1] == 1 and channels > 1
            kept = channels < MIN_CHANNELS or node.name.startswith(f"{CALIBRATION}/")
            if kept or (depthwise and reached and reached <= floating):
                floating.add(node.name)
            else:
                layers.insert(0, node.name)
            reached = {node.name}
        for name in node.input:
            readers.setdefault(name, set()).update(reached)
    return layers, floating


def between(graph: onnx.GraphProto, layers: Collection[str], narrow: Collection[str] = ()) -> Iterator[str]:
    """Yield the names of nodes without weights to quantize along with the given layers.

    Args:
        graph: the graph in floating point.
        layers: names of the quantized layers.
        narrow: names of layers that always stay in floating point, and may read what quantized layers write.
    """
    layers, narrow = set(layers), set(narrow)
    made_by = {output: node for node in graph.node for output in node.output}

    def sources(node: onnx.NodeProto) -> set[str]:
        return {made_by[name].name for name in node.input if name in made_by}

    behind: set[str] = set()  # nodes with a quantized input
    floating: set[str] = set()  # nodes with an input that a narrow layer made
    for node in graph.node:
        if node.op_type in (*ACTIVATIONS, *JOINS) and sources(node) & (layers | behind):
            behind.add(node.name)
        if node.op_type not in LAYERS and sources(node) & (narrow | floating):
            floating.add(node.name)
    before: set[str] = set()  # those of them that also feed a quantized node, or a narrow layer from quantized ones
    for node in reversed(graph.node):
        if node.name in layers | before:
            before |= sources(node) & behind
        elif node.name in narrow:
            before |= sources(node) & behind - floating
    for node in graph.node:
        if node.name in behind and (node.op_type in ACTIVATIONS or node.name in before):
            yield node.name


def _channels(node: onnx.NodeProto, weights: dict[str, list[int]]) -> int:
    """Return the smaller of a layer's input and output channels; 0 if its weights are not constant."""
    shape = weights.get(node.input[1], [])
    if len(shape) < 2:
        return 0
    groups = next((each.i for each in node.attribute if each.name == "group"), 1)
    return min(shape[0] * (groups if node.op_type == "ConvTranspose" else 1), shape[1] * groups)


class _Feeds(CalibrationDataReader):
    """The inputs, including the state, of every call of a model over clips."""

    def __init__(self, edge: Any, clips: Sequence[np.ndarray], *, progress: bool) -> None:
        total = sum(1 if edge.mode == "clip" else len(clip) for clip in clips)
        feeds = (feed for clip in clips for feed, _ in run_calls(edge, clip))
        self.feeds = iter(ProgressBar("calibrating", "call", feeds, total=total, shown=progress))

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next inputs; None after the last."""
        return next(self.feeds, None)
