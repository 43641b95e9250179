"""Read the committed maps of a target store's shards, with a bounded number of open files."""

import os
from collections import OrderedDict
from collections.abc import Callable

import numpy as np

from distill.targets.shard import RECORD, DamagedError, Shard, end_bytes, read_batches, read_index, read_record

OPEN_FILES = 32
"""Largest number of shards kept open."""


class ShardReader:
    """Reader of shards. It opens files on demand, and can be pickled: each process opens its own.

    Args:
        shard_of: returns the shard of a number.
    """

    def __init__(self, shard_of: Callable[[int], Shard]) -> None:
        self._shard_of = shard_of
        self._files: OrderedDict[int, int] = OrderedDict()  # shard -> descriptor, most recently used last
        self._entries: dict[int, np.ndarray] = {}

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_files": OrderedDict(), "_entries": {}}

    def entries(self, number: int, at_least: int) -> np.ndarray:
        """Return the index entries (`RECORD`) of a shard's committed maps.

        Args:
            number: number of the shard.
            at_least: number of entries needed; the file is read again if fewer are cached.

        Raises:
            DamagedError: the header or the index of a full shard is damaged.
        """
        known = self._entries.get(number)
        if known is not None and len(known) >= at_least:
            return known
        shard = self._shard_of(number)
        path, full = shard.find()
        if path is None:
            return np.zeros(0, RECORD)
        self._close_file(number)
        try:
            file = self._file(number)
        except FileNotFoundError:  # sealed, and so renamed, in the meantime
            return self.entries(number, at_least)
        entries = read_index(file, shard) if full else read_batches(file, shard).entries
        if entries is None:
            raise damaged_error(shard, "the header or the index is damaged, or belongs to another store")
        self._entries[number] = entries
        return entries

    def read(self, number: int, entry: np.void) -> bytes | None:
        """Return a record of a shard; None if it fails its checksum."""
        return read_record(self._file(number), entry)

    def close(self) -> None:
        """Close all files; reading opens them again."""
        for number in list(self._files):
            self._close_file(number)

    def _file(self, number: int) -> int:
        """Return the descriptor of a shard's file, opening it if necessary."""
        if number not in self._files:
            path, _ = self._shard_of(number).find()
            if path is None:
                raise FileNotFoundError(self._shard_of(number).path)
            self._files[number] = os.open(path, os.O_RDONLY)
            while len(self._files) > OPEN_FILES:
                self._close_file(next(iter(self._files)))
        self._files.move_to_end(number)
        return self._files[number]

    def _close_file(self, number: int) -> None:
        if number in self._files:
            os.close(self._files.pop(number))


def find_damage(shard: Shard) -> str | None:
    """Return a description of the first damage in a shard; None if it is intact or does not exist."""
    path, full = shard.find()
    if path is None:
        return None
    file = os.open(path, os.O_RDONLY)
    try:
        found = read_batches(file, shard)
        tail = os.pread(file, os.fstat(file).st_size - found.end, found.end)
    finally:
        os.close(file)
    total = len(shard.batch_sizes)
    if not found.header:
        return f"{path}: the header is damaged or belongs to another store"
    if full and found.count < total:
        return f"{path}: batch {found.count + 1} of {total} is damaged"
    if full and tail != end_bytes(found.entries, found.end):
        return f"{path}: the index at the end is damaged"
    if not full and tail:
        return (
            f"{path}: {len(tail)} bytes after batch {found.count} of {total} are incomplete or damaged; "
            "`saldistill cache build` computes them again"
        )
    return None


def damaged_error(shard: Shard, what: str) -> DamagedError:
    """Return the error for a damaged shard."""
    return DamagedError(
        f"{shard.find()[0]}: {what}; remove this file and run `saldistill cache build` to recompute it"
    )
