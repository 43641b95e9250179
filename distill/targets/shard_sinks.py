"""Where the workers of a cluster write shards: to the folder of a store that all nodes see, or to an address.

A worker writes each shard with `TargetStore.claim_shard` and `commit`, in the folder that the sink names. In the
folder of the store itself, the locks of shards let other processes help. A shard for an address is written to a
temporary folder of the node and uploaded; no locks are needed, since the driver alone hands out shards and writes
the manifest.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

from distill.errors import UserError
from distill.files import write_new
from distill.remote import RemoteFolder
from distill.targets.manifest import Manifest, ManifestWriter, ShardRecord, shard_name
from distill.targets.shard_files import RemoteShards
from distill.targets.store import TargetStore
from distill.targets.store_file import STORE_FILE


class ShardSink(Protocol):
    """Destination of shards; can be pickled. Workers call `open`, `folder` and `publish`, the driver the others."""

    def open(self) -> TargetStore:
        """Open the store on this node.

        Raises:
            UserError: there is no store, or it is not the driver's.
        """

    def folder(self, store: TargetStore) -> AbstractContextManager[TargetStore]:
        """Return a context with a store in a folder, in which to claim and fill a shard."""

    def publish(self, filled: TargetStore, shard: int) -> ShardRecord | None:
        """Bring a full shard from the folder to the store; return what the driver records of it."""

    def record(self, shard: int, record: ShardRecord | None) -> None:
        """Note that a shard is full."""

    def flush(self) -> None:
        """Write what was noted."""


def sink_of(store: TargetStore) -> ShardSink:
    """Return the sink that writes to a store."""
    if isinstance(store.files, RemoteShards):
        return AddressSink(str(store.path), store.digest, store.files.manifest, store.plan.num_shards)
    return FolderSink(Path(store.path).absolute(), store.digest)


@dataclass(frozen=True)
class FolderSink:
    """Writes to the folder of a store.

    Attributes:
        path: the folder, which all nodes see.
        digest: SHA-256 of store.json.
    """

    path: Path
    digest: bytes

    def open(self) -> TargetStore:
        """See `ShardSink`."""
        if not TargetStore.exists(self.path):
            raise UserError(
                f"{self.path}: this folder is not visible here; keep the target store on a file system that all "
                "nodes mount at the same path, or set teacher.store to an address such as s3://bucket/targets"
            )
        return _checked(TargetStore.open(self.path), self.digest)

    @contextmanager
    def folder(self, store: TargetStore) -> Iterator[TargetStore]:
        """See `ShardSink`: the store itself."""
        with store:
            yield store

    def publish(self, filled: TargetStore, shard: int) -> None:
        """See `ShardSink`; a full shard of a folder has its final name and needs no record."""

    def record(self, shard: int, record: ShardRecord | None) -> None:
        """See `ShardSink`; the folder shows its full shards."""

    def flush(self) -> None:
        """See `ShardSink`; every shard was on the disk when its worker reported it."""


class AddressSink:
    """Uploads shards to the address of a store.

    Args:
        address: address of the store.
        digest: SHA-256 of store.json.
        manifest: the manifest, which the driver writes.
        num_shards: shards of the complete store.
    """

    def __init__(self, address: str, digest: bytes, manifest: Manifest, num_shards: int) -> None:
        self.remote, self.digest = RemoteFolder(address), digest
        self.writer = ManifestWriter(self.remote, manifest, num_shards)

    def open(self) -> TargetStore:
        """See `ShardSink`."""
        return _checked(TargetStore.open(str(self.remote)), self.digest)

    @contextmanager
    def folder(self, store: TargetStore) -> Iterator[TargetStore]:
        """See `ShardSink`: a temporary copy without shards."""
        with TemporaryDirectory(prefix="saldistill-") as folder:
            write_new(Path(folder) / STORE_FILE, self._store_file)
            with _checked(TargetStore.open(folder), self.digest) as copy:
                yield copy

    def publish(self, filled: TargetStore, shard: int) -> ShardRecord:
        """See `ShardSink`."""
        file = filled.files.path(shard)
        self.remote.put(file, shard_name(shard))
        return ShardRecord.of(file)

    def record(self, shard: int, record: ShardRecord | None) -> None:
        """See `ShardSink`."""
        assert record is not None
        self.writer.record(shard, record)

    def flush(self) -> None:
        """See `ShardSink`."""
        self.writer.flush()

    @cached_property
    def _store_file(self) -> str:
        """The text of store.json, which a worker reads once."""
        content = self.remote.read(STORE_FILE)
        assert content is not None, "the store was opened before"
        return content.decode()


def _checked(store: TargetStore, digest: bytes) -> TargetStore:
    """Return a store if it is the driver's."""
    if store.digest != digest:
        raise UserError(f"{store.path}: is another target store here than on the driver; remove this copy")
    return store
