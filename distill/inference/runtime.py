"""Choose the runtime of a network: PyTorch, ONNX Runtime or OpenVINO.

    running = run_in(model, settings, frames=len(video.frames), example=video.path)
    slide(running.network, video, video.frames, running.settings)

On a CPU, ONNX Runtime computes the same maps in a third of PyTorch's time. The model stays a PyTorch network:
identities and fingerprints are computed from it, so that results do not record the runtime as another model.
"""

import logging
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import torch

from distill.errors import UserError, reason_of
from distill.extras import EXPORTER, extras_named, install_line, is_installed
from distill.inference.settings import InferenceSettings
from distill.limits import MAX_GRAPH_BYTES
from distill.models.device import device_of, torch_threads
from distill.models.loaded import LoadedModel
from distill.models.onnx import OnnxModel
from distill.models.protocols import Network, SaliencyModel
from distill.runtimes.graph_cache import Example, cached_graph, graph_path
from distill.runtimes.names import TITLES

log = logging.getLogger(__name__)

MIN_FRAMES = 200
"""Maps from which `auto` exports a network. For stream-small an export takes about 13 s, and ONNX Runtime saves
about 25 ms of each 40 ms: it pays off with the second or third such video."""


@dataclass(frozen=True)
class Running:
    """A network in the runtime that was chosen for it.

    Attributes:
        network: the network to run.
        settings: the settings to run it with: on the CPU, unless PyTorch runs it, and without a runtime to choose.
        runtime: name of the runtime in results, one of the values of TITLES.
    """

    network: SaliencyModel
    settings: InferenceSettings
    runtime: str


def run_in(
    model: LoadedModel, settings: InferenceSettings, *, frames: int, example: Example | None = None
) -> Running:
    """Return a model's network in the runtime of the settings.

    `auto` uses ONNX Runtime on a CPU in fp32 if at least MIN_FRAMES maps are to be computed or the exported network
    is cached already. If the network cannot be exported, `auto` uses PyTorch and logs the reason. An .onnx file
    runs as it is.

    Args:
        model: the model; it is not changed.
        settings: its settings; `runtime` None runs the network as it is.
        frames: number of maps to compute.
        example: video on whose first frames a new export is compared with PyTorch.

    Raises:
        UserError: the runtime was named and cannot run the network.
    """
    name = settings.runtime
    if isinstance(model.network, OnnxModel):
        return _run_file(model.network, settings)
    if name in (None, "pytorch") or (name == "auto" and not _pays_off(model, settings, frames)):
        return Running(model.network, replace(settings, runtime=None), TITLES["pytorch"])
    try:
        with extras_named():
            return _run_graph(model, settings, example)
    except UserError as error:
        if name != "auto":
            raise
        log.warning("%s: runs in PyTorch, because ONNX Runtime cannot run it: %s", model.reference, error)
        return Running(model.network, replace(settings, runtime=None), TITLES["pytorch"])


def threads_of(running: Running) -> AbstractContextManager[int]:
    """Return a context in which PyTorch runs in one thread, unless it runs the network.

    Otherwise its idle threads, which spin for a while, take time from the network, the decoder and the encoder.
    """
    return torch_threads(1 if isinstance(running.network, OnnxModel) else None)


def _run_file(network: OnnxModel, settings: InferenceSettings) -> Running:
    """Return an .onnx file in ONNX Runtime or OpenVINO."""
    if settings.runtime == "pytorch":
        raise UserError(f"{network.path}: an .onnx file cannot run in PyTorch; expected runtime auto or onnx")
    on_cpu = replace(settings, device="cpu", runtime=None)
    if settings.runtime == "openvino":
        from distill.runtimes.openvino_runtime import load_in_openvino

        network = load_in_openvino(network.path, threads=torch.get_num_threads())
        return Running(network, on_cpu, TITLES["openvino"])
    return Running(network, on_cpu, TITLES["onnx"])


def _run_graph(model: LoadedModel, settings: InferenceSettings, example: Example | None) -> Running:
    """Return the exported graph of a network in ONNX Runtime or OpenVINO."""
    if settings.precision != "fp32":
        raise UserError(f"precision: exported networks run in fp32, got {settings.precision}; use runtime pytorch")
    on_cpu = replace(settings, device="cpu", runtime=None)
    if settings.runtime != "openvino":
        return Running(cached_graph(model, example), on_cpu, TITLES["onnx"])
    from distill.runtimes.openvino_runtime import OpenVinoSession, check_installed

    check_installed()
    graph = cached_graph(model, example)
    graph.edge.session = OpenVinoSession(graph.path, torch.get_num_threads())
    return Running(graph, on_cpu, TITLES["openvino"])


def _pays_off(model: LoadedModel, settings: InferenceSettings, frames: int) -> bool:
    """Return whether `auto` runs a network in ONNX Runtime."""
    device = torch.device(settings.device) if settings.device is not None else device_of(model.network)
    if device.type != "cpu" or settings.precision != "fp32":
        return False
    if (size := _weight_bytes(model.network)) > MAX_GRAPH_BYTES:
        log.info(
            "%s: runs in PyTorch, because its weights have %d MB and networks of at most %d MB are exported",
            model.reference,
            size / 2**20,
            MAX_GRAPH_BYTES / 2**20,
        )
        return False
    if frames >= MIN_FRAMES and not is_installed(EXPORTER):
        log.info("%s: runs in PyTorch; ONNX Runtime is faster, see: %s", model.reference, install_line(EXPORTER))
        return False
    try:
        return frames >= MIN_FRAMES or graph_path(model).is_file()
    except UserError as error:
        log.info("%s: runs in PyTorch: %s", model.reference, reason_of(error))
        return False


def _weight_bytes(network: Network) -> int:
    return sum(weight.numel() * weight.element_size() for weight in network.parameters())
