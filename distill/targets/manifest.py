"""Manifest of a target store at an address: which full shards are there, with their sizes and checksums.

    store.json            as in a folder
    manifest.json         format, SHA-256 of store.json, whether the store is complete, and its shards
    shards/00000.shard

The manifest is written after the shards that it names, so a store without one does not exist, and one that is not
complete says so. One process writes it.
"""

import hashlib
import time
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from distill.errors import UserError
from distill.files import file_hash
from distill.limits import MAX_STORE_SHARDS, check_limit
from distill.models.pretrained import Hash
from distill.remote import RemoteFolder
from distill.targets.store_file import STORE_FILE
from distill.validation import parse_json

MANIFEST = "manifest.json"

FORMAT = 1

MANIFEST_EVERY = 30.0
"""Seconds between two versions of the manifest while shards are uploaded."""


class ShardRecord(BaseModel):
    """A full shard at an address."""

    model_config = ConfigDict(frozen=True)

    bytes: int = Field(ge=1)
    sha256: Hash

    @classmethod
    def of(cls, path: Path) -> "ShardRecord":
        """Return the record of a file."""
        return cls(bytes=path.stat().st_size, sha256=file_hash(path))

    def fault(self, path: Path) -> str | None:
        """Return what is wrong with a copy of the shard, or None."""
        if (size := path.stat().st_size) != self.bytes:
            return f"it has {size:,} bytes, expected {self.bytes:,}"
        if (found := file_hash(path)) != self.sha256:
            return f"its SHA-256 is {found[:12]}..., expected {self.sha256[:12]}...: it was replaced or damaged"
        return None


class Manifest(BaseModel):
    """Content of manifest.json."""

    format: int = FORMAT
    store: Hash
    """SHA-256 of store.json."""
    complete: bool = False
    shards: dict[int, ShardRecord] = {}


class ManifestWriter:
    """Writes a manifest while shards are uploaded: every MANIFEST_EVERY seconds, and when `flush` is called.

    Args:
        folder: the address of the store.
        manifest: what is there.
        num_shards: shards of the complete store.
    """

    def __init__(self, folder: RemoteFolder, manifest: Manifest, num_shards: int) -> None:
        self.folder, self.manifest, self.num_shards = folder, manifest, num_shards
        self._written = time.monotonic()

    def record(self, number: int, record: ShardRecord) -> None:
        """Note a shard that was uploaded.

        Raises:
            UserError: the manifest cannot be uploaded.
        """
        self.manifest.shards[number] = record
        if time.monotonic() - self._written > MANIFEST_EVERY:
            self.flush()

    def flush(self) -> None:
        """Write the manifest.

        Raises:
            UserError: it cannot be uploaded.
        """
        self.manifest.complete = len(self.manifest.shards) == self.num_shards
        self.folder.write(MANIFEST, (self.manifest.model_dump_json(indent=1) + "\n").encode())
        self._written = time.monotonic()


def shard_name(number: int) -> str:
    """Return the name of a full shard in its store."""
    return f"shards/{number:05d}.shard"


def read_manifest(folder: RemoteFolder) -> Manifest | None:
    """Return the manifest of a store at an address; None if there is none.

    Raises:
        UserError: the address cannot be read, or the manifest is damaged or of a newer version.
    """
    raw = folder.read(MANIFEST)
    if raw is None:
        return None
    where = f"{folder}/{MANIFEST}"
    version = parse_json(raw, dict[str, Any], f"{where}: cannot be read as a manifest").get("format")
    if version != FORMAT:
        raise UserError(
            f"{where}: expected a manifest of format {FORMAT}, got {version!r}; use the version of saldistill that "
            "wrote it"
        )
    manifest = parse_json(raw, Manifest, f"{where}: cannot be read as a manifest", "push the target store again")
    check_limit(len(manifest.shards), MAX_STORE_SHARDS, f"{where}: shards")
    return manifest


def read_remote_store(folder: RemoteFolder) -> tuple[bytes, Manifest]:
    """Return the bytes of store.json at an address, which `parse_store` reads, and the manifest.

    Raises:
        UserError: there is no store, it cannot be read, store.json is another store's, or the manifest is damaged
            or of a newer version.
    """
    manifest = read_manifest(folder)
    raw = None if manifest is None else folder.read(STORE_FILE)
    if manifest is None or raw is None:
        raise UserError(
            f"{folder}: no target store at this address (no {MANIFEST if manifest is None else STORE_FILE}); "
            "upload one with `saldistill cache push`"
        )
    if hashlib.sha256(raw).hexdigest() != manifest.store:
        raise UserError(
            f"{folder}: {STORE_FILE} and {MANIFEST} belong to different target stores; push the store again"
        )
    return raw, manifest
