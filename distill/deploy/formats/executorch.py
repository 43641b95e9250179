"""ExecuTorch, PyTorch's runtime for devices: .pte with the XNNPACK backend, converted by ExecuTorch itself.

INT8 is PyTorch's export quantization (PT2E) with XNNPACK's quantizer: int8 weights per channel, int8 activations.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distill.deploy.formats.format import Format, Source, input_names, output_names


def convert(source: Source, path: Path) -> dict[str, Any]:
    """Write the file; see `Format.convert`."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PyTorch's own code
        program = torch.export.export(source.graph, source.inputs)
        if source.precision == "int8":
            program = torch.export.export(quantized(program, source), source.inputs)
        lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
        path.write_bytes(lowered.to_executorch().buffer)
    return {}


def quantized(program: Any, source: Source) -> Any:
    """Return a program in INT8, calibrated on the inputs of the source's calls."""
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    class Quantizer(XNNPACKQuantizer):
        """XNNPACK's quantizer, which also rounds after a ReLU6 rather than before it."""

        def annotate(self, model: torch.fx.GraphModule) -> torch.fx.GraphModule:
            annotated = super().annotate(model)
            round_after_relu6(annotated.graph)
            return annotated

    quantizer = Quantizer().set_filter_function(in_network)
    quantizer.set_global(get_symmetric_quantization_config(is_per_channel=True))
    prepared = prepare_pt2e(program.module(), quantizer)
    with torch.no_grad():
        for feed in source.calibration:
            prepared(*(torch.from_numpy(feed[name]) for name in source.input_names))
    return convert_pt2e(prepared)


def round_after_relu6(graph: torch.fx.Graph) -> None:
    """Move the rounding of a convolution's output behind the ReLU6 that follows it, where the range is smaller."""
    from torchao.quantization.pt2e.quantizer import QuantizationAnnotation

    key = "quantization_annotation"
    for node in graph.nodes:
        users = list(node.users)
        if "conv2d" not in str(node.target) or len(users) != 1 or "hardtanh" not in str(users[0].target):
            continue
        annotation = node.meta.get(key)
        if annotation is not None and annotation.output_qspec is not None:
            users[0].meta[key] = QuantizationAnnotation(
                input_qspec_map={}, output_qspec=annotation.output_qspec, _annotated=True
            )
            annotation.output_qspec = None


def in_network(node: Any) -> bool:
    """Return whether a node is in the encoder or the decoder before its head.

    The 8 bits of the head would be those of the logarithm of the map.
    """
    modules = [name for name, _ in node.meta.get("nn_module_stack", {}).values()]
    inside = not modules or any("encoder" in name or "decoder" in name for name in modules)  # weights have none
    return inside and not any(name.endswith("head") for name in modules)


class ExecuTorchSession:
    """A .pte file in ExecuTorch's Python runtime, whose threads are those of the whole process.

    Args:
        path: the file.
        metadata: its metadata, for the order of inputs and outputs.
        threads: threads per call; None for ExecuTorch's choice.
    """

    def __init__(self, path: Path, metadata: dict[str, Any], threads: int | None) -> None:
        from executorch.extension.pybindings import portable_lib
        from executorch.runtime import Runtime

        if threads is not None:
            portable_lib._unsafe_reset_threadpool(threads)
        self._program = Runtime.get().load_program(str(path))
        self._method = self._program.load_method("forward")
        self._inputs, self._outputs = input_names(metadata), output_names(metadata)

    def run(self, names: Sequence[str], feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        """Return the outputs with the given names."""
        found = self._method.execute([torch.from_numpy(np.ascontiguousarray(feed[name])) for name in self._inputs])
        by_name = dict(zip(self._outputs, found, strict=True))
        return [by_name[name].numpy().copy() for name in names]


EXECUTORCH = Format(
    name="executorch",
    runtime="ExecuTorch",
    suffix=".pte",
    converters=("executorch",),
    runners=("executorch",),
    precisions=("fp32", "int8"),
    quantizers=("torchao",),
    convert=convert,
    modes=("step",),
    open=ExecuTorchSession,
)
