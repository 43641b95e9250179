"""Fully sharded training (FSDP): each process keeps a part of every encoder block and fetches the rest to run it.

    accelerate launch scripts/train_teacher.py CONFIG.yaml training.shard=true

Weights, gradients and optimiser state take one process's share of the memory, at the price of sending the weights
twice per step. A whole copy of the model exists next to the sharded one on each host (and, after a validation, on
the main process's device); the main process's is updated before it is written or validated.

Source: Zhao et al., "PyTorch FSDP: Experiences on Scaling Fully Sharded Data Parallel", VLDB 2023; torch's
fully_shard.
"""

import copy
from typing import cast

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from distill.errors import UserError
from distill.models.protocols import Network
from distill.training.encoder_layers import layers_of
from distill.training.heads import Learner


def shard(learner: Learner, device: torch.device, processes: int) -> Learner:
    """Return a copy of a learner whose weights are split over the processes; every process calls this.

    Each encoder block is one unit of communication; everything after the encoder is another.

    Raises:
        UserError: if there is one process only, or the model does not name its encoder's layers.
    """
    if processes == 1:
        raise UserError(
            "training.shard: expected several processes, got 1; use accelerate launch, or remove training.shard"
        )
    blocks = layers_of(learner, "training.shard")[1:]
    sharded = copy.deepcopy(learner).to(device)
    mesh = init_device_mesh(device.type, (processes,))
    for name in blocks:
        fully_shard(sharded.get_submodule(name), mesh=mesh)
    fully_shard(sharded, mesh=mesh)
    return sharded


def gather(trained: Network, model: Network) -> None:
    """Copy the weights of a sharded model to the main process's whole one; every process calls this.

    Nothing happens if both are one model.
    """
    if trained is not model:
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)  # values on the main process only
        if values := get_model_state_dict(cast(nn.Module, trained), options=options):
            model.load_state_dict(values)


def scatter(model: Network, trained: Network) -> None:
    """Copy the whole model's weights, equal on all processes, to the sharded one."""
    if trained is not model:
        options = StateDictOptions(full_state_dict=True)
        set_model_state_dict(cast(nn.Module, trained), model.state_dict(), options=options)


def whole(value: Tensor) -> Tensor:
    """Return an unsharded tensor; every process calls this for the same tensor."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def like(value: Tensor, other: Tensor) -> Tensor:
    """Shard a tensor like another one of its shape; return it unchanged if the other one is not sharded."""
    if not isinstance(other, DTensor) or value.shape != other.shape:
        return value
    return distribute_tensor(value.to(other.device), other.device_mesh, other.placements)
