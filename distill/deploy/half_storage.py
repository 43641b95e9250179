"""Store the weights of an exported model in fp16, for half the file and the same arithmetic in fp32."""

from pathlib import Path

import numpy as np
import onnx

from distill.models.onnx import load_onnx
from distill.models.weight_files import HALF_FROM
from distill.runtimes.onnx_check import check_file
from distill.runtimes.onnx_graph import save_sealed

HALF_MAX = float(np.finfo(np.float16).max)

STORED = "stored"
"""Metadata key of the type that weights are stored in, if it is not that of `precision`."""


def store_halves(source: str | Path, path: str | Path) -> None:
    """Write an exported model whose large tensors are stored in fp16 and cast to fp32 when it is loaded.

    ONNX Runtime folds the casts, so that speed and memory do not change.

    Args:
        source: .onnx file in fp32, as `export` writes it.
        path: .onnx file to write; an existing one is replaced.

    Raises:
        UserError: the source is not an exported model, or onnx.checker rejects the result.
    """
    model = load_onnx(source)
    graph = onnx.load(str(source))
    tensors, casts = [], []
    for tensor in graph.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.size < HALF_FROM or np.abs(values).max() > HALF_MAX:
            tensors.append(tensor)
            continue
        half = onnx.numpy_helper.from_array(values.astype(np.float16), f"{tensor.name}_fp16")
        casts.append(
            onnx.helper.make_node(
                "Cast", [half.name], [tensor.name], f"{half.name}_cast", to=onnx.TensorProto.FLOAT
            )
        )
        tensors.append(half)
    nodes = [*casts, *graph.graph.node]
    del graph.graph.initializer[:], graph.graph.node[:]
    graph.graph.initializer.extend(tensors)
    graph.graph.node.extend(nodes)
    save_sealed(graph, Path(path), {**model.edge.metadata, STORED: "fp16"})
    check_file(Path(path))
