"""What a model costs: number of weights and GFLOPs per map."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from distill.errors import UserError
from distill.models.loaded import LoadedModel
from distill.models.onnx import OnnxModel
from distill.models.protocols import Network, is_streaming
from distill.models.registry import rebuild


def count_weights(model: Network) -> int:
    """Return the number of weights: elements of all parameters, whether they are trained or not."""
    return sum(parameter.numel() for parameter in model.parameters())


def gflops_per_map(model: LoadedModel, *, mode: str | None = None) -> float:
    """Return 10^9 floating-point operations a saliency map costs: 2 per multiply-add of products and convolutions.

    Counted on the meta device, on a model built anew, so that it takes neither time nor memory.

    Args:
        model: a model that `create_model` built.
        mode: "step": of one step of a network that streams; "clip": of a clip, divided by its maps. When None, of
            a step where there is one: that is how such a network runs.
    """
    if isinstance(model.network, OnnxModel):
        raise UserError(
            f"{model.reference}: an .onnx file does not tell its operations; ask the model it came from"
        )
    with torch.device("meta"), torch.no_grad():
        twin = rebuild(model.identity).network.eval()
        with FlopCounterMode(display=False) as counter:
            if is_streaming(twin) and mode != "clip":
                maps, _ = twin.step(torch.zeros(1, 3, *twin.size), twin.initial_state())
            else:
                maps = twin(torch.zeros(1, 3, twin.num_frames, *twin.size))
    return counter.get_total_flops() / 1e9 / maps.shape[1]


def gflops_if_known(model: LoadedModel, *, mode: str | None = None) -> float | None:
    """Return `gflops_per_map`, or None for a network that `create_model` did not build."""
    return gflops_per_map(model, mode=mode) if "variant" in model.identity else None
