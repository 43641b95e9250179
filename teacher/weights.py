"""Published weights for SalFoM: reads the authors' files and UMT's checkpoints, and writes the authors' names back.

    load_weights(model, "SalFoM_DHF1K.pth")                              the whole network
    load_weights(model, "l16_ptk710_ftk710_ftk400_f16_res224.pth")       the encoder; the decoder stays as it is
    load_weights(model, "umt-l16-k400")                                  the same file, by its name (teacher/hub.py)
    load_weights(model, "swin3d_b_1k-24f7c7c6.pth")                      the encoder of the variant swin-encoder
    to_published(model)                                                  a state dict under the authors' names

Files are told apart by their keys. Pickles are read with `weights_only=True`, so nothing in them is executed.
What does not fit is an error that counts it and names the first offenders; nothing is left out in silence.
"""

import argparse
import pickle
import re
import zipfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from teacher.salfom import Model

from teacher.hub import find
from teacher.umt import resize_positions, sincos_positions

NAMES = (
    # ours -> the authors'; the first pattern that fits the beginning of a key renames it
    (r"encoder\.position", "encoder.pos_embed"),
    (r"encoder\.patch_embed\.", "encoder.patch_embed.proj."),
    (r"decoder\.tcfe\.a(\d)\.patch_embed\.", r"transformer_\1.patch_embed.proj."),
    (r"decoder\.tcfe\.a(\d)\.", r"transformer_\1.layers.0."),
    (r"decoder\.dfd\.(?:early|middle|late)\.conv(\d)", r"conv_\1"),
    (r"decoder\.sfd\.reduce\.conv(\d)", r"conv_t1_\1"),
    (r"decoder\.sfd\.from_early\.conv(\d)", r"conv_t2_\1"),
    (r"decoder\.sfd\.from_middle\.conv(\d)", r"conv_t3_\1"),
    (r"decoder\.sfd\.(?:early|middle|late)\.conv(\d)", r"conv_2D_\1"),
    (r"decoder\.fusion\.conv1", "conv_7"),
    (r"decoder\.fusion\.conv2", "conv_8"),
    (r"decoder\.fusion\.conv3", "conv_9"),
)

UNUSED = re.compile(r"final_map\.|conv_t3_3\.|transformer_\d\.norm\.|encoder\.(?:fc_norm|head)\.")
"""Weights of the published file on which no output depends."""

COMPUTED = "relative_position_index"
"""End of the keys of indices that follow from a window's size; each model makes its own."""

WRAPPERS = ("state_dict", "model", "module", "model_state_dict")
"""Under these keys other releases keep their state dict, sometimes one inside the other."""

PREFIXES = ("module.", "model.", "backbone.", "_orig_mod.")
"""What wrapping modules put before every key."""

ORIGINAL_SWIN = (
    # the original Video Swin -> torchvision, whose list of stages holds the patch mergings at its odd places
    (r"^layers\.(\d+)\.blocks\.", lambda match: f"features.{2 * int(match[1])}."),
    (r"^layers\.(\d+)\.downsample\.", lambda match: f"features.{2 * int(match[1]) + 1}."),
    (r"\.mlp\.fc1\.", lambda match: ".mlp.0."),
    (r"\.mlp\.fc2\.", lambda match: ".mlp.3."),
)


def load_weights(model: "Model", weights: str | Path) -> str:
    """Load a published file, given by its path or by a name of `teacher.hub`, into SalFoM.

    - the authors' SalFoM state dict: everything is loaded; their unused weights are dropped;
    - a UMT checkpoint: the encoder is loaded, its first `depth` blocks; the head is dropped;
    - Kinetics weights of Video Swin, torchvision's or the original's, for a Swin encoder; the head is dropped;
    - our own names (a state dict of this model): everything is loaded.

    Each may be flat or nested, with a prefix, and in any precision; it is cast to the model's. A stored position
    table for another grid is interpolated.

    Returns:
        One line that says what was loaded, dropped and interpolated.

    Raises:
        ValueError: if the file is missing, unreadable, of none of these kinds, or does not fit the model, or if a
            name is unknown or cannot be fetched.
    """
    path = find(weights)
    tensors = {_without_prefix(key): value for key, value in read_tensors(path).items()}
    swin = {_torchvision_name(key): value for key, value in tensors.items()}
    if "features.0.0.attn.qkv.weight" in swin:
        return _load_swin(model, path, swin)
    if "conv_1.weight" in tensors or "transformer_1.patch_embed.proj.weight" in tensors:
        return _load_salfom(model, path, tensors)
    if "patch_embed.proj.weight" in tensors or "encoder.patch_embed.proj.weight" in tensors:
        return _load_umt(model, path, tensors)
    if "decoder.fusion.conv1.weight" in tensors:
        return _load_own(model, path, tensors)
    raise ValueError(
        f"{path}: neither SalFoM nor UMT weights: none of its {len(tensors)} keys is conv_1.weight or "
        f"patch_embed.proj.weight; the first are {_some(tensors)}"
    )


def published_name(key: str) -> str:
    """Return the authors' name of one of our keys; the mapping is one to one."""
    for ours, theirs in NAMES:
        renamed, hits = re.subn("^" + ours, theirs, key)
        if hits:
            return renamed
    return key


def to_published(model: "Model") -> dict[str, Tensor]:
    """Return SalFoM's weights under the keys of the authors' code: every key that it asks for, and no other.

    The weights that nothing uses are zero; indices of relative positions are computed. The position table of
    8 frames is no part of it. Variants of which no file was published get their names by the same rule.

    Raises:
        ValueError: for a Swin encoder, for which the authors have no names.
    """
    own = model.state_dict()
    if "encoder.position" not in own:
        raise ValueError("the authors' names are those of a UMT encoder; there are none for a Swin encoder")
    position = own["encoder.position"]
    tensors = {published_name(key): value for key, value in own.items()}
    if not isinstance(model.encoder.position, nn.Parameter):
        del tensors["encoder.pos_embed"]
    for key in [key for key in tensors if key.endswith("relative_position_bias_table")]:
        window = (tensors[key].shape[0] + 1) // 2
        place = torch.arange(window, device=position.device)
        tensors[key.replace("bias_table", "index")] = place[:, None] - place[None] + window - 1
    for key, shape in _unused_shapes(model).items():
        tensors[key] = torch.zeros(shape, dtype=position.dtype, device=position.device)
    return tensors


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


def _load_salfom(model: "Model", path: str | Path, tensors: dict[str, Tensor]) -> str:
    ours = {published_name(key): key for key in model.state_dict()}
    table = tensors.pop("encoder.pos_embed", None)
    dropped = [key for key in tensors if UNUSED.match(key)]
    renamed = {ours.get(key, key): value for key, value in tensors.items() if not UNUSED.match(key)}
    count = _fill(model, path, renamed, lambda key: key != "encoder.position")
    positions = _place_positions(model, path, table)
    return f"{path}: SalFoM weights, {count} tensors loaded{positions}{_say_dropped(dropped)}"


def _load_umt(model: "Model", path: str | Path, tensors: dict[str, Tensor]) -> str:
    if "encoder.patch_embed.proj.weight" in tensors:  # what stands beside an encoder (pretraining) is not its part
        inside = {key: value for key, value in tensors.items() if key.startswith("encoder.")}
    else:
        inside = {f"encoder.{key}": value for key, value in tensors.items()}
    dropped = [key for key in tensors if key not in inside and f"encoder.{key}" not in inside]
    table = inside.pop("encoder.pos_embed", None)
    ours = {published_name(key): key for key in model.state_dict()}
    depth = len(getattr(model.encoder, "blocks", ()))  # none in a Swin encoder, into which nothing of this fits
    renamed = {}
    for key, value in inside.items():
        block = re.match(r"encoder\.blocks\.(\d+)\.", key)
        if re.match(r"encoder\.(fc_norm|norm|head)\.", key) or (block and int(block[1]) >= depth):
            dropped.append(key.removeprefix("encoder."))
        else:
            renamed[ours.get(key, key)] = value
    count = _fill(model, path, renamed, lambda key: key.startswith("encoder.") and key != "encoder.position")
    positions = _place_positions(model, path, table)
    return (
        f"{path}: UMT checkpoint, {count} tensors loaded into the encoder{positions}{_say_dropped(dropped)}; "
        "the decoder keeps its initial weights"
    )


def _load_swin(model: "Model", path: str | Path, tensors: dict[str, Tensor]) -> str:
    head = re.compile(r"(cls_)?head\.")
    dropped = [key for key in tensors if head.match(key)]
    inside = {f"encoder.swin.{key}": value for key, value in tensors.items() if not head.match(key)}
    count = _fill(
        model,
        path,
        inside,
        lambda key: key.startswith("encoder.") and not key.startswith("encoder.lateral."),
    )
    return (
        f"{path}: Video Swin weights, {count} tensors loaded into the encoder{_say_dropped(dropped)}; "
        "its lateral and the decoder keep their initial weights"
    )


def _torchvision_name(key: str) -> str:
    """Return torchvision's name of a key of the original Video Swin; another key is returned as it is."""
    if re.match(r"layers\.\d+\.", key):
        for pattern, replacement in ORIGINAL_SWIN:
            key = re.sub(pattern, replacement, key)
    return key


def _load_own(model: "Model", path: str | Path, tensors: dict[str, Tensor]) -> str:
    table = tensors.pop("encoder.position", None)
    count = _fill(model, path, tensors, lambda key: key != "encoder.position")
    if "encoder.position" not in model.state_dict():
        return f"{path}: SalFoM weights under our names, {count} tensors loaded"
    if table is not None and table.shape == model.state_dict()["encoder.position"].shape:
        _place_positions(model, path, table)
        return f"{path}: SalFoM weights under our names, {count + 1} tensors loaded"
    return f"{path}: SalFoM weights under our names, {count} tensors loaded; positions made for this grid"


def _fill(model: "Model", path: str | Path, tensors: dict[str, Tensor], wanted: Callable[[str], bool]) -> int:
    """Put `tensors`, under our names, into the model: all keys that are wanted, and no others."""
    state = model.state_dict()
    expected = {key: value for key, value in state.items() if wanted(key) and not key.endswith(COMPUTED)}
    tensors = {key: value for key, value in tensors.items() if not key.endswith(COMPUTED)}
    missing = [key for key in expected if key not in tensors]
    unknown = [key for key in tensors if key not in expected]
    misfits = [
        f"{key} {tuple(value.shape)} instead of {tuple(expected[key].shape)}"
        for key, value in tensors.items()
        if key in expected and value.shape != expected[key].shape
    ]
    if missing or unknown or misfits:
        matching = len(expected) - len(missing) - len(misfits)
        complaints = [f"{matching} of the model's {len(expected)} tensors match"]
        complaints += [f"{len(missing)} are missing: {_some(missing)}"] if missing else []
        complaints += [f"{len(misfits)} have other shapes: {_some(misfits)}"] if misfits else []
        complaints += [f"{len(unknown)} are unknown to the model: {_some(unknown)}"] if unknown else []
        raise ValueError(f"{path}: these weights are of another model: " + "; ".join(complaints))
    model.load_state_dict(state | tensors)
    return len(tensors)


def _place_positions(model: "Model", path: str | Path, table: Tensor | None) -> str:
    """Use a file's position table (1, L, C), interpolated where the model's grid is another; say what was done."""
    if table is None:
        return "; positions computed"
    position, target = model.state_dict()["encoder.position"], model.encoder.grid
    if table.ndim != 3 or table.shape[2] != position.shape[2]:
        raise ValueError(f"{path}: pos_embed {tuple(table.shape)}, expected (1, tokens, {position.shape[2]})")
    own = table.shape == position.shape and (target[1] == target[2] or _is_table_of(target, table))
    source = target if own else _square_grid(table.shape[1])
    if source is None and _is_any_table(table):  # a model of ours wrote it, whose frames are not square
        return "; positions made for this grid"
    if source is None:
        raise ValueError(
            f"{path}: pos_embed of {table.shape[1]} tokens is no grid of 8, 16, 32, 4 or 1 square frames"
        )
    with torch.no_grad():
        position.copy_(resize_positions(table.float(), source, target))
    if source == target:
        return ""
    return f"; positions interpolated from {_grid_text(source)} to {_grid_text(target)}"


def _is_table_of(grid: Sequence[int], table: Tensor) -> bool:
    """Tell whether a table was made for a grid; its length alone does not tell 14 x 14 from 7 x 28."""
    return torch.allclose(table.float().cpu(), sincos_positions(grid, table.shape[2]), atol=1e-2)


def _is_any_table(table: Tensor) -> bool:
    """Tell whether a table was made for some grid of 8 or 16 frames."""
    return any(
        _is_table_of((frames, h, table.shape[1] // frames // h), table)
        for frames in (8, 16)
        for h in range(1, table.shape[1] // frames + 1)
        if table.shape[1] % (frames * h) == 0
    )


def _square_grid(length: int) -> tuple[int, int, int] | None:
    """Return (frames, side, side) of a published table by its number of tokens; its frames are square."""
    for frames in (8, 16, 32, 4, 1):
        side = round((length / frames) ** 0.5)
        if frames * side * side == length:
            return frames, side, side
    return None


def _unused_shapes(model: "Model") -> dict[str, tuple[int, ...]]:
    """Shapes of the published weights that nothing uses: 425,075 numbers for ViT-L."""
    own = model.state_dict()
    width = own["encoder.patch_embed.bias"].shape[0]
    stages = [own[f"decoder.tcfe.a{n}.patch_embed.bias"].shape[0] for n in (1, 2, 3)]
    shapes: dict[str, tuple[int, ...]] = {
        "encoder.fc_norm.weight": (width,),
        "encoder.fc_norm.bias": (width,),
        "encoder.head.weight": (400, width),
        "encoder.head.bias": (400,),
        "conv_t3_3.weight": (stages[1], stages[1], 3, 1, 1),
        "conv_t3_3.bias": (stages[1],),
        "final_map.weight": (1, 2, 1, 1),
        "final_map.bias": (1,),
    }
    for n, stage in enumerate(stages, start=1):
        shapes |= {f"transformer_{n}.norm.weight": (stage,), f"transformer_{n}.norm.bias": (stage,)}
    return shapes


def _without_prefix(key: str) -> str:
    while prefix := next((prefix for prefix in PREFIXES if key.startswith(prefix)), None):
        key = key.removeprefix(prefix)
    return key


def _say_dropped(keys: Iterable[str]) -> str:
    """Name what was dropped by module: `; dropped head, blocks.12`."""
    modules = dict.fromkeys(
        re.sub(r"\.(weight|bias)$", "", re.sub(r"^(blocks\.\d+)\..*", r"\1", key)) for key in keys
    )
    return f"; dropped {', '.join(modules)}" if modules else ""


def _some(names: Iterable[str]) -> str:
    """The first three of some names, and that there are more."""
    names = list(names)
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _grid_text(grid: tuple[int, int, int]) -> str:
    return " x ".join(map(str, grid))
