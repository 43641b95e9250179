"""Per-layer treatment of the encoder: freezing, gradient checkpointing and layer-wise learning rate decay.

A model lists its encoder's modules in `encoder_layers`, in the order of the forward pass: the patch embedding, then
the blocks.
"""

from functools import partial
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

from distill.errors import UserError
from distill.models.protocols import Network, SaliencyModel
from distill.training.heads import Learner


def layers_of(model: SaliencyModel | Learner, key: str) -> tuple[str, ...]:
    """Return the names of the encoder's layers, the patch embedding first.

    Raises:
        UserError: the model does not name them; the error begins with `key`, the config key that needs them.
    """
    if not model.encoder_layers:
        raise UserError(f"{key}: this model does not name its encoder's layers; remove {key}")
    return model.encoder_layers


def freeze(model: SaliencyModel, what: str | int | None) -> None:
    """Freeze a model's encoder in place.

    Args:
        model: the model.
        what: "encoder" for all of it, n for its patch embedding and first n blocks, or None for nothing.

    Raises:
        UserError: the encoder has fewer than n blocks.
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


def train_mode(model: Network | nn.Module) -> None:
    """Set training mode, except for frozen modules, so that stochastic depth does not drop their paths."""
    model.train()
    for module in model.modules():
        weights = list(module.parameters())
        if weights and not any(weight.requires_grad for weight in weights):
            module.eval()


def recompute(model: SaliencyModel) -> None:
    """Apply gradient checkpointing to the encoder's blocks: keep only their inputs, and rerun them in backward.

    The rerun restores the random state, so that the gradients are unchanged.
    """
    for name in layers_of(model, "training.recompute")[1:]:
        block: Any = model.get_submodule(name)
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)


def decayed_groups(model: SaliencyModel, decay: float) -> list[dict[str, Any]]:
    """Return the trainable weights as optimiser groups, each with the `scale` of its learning rate.

    Weights after the encoder have 1, the encoder's last layer `decay`, the one before it `decay` squared. Encoder
    weights that belong to no layer count as the last one.
    """
    names = layers_of(model, "optimizer.layer_decay")
    depths: dict[int, list[nn.Parameter]] = {}
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            depths.setdefault(_depth(name, names), []).append(weight)
    return [{"params": weights, "scale": decay**depth} for depth, weights in sorted(depths.items())]


def _depth(name: str, layers: tuple[str, ...]) -> int:
    """Return a weight's distance in layers from the encoder's end: 0 after the encoder, 1 in its last layer."""
    for index, layer in enumerate(layers):
        if name.startswith(layer + "."):
            return len(layers) - index
    return 1 if name.startswith("encoder.") else 0
