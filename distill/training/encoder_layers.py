"""The encoder layer by layer: what is frozen, learns more slowly, or is computed again in the backward pass.

A model names the modules of its encoder in `encoder_layers`, in the order of the data: the patch embedding first,
then the blocks.
"""

from functools import partial
from typing import Any, Protocol

from torch import nn
from torch.utils.checkpoint import checkpoint

from distill.errors import UserError
from distill.models.protocols import Network, SaliencyModel


class HasEncoderLayers(Protocol):
    """A model or a learner around one."""

    encoder_layers: tuple[str, ...]


def layers_of(model: "HasEncoderLayers", wanted: str) -> tuple[str, ...]:
    """Return the names of the encoder's layers, the patch embedding first.

    Raises:
        UserError: if the model does not say what they are; it names the key that `wanted` them.
    """
    if not model.encoder_layers:
        raise UserError(f"{wanted}: this model does not say what the layers of its encoder are; leave it out")
    return model.encoder_layers


def freeze(model: SaliencyModel, what: str | int | None) -> None:
    """Take weights out of training: None of them, the whole "encoder", or its patch embedding and first blocks.

    Raises:
        UserError: if there are not so many blocks.
    """
    if what is None:
        return
    names = layers_of(model, "training.freeze")
    blocks = len(names) - 1
    if isinstance(what, int) and what > blocks:
        raise UserError(
            f"training.freeze: the encoder has {blocks} blocks, got {what}; use 'encoder' for all of it"
        )
    frozen = ("encoder",) if what == "encoder" else names[: int(what) + 1]
    for name in frozen:
        model.get_submodule(name).requires_grad_(False)


def train_mode(model: Network) -> None:
    """Put a model into training mode, except what learns nothing: stochastic depth stays out of frozen blocks."""
    model.train()
    for module in model.modules():
        weights = list(module.parameters())
        if weights and not any(weight.requires_grad for weight in weights):
            module.eval()


def recompute(model: SaliencyModel) -> None:
    """Let each of the encoder's blocks keep its input alone and run again when gradients come back to it.

    Random choices are repeated in the second run, so the gradients are those of a model that kept everything.
    """
    for name in layers_of(model, "training.recompute")[1:]:
        block: Any = model.get_submodule(name)
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)


def decayed_groups(model: SaliencyModel, decay: float) -> list[dict[str, Any]]:
    """Return the trainable weights in groups for an optimiser, each with the `scale` of its learning rate.

    What follows the encoder has 1, the encoder's last layer `decay`, the one before it `decay` squared. A weight of
    the encoder that belongs to no layer goes with the last one.
    """
    names = layers_of(model, "optimizer.layer_decay")
    depths: dict[int, list[nn.Parameter]] = {}
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            depths.setdefault(_depth(name, names), []).append(weight)
    return [{"params": weights, "scale": decay**depth} for depth, weights in sorted(depths.items())]


def _depth(name: str, layers: tuple[str, ...]) -> int:
    """Count the layers from the end of the encoder to a weight: 0 after the encoder, 1 in its last layer."""
    for index, layer in enumerate(layers):
        if name.startswith(layer + "."):
            return len(layers) - index
    return 1 if name.startswith("encoder.") else 0
