"""Writing files so that nothing is lost: to a temporary name, flushed to the disk, then renamed."""

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from glob import escape
from pathlib import Path
from typing import Any

from distill.errors import UserError


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary file name beside `path`; when the block ends well, it becomes `path` in one step.

    The temporary keeps the suffix, since writers choose their format by it. If the block raises, the temporary is
    removed and whatever stood under `path` before stays as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}.tmp{path.suffix}")
    try:
        yield temporary
        fsync(temporary)
        temporary.replace(path)
        fsync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; when the block ends well, it becomes `path` in one step.

    `path` must not exist: a folder can be renamed into place atomically only where none stands.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    temporary.mkdir()
    try:
        yield temporary
        for inside in temporary.iterdir():
            fsync(inside)
        fsync(temporary)
        temporary.rename(path)
        fsync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def clear_leftovers(path: str | Path) -> None:
    """Remove what writers of `path` left beside it when they were killed; only where no other can be at work."""
    path = Path(path)
    for name in (f".{escape(path.stem)}.????????.tmp{escape(path.suffix)}", f".{escape(path.name)}.????????.tmp"):
        for left in path.parent.glob(name):
            shutil.rmtree(left) if left.is_dir() else left.unlink()


def fsync(path: Path) -> None:
    """Make a file or folder durable: return only when the disk has it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_new(path: str | Path, text: str) -> None:
    """Write a text file atomically, but only where none stands: of several processes at once, one does.

    Raises:
        FileExistsError: somebody was faster.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}.tmp{path.suffix}")
    try:
        temporary.write_text(text, encoding="utf-8")
        fsync(temporary)
        try:
            os.link(temporary, path)  # which, other than a rename, never replaces
        except FileExistsError:
            raise
        except OSError:  # a file system without links: the chance of two at once is left there
            if path.exists():
                raise FileExistsError(path) from None
            temporary.rename(path)
        temporary.unlink(missing_ok=True)
        fsync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: str | Path, value: Any) -> None:
    """Write a value as indented JSON atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def refuse_existing(path: str | Path, what: str, *, remedy: str = "choose another name or remove it") -> None:
    """Never overwrite silently, and never fail late because the place cannot hold the output.

    Raises:
        UserError: if `path` is a file or a folder that is not empty, or lies below something that is no folder.
    """
    path = Path(path)
    for parent in path.parents:
        if parent.exists():
            if not parent.is_dir():
                raise UserError(f"{path}: {parent} is a file, not a folder; choose another place")
            break
    if path.is_dir() and not any(path.iterdir()):
        return
    if path.exists():
        raise UserError(f"{path}: {what} exists already; {remedy}")


def file_hash(path: str | Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
