"""MNN, Alibaba's runtime for phones: .mnn, converted from ONNX by MNN's converter.

int8 stores the weights in 8 bits and computes in floating point; fp16 stores them in 16 bits.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from distill.deploy.formats.format import Format, Source
from distill.deploy.formats.rewrites import blend_where

STORED = {"fp32": [], "fp16": ["--fp16"], "int8": ["--weightQuantBits", "8"]}
"""Precision -> options of the converter."""


def convert(source: Source, path: Path) -> dict[str, Any]:
    """Write the file; see `Format.convert`."""
    import MNN  # noqa: F401 - sets up the library that the converter needs

    model = onnx.load(str(source.onnx))
    blend_where(model.graph)
    blended = path.with_name("blended.onnx")
    onnx.save(model, str(blended))
    import _tools as tools  # not MNN.tools.mnnconvert, which installs a package that reports each conversion

    tools.mnnconvert(
        ["mnnconvert", "-f", "ONNX", "--modelFile", str(blended), "--MNNModel", str(path), "--bizCode", "none"]
        + STORED[source.precision]
    )
    blended.unlink()
    if not path.is_file() or path.stat().st_size == 0:
        raise RuntimeError("the converter wrote no file")
    return {"quantized": "weights"} if source.precision == "int8" else {}


class MnnSession:
    """A .mnn file in MNN's interpreter on the CPU, in fp32.

    Args:
        path: the file.
        metadata: its metadata, for the shapes of the inputs.
        threads: threads per call; None for MNN's choice.
    """

    def __init__(self, path: Path, metadata: dict[str, Any], threads: int | None) -> None:
        import MNN

        self._mnn = MNN
        self._interpreter = MNN.Interpreter(str(path))
        settings = {"backend": "CPU", "precision": "high", **({"numThread": threads} if threads else {})}
        self._session = self._interpreter.createSession(settings)
        self._tensors = self._interpreter.getSessionInputAll(self._session)
        for each in (metadata["input"], *metadata["state"]):
            name = each.get("name", each.get("input"))
            self._interpreter.resizeTensor(self._tensors[name], (1, *each["shape"][1:]))
        self._interpreter.resizeSession(self._session)

    def run(self, names: Sequence[str], feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        """Return the outputs with the given names."""
        layout = self._mnn.Tensor_DimensionType_Caffe
        for name, tensor in self._tensors.items():
            value = np.ascontiguousarray(feed[name])
            tensor.copyFrom(self._mnn.Tensor(value.shape, tensor.getDataType(), value, layout))
        self._interpreter.runSession(self._session)
        found = []
        for name in names:
            output = self._interpreter.getSessionOutput(self._session, name)
            result = np.empty(output.getShape(), np.float32)
            host = self._mnn.Tensor(output.getShape(), output.getDataType(), result, layout)
            output.copyToHostTensor(host)
            found.append(np.array(host.getNumpyData(), np.float32).reshape(output.getShape()))
        return found


MNN_FORMAT = Format(
    name="mnn",
    runtime="MNN",
    suffix=".mnn",
    converters=("MNN",),
    runners=("MNN",),
    precisions=("fp32", "fp16", "int8"),
    convert=convert,
    modes=("step",),
    calibrates=False,
    open=MnnSession,
)
