"""Fully sharded training (FSDP): each process holds a shard of every encoder block and gathers the rest to run it.

    accelerate launch scripts/train_teacher.py CONFIG.yaml training.shard=true

The memory for weights, gradients and optimiser state is divided by the number of processes, at the cost of
communicating the weights twice per step. Each process also keeps an unsharded copy of the model on the CPU (the
main process's moves to its device with the first validation); the main process updates its copy before it saves or
validates.

Source: Zhao et al., "PyTorch FSDP: Experiences on Scaling Fully Sharded Data Parallel", VLDB 2023, as implemented
by torch's fully_shard.
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
    """Copy the weights of a sharded model to the main process's unsharded one; every process calls this.

    Does nothing if both are the same model.
    """
    if trained is not model:
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)  # values on the main process only
        if values := get_model_state_dict(cast(nn.Module, trained), options=options):
            model.load_state_dict(values)


def scatter(model: Network, trained: Network) -> None:
    """Copy the weights of the unsharded model, equal on all processes, to the sharded one."""
    if trained is not model:
        options = StateDictOptions(full_state_dict=True)
        set_model_state_dict(cast(nn.Module, trained), model.state_dict(), options=options)


def unsharded(value: Tensor) -> Tensor:
    """Return the full tensor of a sharded one; every process calls this for the same tensor."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def shard_like(value: Tensor, other: Tensor) -> Tensor:
    """Return a tensor sharded like another one of the same shape; unchanged if the other one is not sharded."""
    if not isinstance(other, DTensor) or value.shape != other.shape:
        return value
    return distribute_tensor(value.to(other.device), other.device_mesh, other.placements)
