"""Weight files of this project: safetensors with a JSON header that identifies the model."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field

from distill.errors import UserError
from distill.models.identity import Identity
from distill.models.loaded import LoadedModel
from distill.models.onnx import OnnxModel
from distill.models.protocols import Network
from distill.models.tensor_files import (
    DAMAGED,
    check_finite,
    load_tensors,
    read_metadata,
    read_shapes,
    save_tensors,
    tensors_hash,
)
from distill.validation import parse_json

HEADER = "saldistill"
"""Metadata key of a .safetensors file that holds the header."""

HALF_FROM = 32768
"""Numbers in a tensor from which it is stored in float16. Smaller tensors take little of a file, but rounding them
causes most of the maps' error: stream-small takes 7.1 MB with a largest difference of 8e-4, and 6.6 MB with 1.6e-3
from 4096 numbers on."""


class Spec(BaseModel):
    """Clips and maps of the model."""

    num_frames: int
    size: tuple[int, int]
    target_frames: list[int]
    map_size: tuple[int, int]


class Notes(BaseModel):
    """What a file records about the training; the keys that the toolkit reads have types, others are kept."""

    model_config = ConfigDict(extra="allow")

    step: int = 0
    stride: int | str = 1
    validation: dict[str, float | None] = Field({})
    ema: float | None = None
    trained_on: list[dict[str, Any]] = Field([])
    licence: str | None = None


class Header(BaseModel):
    """The header of a weight file."""

    identity: Identity
    spec: Spec
    notes: Notes


def save_model(
    model: LoadedModel, path: str | Path, *, notes: dict | None = None, overwrite: bool = True, half: bool = False
) -> str:
    """Write a model's weights to a .safetensors file, atomically; return its checksum.

    The header is JSON: `identity`, from which `load_model` rebuilds the model, `spec` of its clips and maps, and
    `notes` about the training.

    Args:
        model: the model.
        path: the file.
        notes: JSON values about the training.
        overwrite: replace an existing file.
        half: store tensors of at least HALF_FROM numbers in float16, which nearly halves the file. They are loaded
            in the network's type.
    """
    spec = {key: getattr(model.network, key) for key in ("num_frames", "size", "target_frames", "map_size")}
    header = {"identity": model.identity, "spec": spec, "notes": notes or {}}
    tensors = model.network.state_dict()
    if half:
        tensors = {
            name: value.half() if value.dtype == torch.float32 and value.numel() >= HALF_FROM else value
            for name, value in tensors.items()
        }
    return save_tensors(tensors, path, {HEADER: json.dumps(header)}, overwrite=overwrite)


def read_header(path: str | Path) -> Header:
    """Return the header of a weight file of this project.

    Raises:
        UserError: if the file is missing, damaged, or of another format.
    """
    metadata = read_metadata(path)
    if HEADER not in metadata:
        raise UserError(
            f"{path}: no saldistill header, so its model is unknown; convert it first: saldistill models MODEL "
            f"--convert {path} OUT.safetensors"
        )
    return parse_json(metadata[HEADER], Header, f"{path}: invalid saldistill header")


def read_notes(path: str | Path) -> dict[str, Any]:
    """Return what a weight file records about the training.

    Raises:
        UserError: as `read_header`.
    """
    return read_header(path).notes.model_dump(exclude_unset=True)


def is_saldistill_file(path: str | Path) -> bool:
    """Return whether a file was written by `save_model`.

    Raises:
        UserError: if it is a .safetensors file that cannot be read.
    """
    path = Path(path)
    return path.suffix == ".safetensors" and path.is_file() and HEADER in read_metadata(path)


def load_weights_into(model: LoadedModel, path: str | Path, *, checksum: str | None = None) -> None:
    """Load a weight file of this project into a model of the same architecture.

    Args:
        model: the model.
        path: the file.
        checksum: the checksum that the file must have, if a checkpoint records it.

    Raises:
        UserError: if the file is damaged, holds NaN or infinity, or contains the weights of another model; the
            message names both models.
    """
    check_fit(model, path)
    tensors = load_tensors(path, checksum=checksum)
    own = model.network.state_dict()
    for name, value in tensors.items():
        table = value.ndim > 0 and not value.is_floating_point()  # of indices, which the model computes itself
        if value.is_floating_point() != own[name].is_floating_point() or (
            table and not torch.equal(value, own[name].cpu())
        ):
            raise UserError(f"{path}: tensor {name} is not what the model computes for it; {DAMAGED}")
    check_finite(tensors.items(), path)
    model.network.load_state_dict(tensors)


def check_fit(model: LoadedModel, path: str | Path) -> None:
    """Check that a weight file has the tensors of a model, without reading them.

    Args:
        model: the model, which may be on the meta device.
        path: the file.

    Raises:
        UserError: if the file contains the weights of another model; the message names both.
    """
    identity, misfits = read_header(path).identity.model_dump(), _misfits(model, path)
    if misfits:
        raise UserError(
            f"{path}: contains {_identity_text(identity)}, not {_identity_text(model.identity)}: "
            f"{len(misfits)} tensors do not fit, e.g. {misfits[0]}; load it as the model that it contains"
        )


def fits(model: LoadedModel, path: str | Path) -> bool:
    """Return whether a weight file has the tensors of a model; see `check_fit`."""
    return not _misfits(model, path)


def _misfits(model: LoadedModel, path: str | Path) -> list[str]:
    """Return the tensors that only a model or a weight file has, or that differ in shape."""
    shapes, own = read_shapes(path), model.network.state_dict()
    fixed = getattr(model.network, "fixed_by_size", ())  # constants of the clip size, such as position tables
    return sorted(shapes.keys() ^ own.keys()) + [
        key for key in shapes.keys() & own.keys() if shapes[key] != own[key].shape and key not in fixed
    ]


def weights_fingerprint(model: Network) -> str:
    """Return the SHA-256 of a network's state dict (sorted keys, dtypes, shapes, bytes), or of exported files."""
    if isinstance(model, OnnxModel):
        return hashlib.sha256(b"".join(file.read_bytes() for file in model.files)).hexdigest()
    return tensors_hash(sorted(model.state_dict().items()))


def _identity_text(identity: Any) -> str:
    arguments = "".join(f" {key}={value}" for key, value in identity["arguments"].items())
    return f"{identity['name']}:{identity['variant']}{arguments}"
