"""Weights in parts: each process keeps a share of every encoder block, and fetches the rest while the block runs.

    accelerate launch scripts/train_teacher.py CONFIG.yaml training.shard=true

Weights, gradients and the optimiser's moments then take one process's share of the memory, at the price of sending
the weights round twice a step. A whole copy of the model stands beside the sharded one, on each host (and, once it
has been validated, on the main process's device). It is brought up to date before it is written or validated.

Source: Zhao et al., "PyTorch FSDP: Experiences on Scaling Fully Sharded Data Parallel", VLDB 2023, by torch's
fully_shard.
"""

import copy

import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from distill.models.protocols import Network
from distill.training.encoder_layers import layers_of
from distill.training.heads import Learner


def shard(model: Learner, device: torch.device, processes: int) -> Learner:
    """Return a copy of a model whose weights lie in parts on the processes; every process calls this.

    Each of the encoder's blocks is fetched when it runs and dropped after it; what follows the encoder is fetched
    once a step.

    Raises:
        UserError: if the model does not say what its encoder's blocks are.
    """
    blocks = layers_of(model, "training.shard")[1:]
    sharded = copy.deepcopy(model).to(device)
    mesh = init_device_mesh(device.type, (processes,))
    for name in blocks:
        fully_shard(sharded.get_submodule(name), mesh=mesh)
    fully_shard(sharded, mesh=mesh)
    return sharded


@torch.no_grad()
def gather(trained: Network, model: Network) -> None:
    """Bring the whole `model` up to date with the `trained` one; every process calls this.

    Nothing is to be done where the two are one.
    """
    if trained is not model:
        targets = model.state_dict()
        for key, value in trained.state_dict().items():
            targets[key].copy_(whole(value))


@torch.no_grad()
def scatter(model: Network, trained: Network) -> None:
    """Put the whole model's weights into the trained one: the way back from `gather`."""
    if trained is not model:
        values = model.state_dict()
        for key, target in trained.state_dict().items():
            target.copy_(like(values[key], target))


def whole(value: Tensor) -> Tensor:
    """Return a tensor in one piece; every process calls this for the same tensor."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def like(value: Tensor, other: Tensor) -> Tensor:
    """Cut a tensor as another of its shape is cut; one that lies in one piece leaves it whole."""
    if not isinstance(other, DTensor) or value.shape != other.shape:
        return value
    return distribute_tensor(value.to(other.device), other.device_mesh, other.placements)
