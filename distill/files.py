"""Atomic and durable file writes: write to a temporary name, flush to disk, rename."""

import errno
import hashlib
import json
import math
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from glob import escape
from pathlib import Path
from typing import Any

from distill.errors import UserError


def _temporary(path: Path, stem: str, suffix: str) -> Path:
    return path.with_name(f".{stem}.{uuid.uuid4().hex[:8]}.tmp{suffix}")


@contextmanager
def atomic_path(path: str | Path, *, overwrite: bool = True) -> Iterator[Path]:
    """Yield a temporary file, empty at first, that is renamed to `path` when the block succeeds.

    The temporary file is in the same folder and keeps the suffix, because some writers choose the format by it. If
    the block raises, the temporary file is removed and an existing `path` is left unchanged. The file gets the
    permissions of the umask, whichever the writer gave it.

    Args:
        path: the file to write.
        overwrite: replace an existing file. If False, a file that appears while the block runs is never replaced.

    Raises:
        UserError: `path` exists at the end, and `overwrite` is False.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path, path.stem, path.suffix)
    try:
        temporary.touch()
        permissions = temporary.stat().st_mode
        yield temporary
        if temporary.stat().st_mode != permissions:  # some network file systems refuse any chmod
            temporary.chmod(permissions)
        put_in_place(temporary, path, overwrite=overwrite)
        fsync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield a temporary folder that is renamed to `path` when the block succeeds.

    If `path` is a link to an empty folder, the folder behind the link is replaced and the link is kept.

    Raises:
        UserError: `path` is a file or a folder that is not empty at the end; it is never replaced.
    """
    path = Path(os.path.realpath(path))
    with temporary_folder(path) as temporary:
        yield temporary
        for entry in temporary.iterdir():
            fsync(entry)
        fsync(temporary)
        try:
            temporary.rename(path)  # replaces an empty folder only
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise _appeared(path) from None
            raise
        fsync(path.parent)


@contextmanager
def temporary_folder(path: str | Path) -> Iterator[Path]:
    """Yield a hidden folder next to the output `path`, removed at the end; `clear_leftovers` knows its name."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path, path.name, "")
    temporary.mkdir()
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def put_in_place(temporary: Path, path: Path, *, overwrite: bool) -> None:
    """Flush a finished file to disk and rename it to `path`.

    Raises:
        UserError: `path` exists, and `overwrite` is False.
    """
    fsync(temporary)
    if overwrite:
        temporary.replace(path)
        return
    try:
        _rename_to_new(temporary, path)
    except FileExistsError:
        raise _appeared(path) from None


def _rename_to_new(temporary: Path, path: Path) -> None:
    """Rename a file to a name that must be free; raise a FileExistsError if it is not."""
    try:
        os.link(temporary, path)  # unlike a rename, never replaces a file
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links, where two processes may both succeed
        if path.exists():
            raise FileExistsError(path) from None
        temporary.rename(path)
    temporary.unlink(missing_ok=True)


def _appeared(path: Path) -> UserError:
    return UserError(f"{path}: was created by another process in the meantime; choose another name or remove it")


def clear_leftovers(path: str | Path) -> None:
    """Remove temporary files left by killed writers of `path`. Only call this when no other writer is running."""
    path = Path(path)
    for name in (f".{escape(path.stem)}.????????.tmp{escape(path.suffix)}", f".{escape(path.name)}.????????.tmp"):
        for leftover in path.parent.glob(name):
            if leftover.is_dir() and not leftover.is_symlink():
                shutil.rmtree(leftover)
            else:
                leftover.unlink()


def fsync(path: Path) -> None:
    """Flush a file or folder to disk; Windows cannot flush folders, and needs not."""
    if os.name == "nt" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: str | Path, text: str, *, overwrite: bool = True) -> None:
    """Write a text file atomically; see `atomic_path`."""
    with atomic_path(path, overwrite=overwrite) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_new(path: str | Path, text: str) -> None:
    """Write a text file atomically if it does not exist yet; of several concurrent processes, one succeeds.

    Raises:
        FileExistsError: if the file exists.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path, path.stem, path.suffix)
    try:
        temporary.write_text(text, encoding="utf-8")
        fsync(temporary)
        _rename_to_new(temporary, path)
        fsync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: str | Path, value: Any, *, overwrite: bool = True) -> None:
    """Write a value as indented JSON; see `atomic_path`. NaN and infinity, which JSON lacks, become null."""
    text = json.dumps(finite(value), indent=2, ensure_ascii=False, allow_nan=False)
    write_text(path, f"{text}\n", overwrite=overwrite)


def finite(value: Any) -> Any:
    """Return nested mappings and lists with None in place of NaN and infinity."""
    if isinstance(value, Mapping):
        return {name: finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def flatten(values: Any, separator: str = ".", path: str = "") -> dict[str, Any]:
    """Return nested mappings as one mapping from `key.path` to value."""
    if not isinstance(values, dict) or not values:
        return {path: values}
    return {
        key: value
        for name, inner in values.items()
        for key, value in flatten(inner, separator, f"{path}{separator}{name}" if path else name).items()
    }


def refuse_existing(path: str | Path, what: str, *, remedy: str = "choose another name or remove it") -> None:
    """Check that an output can be created, so that nothing is overwritten and a run does not fail at its end.

    Raises:
        UserError: if `path` is a file, a non-empty folder or a link to nothing, or if one of its parents is a file.
    """
    path = Path(path)
    for parent in path.parents:
        if parent.exists():
            if not parent.is_dir():
                raise UserError(f"{path}: {parent} is a file, not a folder; choose another location")
            break
    if path.is_dir() and not any(path.iterdir()):
        return
    if path.exists():
        raise UserError(f"{path}: {what} already exists; {remedy}")
    if path.is_symlink():
        raise UserError(f"{path}: is a link to {path.readlink()}, which does not exist; {remedy}")


def file_hash(path: str | Path) -> str:
    """Return the hexadecimal SHA-256 digest of a file."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
