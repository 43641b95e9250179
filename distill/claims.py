"""Claims on outputs: one process writes a file or folder, and a second one is refused at its start."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from distill.errors import NOT_ALLOWED, UserError
from distill.files import clear_leftovers, refuse_existing
from distill.locks import lock_file

log = logging.getLogger(__name__)

OVERWRITE = "choose another name, or pass --overwrite to replace it"
"""The remedy for an existing output of a command that has --overwrite."""

_held: set[int] = set()
"""Descriptors of the locks that this process holds."""


@contextmanager
def claim(
    path: str | Path,
    what: str,
    *,
    overwrite: bool = False,
    remedy: str = "choose another name or remove it",
) -> Iterator[None]:
    """Claim an output for the duration of the block, before any work is done for it.

    What killed writers of the same output left is removed.

    Args:
        path: file or folder that will be written.
        what: the output with its article, e.g. "the overlay video".
        overwrite: whether an existing output will be replaced.
        remedy: what to do about an existing one.

    Raises:
        UserError: another process has claimed the output, it exists already, or `path` is a folder without a name.
    """
    path = Path(path)
    if path.name in ("", ".."):  # ".", "/", ".."
        raise UserError(f"{path}: expected the name of {what}, e.g. results")
    if not overwrite:
        refuse_existing(path, what, remedy=remedy)  # before the lock, which creates the parents
    real = Path(os.path.realpath(path))  # one lock, whichever links lead to the output
    with lock(real) as locked:
        if not locked:
            raise UserError(f"{path}: another process is writing {what}; wait for it, or choose another name")
        if not overwrite:
            refuse_existing(path, what, remedy=remedy)
        clear_leftovers(path)
        clear_leftovers(real)
        yield


@contextmanager
def lock(path: Path) -> Iterator[bool]:
    """Hold the lock of an output, a locked hidden file next to it; yield False if another process holds it.

    The system releases the lock however the process ends. The lock file is removed before that: a process that had
    opened it before then holds a lock on a file that no longer exists, and tries again. Folders that were made for
    the lock are removed if nothing else is in them. On a file system without locks, and for an output folder in a
    folder that is not writable (e.g. a mounted volume), the output counts as locked, with a warning.
    """
    output = path.absolute()  # a relative path must not depend on later changes of the working directory
    path = output.with_name(f".{output.name}.lock")
    made = [parent for parent in path.parents if not parent.exists()]
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)  # not on Windows
        except FileNotFoundError:  # another process has removed the folder that it had made
            continue
        except OSError as error:
            if error.errno not in NOT_ALLOWED or not output.is_dir() or path.exists():
                raise
            log.warning("%s: cannot be locked (%s); start no other writer", output, error.strerror)
            yield True
            return
        try:
            locked = lock_file(file)
        except OSError as error:
            log.warning(
                "%s: this file system has no locks (%s); start no other writer", path.parent, error.strerror
            )
            break
        if not locked:
            os.close(file)
            yield False
            return
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file), path.stat()):
                break
        os.close(file)
    _close_in_forks()
    _held.add(file)
    try:
        yield True
    finally:
        if file in _held:  # not in a fork, which holds no lock
            _held.remove(file)
            path.unlink(missing_ok=True)
            os.close(file)
            with suppress(OSError):  # not empty
                for parent in made:
                    parent.rmdir()


@cache
def _close_in_forks() -> None:
    """Make forks give up the locks, so that a worker that outlives its killed parent does not keep them."""

    def give_up() -> None:
        for file in _held:
            os.close(file)
        _held.clear()

    if hasattr(os, "register_at_fork"):  # Windows has no forks
        os.register_at_fork(after_in_child=give_up)
