"""OpenVINO IR, the format of Intel's runtime: .xml with .bin, converted by OpenVINO.

In step mode the state is inside: the runtime keeps it from frame to frame, and the program only passes frames and
calls `reset_state()` at a cut. INT8 is NNCF's post-training quantization, fp16 stores the weights in 16 bits.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from distill.deploy.formats.format import STATE_KEPT, Format, Source
from distill.deploy.formats.rewrites import fixed_batch, started_from_input

SECTION = "saldistill"
"""Section of the file's runtime information that holds the metadata, each key as text, and all of them as JSON."""

KEYS = ("format", "mode", "fit", "precision", "reach", "weights_sha256")


def convert(source: Source, path: Path) -> dict[str, Any]:
    """Write the file; see `Format.convert`."""
    import openvino

    graph = onnx.load(str(source.onnx))
    fixed_batch(graph.graph)
    if source.metadata["mode"] == "step":
        started_from_input(graph.graph)
    model = openvino.Core().read_model(graph.SerializeToString())
    if source.precision == "int8":
        model = quantized(model, source)
    changes: dict[str, Any] = {}
    if source.metadata["mode"] == "step":
        _keep_state(model, source.metadata["state"])
        changes = {"state": [], STATE_KEPT: True}
    for key, value in texts_of({**source.metadata, **changes}).items():
        model.set_rt_info(value, [SECTION, key])
    openvino.save_model(model, str(path), compress_to_fp16=source.precision == "fp16")
    return changes


def texts_of(metadata: dict[str, Any]) -> dict[str, str]:
    """Return the metadata as texts for the file itself, for programs that read no JSON."""
    return {
        **{key: str(metadata[key]) for key in KEYS},
        "values": metadata["output"]["values"],
        "input_type": metadata["input"]["type"],
        "stride": str((metadata.get("notes") or {}).get("stride", 1)),
        "metadata": json.dumps(metadata),
    }


def quantized(model: Any, source: Source) -> Any:
    """Return a model in INT8, calibrated on the inputs of the source's calls."""
    import nncf

    return nncf.quantize(
        model,
        nncf.Dataset(source.calibration),
        subset_size=len(source.calibration),
        target_device=nncf.TargetDevice.CPU,
    )


def _keep_state(model: Any, state: Sequence[dict[str, Any]]) -> None:
    """Replace the inputs and outputs of the state by variables of the model, which start with zeros.

    OpenVINO's own MakeStateful gives variables no initial value, which its INT8 transformations do not expect.
    """
    from openvino import Type, op, opset13
    from openvino.op import util

    results = {result.input_value(0).any_name: result for result in model.get_results()}
    parameters = {parameter.output(0).any_name: parameter for parameter in model.get_parameters()}
    for each in state:
        parameter, result = parameters[each["input"]], results[each["output"]]
        information = util.VariableInfo()
        information.data_shape, information.data_type = parameter.get_output_partial_shape(0), Type.f32
        information.variable_id = each["input"]
        variable = util.Variable(information)
        zeros = opset13.broadcast(np.float32(0), np.array(parameter.get_output_shape(0)))
        value = op.read_value(zeros.output(0), variable)
        parameter.output(0).replace(value.output(0))
        model.add_variables([variable])
        model.add_sinks([op.assign(result.input(0).get_source_output().get_node(), variable)])
        model.remove_result(result)
        model.remove_parameter(parameter)
    model.validate_nodes_and_infer_types()


class OpenVinoIrSession:
    """An .xml file in OpenVINO on the CPU. The state inside is reset by `reset`.

    Args:
        path: the file.
        metadata: its metadata.
        threads: threads per call; None for OpenVINO's choice.
    """

    def __init__(self, path: Path, metadata: dict[str, Any], threads: int | None) -> None:
        import openvino

        options: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        if threads is not None:
            options["INFERENCE_NUM_THREADS"] = threads
        self._request = openvino.Core().compile_model(str(path), "CPU", options).create_infer_request()

    def run(self, names: Sequence[str], feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        """Return the outputs with the given names."""
        self._request.infer(feed)
        return [self._request.get_tensor(name).data.copy() for name in names]

    def reset(self) -> None:
        """Forget the state, before a new video or scene."""
        self._request.reset_state()


OPENVINO_IR = Format(
    name="openvino",
    runtime="OpenVINO IR",
    suffix=".xml",
    second=".bin",
    converters=("openvino",),
    runners=("openvino",),
    precisions=("fp32", "fp16", "int8"),
    quantizers=("nncf",),
    convert=convert,
    open=OpenVinoIrSession,
)
