"""Weight files of this project: safetensors with a JSON header that identifies the model."""

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from distill.errors import UserError
from distill.files import atomic_path
from distill.models.loaded import LoadedModel
from distill.models.onnx import OnnxModel
from distill.models.protocols import Network

HEADER = "saldistill"
"""Metadata key of a .safetensors file that holds the header."""


def save_model(model: LoadedModel, path: str | Path, *, notes: dict | None = None) -> None:
    """Write a model's weights to a .safetensors file, atomically, replacing an existing one.

    The header is JSON: `identity`, from which `load_model` rebuilds the model, `spec` of its clips and maps, and
    `notes` about the training.
    """
    spec = {key: getattr(model.network, key) for key in ("num_frames", "size", "target_frames", "map_size")}
    header = {"identity": model.identity, "spec": spec, "notes": notes or {}}
    tensors = {key: value.detach().cpu().contiguous() for key, value in model.network.state_dict().items()}
    with atomic_path(path) as temporary:
        safetensors.torch.save_file(tensors, temporary, {"format": "pt", HEADER: json.dumps(header)})


def read_header(path: str | Path) -> dict[str, Any]:
    """Return the header {identity, spec, notes} of a weight file of this project.

    Raises:
        UserError: if the file is missing, damaged, or of another format.
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
            f"{path}: no saldistill header, so its model is unknown; convert it first: saldistill models MODEL "
            f"--convert {path} OUT.safetensors"
        )
    return json.loads(metadata[HEADER])


def is_saldistill_file(path: str | Path) -> bool:
    """Return whether a file was written by `save_model`."""
    with contextlib.suppress(UserError):
        return Path(path).suffix == ".safetensors" and bool(read_header(path))
    return False


def load_weights_into(model: LoadedModel, path: str | Path) -> None:
    """Load a weight file of this project into a model of the same architecture.

    Raises:
        UserError: if the file contains the weights of another model; the message names both.
    """
    path = Path(path)
    identity = read_header(path)["identity"]
    try:
        tensors = safetensors.torch.load_file(path)
    except safetensors.SafetensorError as error:
        raise UserError(f"{path}: not a readable .safetensors file ({error}); is it truncated?") from error
    own = model.network.state_dict()
    fixed = getattr(model.network, "fixed_by_size", ())  # constants of the clip size, such as position tables
    misfits = sorted(tensors.keys() ^ own.keys()) + [
        key for key in tensors.keys() & own.keys() if tensors[key].shape != own[key].shape and key not in fixed
    ]
    if misfits:
        raise UserError(
            f"{path}: contains {_identity_text(identity)}, not {_identity_text(model.identity)}: "
            f"{len(misfits)} tensors do not fit, e.g. {misfits[0]}; load it as the model that it contains"
        )
    model.network.load_state_dict(tensors)


def weights_fingerprint(model: Network) -> str:
    """Return the SHA-256 of a network's state dict (sorted keys, dtypes, shapes, bytes), or of exported files."""
    if isinstance(model, OnnxModel):
        return hashlib.sha256(b"".join(file.read_bytes() for file in model.files)).hexdigest()
    digest = hashlib.sha256()
    for key, value in sorted(model.state_dict().items()):
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _identity_text(identity: Any) -> str:
    arguments = "".join(f" {key}={value}" for key, value in identity["arguments"].items())
    return f"{identity['name']}:{identity['variant']}{arguments}"
