"""Files of weights, read and checked; and Kinetics weights for THTD-Net's encoder, under two kinds of names.

    load_weights(model, "swin3d_s-da41c237.pth")                                  torchvision's
    load_weights(model, "swin_small_patch244_window877_kinetics400_1k.pth")       the original

Files are told apart by their keys and read with `weights_only=True`, so nothing in them is executed. What does not
fit is an error that counts it and names the first offenders; the classification head is dropped.
"""

import argparse
import pickle
import re
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from student.thtdnet import Model

WRAPPERS = ("state_dict", "model", "module", "model_state_dict")
"""Under these keys releases keep their state dict, sometimes one inside the other."""

PREFIXES = ("module.", "model.", "backbone.", "_orig_mod.")
"""What wrapping modules put before every key."""

HEAD = re.compile(r"head\.|cls_head\.")

COMPUTED = "relative_position_index"
"""End of the keys of indices that follow from a window's size; each model makes its own."""

COUNTER = "num_batches_tracked"
"""End of the keys of a counter of batch normalisation, which old files lack and nothing here reads."""

ORIGINAL = (
    # the original Video Swin -> torchvision, whose list of stages holds the patch mergings at its odd places
    (r"^layers\.(\d+)\.blocks\.", lambda match: f"features.{2 * int(match[1])}."),
    (r"^layers\.(\d+)\.downsample\.", lambda match: f"features.{2 * int(match[1]) + 1}."),
    (r"\.mlp\.fc1\.", lambda match: ".mlp.0."),
    (r"\.mlp\.fc2\.", lambda match: ".mlp.3."),
)


def load_weights(model: "Model", path: str | Path) -> str:
    """Load a Video Swin file into THTD-Net's encoder; the decoder keeps its initial weights.

    A state dict under this model's own names is loaded whole.

    Returns:
        One line that says what was loaded and dropped.

    Raises:
        ValueError: if the file is missing, unreadable, of another kind, or does not fit the model.
    """
    tensors = {without_prefix(key): value for key, value in read_tensors(path).items()}
    if "encoder.patch_embed.proj.weight" in tensors:
        count = fill(model, path, tensors)
        return f"{path}: THTD-Net weights, {count} tensors loaded"
    if "layers.0.blocks.0.attn.qkv.weight" in tensors:
        kind, renamed = (
            "the original Video Swin's",
            {torchvision_name(key): value for key, value in tensors.items()},
        )
    elif "features.0.0.attn.qkv.weight" in tensors:
        kind, renamed = "torchvision's Video Swin", tensors
    else:
        raise ValueError(
            f"{path}: no Video Swin weights: none of its {len(tensors)} keys is features.0.0.attn.qkv.weight or "
            f"backbone.layers.0.blocks.0.attn.qkv.weight; the first are {name_some(tensors)}"
        )
    dropped = [key for key in renamed if HEAD.match(key)]
    count = fill(model.encoder, path, {key: value for key, value in renamed.items() if not HEAD.match(key)})
    told = f"; dropped {', '.join(sorted({key.rpartition('.')[0] for key in dropped}))}" if dropped else ""
    return (
        f"{path}: {kind} weights, {count} tensors loaded into the encoder{told}; "
        "the decoder keeps its initial weights"
    )


def torchvision_name(key: str) -> str:
    """Return torchvision's name of a key of the original Video Swin (without `backbone.`)."""
    for pattern, replacement in ORIGINAL:
        key = re.sub(pattern, replacement, key)
    return key


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Read a state dict, flat or nested, from a .safetensors file or a pickle, without executing anything in it.

    Raises:
        ValueError: if the file is missing, unreadable, or holds no tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such weight file")
    try:
        if path.suffix == ".safetensors":
            content: Any = safetensors.torch.load_file(path)
        else:
            with torch.serialization.safe_globals([argparse.Namespace]):  # training arguments kept beside weights
                content = torch.load(path, map_location="cpu", weights_only=True)
    except (
        pickle.UnpicklingError,
        EOFError,
        RuntimeError,
        zipfile.BadZipFile,
        safetensors.SafetensorError,
    ) as error:
        reason = str(error).strip().split("\n")[0]
        raise ValueError(f"{path}: not readable as a file of tensors alone ({reason})") from error
    while isinstance(content, dict) and (inner := [key for key in WRAPPERS if isinstance(content.get(key), dict)]):
        content = content[inner[0]]
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds a {type(content).__name__}, expected a dictionary of tensors")
    tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        raise ValueError(f"{path}: holds no tensors, neither at its top nor under {', '.join(WRAPPERS)}")
    return tensors


def fill(module: nn.Module, path: str | Path, tensors: dict[str, Tensor]) -> int:
    """Put `tensors` into a module: all of its state dict but the computed indices, and nothing else.

    Returns:
        How many were put there.

    Raises:
        ValueError: if any is missing, unknown or of another shape; it counts them and names the first.
    """
    state = module.state_dict()
    expected = {key: value for key, value in state.items() if not key.endswith(COMPUTED)}
    tensors = {key: value for key, value in tensors.items() if not key.endswith(COMPUTED)}
    missing = [key for key in expected if key not in tensors and not key.endswith(COUNTER)]
    unknown = [key for key in tensors if key not in expected]
    misfits = [
        f"{key} {tuple(value.shape)} instead of {tuple(expected[key].shape)}"
        for key, value in tensors.items()
        if key in expected and value.shape != expected[key].shape
    ]
    if missing or unknown or misfits:
        matching = len(expected) - len(missing) - len(misfits)
        complaints = [f"{matching} of the model's {len(expected)} tensors match"]
        complaints += [f"{len(missing)} are missing: {name_some(missing)}"] if missing else []
        complaints += [f"{len(misfits)} have other shapes: {name_some(misfits)}"] if misfits else []
        complaints += [f"{len(unknown)} are unknown to the model: {name_some(unknown)}"] if unknown else []
        raise ValueError(f"{path}: these weights are of another model: " + "; ".join(complaints))
    module.load_state_dict(state | tensors)
    return len(tensors)


def without_prefix(key: str) -> str:
    """Return a key without what wrapping modules put before it."""
    while prefix := next((prefix for prefix in PREFIXES if key.startswith(prefix)), None):
        key = key.removeprefix(prefix)
    return key


def name_some(names: Iterable[str]) -> str:
    """Return the first three of some names, and that there are more."""
    names = list(names)
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
