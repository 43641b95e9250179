"""Copy a target store to an address or from one, shard by shard, resumable, and with checksums.

saldistill cache push runs/targets s3://bucket/targets
saldistill cache pull s3://bucket/targets runs/targets
"""

import hashlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from distill.claims import claim
from distill.data.progress import ProgressBar
from distill.errors import UserError
from distill.files import atomic_path, clear_leftovers, write_new
from distill.remote import RemoteFolder, is_address
from distill.targets.manifest import (
    Manifest,
    ManifestWriter,
    ShardRecord,
    read_manifest,
    read_remote_store,
    shard_name,
)
from distill.targets.store import TargetStore
from distill.targets.store_file import STORE_FILE, parse_store
from distill.targets.writer import user_error_if_full

log = logging.getLogger(__name__)

TRANSFERS = 4
"""Shards that are copied at once."""


@dataclass(frozen=True)
class TransferReport:
    """Result of a push or pull.

    Attributes:
        source: folder or address that was copied.
        target: folder or address that has the copy.
        shards: number of full shards in the copy.
        planned_shards: number of shards of the complete store.
        copied: number of shards that were copied now; the others were there.
        bytes: bytes that were copied now.
        seconds: duration.
    """

    source: str
    target: str
    shards: int
    planned_shards: int
    copied: int
    bytes: int
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        rate = self.bytes / 2**20 / max(self.seconds, 1e-9)
        text = f"{self.target}: {self.shards} of {self.planned_shards} shards"
        text += (
            f", {self.copied} copied now ({self.bytes / 2**20:.1f} MiB, {rate:.1f} MiB/s)" if self.copied else ""
        )
        return text if self.shards == self.planned_shards else f"{text}; the store is partial"


def push_store(path: str | Path, address: str, *, partial: bool = False, progress: bool = True) -> TransferReport:
    """Upload a target store, or the rest of it after an interruption.

    Every shard is checked before it is uploaded. A reader sees the store once its manifest is there, which says
    whether it is complete.

    Args:
        path: folder of the store.
        address: where to upload it, e.g. s3://bucket/targets.
        partial: upload the full shards of a store that is not complete.
        progress: show a progress bar.

    Raises:
        UserError: the store is not complete or damaged, the address holds another store, or cannot be written.
        KeyboardInterrupt: on Ctrl-C; what was uploaded is kept.
    """
    started = time.perf_counter()
    if is_address(path):
        raise UserError(f"{path}: expected the folder of a target store, got an address; pull it first")
    folder, store = _remote(address), TargetStore.open(path)
    if not partial:
        store.require_complete()
    raw = (Path(path) / STORE_FILE).read_bytes()
    manifest = read_manifest(folder)
    if manifest is None:
        manifest = Manifest(store=hashlib.sha256(raw).hexdigest())
        folder.write(STORE_FILE, raw)
    elif manifest.store != hashlib.sha256(raw).hexdigest():
        raise UserError(f"{folder}: another target store is at this address; choose another, or remove it")
    there = dict(manifest.shards)

    def copy(number: int) -> ShardRecord | None:
        """Upload a shard unless the manifest has it; return its record."""
        file = store.files.path(number)
        record = ShardRecord.of(file)
        if there.get(number) == record:
            return None
        if (damage := store.damage_of(number)) is not None:
            raise UserError(f"{damage}; remove the file and run `saldistill cache build`")
        folder.put(file, shard_name(number))
        return record

    numbers = sorted(store.files.sealed().intersection(range(store.plan.num_shards)))
    sizes = {number: store.files.path(number).stat().st_size for number in numbers}
    copied: list[int] = []
    writer = ManifestWriter(folder, manifest, store.plan.num_shards)
    try:
        for number, record in _copied(f"uploading {store.name}", sizes, copy, progress=progress):
            if record is not None:
                copied.append(record.bytes)
                writer.record(number, record)
    finally:  # after an error or Ctrl-C, too: it says what is there
        writer.flush()
    return TransferReport(
        str(path),
        str(folder),
        len(manifest.shards),
        store.plan.num_shards,
        len(copied),
        sum(copied),
        time.perf_counter() - started,
    )


def pull_store(address: str, path: str | Path, *, partial: bool = False, progress: bool = True) -> TransferReport:
    """Download a target store, or the rest of it after an interruption.

    Args:
        address: address of the store.
        path: folder to write, which must be empty, not exist, or hold a part of the same store.
        partial: download a store that is not complete.
        progress: show a progress bar.

    Raises:
        UserError: there is no store at the address, it is not complete, a shard differs from the manifest, the
            folder holds something else, or no space is left.
        KeyboardInterrupt: on Ctrl-C; what was downloaded is kept.
    """
    started, path = time.perf_counter(), Path(path)
    folder = _remote(address)
    raw, manifest = read_remote_store(folder)
    _, digest = parse_store(raw, str(folder), f"{folder}/{STORE_FILE}")
    if not (manifest.complete or partial):
        raise UserError(
            f"{folder}: the target store is partial; finish it with `saldistill cache push`, or pass --partial to "
            "download the shards that are there"
        )
    partly = TargetStore.exists(path)
    with claim(path, "the target store", overwrite=partly), user_error_if_full(path):
        if not (path / STORE_FILE).exists():
            write_new(path / STORE_FILE, raw.decode())
        store = TargetStore.open(path)
        if store.digest != digest:
            raise UserError(f"{path}: holds another target store than {folder}; choose another folder")

        def copy(number: int) -> ShardRecord | None:
            """Download a shard unless the folder has it; return its record."""
            file, record = store.files.path(number), manifest.shards[number]
            if file.exists() and record.fault(file) is None:
                return None
            clear_leftovers(file)
            with atomic_path(file) as temporary:
                folder.fetch(shard_name(number), temporary, record.fault)
            return record

        sizes = {number: record.bytes for number, record in sorted(manifest.shards.items())}
        found = _copied(f"downloading {store.name}", sizes, copy, progress=progress)
        copied = [record.bytes for _, record in found if record is not None]
    return TransferReport(
        str(folder),
        str(path),
        store.count_sealed(),
        store.plan.num_shards,
        len(copied),
        sum(copied),
        time.perf_counter() - started,
    )


def _copied(
    what: str, sizes: Mapping[int, int], copy: Callable[[int], ShardRecord | None], *, progress: bool
) -> Iterator[tuple[int, ShardRecord | None]]:
    """Copy shards, TRANSFERS at once; yield the number of each, and what `copy` returned for it.

    Args:
        what: what is being done.
        sizes: number -> bytes.
        copy: copies one; called in threads.
        progress: show a progress bar.
    """
    rest, running, done_bytes = iter(sizes), dict[Future[ShardRecord | None], int](), 0
    pool = ThreadPoolExecutor(TRANSFERS)
    with ProgressBar(what, "MiB", total=round(sum(sizes.values()) / 2**20), shown=progress, delay=1) as bar:
        try:
            while True:
                running |= {pool.submit(copy, number): number for number in islice(rest, TRANSFERS - len(running))}
                if not running:
                    return
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    number = running.pop(future)
                    yield number, future.result()
                    done_bytes += sizes[number]
                    bar.update(round(done_bytes / 2**20) - bar.n)
        except BaseException:
            log.info("%s: interrupted; what was copied is kept, and the same command resumes", what)
            raise
        finally:
            pool.shutdown(cancel_futures=True)


def _remote(address: str) -> RemoteFolder:
    if not is_address(address):
        raise UserError(f"{address}: expected an address such as s3://bucket/targets, got a path")
    return RemoteFolder(address)
