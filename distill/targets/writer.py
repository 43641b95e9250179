"""Write one shard: claimed by one process, appended batch by batch, sealed when full.

A partial shard is `00000.part`. The process that holds the lock of that file writes it, in order, so its
bytes do not depend on the process. The system releases the lock however the process ends. A batch is committed once
it is written and fsynced; a full shard gets its index and is renamed to `00000.shard`.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from distill.errors import NO_SPACE, UserError
from distill.files import fsync
from distill.locks import lock_file
from distill.targets.shard import (
    CommittedBatches,
    DamagedError,
    Shard,
    batch_bytes,
    batch_entries,
    end_bytes,
    read_batches,
)


class DiskFullError(UserError):
    """No space is left to write a target store.

    Args:
        path: what was being written.
        reason: text of the system.
    """

    def __init__(self, path: Path, reason: str) -> None:
        self.reason = reason
        super().__init__(
            f"{path}: no space left to write ({reason}); committed maps are kept: free some space and run the same "
            "command again"
        )


@contextmanager
def user_error_if_full(path: Path) -> Iterator[None]:
    """Raise a `DiskFullError` in place of the OSError of a full disk.

    Raises:
        DiskFullError: no space or quota is left, or the file has reached the size limit.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        raise DiskFullError(path, os.strerror(error.errno)) from error


class ShardWriter:
    """A claimed shard, from `claim`.

    Attributes:
        committed: number of batches that are safely in the file.
    """

    def __init__(self, file: int, shard: Shard, found: CommittedBatches) -> None:
        self.committed = found.count
        self._file = file
        self._shard = shard
        self._entries = [found.entries]
        self._end = found.end

    @classmethod
    def claim(cls, shard: Shard) -> "ShardWriter | None":
        """Claim a shard and truncate what an interrupted writer left incomplete.

        Returns:
            A writer that resumes after the last intact batch; None if the shard is full or another process is
            writing it.

        Raises:
            UserError: no space left; a file of another store; a file system without locks.
        """
        part = shard.partial_path
        if shard.path.exists() and not part.exists():
            return None
        with user_error_if_full(part):
            file = os.open(part, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                if not _lock(file, part) or not _is_same_file(file, part):  # else sealed or removed before the lock
                    os.close(file)
                    return None
                if shard.path.exists():  # sealed just before the open above, which created an empty file
                    part.unlink()
                    os.close(file)
                    return None
                found = read_batches(file, shard)
                if not found.header:
                    _check_unused(file, shard.header, part)
                    os.ftruncate(file, 0)
                    _write(file, shard.header, 0)
                    found = replace(found, end=len(shard.header))
                elif os.fstat(file).st_size > found.end:
                    os.ftruncate(file, found.end)
                os.fsync(file)  # a killed writer's last batch may not be on the disk yet
                fsync(part.parent)
                return cls(file, shard, found)
            except BaseException:
                with suppress(OSError):
                    os.close(file)
                raise

    def append(self, index: int, records: Sequence[bytes]) -> None:
        """Commit one batch: it is on the disk when this returns.

        Raises:
            UserError: no space left. Earlier batches stay committed, but the writer can no longer be used.
        """
        content = batch_bytes(index, records)
        try:
            with user_error_if_full(self._shard.partial_path):
                _write(self._file, content, self._end)
                os.fsync(self._file)
        except BaseException:
            with suppress(OSError):
                os.ftruncate(self._file, self._end)
            raise
        self._entries.append(batch_entries(self._end, records))
        self._end += len(content)
        self.committed += 1

    def seal(self) -> None:
        """Append the index, rename the shard to its final name, and release it.

        Raises:
            UserError: no space left.
        """
        with user_error_if_full(self._shard.partial_path):
            _write(self._file, end_bytes(np.concatenate(self._entries), self._end), self._end)
            os.fsync(self._file)
            self._shard.partial_path.rename(self._shard.path)
            fsync(self._shard.path.parent)
        self.close()

    def close(self) -> None:
        """Release the shard; committed batches are kept."""
        os.close(self._file)


def _lock(file: int, part: Path) -> bool:
    """Lock an open file; return False if another process holds the lock.

    Raises:
        UserError: the file system does not support locks.
    """
    try:
        return lock_file(file)
    except OSError as error:
        raise UserError(
            f"{part}: this file system cannot lock files ({error.strerror}), as building a target store requires; "
            "build it on a local disk and copy it, or mount the file system with locks (flock)"
        ) from error


def _write(file: int, content: bytes, position: int) -> None:
    """Write all of `content` at a position; one system call may write only part of it."""
    rest = memoryview(content)
    while rest:
        written = os.pwrite(file, rest, position)
        rest = rest[written:]
        position += written


def _is_same_file(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def _check_unused(file: int, header: bytes, part: Path) -> None:
    """Raise a DamagedError if a partial file may belong to another store and must not be truncated."""
    found = os.pread(file, len(header), 0)
    if found[:8] == header[:8] and len(found) == len(header) and os.fstat(file).st_size > len(header):
        raise DamagedError(
            f"{part}: the file belongs to another target store, or its first bytes are damaged; remove it"
        )
