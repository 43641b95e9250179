"""Where the full shards of a target store are: in a folder, or at an address with a local cache."""

import re
from functools import partial
from pathlib import Path
from typing import Protocol

from distill.file_cache import CachedFile, FileCache
from distill.remote import RemoteFolder
from distill.targets.manifest import Manifest, shard_name


class ShardFiles(Protocol):
    """The full shards of a store; can be pickled."""

    def path(self, number: int) -> Path:
        """Return the file of a full shard, which does not exist if there is none; a remote one is fetched first."""

    def sealed(self) -> set[int]:
        """Return the numbers of the full shards."""

    def is_known(self, number: int) -> bool:
        """Return whether a shard is known to be full and intact without reading it."""

    def size(self) -> int:
        """Return the size of the store in bytes."""


class ShardFolder:
    """Shards in a folder.

    Args:
        folder: folder of the store.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, number: int) -> Path:
        """See `ShardFiles`."""
        return self.folder / shard_name(number)

    def sealed(self) -> set[int]:
        """See `ShardFiles`."""
        stems = (path.stem for path in (self.folder / "shards").glob("*.shard"))
        return {int(stem) for stem in stems if re.fullmatch("[0-9]{5,9}", stem)}

    def is_known(self, number: int) -> bool:
        """See `ShardFiles`; never, because a disk may have damaged the file."""
        return False

    def size(self) -> int:
        """See `ShardFiles`; partial shards are included."""
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())


class RemoteShards:
    """Shards at an address, fetched into a local cache when they are first read, and verified on arrival.

    Args:
        folder: the address of the store.
        manifest: what is there.
        cache: local cache.
    """

    def __init__(self, folder: RemoteFolder, manifest: Manifest, cache: FileCache) -> None:
        self.folder, self.manifest, self.cache = folder, manifest, cache

    def path(self, number: int) -> Path:
        """See `ShardFiles`.

        Raises:
            UserError: the shard cannot be fetched, or differs from the manifest's.
        """
        file = self.file(number)
        return self.cache.folder / "absent" if file is None else file.path()

    def file(self, number: int) -> CachedFile | None:
        """Return a full shard as a file of the cache; None if there is none."""
        record = self.manifest.shards.get(number)
        if record is None:
            return None
        # another version of the shard has another name
        name = f"stores/{self.manifest.store[:16]}/{number:05d}-{record.sha256[:16]}.shard"
        fetch = partial(self.folder.fetch, shard_name(number), check=record.fault)
        return CachedFile(self.cache, name, record.bytes, fetch)

    def sealed(self) -> set[int]:
        """See `ShardFiles`."""
        return set(self.manifest.shards)

    def is_known(self, number: int) -> bool:
        """See `ShardFiles`; always, because a shard is verified on arrival."""
        return number in self.manifest.shards

    def size(self) -> int:
        """See `ShardFiles`; store.json and the manifest are not included."""
        return sum(record.bytes for record in self.manifest.shards.values())
