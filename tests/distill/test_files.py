"""Atomic writes and the check of existing outputs."""

import errno
import json
import math
import os
from pathlib import Path

import numpy as np
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


def test_file_that_appears_in_the_meantime_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "new.json"
    with (
        pytest.raises(UserError, match="created by another process"),
        files.atomic_path(path, overwrite=False) as temporary,
    ):
        temporary.write_text("mine")
        path.write_text("theirs")
    assert path.read_text() == "theirs"
    assert [each.name for each in tmp_path.iterdir()] == ["new.json"]


@pytest.mark.parametrize("theirs", ["file", "folder"])
def test_folder_that_appears_in_the_meantime_is_not_replaced(tmp_path: Path, theirs: str) -> None:
    path = tmp_path / "step"
    with pytest.raises(UserError, match="created by another process"), files.atomic_folder(path) as temporary:
        (temporary / "one").write_text("1")
        if theirs == "file":
            path.write_text("theirs")
        else:
            path.mkdir()
            (path / "one").write_text("theirs")
    assert (path if theirs == "file" else path / "one").read_text() == "theirs"
    assert [each.name for each in tmp_path.iterdir()] == ["step"]


def test_file_gets_the_permissions_of_the_umask(tmp_path: Path) -> None:
    previous = os.umask(0o027)
    try:
        with files.atomic_path(tmp_path / "a.safetensors") as temporary:
            temporary.unlink()
            temporary.touch(mode=0o600)
    finally:
        os.umask(previous)
    assert (tmp_path / "a.safetensors").stat().st_mode & 0o777 == 0o640


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


def test_link_to_nothing_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    with pytest.raises(UserError, match=r"link: is a link to .*gone, which does not exist; choose another name"):
        files.refuse_existing(tmp_path / "link", "a map")


def test_folder_behind_a_link_is_written_and_the_link_kept(tmp_path: Path) -> None:
    (tmp_path / "disk" / "maps").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "maps")
    with files.atomic_folder(tmp_path / "link") as temporary:
        (temporary / "one").write_text("1")
    assert (tmp_path / "link").is_symlink()
    assert [each.name for each in (tmp_path / "disk").iterdir()] == ["maps"]
    assert (tmp_path / "disk" / "maps" / "one").read_text() == "1"


def test_json_has_null_in_place_of_nan_and_infinity(tmp_path: Path) -> None:
    values = {"a": math.nan, "b": [1.5, math.inf, (-math.inf, "x", None, True)], "c": {"d": np.float64("nan")}}
    files.write_json(tmp_path / "a.json", values)
    found = json.loads((tmp_path / "a.json").read_text(), parse_constant=pytest.fail)
    assert found == {"a": None, "b": [1.5, None, [None, "x", None, True]], "c": {"d": None}}
