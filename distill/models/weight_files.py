"""Weight files: safetensors with a JSON header that names the model they belong to."""

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from distill.errors import UserError
from distill.files import atomic_path
from distill.models.loaded import LoadedModel
from distill.models.onnx import OnnxModel
from distill.models.protocols import Network

HEADER = "saldistill"
"""Key of a .safetensors file's metadata under which a model's identity and spec stand as JSON."""


def save_model(model: LoadedModel, path: str | Path, *, notes: dict | None = None) -> None:
    """Write a model's weights as one .safetensors file, atomically; an existing file is replaced.

    The header holds, under `saldistill`, JSON of {identity, spec, notes}: what `load_model` rebuilds the model
    from, its clip and its maps, and whatever the caller wants to note.
    """
    spec = {key: getattr(model.network, key) for key in ("num_frames", "size", "target_frames", "map_size")}
    header = {"identity": model.identity, "spec": spec, "notes": notes or {}}
    tensors = {key: value.detach().cpu().contiguous() for key, value in model.network.state_dict().items()}
    with atomic_path(path) as temporary:
        safetensors.torch.save_file(tensors, temporary, {"format": "pt", HEADER: json.dumps(header)})


def read_header(path: str | Path) -> dict[str, Any]:
    """Return {identity, spec, notes} of one of our files.

    Raises:
        UserError: if the file is missing, damaged, or not one of ours.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such weight file")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a readable .safetensors file ({error}); is it truncated?") from error
    if HEADER not in metadata:
        raise UserError(
            f"{path}: its header names no model, so it was not written by saldistill; "
            "give it as the weights of a model instead, such as weights=FILE of teacher/salfom"
        )
    return json.loads(metadata[HEADER])


def is_ours(path: str | Path) -> bool:
    """Tell whether a file is one that `save_model` wrote."""
    with contextlib.suppress(UserError):
        return Path(path).suffix == ".safetensors" and bool(read_header(path))
    return False


def load_weights_into(model: LoadedModel, path: str | Path) -> None:
    """Load one of our files into a model of the same architecture.

    Raises:
        UserError: if the file holds the weights of another model; it names both.
    """
    path = Path(path)
    identity = read_header(path)["identity"]
    tensors = _read_tensors(path)
    own = model.network.state_dict()
    fixed = _fixed_by_size(model.network)
    misfits = sorted(tensors.keys() ^ own.keys()) + [
        key for key in tensors.keys() & own.keys() if tensors[key].shape != own[key].shape and key not in fixed
    ]
    if misfits:
        raise UserError(
            f"{path}: holds {_identity_text(identity)}, not {_identity_text(model.identity)}: "
            f"{len(misfits)} tensors do not fit, {misfits[0]} for one"
        )
    model.network.load_state_dict(tensors)


def weights_fingerprint(model: Network) -> str:
    """Return the SHA-256 of a model's state dict: its keys, types, shapes and bytes, in the order of the keys.

    Of an exported model, that of its files.
    """
    if isinstance(model, OnnxModel):
        return hashlib.sha256(b"".join(file.read_bytes() for file in model.files)).hexdigest()
    digest = hashlib.sha256()
    for key, value in sorted(model.state_dict().items()):
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except safetensors.SafetensorError as error:
        raise UserError(f"{path}: not a readable .safetensors file ({error}); is it truncated?") from error


def _fixed_by_size(model: Network) -> set[str]:
    """Keys that depend on the clip's size alone and are made anew for another (fixed position tables)."""
    return set(getattr(model, "fixed_by_size", ()))


def _identity_text(identity: Any) -> str:
    arguments = "".join(f" {key}={value}" for key, value in identity["arguments"].items())
    return f"{identity['name']}:{identity['variant']}{arguments}"
