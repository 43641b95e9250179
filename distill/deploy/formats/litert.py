"""LiteRT, Google's runtime for phones and boards (formerly TensorFlow Lite): .tflite, converted by litert-torch.

INT8 is Google's AI Edge Quantizer: static, with int8 weights per channel and int8 activations. Only the layers with
weights and what connects them are quantized; the state and the map stay in fp32, as in the ONNX file.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from distill.deploy.formats.format import Format, Source, input_names, output_names

QUANTIZED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "ADD", "AVERAGE_POOL_2D", "RESIZE_BILINEAR")
"""Operators in INT8."""

WHERE = r"^(?!.*Conv2d_head).*(encoder|decoder).*"
"""Pattern of the names of their modules: not the head, whose 8 bits would be those of the logarithm of the map."""

SIGNATURE = "serving_default"


def convert(source: Source, path: Path) -> dict[str, Any]:
    """Write the file; see `Format.convert`."""
    import litert_torch

    plain = path if source.precision == "fp32" else path.with_name("fp32.tflite")
    litert_torch.convert(source.graph, source.inputs).export(str(plain))
    if source.precision == "int8":
        quantize(plain, path, source)
        plain.unlink()
    return {}


def quantize(plain: Path, path: Path, source: Source) -> None:
    """Write a file in INT8, calibrated on the inputs of the source's calls."""
    from ai_edge_quantizer import quantizer

    tool = quantizer.Quantizer(str(plain))
    for operator in QUANTIZED:
        tool.add_static_config(regex=WHERE, operation_name=operator, activation_num_bits=8, weight_num_bits=8)
    feeds = [
        {f"args_{place}": feed[name] for place, name in enumerate(source.input_names)}
        for feed in source.calibration
    ]
    ranges = tool.calibrate({SIGNATURE: feeds}, num_threads=1)
    tool.quantize(ranges).export_model(str(path))


class LiteRtSession:
    """A .tflite file in LiteRT's interpreter on the CPU, which uses XNNPACK.

    Args:
        path: the file.
        metadata: its metadata, for the order of inputs and outputs.
        threads: threads per call; None for LiteRT's choice.
    """

    def __init__(self, path: Path, metadata: dict[str, Any], threads: int | None) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self._interpreter = Interpreter(str(path), num_threads=threads)
        self._runner = self._interpreter.get_signature_runner(SIGNATURE)
        self._inputs, self._outputs = input_names(metadata), output_names(metadata)

    def run(self, names: Sequence[str], feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        """Return the outputs with the given names."""
        found = self._runner(**{f"args_{place}": feed[name] for place, name in enumerate(self._inputs)})
        return [found[f"output_{self._outputs.index(name)}"] for name in names]


LITERT = Format(
    name="litert",
    runtime="LiteRT",
    suffix=".tflite",
    converters=("litert_torch",),
    runners=("ai_edge_litert",),
    precisions=("fp32", "int8"),
    quantizers=("ai_edge_quantizer",),
    convert=convert,
    modes=("step",),
    open=LiteRtSession,
)
