"""Memory of a SalFoM training step as stated in configs/teacher/salfom_dhf1k.yaml, computed rather than measured.

The activations of one encoder block and of the decoder are counted at full size on the CPU.
"""

from collections.abc import Callable

import pytest
import torch
from helpers.places import REPOSITORY
from torch import Tensor, nn

from distill.models.registry import create_model

GIB = 2**30


def kept_bytes(module: nn.Module, run: Callable[[], Tensor]) -> int:
    """Return the bytes that a forward pass keeps for the backward pass, without weights, each storage once."""
    own = {weight.untyped_storage().data_ptr() for weight in module.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = run()
    assert out.requires_grad
    return sum(size for place, size in kept.items() if place not in own)


@pytest.mark.slow
def test_config_states_memory_of_training_step() -> None:
    with torch.device("meta"):
        whole = create_model("teacher/salfom").network
    trained = sum(weight.numel() for weight in whole.parameters() if weight.requires_grad)
    del whole
    model = create_model("teacher/salfom", depth=1).network
    tokens = torch.rand(1, 3136, 1024, requires_grad=True)
    features = torch.rand(1, 1024, 16, 14, 14, requires_grad=True)
    block = kept_bytes(model.encoder.blocks, lambda: model.encoder.blocks[0](tokens))
    decoder = kept_bytes(model.decoder, lambda: model.decoder(features))
    print(trained, block / 2**20, decoder / 2**20)
    kept = 24 * block + decoder
    lean = 24 * tokens.nbytes + block + decoder
    plain_step, lean_step = (max(16 * trained + each, 20 * trained) / GIB for each in (kept, lean))
    print(plain_step, lean_step)
    text = (REPOSITORY / "configs" / "teacher" / "salfom_dhf1k.yaml").read_text()
    stated = f"{plain_step:.1f} GiB, or {lean_step:.1f} GiB with training.recompute=true"
    assert stated in " ".join(text.replace("#", " ").split())
