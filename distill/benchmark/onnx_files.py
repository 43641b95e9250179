"""Any ONNX file as something to measure: what it takes, what it costs, and one call of it.

Of files that this project exported the metadata tell what they are. Of others the graph does: their inputs are made
up from the types and shapes that it declares, and its convolutions and products are counted.
"""

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from distill.deploy.export import export
from distill.deploy.onnx_graph import METADATA_KEY
from distill.errors import UserError
from distill.models.loaded import LoadedModel
from distill.models.onnx import load_onnx

Shapes = Mapping[str, Sequence[int]]
"""Name of an input -> its shape, for the dimensions that a file leaves open."""

TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(bool)": np.bool_,
}
"""ONNX Runtime's name of an input's type -> numpy's."""

PRECISIONS = {
    "FLOAT": "fp32",
    "DOUBLE": "fp64",
    "FLOAT16": "fp16",
    "BFLOAT16": "bf16",
    "INT8": "int8",
    "UINT8": "int8",
}
"""Types of weights; tensors of others, such as shapes, are none."""

CONVOLUTIONS = {"Conv": 1, "ConvInteger": 1, "QLinearConv": 3, "ConvTranspose": 1}
"""Operator -> which of its inputs are the weights."""

PRODUCTS = {"MatMul": 1, "MatMulInteger": 1, "QLinearMatMul": 3, "Gemm": 1}
"""Operator -> which of its inputs is the second factor."""


class OnnxFile:
    """An ONNX file of anybody's, opened in ONNX Runtime on the CPU.

    Args:
        path: the file.
        threads: threads of one call; ONNX Runtime's choice when None.
        shapes: of inputs, for the dimensions that the file leaves open; the first such is the batch's all the same.
        profile: how a file begins in which the time of every operator is noted; `session.end_profiling()` ends and
            names it. None when None.

    Attributes:
        session: the `onnxruntime.InferenceSession`.
        metadata: what a file of this project says of itself; empty of others.
        targets: maps for one of the batch; 1 of a file that does not tell.

    Raises:
        UserError: no such file, a damaged one, or a damaged or newer one of this project.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        threads: int | None = None,
        shapes: Shapes | None = None,
        profile: Path | None = None,
    ) -> None:
        self.path, self.shapes = Path(path), dict(shapes or {})
        if not self.path.is_file():
            raise UserError(f"{path}: no such file; expected a model in ONNX")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if profile is not None:
            options.enable_profiling, options.profile_file_prefix = True, str(profile)
        if threads is not None:
            options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        try:
            self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's exceptions share no base class of their own
            raise UserError(f"{path}: ONNX Runtime cannot load it: {_first_line(error)}") from error
        ours = METADATA_KEY in self.session.get_modelmeta().custom_metadata_map
        self.metadata: dict[str, Any] = load_onnx(path).edge.metadata if ours else {}
        self.targets: int = len(self.metadata["target_frames"]) if ours else 1

    def draw(self, batch_size: int) -> dict[str, np.ndarray]:
        """Make up its inputs: floats from 0 to 1, bytes from 0 to 255, other numbers 0 or 1.

        The first dimension is the batch's, where the file leaves it open.

        Raises:
            UserError: another dimension that is open and no shape given, a file that does not take such a batch,
                or an input of a type that cannot be made up.
        """
        random = np.random.default_rng(0)
        feed = {}
        for each in self.session.get_inputs():
            given = self.shapes.get(each.name, each.shape)
            if len(given) != len(each.shape):
                raise UserError(
                    f"{self.path}: input {each.name} has {len(each.shape)} dimensions, and the shape given for it "
                    f"{len(given)}: {'x'.join(map(str, given))}"
                )
            shape = [
                size if isinstance(size, int) else batch_size if place == 0 else given[place]
                for place, size in enumerate(each.shape)
            ]
            if not all(isinstance(size, int) for size in shape):
                example = "x".join(str(size) if isinstance(size, int) else "224" for size in shape)
                raise UserError(
                    f"{self.path}: leaves input {each.name} open, ({', '.join(map(str, each.shape))}); "
                    f"give its shape, such as --shape {each.name}={example}"
                )
            if each.type not in TYPES:
                raise UserError(f"{self.path}: input {each.name} is a {each.type}, which cannot be made up")
            kind = np.dtype(TYPES[each.type])
            values = (
                random.random(shape, dtype=np.float32)
                if kind.kind == "f"
                else random.integers(0, 256 if kind == np.uint8 else 2, shape)
            )
            feed[each.name] = values.astype(kind)
        if batch_size > 1 and all(values.shape[:1] != (batch_size,) for values in feed.values()):
            shapes = ", ".join(f"{name} is {values.shape}" for name, values in feed.items())
            raise UserError(
                f"{self.path}: takes no batch of {batch_size}: {shapes}; measure it at its own batch size"
            )
        return feed

    def seconds(self, feed: dict[str, np.ndarray]) -> float:
        """Run it once; return the seconds that this took.

        Raises:
            UserError: if it cannot run on these inputs.
        """
        started = time.perf_counter()
        try:
            self.session.run(None, feed)
        except Exception as error:  # as above
            shapes = ", ".join(f"{name} {values.shape}" for name, values in feed.items())
            raise UserError(f"{self.path}: cannot run on {shapes}: {_first_line(error)}") from error
        return time.perf_counter() - started

    def describe(self, feed: dict[str, np.ndarray], batch_size: int) -> dict[str, Any]:
        """Return `weights`, `gflops` a map, `precision`, `mode` and `file_mb`, weights beside the file included."""
        graph = onnx.load(str(self.path), load_external_data=False)
        kinds: dict[str, int] = {}
        for tensor in graph.graph.initializer:
            if kind := PRECISIONS.get(onnx.TensorProto.DataType.Name(tensor.data_type)):
                kinds[kind] = kinds.get(kind, 0) + math.prod(tensor.dims)
        beside = {
            entry.value
            for tensor in graph.graph.initializer
            for entry in tensor.external_data
            if entry.key == "location"
        }
        files = [self.path, *(self.path.parent / name for name in beside)]
        told: dict[str, Any] = {
            "mode": None,
            "weights": sum(kinds.values()),
            "precision": max(kinds, key=lambda kind: kinds[kind]) if kinds else "own",
            "file_mb": sum(file.stat().st_size for file in files) / 1e6,
        }
        if self.metadata:
            told |= {key: self.metadata[key] for key in ("mode", "weights", "precision") if key in self.metadata}
            return {**told, "gflops": self.metadata.get("gflops_per_map")}
        macs = multiply_adds(graph, {name: values.shape for name, values in feed.items()})
        return {**told, "gflops": None if macs is None else 2e-9 * macs / batch_size}


def is_file(reference: object) -> bool:
    """Tell whether a reference to a model is an .onnx file's."""
    return isinstance(reference, str | Path) and Path(reference).suffix == ".onnx"


def exported(model: LoadedModel, folder: Path) -> Path:
    """Return a network of the project as a new .onnx file in a folder, compared with PyTorch at batch 1 alone.

    Raises:
        UserError: as `export`.
    """
    path = folder / f"{sum(1 for _ in folder.iterdir())}.onnx"
    export(model, path, batches=(1,))
    return path


def multiply_adds(model: onnx.ModelProto, shapes: Shapes) -> int | None:
    """Return how often convolutions and products of a graph multiply and add; None where a shape stays unknown.

    Args:
        model: of any size; it is changed.
        shapes: of its inputs.
    """
    for value in model.graph.input:
        for dimension, size in zip(value.type.tensor_type.shape.dim, shapes.get(value.name, ()), strict=False):
            dimension.dim_value = size
    try:
        graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    except (
        ValueError,
        onnx.shape_inference.InferenceError,
    ):  # beyond 2 GB, or of operators that onnx does not know
        return None
    known = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.value_info, *graph.input, *graph.output):
        known[value.name] = [dimension.dim_value for dimension in value.type.tensor_type.shape.dim]
    total = 0
    for node in graph.node:
        out = known.get(node.output[0], [0])
        if node.op_type in CONVOLUTIONS:
            weights = known.get(node.input[CONVOLUTIONS[node.op_type]], [0])
            places = known.get(node.input[0], [0]) if node.op_type == "ConvTranspose" else out
            each = math.prod(places) * math.prod(weights[1:])
        elif node.op_type in PRODUCTS:
            second = known.get(node.input[PRODUCTS[node.op_type]], [0])
            turned = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
            each = math.prod(out) * (second[-1] if turned or len(second) == 1 else second[-2])
        else:
            continue
        if each == 0:
            return None
        total += each
    return total


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
