"""Writing one shard: claimed by one process, appended batch by batch, sealed when full.

A shard in the making is `00000.part`; whoever holds the lock (flock) of that file writes it, from the first batch
to the last, so its bytes do not depend on who it was. The system drops the lock when its process ends, however it
ends. A batch is committed when it is written and fsynced; a full shard gets its index and is renamed to
`00000.shard`.
"""

import errno
import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from distill.errors import NO_SPACE, UserError
from distill.files import fsync
from distill.targets.shard import DamagedError, batch_bytes, batch_entries, end_bytes, scan


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn a full disk into a sentence for the user.

    Raises:
        UserError: no space, no quota left, or the file may not grow.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        raise UserError(
            f"{path}: no space left to write ({os.strerror(error.errno)}); the maps committed so far are kept: "
            "make space and run the same command again"
        ) from error


class ShardWriter:
    """A claimed shard; make one with `claim`.

    Attributes:
        committed: number of batches that are safely in the file.
    """

    def __init__(self, file: int, part: Path, final: Path, entries: np.ndarray, committed: int, end: int) -> None:
        self.committed = committed
        self._file = file
        self._part = part
        self._final = final
        self._entries = [entries]
        self._end = end

    @classmethod
    def claim(cls, final: Path, header: bytes, first_batch: int, maps: Sequence[int]) -> "ShardWriter | None":
        """Claim a shard and cut off what an interrupted writer left unfinished.

        Args:
            final: the shard's name once it is sealed.
            header: what it opens with.
            first_batch: index of its first batch.
            maps: how many maps each of its batches holds.

        Returns:
            A writer that goes on behind the last whole batch; None when the shard is sealed or another process
            is writing it.

        Raises:
            UserError: no space left; a file of another store; a file system that cannot lock.
        """
        part = final.with_suffix(".part")
        if final.exists() and not part.exists():
            return None
        with explained(part):
            file = os.open(part, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                os.close(file)
                if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                    return None
                raise UserError(
                    f"{part}: this file system cannot lock files ({error.strerror}), by which processes "
                    "share a store; write it to a local disk and copy it, or mount with locks (flock)"
                ) from error
            try:
                if not _is_same_file(file, part):  # sealed or cleared away between opening and locking
                    os.close(file)
                    return None
                if final.exists():  # sealed just before it was opened here, which made an empty one again
                    part.unlink()
                    os.close(file)
                    return None
                found = scan(file, header, first_batch, maps)
                if not found.header:
                    _check_unused(file, header, part)
                    os.ftruncate(file, 0)
                    _write(file, header, 0)
                    found = replace(found, end=len(header))
                elif os.fstat(file).st_size > found.end:
                    os.ftruncate(file, found.end)
                os.fsync(file)  # also what a killed writer left: the system has it, the disk perhaps not yet
                fsync(part.parent)
                return cls(file, part, final, found.entries, found.batches, found.end)
            except BaseException:
                with suppress(OSError):
                    os.close(file)
                raise

    def append(self, index: int, records: Sequence[bytes]) -> None:
        """Commit one batch: when this returns, the disk has it.

        Raises:
            UserError: no space left. What was committed before stays; the writer is done for.
        """
        content = batch_bytes(index, records)
        try:
            with explained(self._part):
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
        """Write the index behind the last batch, give the shard its final name, and release it.

        Raises:
            UserError: no space left.
        """
        with explained(self._part):
            _write(self._file, end_bytes(np.concatenate(self._entries), self._end), self._end)
            os.fsync(self._file)
            self._part.rename(self._final)
            fsync(self._final.parent)
        self.close()

    def close(self) -> None:
        """Release the shard; what is committed stays."""
        os.close(self._file)


def _write(file: int, content: bytes, position: int) -> None:
    """Write all of `content` at a position: a system call may take only a part of it."""
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
    """Refuse to clear a part file that a whole header assigns to another store."""
    found = os.pread(file, len(header), 0)
    if found[:8] == header[:8] and len(found) == len(header) and os.fstat(file).st_size > len(header):
        raise DamagedError(f"{part}: it was not written for this store, or its first bytes are damaged; remove it")
