"""Published weights for SalFoM: load the authors' and UMT's state dicts, and convert to the authors' keys.

    saldistill models teacher/salfom --convert SalFoM_DHF1K.pth salfom.safetensors
    saldistill models teacher/salfom --to-published salfom.safetensors SalFoM.pth

The kind of a state dict follows from its keys. Tensors are dropped only if they are known to be unused, and the
report names them.
"""

import re
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from teacher.swin import Encoder as SwinEncoder
from teacher.umt import Encoder, resize_positions, sincos_positions

NAMES = (
    # our key -> the authors'; the first pattern that matches the beginning of a key renames it
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

UMT_HEAD = re.compile(r"(?:fc_norm|norm|head)\.")
SWIN_HEAD = re.compile(r"(?:cls_)?head\.")

COMPUTED = "relative_position_index"
"""Suffix of the keys of buffers that every model computes from its window size."""


def load_weights(model: nn.Module, tensors: dict[str, Tensor]) -> str:
    """Load a published state dict into SalFoM.

    - The authors' SalFoM: everything is loaded; weights on which no output depends are dropped.
    - A UMT checkpoint: the encoder is loaded, its first `depth` blocks; the head is dropped.
    - Kinetics weights of Video Swin, torchvision's or the original's, for a Swin encoder; the head is dropped.
    - A state dict of this model: everything is loaded.

    Tensors of any precision are cast to the model's. A position table for another grid is interpolated.

    Args:
        model: SalFoM, a `teacher.salfom.Model`.
        tensors: the file's state dict without the prefixes of wrapping modules.

    Returns:
        One line: what was loaded, dropped and interpolated.

    Raises:
        ValueError: if the tensors are of none of these kinds, or the position table has no known grid.
        RuntimeError: if they belong to a model of another size.
    """
    swin = {torchvision_name(key): value for key, value in tensors.items()}
    if "features.0.0.attn.qkv.weight" in swin:
        return _load_swin(model, swin)
    if "conv_1.weight" in tensors or "transformer_1.patch_embed.proj.weight" in tensors:
        return _load_salfom(model, tensors)
    if "patch_embed.proj.weight" in tensors or "encoder.patch_embed.proj.weight" in tensors:
        return _load_umt(model, tensors)
    if "decoder.fusion.conv1.weight" in tensors:
        return _load_own(model, tensors)
    raise ValueError(
        f"neither SalFoM nor UMT weights: none of the {len(tensors)} keys is conv_1.weight or "
        f"patch_embed.proj.weight; the first keys are {', '.join(list(tensors)[:3])}"
    )


def published_name(key: str) -> str:
    """Return the authors' name of one of our keys; the mapping is one to one."""
    for ours, theirs in NAMES:
        renamed, count = re.subn("^" + ours, theirs, key)
        if count:
            return renamed
    return key


def to_published(model: nn.Module) -> dict[str, Tensor]:
    """Return SalFoM's weights under the keys of the authors' code: every key that it requires, and no others.

    Unused weights are zero; relative-position indices are computed. The position table is left out for 8 frames,
    as in the authors' code. Variants without a published file are named by the same rules.

    Raises:
        ValueError: for a Swin encoder, for which the authors have no names.
    """
    encoder = model.get_submodule("encoder")
    if not isinstance(encoder, Encoder):
        raise ValueError("the authors' keys are for a UMT encoder; there are none for a Swin encoder")
    tensors = {published_name(key): value for key, value in model.state_dict().items()}
    if not isinstance(encoder.position, nn.Parameter):
        del tensors["encoder.pos_embed"]
    for key in [key for key in tensors if key.endswith("relative_position_bias_table")]:
        window = (tensors[key].shape[0] + 1) // 2
        place = torch.arange(window, device=encoder.position.device)
        tensors[key.replace("bias_table", "index")] = place[:, None] - place[None] + window - 1
    for key, shape in _unused_shapes(tensors).items():
        tensors[key] = encoder.position.new_zeros(shape)
    return tensors


def torchvision_name(key: str) -> str:
    """Return torchvision's name of a key of the original Video Swin; other keys are returned unchanged."""
    if not re.match(r"layers\.\d+\.", key):
        return key
    key = re.sub(r"^layers\.(\d+)\.blocks\.", lambda match: f"features.{2 * int(match[1])}.", key)
    key = re.sub(r"^layers\.(\d+)\.downsample\.", lambda match: f"features.{2 * int(match[1]) + 1}.", key)
    return key.replace(".mlp.fc1.", ".mlp.0.").replace(".mlp.fc2.", ".mlp.3.")


def _load_salfom(model: nn.Module, tensors: dict[str, Tensor]) -> str:
    ours = {published_name(key): key for key in model.state_dict()}
    positions, note = _positions(model, tensors.get("encoder.pos_embed"))
    state = {
        ours.get(key, key): value
        for key, value in tensors.items()
        if key != "encoder.pos_embed" and not UNUSED.match(key)
    }
    count = _load_all(model, {**state, **{f"encoder.{key}": value for key, value in positions.items()}})
    return (
        f"SalFoM weights, {count - len(positions)} tensors loaded{note}"
        f"{_list_dropped(key for key in tensors if UNUSED.match(key))}"
    )


def _load_umt(model: nn.Module, tensors: dict[str, Tensor]) -> str:
    encoder = model.get_submodule("encoder")
    prefix = "encoder." if "encoder.patch_embed.proj.weight" in tensors else ""  # of a pretraining checkpoint
    depth = len(encoder.blocks) if isinstance(encoder, Encoder) else 0
    ours = {published_name(f"encoder.{key}"): key for key in encoder.state_dict()}
    state, dropped = {}, [key for key in tensors if not key.startswith(prefix)]
    for key, value in tensors.items():
        name = key.removeprefix(prefix)
        block = re.match(r"blocks\.(\d+)\.", name)
        if not key.startswith(prefix) or name == "pos_embed":
            continue
        if UMT_HEAD.match(name) or (block and int(block[1]) >= depth):
            dropped.append(name)
        else:
            state[ours.get(f"encoder.{name}", name)] = value
    positions, note = _positions(model, tensors.get(f"{prefix}pos_embed"))
    count = _load_all(encoder, state | positions) - len(positions)
    return (
        f"UMT checkpoint, {count} tensors loaded into the encoder{note}{_list_dropped(dropped)}; "
        "the decoder keeps its initial weights"
    )


def _load_swin(model: nn.Module, tensors: dict[str, Tensor]) -> str:
    encoder = model.get_submodule("encoder")
    if not isinstance(encoder, SwinEncoder):
        raise ValueError("Video Swin weights are for another model: this one has a UMT encoder")
    count = _load_all(encoder.swin, {key: value for key, value in tensors.items() if not SWIN_HEAD.match(key)})
    return (
        f"Video Swin weights, {count} tensors loaded into the encoder"
        f"{_list_dropped(key for key in tensors if SWIN_HEAD.match(key))}; "
        "its lateral and the decoder keep their initial weights"
    )


def _load_own(model: nn.Module, tensors: dict[str, Tensor]) -> str:
    encoder, note = model.get_submodule("encoder"), ""
    if isinstance(encoder, Encoder):
        table = tensors.get("encoder.position")
        if table is not None and table.shape == encoder.position.shape:
            tensors = tensors | {"encoder.position": _positions(model, table)[0]["position"]}
        else:
            tensors = tensors | {"encoder.position": encoder.position}
            note = "; positions computed for this grid"
    count = _load_all(model, tensors) - (1 if note else 0)
    return f"SalFoM weights with this project's keys, {count} tensors loaded{note}"


def _load_all(module: nn.Module, tensors: dict[str, Tensor]) -> int:
    """Load a state dict, which must be complete except for computed buffers; return the number of tensors."""
    given = {key: value for key, value in tensors.items() if not key.endswith(COMPUTED)}
    computed = {key: value for key, value in module.state_dict().items() if key.endswith(COMPUTED)}
    module.load_state_dict(given | computed)
    return len(given)


def _positions(model: nn.Module, table: Tensor | None) -> tuple[dict[str, Tensor], str]:
    """Fit a file's position table (1, L, C) to the encoder's grid.

    Returns:
        {"position": table} for the encoder, empty for a Swin encoder; and a note on what was done.
    """
    encoder = model.get_submodule("encoder")
    if not isinstance(encoder, Encoder):
        return {}, ""
    position, target = encoder.position, encoder.grid
    if table is None:
        return {"position": position}, "; positions computed"
    if table.ndim != 3 or table.shape[2] != position.shape[2]:
        raise ValueError(f"pos_embed {tuple(table.shape)}: expected (1, tokens, {position.shape[2]})")
    own = table.shape == position.shape and (target[1] == target[2] or _is_table_of(target, table))
    source = target if own else _square_grid(table.shape[1])
    if source is None and _is_any_table(table):  # written by one of our models, with frames that are not square
        return {"position": position}, "; positions computed for this grid"
    if source is None:
        raise ValueError(f"pos_embed of {table.shape[1]} tokens: expected 1, 4, 8, 16 or 32 square frames")
    resized = resize_positions(table.float(), source, target)
    if source == target:
        return {"position": resized}, ""
    return {"position": resized}, f"; positions interpolated from {_grid_text(source)} to {_grid_text(target)}"


def _is_table_of(grid: Sequence[int], table: Tensor) -> bool:
    """Return whether a table is the sin-cos table of a grid; 14 x 14 and 7 x 28 have tables of the same length."""
    return torch.allclose(table.float().cpu(), sincos_positions(grid, table.shape[2]), atol=1e-2)


def _is_any_table(table: Tensor) -> bool:
    """Return whether a table is the sin-cos table of any grid of 8 or 16 frames."""
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


def _unused_shapes(tensors: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the published weights that nothing uses: 425,075 numbers for ViT-L.

    Args:
        tensors: the used weights, under the authors' keys.
    """
    width = tensors["encoder.patch_embed.proj.bias"].shape[0]
    stages = [tensors[f"transformer_{n}.patch_embed.proj.bias"].shape[0] for n in (1, 2, 3)]
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


def _list_dropped(keys: Iterable[str]) -> str:
    """Return what was dropped, by module: `; dropped head, blocks.12`."""
    modules = dict.fromkeys(
        re.sub(r"\.(weight|bias)$", "", re.sub(r"^(blocks\.\d+)\..*", r"\1", key)) for key in keys
    )
    return f"; dropped {', '.join(modules)}" if modules else ""


def _grid_text(grid: tuple[int, int, int]) -> str:
    return " x ".join(map(str, grid))
