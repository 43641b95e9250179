"""The bytes of a shard: a header, batches one after the other, and, once it is full, an index at the end.

All integers are little-endian and unsigned. Every byte is covered by a CRC-32 or compared with what it must be.

    header   "SALSHARD", version u32, shard u32, batches u32, maps u32, first 16 bytes of the SHA-256 of
             store.json, CRC u32
    batch    "BTCH", batch u32, maps u32, length of each map's record u32, CRC of each u32, CRC of this u32;
             then the records
    index    "INDX", maps u32, offset u64 + length u32 + CRC u32 of each record, CRC u32
    end      offset of the index u64, "SALSEAL!", CRC u32

A shard in the making (`.part`) has no index: its batches are found by reading them in order. The first one that is
cut short or fails a checksum ends what is committed; it was being written when the process or the machine stopped.
"""

import os
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from distill.errors import UserError

VERSION = 1
RECORD = np.dtype([("offset", "<u8"), ("length", "<u4"), ("crc", "<u4")])
"""Where a record lies in its shard, and its CRC-32: 16 bytes a map."""

_CRC = struct.Struct("<I")
_HEADER = struct.Struct("<8sIIII16s")
_BATCH = struct.Struct("<4sII")
_INDEX = struct.Struct("<4sI")
_END = struct.Struct("<Q8s")
HEADER_SIZE = _HEADER.size + _CRC.size
_END_SIZE = _END.size + _CRC.size


class DamagedError(UserError):
    """A file of a store does not hold what was written into it."""


def _sealed(content: bytes) -> bytes:
    return content + _CRC.pack(zlib.crc32(content))


def _is_sealed(content: bytes) -> bool:
    return len(content) >= _CRC.size and _CRC.unpack(content[-_CRC.size :])[0] == zlib.crc32(content[: -_CRC.size])


def header_bytes(shard: int, batches: int, maps: int, digest: bytes) -> bytes:
    """Return the header of a shard of the store whose store.json has this SHA-256."""
    return _sealed(_HEADER.pack(b"SALSHARD", VERSION, shard, batches, maps, digest[:16]))


def batch_bytes(index: int, records: Sequence[bytes]) -> bytes:
    """Return one batch: what is written, and so committed, in one go."""
    lengths = np.array([len(record) for record in records], "<u4")
    crcs = np.array([zlib.crc32(record) for record in records], "<u4")
    head = _BATCH.pack(b"BTCH", index, len(records)) + lengths.tobytes() + crcs.tobytes()
    return _sealed(head) + b"".join(records)


def batch_entries(start: int, records: Sequence[bytes]) -> np.ndarray:
    """Return the index entries (RECORD) of a batch that lies at offset `start`."""
    entries = np.zeros(len(records), RECORD)
    entries["length"] = [len(record) for record in records]
    entries["crc"] = [zlib.crc32(record) for record in records]
    entries["offset"] = start + _batch_head_size(len(records)) + np.cumsum(entries["length"]) - entries["length"]
    return entries


def _batch_head_size(maps: int) -> int:
    return _BATCH.size + 8 * maps + _CRC.size


def end_bytes(entries: np.ndarray, offset: int) -> bytes:
    """Return the index of a full shard, which starts at `offset`, and the end that points to it."""
    index = _sealed(_INDEX.pack(b"INDX", len(entries)) + entries.tobytes())
    return index + _sealed(_END.pack(offset, b"SALSEAL!"))


@dataclass(frozen=True)
class Scan:
    """What reading a shard's batches in order found."""

    header: bool
    """Whether the header is whole and this shard's."""
    batches: int
    """Number of whole batches."""
    entries: np.ndarray
    """RECORD of each of their maps."""
    end: int
    """Where the whole batches end."""


def scan(file: int, header: bytes, first_batch: int, maps: Sequence[int]) -> Scan:
    """Read the batches of an open shard in order, checking every checksum, up to the first that is not whole.

    Args:
        file: a file descriptor.
        header: what the shard must open with.
        first_batch: index of its first batch.
        maps: how many maps each of its batches holds.
    """
    nothing = np.zeros(0, RECORD)
    if os.pread(file, len(header), 0) != header:
        return Scan(False, 0, nothing, 0)
    found, position = [nothing], len(header)
    for number, count in enumerate(maps):
        head = os.pread(file, _batch_head_size(count), position)
        if not _is_sealed(head) or _BATCH.unpack_from(head) != (b"BTCH", first_batch + number, count):
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
    return Scan(True, len(found) - 1, np.concatenate(found), position)


def read_record(file: int, entry: np.void) -> bytes | None:
    """Return a record of an open shard, or None when it is cut short or fails its checksum."""
    record = os.pread(file, int(entry["length"]), int(entry["offset"]))
    if len(record) != entry["length"] or zlib.crc32(record) != entry["crc"]:
        return None
    return record


def read_index(file: int, header: bytes, maps: int) -> np.ndarray | None:
    """Return the index (RECORD of each map) of an open full shard, or None when any part of it is damaged."""
    size = os.fstat(file).st_size
    end = os.pread(file, _END_SIZE, max(size - _END_SIZE, 0))
    if os.pread(file, len(header), 0) != header or not _is_sealed(end):
        return None
    offset, magic = _END.unpack_from(end)
    index = os.pread(file, _INDEX.size + maps * RECORD.itemsize + _CRC.size, offset)
    if magic != b"SALSEAL!" or not _is_sealed(index) or _INDEX.unpack_from(index) != (b"INDX", maps):
        return None
    entries = np.frombuffer(index, RECORD, maps, _INDEX.size)
    return entries if end_bytes(entries, offset) == index + end and offset + len(index) + len(end) == size else None
