"""The lock of a file, and the toolkit without the modules that Windows lacks."""

import errno
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.places import REPOSITORY

from distill.locks import lock_file

IMPORT_ALL = """
import pkgutil, sys, warnings
warnings.simplefilter("ignore")
import concurrent.futures, multiprocessing, subprocess, psutil, torch, timm, huggingface_hub  # not ours
for absent in ("fcntl", "resource", "grp", "pwd", "termios", "syslog"):
    sys.modules[absent] = None
for package in ("distill", "teacher", "student"):
    for module in pkgutil.walk_packages(__import__(package).__path__, f"{package}."):
        if module.name != "distill.__main__":
            __import__(module.name)
            print(module.name)
"""


def open_new(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o644)


def try_lock(path: Path) -> bool:
    file = open_new(path)
    try:
        return lock_file(file)
    finally:
        os.close(file)


def in_another_process(path: Path) -> bool:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(try_lock, (path,))


def test_lock_file_is_held_until_the_file_is_closed(tmp_path: Path) -> None:
    file = open_new(tmp_path / "lock")
    assert lock_file(file)
    assert not in_another_process(tmp_path / "lock")
    os.close(file)
    assert in_another_process(tmp_path / "lock")
    file = open_new(tmp_path / "lock")
    assert lock_file(file, wait=True)
    os.close(file)


def test_lock_file_without_locks_raises_the_systems_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("portalocker.portalocker.LOCKER", refuse)
    with pytest.raises(OSError, match="No locks available") as error:
        try_lock(tmp_path / "lock")
    assert error.value.errno == errno.ENOLCK


def test_every_module_imports_without_the_modules_of_unix() -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-1000:]
    assert len(done.stdout.splitlines()) > 150
