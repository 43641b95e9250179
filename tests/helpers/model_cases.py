"""All registered models, their smallest variants, and clips for them."""

import torch
from torch import Tensor, nn

from distill.models.loaded import LoadedModel
from distill.models.networks import list_models
from distill.models.registry import create_model, list_variants

MODELS = list_models()
ALL = [f"{name}:{variant}" for name in MODELS for variant in list_variants(name)]


def smallest(name: str) -> str:
    """Return the smallest variant of a model; a reference with a variant is returned unchanged."""
    if ":" in name:
        return name
    variants = list_variants(name)
    return f"{name}:{next(variant for variant in ('micro', 'tiny', variants[-1]) if variant in variants)}"


# the smallest variant of each model, and variants with another encoder, such as micro-swin
SMALL = sorted({smallest(name) for name in MODELS} | {each for each in ALL if ":micro" in each})


def clip_for(model: nn.Module, batch: int = 2) -> Tensor:
    return torch.randint(0, 256, (batch, 3, model.num_frames, *model.size), dtype=torch.uint8)


def loaded(network: nn.Module, name: str | None = None) -> LoadedModel:
    """Wrap a test's network, which is not registered, in a LoadedModel."""
    name = name or type(network).__name__
    return LoadedModel(network, {"name": name}, name)


def awake(name: str) -> LoadedModel:
    """Return the smallest variant in evaluation mode, with perturbed weights, so that its maps are not uniform."""
    model = create_model(smallest(name))
    model.network.eval()
    with torch.no_grad():
        for parameter in model.network.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn_like(parameter)
    return model
