"""On-disk format of a shard: a header, batches one after the other and, once it is full, an index at the end.

All integers are little-endian and unsigned. Every byte is covered by a CRC-32 or compared with its expected value.

    header   "SALSHARD", version u32, shard u32, batches u32, maps u32, first 16 bytes of the SHA-256 of
             store.json, CRC u32
    batch    "BTCH", batch u32, maps u32, length of each map's record u32, CRC of each u32, CRC of this u32;
             then the records
    index    "INDX", maps u32, offset u64 + length u32 + CRC u32 of each record, CRC u32
    end      offset of the index u64, "SALSEAL!", CRC u32

A partial shard (`.part`) has no index: its batches are found by reading them in order. The first batch that is
truncated or fails a checksum was being written when the process or the machine stopped; it and everything after it
is not committed.
"""

import os
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from distill.errors import UserError

VERSION = 1
RECORD = np.dtype([("offset", "<u8"), ("length", "<u4"), ("crc", "<u4")])
"""Index entry of one map's record: position in the shard and CRC-32, 16 bytes."""

_CRC = struct.Struct("<I")
_HEADER = struct.Struct("<8sIIII16s")
_BATCH = struct.Struct("<4sII")
_INDEX = struct.Struct("<4sI")
_END = struct.Struct("<Q8s")
_END_SIZE = _END.size + _CRC.size


class DamagedError(UserError):
    """A file of a target store does not contain what was written to it."""


@dataclass(frozen=True)
class Shard:
    """Location and expected content of a shard, as determined by store.json."""

    path: Path
    """File of the full shard."""
    header: bytes
    first_batch: int
    """Index of its first batch in the store."""
    batch_sizes: Sequence[int]
    """Number of maps in each batch."""

    @property
    def partial_path(self) -> Path:
        """File of the shard while it is being written."""
        return self.path.with_suffix(".part")

    @property
    def num_maps(self) -> int:
        """Number of maps in the full shard."""
        return sum(self.batch_sizes)

    def find(self) -> tuple[Path | None, bool]:
        """Return the shard's file, None if there is none, and whether it is full."""
        for _ in range(2):  # a shard can be sealed, and so renamed, between the two checks
            if self.path.exists():
                return self.path, True
            if self.partial_path.exists():
                return self.partial_path, False
        return None, False


@dataclass(frozen=True)
class CommittedBatches:
    """Result of reading a shard's batches in order."""

    header: bool
    """Whether the header is intact and belongs to this shard."""
    count: int
    """Number of intact batches."""
    entries: np.ndarray
    """`RECORD` of each of their maps."""
    end: int
    """Offset at which the intact batches end."""


def _with_crc(content: bytes) -> bytes:
    return content + _CRC.pack(zlib.crc32(content))


def _crc_matches(content: bytes) -> bool:
    return len(content) >= _CRC.size and _CRC.unpack(content[-_CRC.size :])[0] == zlib.crc32(content[: -_CRC.size])


def header_bytes(shard: int, batches: int, maps: int, digest: bytes) -> bytes:
    """Return the header of a shard of the store whose store.json has the SHA-256 `digest`."""
    return _with_crc(_HEADER.pack(b"SALSHARD", VERSION, shard, batches, maps, digest[:16]))


def batch_bytes(index: int, records: Sequence[bytes]) -> bytes:
    """Return one batch, which is committed with a single write."""
    lengths = np.array([len(record) for record in records], "<u4")
    crcs = np.array([zlib.crc32(record) for record in records], "<u4")
    head = _BATCH.pack(b"BTCH", index, len(records)) + lengths.tobytes() + crcs.tobytes()
    return _with_crc(head) + b"".join(records)


def batch_entries(start: int, records: Sequence[bytes]) -> np.ndarray:
    """Return the index entries (`RECORD`) of a batch at offset `start`."""
    entries = np.zeros(len(records), RECORD)
    entries["length"] = [len(record) for record in records]
    entries["crc"] = [zlib.crc32(record) for record in records]
    entries["offset"] = start + _batch_head_size(len(records)) + np.cumsum(entries["length"]) - entries["length"]
    return entries


def _batch_head_size(maps: int) -> int:
    return _BATCH.size + 8 * maps + _CRC.size


def end_bytes(entries: np.ndarray, offset: int) -> bytes:
    """Return the index of a full shard, at `offset`, and the end that points to it."""
    index = _with_crc(_INDEX.pack(b"INDX", len(entries)) + entries.tobytes())
    return index + _with_crc(_END.pack(offset, b"SALSEAL!"))


def read_batches(file: int, shard: Shard) -> CommittedBatches:
    """Read the batches of an open shard in order and check every checksum, up to the first that is not intact.

    Args:
        file: a file descriptor.
        shard: what the file must contain.
    """
    no_entries = np.zeros(0, RECORD)
    if os.pread(file, len(shard.header), 0) != shard.header:
        return CommittedBatches(False, 0, no_entries, 0)
    found, position = [no_entries], len(shard.header)
    for number, count in enumerate(shard.batch_sizes):
        head = os.pread(file, _batch_head_size(count), position)
        if not _crc_matches(head) or _BATCH.unpack_from(head) != (b"BTCH", shard.first_batch + number, count):
            break
        entries = np.zeros(count, RECORD)
        entries["length"] = np.frombuffer(head, "<u4", count, _BATCH.size)
        entries["crc"] = np.frombuffer(head, "<u4", count, _BATCH.size + 4 * count)
        ends = np.cumsum(entries["length"])
        entries["offset"] = position + len(head) + ends - entries["length"]
        if any(read_record(file, entry) is None for entry in entries):
            break
        found.append(entries)
        position += len(head) + int(ends[-1])
    return CommittedBatches(True, len(found) - 1, np.concatenate(found), position)


def read_record(file: int, entry: np.void) -> bytes | None:
    """Return a record of an open shard; None if it is truncated or fails its checksum."""
    if int(entry["offset"]) + int(entry["length"]) > os.fstat(file).st_size:  # before memory is allocated for it
        return None
    record = os.pread(file, int(entry["length"]), int(entry["offset"]))
    if len(record) != entry["length"] or zlib.crc32(record) != entry["crc"]:
        return None
    return record


def read_index(file: int, shard: Shard) -> np.ndarray | None:
    """Return the index (`RECORD` of each map) of an open full shard; None if any part of it is damaged."""
    size, maps = os.fstat(file).st_size, shard.num_maps
    end = os.pread(file, _END_SIZE, max(size - _END_SIZE, 0))
    if os.pread(file, len(shard.header), 0) != shard.header or not _crc_matches(end):
        return None
    offset, magic = _END.unpack_from(end)
    if offset > size:
        return None
    index = os.pread(file, _INDEX.size + maps * RECORD.itemsize + _CRC.size, offset)
    if magic != b"SALSEAL!" or not _crc_matches(index) or _INDEX.unpack_from(index) != (b"INDX", maps):
        return None
    entries = np.frombuffer(index, RECORD, maps, _INDEX.size)
    return entries if end_bytes(entries, offset) == index + end and offset + len(index) + len(end) == size else None
