"""Tensors on disk with a checksum: the one writer and reader of every .safetensors file of this project.

The metadata of a file holds a SHA-256 of its tensors (names, types, shapes and bytes) and of the other metadata. It
is checked whenever the file is read, so that no damaged number is ever used.
"""

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from distill.errors import UserError, reading
from distill.files import atomic_path
from distill.limits import MAX_TENSOR_HEADER_BYTES, MAX_TENSOR_NAME, check_limit

log = logging.getLogger(__name__)

CHECKSUM = "sha256"
"""Metadata key of the checksum."""

DAMAGED = "the file is damaged; restore it from a copy or write it again"


def save_tensors(
    tensors: Mapping[str, Tensor],
    path: str | Path,
    metadata: Mapping[str, str] | None = None,
    *,
    overwrite: bool = True,
) -> str:
    """Write a .safetensors file atomically; return its checksum.

    Args:
        tensors: name -> tensor, on any device.
        path: the file.
        metadata: other metadata to store.
        overwrite: replace an existing file.

    Raises:
        UserError: the file exists, and `overwrite` is False.
    """
    stored = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    texts = {"format": "pt", **(metadata or {})}
    checksum = tensors_hash(sorted(stored.items()), texts)
    with atomic_path(path, overwrite=overwrite) as temporary:
        safetensors.torch.save_file(stored, temporary, {**texts, CHECKSUM: checksum})
        _sort_metadata(temporary)
    return checksum


def _sort_metadata(path: Path) -> None:
    """Sort the metadata of a file that safetensors has just written, which has them in random order.

    The same tensors and metadata then give the same bytes, so that a file that is uploaded again is known.
    """
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        assert len(text) <= length
        file.seek(8)
        file.write(text.ljust(length))


def load_tensors(path: str | Path, *, checksum: str | None = None) -> dict[str, Tensor]:
    """Read a .safetensors file and check it; one without a checksum is read with a note in the log.

    Args:
        path: the file.
        checksum: the checksum that the file must have, if another file records it.

    Raises:
        UserError: the file is missing, is no .safetensors file, or differs from its checksum.
    """
    with _open(path) as file:
        metadata = file.metadata() or {}
        tensors = dict(sorted(file.get_tensors().items()))
    _compare(path, tensors_hash(tensors.items(), metadata), metadata.get(CHECKSUM), checksum)
    return tensors


def check_tensors(path: str | Path, *, checksum: str | None = None) -> None:
    """Check a .safetensors file as `load_tensors` does, with one tensor in memory at a time.

    Raises:
        UserError: as `load_tensors`.
    """
    with _open(path) as file:
        metadata = file.metadata() or {}
        computed = tensors_hash(((name, file.get_tensor(name)) for name in sorted(file.keys())), metadata)
    _compare(path, computed, metadata.get(CHECKSUM), checksum)


def read_metadata(path: str | Path) -> dict[str, str]:
    """Return the metadata of a .safetensors file, without reading its tensors.

    Raises:
        UserError: the file is missing or is no .safetensors file.
    """
    with _open(path) as file:
        return dict(file.metadata() or {})


def read_shapes(path: str | Path) -> dict[str, tuple[int, ...]]:
    """Return name -> shape of the tensors of a .safetensors file, without reading them.

    Raises:
        UserError: the file is missing or is no .safetensors file.
    """
    with _open(path) as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (no mapping)


def tensors_hash(tensors: Iterable[tuple[str, Tensor]], metadata: Mapping[str, str] | None = None) -> str:
    """Return the SHA-256 of tensors in the given order (names, types, shapes, bytes) and of metadata.

    The bytes of tensors on the CPU are not copied.
    """
    digest = hashlib.sha256()
    for key, text in sorted((metadata or {}).items()):
        if key != CHECKSUM:
            digest.update(f"{key} {text}\n".encode())
    for name, value in tensors:
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        content: Any = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        digest.update(content)
    return digest.hexdigest()


def check_finite(tensors: Iterable[tuple[str, Tensor]], where: object) -> None:
    """Check that no tensor holds NaN or infinity.

    Raises:
        UserError: naming the first tensor that does.
    """
    for name, value in tensors:
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise UserError(f"{where}: tensor {name} holds NaN or infinity; the weights cannot be used")


def _compare(path: str | Path, computed: str, stored: str | None, expected: str | None) -> None:
    recorded = {each for each in (stored, expected) if each is not None}
    if not recorded:
        log.info("%s: has no checksum (an earlier version or another program wrote it), so it is not checked", path)
    elif recorded != {computed}:
        raise UserError(f"{path}: its content does not match its checksum; {DAMAGED}")


@contextmanager
def _open(path: str | Path) -> Iterator[safetensors.safe_open]:
    """Open a .safetensors file; the body only calls the library."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such weight file")
    with reading(path, "a .safetensors file"):
        with path.open("rb") as start:
            length = int.from_bytes(start.read(8), "little")
        check_limit(min(length, path.stat().st_size), MAX_TENSOR_HEADER_BYTES, f"{path}: header bytes")
        with safetensors.safe_open(path, framework="pt") as file:
            check_names(file.keys(), path)
            yield file


def check_names(names: Iterable[str], where: object) -> None:
    """Check that the names of tensors can be shown in a message.

    Raises:
        UserError: one is longer than MAX_TENSOR_NAME, or has characters that cannot be printed.
    """
    for name in names:
        check_limit(len(name), MAX_TENSOR_NAME, f"{where}: characters in the name of a tensor")
        if not name.isprintable():
            raise UserError(f"{where}: the tensor name {name!a} cannot be printed; rename it")
