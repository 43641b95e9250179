"""Claims on outputs: the second writer is refused, and a crash releases the claim."""

import errno
import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from distill.claims import claim, lock
from distill.errors import UserError


def test_claimed_output_is_refused_to_a_second_writer_until_released(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "out.mp4"
    with claim(path, "the overlay video"):
        with (
            pytest.raises(UserError, match=r"out\.mp4: another process is writing the overlay video"),
            claim(path, "the overlay video"),
        ):
            pass
        with pytest.raises(UserError, match="another process"), claim(path, "the overlay video", overwrite=True):
            pass
    with claim(path, "the overlay video"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_existing_output_is_refused_without_overwrite(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    path.write_bytes(b"mine")
    with pytest.raises(UserError, match="the overlay video already exists"), claim(path, "the overlay video"):
        pass
    with claim(path, "the overlay video", overwrite=True):
        pass
    assert path.read_bytes() == b"mine"


@pytest.mark.parametrize("path", [".", "", "..", "/", "a/.."])
def test_folder_without_a_name_of_its_own_cannot_be_claimed(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with (
        pytest.raises(UserError, match="expected the name of the folder of maps"),
        claim(path, "the folder of maps"),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_links_to_one_output_share_its_claim(tmp_path: Path) -> None:
    (tmp_path / "disk" / "maps").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "maps")
    with (
        claim(tmp_path / "link", "the folder of maps"),
        pytest.raises(UserError, match="maps: another process is writing"),
        claim(tmp_path / "disk" / "maps", "the folder of maps"),
    ):
        pass


def test_claim_removes_leftovers_of_killed_writers(tmp_path: Path) -> None:
    (tmp_path / ".out.12345678.tmp.mp4").write_bytes(b"half")
    (tmp_path / ".out.mp4.12345678.tmp").mkdir()
    (tmp_path / ".other.12345678.tmp.mp4").write_bytes(b"another output")
    with claim(tmp_path / "out.mp4", "the overlay video"):
        assert [each.name for each in tmp_path.glob("*.tmp*")] == [".other.12345678.tmp.mp4"]


def _hold(path: Path, ready: Any) -> None:
    with lock(path):
        ready.set()
        signal.pause()


def test_killed_process_releases_its_lock(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=_hold, args=(tmp_path / "run", ready))
    process.start()
    assert ready.wait(60)
    with lock(tmp_path / "run") as locked:
        assert not locked
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    with lock(tmp_path / "run") as locked:
        assert locked


def test_file_system_without_locks_counts_as_locked_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def flock(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("portalocker.portalocker.LOCKER", flock)
    with lock(tmp_path / "run") as locked:
        assert locked
    assert "has no locks (No locks available)" in caplog.text


def test_folder_in_a_read_only_folder_counts_as_locked_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A mounted volume is often writable, while the folder above it is not."""

    def refuse(*_: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    (tmp_path / "run").mkdir()
    monkeypatch.setattr(os, "open", refuse)
    with lock(tmp_path / "run") as locked:
        assert locked
    assert "run: cannot be locked (Permission denied); start no other writer" in caplog.text
    with pytest.raises(PermissionError), lock(tmp_path / "new"):
        pass
