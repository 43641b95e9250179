"""Atomic writes and the check of existing outputs."""

import errno
from pathlib import Path

import pytest

from distill import files
from distill.errors import UserError


def test_failed_write_keeps_the_old_file_and_leaves_no_temporary(tmp_path: Path) -> None:
    path = tmp_path / "kept.json"
    files.write_json(path, {"version": 1})
    with pytest.raises(OSError, match="No space left"), files.atomic_path(path) as temporary:
        temporary.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert path.read_text() == '{\n  "version": 1\n}\n'
    assert [each.name for each in tmp_path.iterdir()] == ["kept.json"]


def test_temporary_file_keeps_the_suffix(tmp_path: Path) -> None:
    with files.atomic_path(tmp_path / "video.mp4") as temporary:
        assert temporary.suffix == ".mp4"
        temporary.write_bytes(b"")


def test_folder_is_created_complete_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), files.atomic_folder(tmp_path / "step") as temporary:
        (temporary / "one").write_text("1")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with files.atomic_folder(tmp_path / "step") as temporary:
        (temporary / "one").write_text("1")
    assert [each.relative_to(tmp_path).as_posix() for each in tmp_path.rglob("*")] == ["step", "step/one"]


def test_existing_output_is_refused(tmp_path: Path) -> None:
    files.refuse_existing(tmp_path / "new", "a run")
    files.refuse_existing(tmp_path, "a run")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="a run already exists; choose another name"):
        files.refuse_existing(tmp_path, "a run")
    with pytest.raises(UserError, match="file: a map already exists"):
        files.refuse_existing(tmp_path / "file", "a map")
