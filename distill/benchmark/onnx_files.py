"""Benchmark any ONNX file: its cost, the time of a call, and the time of each layer.

This project's exports describe themselves in their metadata. For external files, inputs are generated from the
types and shapes that the graph declares, and its convolutions and matrix products are counted.
"""

import json
import math
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from distill.benchmark.rows import Table, Tables, timed
from distill.errors import UserError, reading
from distill.limits import MAX_BATCH_BYTES, check_limit
from distill.models.loaded import LoadedModel
from distill.models.onnx import load_onnx
from distill.models.references import load_model
from distill.runtimes.export import export
from distill.runtimes.onnx_check import open_session
from distill.runtimes.onnx_graph import METADATA_KEY

Shapes = Mapping[str, Sequence[int]]
"""Input name -> shape, for the dimensions that a file leaves open."""

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
"""ONNX Runtime's name of an input type -> NumPy's."""

PRECISIONS = {
    "FLOAT": "fp32",
    "DOUBLE": "fp64",
    "FLOAT16": "fp16",
    "BFLOAT16": "bf16",
    "INT8": "int8",
    "UINT8": "int8",
}
"""Types of weights; tensors of other types, such as shapes, are not weights."""

CONVOLUTIONS = {"Conv": 1, "ConvInteger": 1, "QLinearConv": 3, "ConvTranspose": 1}
"""Operator -> index of the input that holds the weights."""

PRODUCTS = {"MatMul": 1, "MatMulInteger": 1, "QLinearMatMul": 3, "Gemm": 1}
"""Operator -> index of the input that is the second factor."""

CALLS = 20
"""Profiled calls, after one warm-up call; an operator's time is its median."""

MAX_ROWS = 12
"""Number of slowest layers with their own row; the others share one."""


class OnnxFile:
    """Any ONNX file, opened in ONNX Runtime on the CPU.

    Args:
        path: the file.
        threads: threads per call; defaults to ONNX Runtime's choice.
        shapes: input shapes, for the dimensions that the file leaves open; an open first one is always the batch.
        profile: prefix of a profile with the time of every operator, which `session.end_profiling()` writes.

    Attributes:
        metadata: metadata of this project's exports; empty for external files.
        targets: maps per item of a batch; 1 for external files.

    Raises:
        UserError: the file is missing, damaged, or an export of a newer version.
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
            raise UserError(f"{path}: no such file; expected an ONNX model")
        profiling = {"enable_profiling": True, "profile_file_prefix": str(profile)} if profile else {}
        try:
            self.session = open_session(path, threads=threads or 0, **profiling)
        except Exception as error:  # ONNX Runtime's exceptions have no common base class
            raise UserError(f"{path}: ONNX Runtime cannot load it: {_first_line(error)}") from error
        exported = METADATA_KEY in self.session.get_modelmeta().custom_metadata_map
        self.metadata: dict[str, Any] = load_onnx(path).edge.metadata if exported else {}
        self.targets: int = len(self.metadata["target_frames"]) if exported else 1

    def draw(self, batch_size: int) -> dict[str, np.ndarray]:
        """Return generated inputs: floats in [0, 1], bytes from 0 to 255, other integers 0 or 1.

        Raises:
            UserError: a dimension other than the batch is open and has no shape, the file does not take such a
                batch, or an input's type is not supported.
        """
        random = np.random.default_rng(0)
        feed = {}
        for each in self.session.get_inputs():
            if each.type not in TYPES:
                raise UserError(f"{self.path}: input {each.name}: type {each.type} is not supported")
            kind, shape = np.dtype(TYPES[each.type]), self._shape(each, batch_size)
            bytes_ = math.prod(shape) * kind.itemsize
            check_limit(bytes_, MAX_BATCH_BYTES, f"{self.path}: input {each.name}: bytes of a batch")
            values = (
                random.random(shape, dtype=np.float32)
                if kind.kind == "f"
                else random.integers(0, 256 if kind == np.uint8 else 2, shape)
            )
            feed[each.name] = values.astype(kind)
        if batch_size > 1 and all(values.shape[:1] != (batch_size,) for values in feed.values()):
            shapes = ", ".join(f"{name} is {values.shape}" for name, values in feed.items())
            raise UserError(
                f"{self.path}: does not take a batch of {batch_size}: {shapes}; use the file's own batch size"
            )
        return feed

    def _shape(self, declared: Any, batch_size: int) -> list[int]:
        """Return the shape of an input whose open dimensions are filled in."""
        name, given = declared.name, self.shapes.get(declared.name, declared.shape)
        if len(given) != len(declared.shape):
            raise UserError(
                f"{self.path}: input {name}: expected a shape of {len(declared.shape)} dimensions, got "
                f"{'x'.join(map(str, given))}"
            )
        shape = [
            size if isinstance(size, int) else batch_size if place == 0 else given[place]
            for place, size in enumerate(declared.shape)
        ]
        if not all(isinstance(size, int) for size in shape):
            example = "x".join(str(size) if isinstance(size, int) else "224" for size in shape)
            raise UserError(
                f"{self.path}: input {name}: has open dimensions, ({', '.join(map(str, declared.shape))}); "
                f"give its shape, e.g. --shape {name}={example}"
            )
        return shape

    def seconds(self, feed: dict[str, np.ndarray]) -> float:
        """Return the seconds of one call.

        Raises:
            UserError: it cannot run on these inputs.
        """
        try:
            return timed(partial(self.session.run, None, feed))()
        except Exception as error:  # as above
            shapes = ", ".join(f"{name} {values.shape}" for name, values in feed.items())
            raise UserError(f"{self.path}: cannot run on {shapes}: {_first_line(error)}") from error

    def describe(self, feed: dict[str, np.ndarray], batch_size: int) -> dict[str, Any]:
        """Return `weights`, `gflops` per map, `precision`, `mode` and `file_mb` (with external weights)."""
        with reading(self.path, "an ONNX file"):
            model = onnx.load(str(self.path), load_external_data=False)
        tensors = model.graph.initializer
        sizes: Counter[str] = Counter()
        for tensor in tensors:
            if kind := PRECISIONS.get(onnx.TensorProto.DataType.Name(tensor.data_type)):
                sizes[kind] += math.prod(tensor.dims)
        external = {entry.value for each in tensors for entry in each.external_data if entry.key == "location"}
        files = [self.path, *(self.path.parent / name for name in external)]
        found: dict[str, Any] = {
            "mode": None,
            "weights": sum(sizes.values()),
            "precision": max(sizes, key=lambda kind: sizes[kind]) if sizes else "own",
            "file_mb": sum(file.stat().st_size for file in files) / 1e6,
        }
        if self.metadata:
            found |= {key: self.metadata[key] for key in ("mode", "weights", "precision") if key in self.metadata}
            return {**found, "gflops": self.metadata.get("gflops_per_map")}
        macs = multiply_adds(model, {name: values.shape for name, values in feed.items()})
        return {**found, "gflops": None if macs is None else 2e-9 * macs / batch_size}


def is_onnx(reference: object) -> bool:
    """Return whether a model reference names an .onnx file."""
    return isinstance(reference, str | Path) and Path(reference).suffix == ".onnx"


def export_temporary(model: LoadedModel, folder: Path) -> Path:
    """Export a model to a new file in a folder, verified at batch size 1 only.

    Raises:
        UserError: as `export`.
    """
    path = folder / f"{sum(1 for _ in folder.iterdir())}.onnx"
    export(model, path, batches=(1,))
    return path


def multiply_adds(model: onnx.ModelProto, shapes: Shapes) -> int | None:
    """Return the number of multiply-adds of a graph's convolutions and matrix products; None if a shape is unknown.

    Args:
        model: changed in place.
        shapes: shapes of its inputs.
    """
    for value in model.graph.input:
        for dimension, size in zip(value.type.tensor_type.shape.dim, shapes.get(value.name, ()), strict=False):
            dimension.dim_value = size
    try:
        graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    except (ValueError, onnx.shape_inference.InferenceError):  # larger than 2 GB, or unknown operators
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
            count = math.prod(places) * math.prod(weights[1:])
        elif node.op_type in PRODUCTS:
            second = known.get(node.input[PRODUCTS[node.op_type]], [0])
            transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
            count = math.prod(out) * (second[-1] if transposed or len(second) == 1 else second[-2])
        else:
            continue
        if count == 0:
            return None
        total += count
    return total


def benchmark_layers(
    references: Sequence[str | Path | LoadedModel],
    *,
    batch_size: int = 1,
    threads: int | None = None,
    shapes: Shapes | None = None,
) -> Tables:
    """Return which operators and modules take the time in ONNX Runtime on the CPU.

    A fused operator counts as the last of its parts. Operators that ONNX Runtime adds belong to no module.

    Args:
        references: .onnx files, or models, which are exported first.
        batch_size: clips or frames per call.
        threads: CPU threads; defaults to ONNX Runtime's choice.
        shapes: input name -> shape, for the dimensions that an .onnx file leaves open.

    Returns:
        Two tables per file. Keys: `part` (an operator, or a module down to its first numbered one), `milliseconds`
        (per call), `share` (of all operators' time) and `count` (number of operators).

    Raises:
        UserError: as `OnnxFile` and `export`.
    """
    tables = Tables()
    with tempfile.TemporaryDirectory() as folder:
        for reference in references:
            path, name = Path(str(reference)), str(reference)
            if not is_onnx(reference):
                model = reference if isinstance(reference, LoadedModel) else load_model(reference)
                path, name = export_temporary(model, Path(folder)), model.reference
            times = operator_times(path, batch_size=batch_size, threads=threads, shapes=shapes)
            for title, part_of in LAYERS.items():
                tables[f"{name}: {title}"] = _layer_table(times, part_of)
    return tables


def operator_times(
    path: str | Path, *, batch_size: int = 1, threads: int | None = None, shapes: Shapes | None = None
) -> dict[tuple[str, str], float]:
    """Return (name, operator) -> median seconds per call, for every operator of a file that ran."""
    with tempfile.TemporaryDirectory() as folder:
        file = OnnxFile(path, threads=threads, shapes=shapes, profile=Path(folder) / "profile")
        feed = file.draw(batch_size)
        for _ in range(1 + CALLS):
            file.seconds(feed)
        events = json.loads(Path(file.session.end_profiling()).read_text())
    found: dict[tuple[str, str], list[float]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            name = event["name"].removesuffix("_kernel_time")
            found.setdefault((name, event["args"]["op_name"]), []).append(event["dur"] * 1e-6)
    return {key: float(np.median(seconds[1:])) for key, seconds in found.items()}


def _layer_table(times: dict[tuple[str, str], float], part_of: Callable[[str, str], str]) -> Table:
    """Return operator times summed by part, the slowest part first."""
    parts: dict[str, list[float]] = {}
    for (name, operator), seconds in times.items():
        parts.setdefault(part_of(name, operator), []).append(seconds)
    ordered = sorted(parts.items(), key=lambda item: -sum(item[1]))
    shown = ordered[:MAX_ROWS]
    if rest := [seconds for _, each in ordered[MAX_ROWS:] for seconds in each]:
        shown.append((f"{len(ordered) - MAX_ROWS} more", rest))
    total = sum(times.values())
    rows: list[dict[str, Any]] = [
        {"part": part, "milliseconds": sum(each) * 1e3, "share": sum(each) / total, "count": len(each)}
        for part, each in shown
    ]
    return Table(rows, "part milliseconds share count", {"calls": CALLS}, headings={"count": "operators"})


def module_of(name: str, operator: str) -> str:
    """Return the module in an operator's name, e.g. `decoder.reduce.3` for `decoder.reduce.3.time.1/Relu`."""
    module, _, _ = name.strip("/").rpartition("/")
    found = re.match(r"\D*?\d+(?=[./]|$)|.*", module.replace("/", "."))
    return (found[0] if found else "") or "(no module)"


LAYERS: dict[str, Callable[[str, str], str]] = {
    "by operator": lambda name, operator: operator,
    "by module": module_of,
}
"""Title of a table -> function from an operator's name and type to the part that it is summed under."""


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
