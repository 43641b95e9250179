"""Published Video Swin weights for THTD-Net's encoder, under torchvision's names or the original release's.

swin3d_s-da41c237.pth                                     torchvision
swin_small_patch244_window877_kinetics400_1k.pth          the original release
"""

import re

from torch import Tensor, nn

HEAD = re.compile(r"head\.|cls_head\.")

COMPUTED = "relative_position_index"
"""Suffix of the keys of buffers that every model computes from its window size."""


def load_video_swin(encoder: nn.Module, tensors: dict[str, Tensor]) -> str:
    """Load a Video Swin classifier without its head into THTD-Net's encoder.

    Args:
        encoder: THTD-Net's encoder.
        tensors: the file's state dict without the prefixes of wrapping modules.

    Returns:
        One line: the kind of file, the number of tensors loaded, and what was dropped.

    Raises:
        ValueError: if the tensors are not Video Swin's.
        RuntimeError: if they belong to another size of Video Swin.
    """
    if "layers.0.blocks.0.attn.qkv.weight" in tensors:
        kind = "the original Video Swin's"
        tensors = {torchvision_name(key): value for key, value in tensors.items()}
    elif "features.0.0.attn.qkv.weight" in tensors:
        kind = "torchvision's Video Swin"
    else:
        raise ValueError(
            f"no Video Swin weights: none of the {len(tensors)} keys is features.0.0.attn.qkv.weight or "
            f"backbone.layers.0.blocks.0.attn.qkv.weight; the first keys are {', '.join(list(tensors)[:3])}"
        )
    heads = sorted({key.rpartition(".")[0] for key in tensors if HEAD.match(key)})
    count = load_all(encoder, {key: value for key, value in tensors.items() if not HEAD.match(key)})
    dropped = f"; dropped {', '.join(heads)}" if heads else ""
    return f"{kind} weights, {count} tensors loaded into the encoder{dropped}"


def load_all(module: nn.Module, tensors: dict[str, Tensor]) -> int:
    """Load a state dict, which must be complete except for computed buffers; return the number of tensors."""
    given = {key: value for key, value in tensors.items() if not key.endswith(COMPUTED)}
    computed = {key: value for key, value in module.state_dict().items() if key.endswith(COMPUTED)}
    module.load_state_dict(given | computed)
    return len(given)


def torchvision_name(key: str) -> str:
    """Return torchvision's name of a key of the original Video Swin (without `backbone.`)."""
    key = re.sub(r"^layers\.(\d+)\.blocks\.", lambda match: f"features.{2 * int(match[1])}.", key)
    key = re.sub(r"^layers\.(\d+)\.downsample\.", lambda match: f"features.{2 * int(match[1]) + 1}.", key)
    return key.replace(".mlp.fc1.", ".mlp.0.").replace(".mlp.fc2.", ".mlp.3.")
