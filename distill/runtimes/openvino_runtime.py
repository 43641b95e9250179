"""Run exported files in OpenVINO, Intel's runtime for its processors, through the interface of ONNX Runtime.

pip install 'saldistill[openvino]'
"""

import importlib.util
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from distill.errors import UserError
from distill.models.onnx import OnnxModel, load_onnx
from distill.runtimes.onnx_check import open_session


def is_installed() -> bool:
    """Return whether OpenVINO can be imported."""
    return importlib.util.find_spec("openvino") is not None


def check_installed() -> None:
    """Raise a UserError with the installation command if OpenVINO cannot be imported."""
    if not is_installed():
        raise UserError("OpenVINO is not installed; pip install 'saldistill[openvino]'")


def load_in_openvino(path: str | Path, *, threads: int | None = None) -> OnnxModel:
    """Load an exported model of either mode in OpenVINO on the CPU.

    Args:
        path: the .onnx file.
        threads: threads per call; defaults to OpenVINO's choice.

    Raises:
        UserError: OpenVINO is not installed or cannot read the file, or as `load_onnx`.
    """
    check_installed()
    model = load_onnx(path, threads=1)  # for the metadata and the checks of the inputs
    model.edge.session = OpenVinoSession(Path(path), threads)
    return model


class OpenVinoSession:
    """The method of ONNX Runtime's session that `student.edge.EdgeModel` calls.

    OpenVINO rejects some graphs that compute constants from constants, such as the mask of Swin's shifted windows.
    ONNX Runtime then folds these constants first and changes nothing else.

    Args:
        path: the .onnx file.
        threads: threads per call; None for OpenVINO's choice.

    Raises:
        UserError: OpenVINO cannot read or compile the file.
    """

    def __init__(self, path: Path, threads: int | None) -> None:
        options: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",  # the default is bfloat16 on some processors
        }
        if threads is not None:
            options["INFERENCE_NUM_THREADS"] = threads
        try:
            compiled = _compile(path, options)
        except Exception as error:  # of either runtime
            reason = str(error).strip().splitlines()[-1]
            raise UserError(f"{path}: OpenVINO cannot load it: {reason}") from error
        self.request = compiled.create_infer_request()

    def run(self, names: Sequence[str], feed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Return the outputs with the given names."""
        self.request.infer(dict(feed))
        return [self.request.get_tensor(name).data.copy() for name in names]


def _compile(path: Path, options: dict[str, Any]) -> Any:
    import openvino

    core = openvino.Core()
    try:
        return core.compile_model(str(path), "CPU", options)
    except RuntimeError:
        with tempfile.TemporaryDirectory() as folder:
            folded = Path(folder) / "folded.onnx"
            basic = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
            open_session(path, graph_optimization_level=basic, optimized_model_filepath=str(folded))
            return core.compile_model(str(folded), "CPU", options)
