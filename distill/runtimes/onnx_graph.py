"""Trace a network into an ONNX file, with its inputs, outputs and node names.

Clip mode maps a clip to its maps. Step mode, for streaming networks, maps one frame and the state to the frame's
map and the next state; the caller keeps the state.
"""

import json
import logging
import warnings
from ast import literal_eval
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnxscript import ir
from onnxscript import values as onnx_values
from onnxscript.rewriter import RewriteRule, rewrite
from torch import Tensor, nn

from distill.models.onnx import CHECKSUM_KEY, UNSEALED, seal
from distill.models.protocols import SaliencyModel
from distill.runtimes.onnx_rewrites import simplify

METADATA_KEY = "saldistill"

VALUES = {
    "peak": "exp(log-saliency - its maximum over the map): the maximum of every map is 1",
    "sigmoid": "exp(log-saliency): the network's own sigmoid (the streaming student's softmax, whose sum is 1), "
    "comparable between frames",
    "log": "log-saliency: the map's logarithm, up to a constant per map",
}
"""Output values -> their meaning, which is part of the metadata."""

CALIBRATION = "calibration"
"""Start of the names of nodes that `saldistill calibrate` appends, after a slash."""

EXTERNAL_BYTES = 2**31 - 2**26
"""Size at which weights go into a .data file next to the .onnx file: protobuf's limit is 2 GiB in total."""


class ClipGraph(nn.Module):
    """The graph of clip mode: the model, followed by the conversion to the declared output values.

    Args:
        model: network from clip (B, 3, T, H, W) to log-saliency (B, N, h, w).
        values: a key of `VALUES`.
    """

    def __init__(self, model: SaliencyModel, *, values: str) -> None:
        super().__init__()
        self.model, self.values = model, values

    def forward(self, clip: Tensor) -> tuple[Tensor, ...]:
        """Return a tuple of one tensor (B, N, h, w) float32, see `VALUES`."""
        return (convert_values(self.model(clip), self.values),)


class StepGraph(ClipGraph):
    """The graph of step mode.

    Args:
        model: streaming network, from frame (B, 3, H, W) and state to log-saliency (B, 1, h, w) and next state.
        values: a key of `VALUES`.
    """

    def forward(self, frame: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """Return (B, 1, h, w) float32, see `VALUES`, and the next state, in the order of `model.state_shapes`."""
        model: Any = self.model
        names = model.state_shapes
        log_saliency, after = model.step(frame, dict(zip(names, state, strict=True)))
        return convert_values(log_saliency, self.values), *(after[name] for name in names)


def convert_values(log_saliency: Tensor, values: str) -> Tensor:
    """Convert log-saliency (B, N, h, w) to one of `VALUES`, float32."""
    log_saliency = log_saliency.float()
    if values == "log":
        return log_saliency
    if values == "sigmoid":
        return log_saliency.exp()
    return (log_saliency - log_saliency.amax(dim=(-2, -1), keepdim=True)).exp()


def write(graph: ClipGraph, path: Path, inputs: Sequence[Tensor], metadata: Mapping[str, Any]) -> None:
    """Trace a graph and save it with its metadata, which define the names of inputs and outputs and the opset.

    Args:
        graph: in evaluation mode, on the CPU.
        path: the .onnx file; weights of `EXTERNAL_BYTES` or more go into `path` + ".data".
        inputs: example inputs with a batch of 2 (a batch of 1 would become a constant).
        metadata: from `export.describe`.
    """
    batch = {0: torch.export.Dim("batch")}
    opset = metadata["opset"]
    with quiet():
        program = torch.onnx.export(
            graph,
            tuple(inputs),
            dynamo=True,
            input_names=[metadata["input"]["name"], *(each["input"] for each in metadata["state"])],
            output_names=[metadata["output"]["name"], *(each["output"] for each in metadata["state"])],
            dynamic_shapes=(batch, (batch,) * (len(inputs) - 1)) if metadata["mode"] == "step" else (batch,),
            opset_version=opset,
            custom_translation_table=translations(opset),
            verbose=False,
        )
        assert program is not None
        model = rewrite(program.model, [NORMALISATION])
        simplify(model)
        name_by_module(model)
        model.metadata_props[METADATA_KEY] = json.dumps(metadata)
        model.metadata_props[CHECKSUM_KEY] = UNSEALED
        size = sum(tensor.numel() * tensor.element_size() for tensor in graph.state_dict().values())
        program.model = model
        program.save(str(path), external_data=size >= EXTERNAL_BYTES)
    seal(path)


def save_sealed(graph: onnx.ModelProto, path: Path, metadata: Mapping[str, Any]) -> None:
    """Save a graph with its metadata and its checksum, in place of those that it has."""
    del graph.metadata_props[:]
    onnx.helper.set_model_props(graph, {METADATA_KEY: json.dumps(metadata), CHECKSUM_KEY: UNSEALED})
    onnx.save(graph, str(path))
    seal(path)


def translations(opset: int) -> dict[Any, Any]:
    """Return translations of operators that the exporter does not support or translates less well.

    Attention of any rank, because the exporter's needs four dimensions. log_sigmoid as -softplus(-x), because the
    exporter's log(sigmoid(x)) is -inf where the sigmoid underflows, and inaccurate in half precision. repeat
    without the exporter's redundant Expand.
    """
    op = onnx_values.Opset("", opset)

    def attention(
        query: Any,
        key: Any,
        value: Any,
        attn_mask: Any = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Any:
        if is_causal or enable_gqa:
            raise NotImplementedError(
                "causal or grouped attention is not supported; pass a mask and repeat the heads"
            )
        rank = len(query.shape)
        width = int(query.shape[-1])
        factor = scale if scale is not None else width**-0.5
        order = [*range(rank - 2), rank - 1, rank - 2]
        scores = op.MatMul(op.Mul(query, op.Constant(value_float=factor)), op.Transpose(key, perm=order))
        if attn_mask is not None:
            if attn_mask.dtype == ir.DataType.BOOL:
                attn_mask = op.Where(
                    attn_mask, op.Constant(value_float=0.0), op.Constant(value_float=float("-inf"))
                )
            scores = op.Add(scores, attn_mask)
        return op.MatMul(op.Softmax(scores, axis=-1), value)

    def log_sigmoid(x: Any) -> Any:
        return op.Neg(op.Softplus(op.Neg(x)))

    def repeat(x: Any, repeats: Sequence[int]) -> Any:
        if len(repeats) > len(x.shape):
            x = op.Unsqueeze(x, op.Constant(value_ints=list(range(len(repeats) - len(x.shape)))))
        return op.Tile(x, op.Constant(value_ints=list(repeats)))

    return {
        torch.ops.aten.scaled_dot_product_attention.default: attention,
        torch.ops.aten.log_sigmoid.default: log_sigmoid,
        torch.ops.aten.repeat.default: repeat,
    }


def _three_steps(op: Any, x: Any, full: Any, mean: Any, std: Any) -> Any:
    return op.Div(op.Sub(op.Div(x, full), mean), std)


def _two_steps(op: Any, x: Any, full: Any, mean: Any, std: Any) -> Any:
    """Return (x / full - mean) / std as one product and one sum: fewer and faster passes over the frame."""
    full, mean, std = (each.const_value.numpy().astype(np.float64) for each in (full, mean, std))
    slope = op.initializer(ir.tensor((1 / (full * std)).astype(np.float32)), name="normalisation.slope")
    shift = op.initializer(ir.tensor((-mean / std).astype(np.float32)), name="normalisation.shift")
    return op.Add(op.Mul(x, slope), shift)


def _all_known(context: Any, x: Any, **constants: Any) -> bool:
    return all(each.const_value is not None for each in constants.values())


NORMALISATION = RewriteRule(_three_steps, _two_steps, _all_known)
"""Rewrites the normalisation of uint8 pixels."""


def name_by_module(model: ir.Model) -> None:
    """Name nodes and their outputs after the network's modules, e.g. `decoder.reduce.0.time.1/Relu`.

    The exporter numbers them, and adds metadata such as Python stack traces, which contain local paths; these are
    removed.
    """
    kept = {value.name for value in (*model.graph.inputs, *model.graph.outputs)}
    count: Counter[str] = Counter()
    for node in model.graph.all_nodes():
        scopes = literal_eval(node.metadata_props.get("pkg.torch.onnx.name_scopes", "['']"))
        module = scopes[-2] if len(scopes) > 1 else ""
        name = "/".join(part for part in (module.removeprefix("model").removeprefix("."), node.op_type) if part)
        count[name] += 1
        node.name = name if count[name] == 1 else f"{name}_{count[name]}"
        for place, value in enumerate(node.outputs):
            if value.name not in kept:
                value.name = f"{node.name}:{place}" if place else node.name
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    model.graph.metadata_props.clear()


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the exporter: its warnings are about PyTorch's own code, and the exported file is verified."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
