"""Cost of a model: number of weights and GFLOPs per map."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from distill.data.fit import fit_of
from distill.errors import UserError
from distill.models.loaded import LoadedModel
from distill.models.onnx import OnnxModel
from distill.models.protocols import Network, is_streaming
from distill.models.registry import create_model, list_variants, rebuild
from distill.models.stored_costs import VariantCost


def count_weights(model: Network) -> int:
    """Return the number of weights of a network, trainable or not."""
    return sum(parameter.numel() for parameter in model.parameters())


def gflops_per_map(model: LoadedModel, *, mode: str | None = None) -> float:
    """Return the GFLOPs per saliency map, counting 2 per multiply-add of matrix products and convolutions.

    A copy is built and run on the meta device, which takes neither time nor memory.

    Args:
        model: a model that `create_model` built.
        mode: "step" for one step of a streaming model, or "clip" for a clip divided by its number of maps; defaults
            to "step" if the model has it.
    """
    if isinstance(model.network, OnnxModel):
        raise UserError(
            f"{model.reference}: the operations of an .onnx file cannot be counted; use the original model"
        )
    with torch.device("meta"), torch.no_grad():
        copy = rebuild(model.identity).network.eval()
        with FlopCounterMode(display=False) as counter:
            if is_streaming(copy) and mode != "clip":
                maps, _ = copy.step(torch.zeros(1, 3, *copy.size), copy.initial_state())
            else:
                maps = copy(torch.zeros(1, 3, copy.num_frames, *copy.size))
    return counter.get_total_flops() / 1e9 / maps.shape[1]


def gflops_if_known(model: LoadedModel, *, mode: str | None = None) -> float | None:
    """Return `gflops_per_map`, or None for a network that `create_model` did not build."""
    return gflops_per_map(model, mode=mode) if "variant" in model.identity else None


def costs_of(name: str, variant: str | None = None) -> dict[str, VariantCost]:
    """Return variant -> cost of a network, computed on the meta device; of one variant if it is named.

    Raises:
        UserError: if the network or variant is unknown.
    """
    found = {}
    for each in [variant] if variant else list_variants(name):
        with torch.device("meta"):  # neither memory nor time
            model = create_model(name, variant=each)
        network = model.network
        found[each] = VariantCost(
            weights=count_weights(network),
            gflops_per_map=gflops_per_map(model),
            num_frames=network.num_frames,
            size=network.size,
            map_size=network.map_size,
            fit=fit_of(network),
        )
    return found
