"""The bounded cache of fetched files: size, order of removal, folders, and several processes."""

import multiprocessing
import os
import time
from pathlib import Path

import pytest

from distill import file_cache
from distill.errors import UserError
from distill.file_cache import FOLDER, CachedFile, FileCache


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let files be removed as soon as they were used, and count sizes each time."""
    monkeypatch.setattr(file_cache, "IN_USE", -1.0)
    monkeypatch.setattr(file_cache, "ESTIMATE", 0.0)


def file(cache: FileCache, name: str, size: int = 10) -> CachedFile:
    return CachedFile(cache, name, size, lambda path: path.write_bytes(bytes(size)))


def folder(cache: FileCache, name: str, size: int = 10) -> CachedFile:
    def fetch(path: Path) -> None:
        (path / "deep").mkdir()
        (path / "deep/one").write_bytes(bytes(size - 1))
        (path / "two").write_bytes(bytes(1))

    return CachedFile(cache, name + FOLDER, size, fetch)


def age(path: Path, seconds: float) -> None:
    past = time.time() - seconds
    os.utime(path, (past, past))


def names(cache: FileCache) -> set[str]:
    return {path.name for path in cache.folder.rglob("*") if path.is_file() and path.name[0] != "."}


def test_get_fetches_once_and_removes_the_least_recently_used(tmp_path: Path) -> None:
    cache = FileCache(tmp_path, 30)
    for number, name in enumerate(("a/one", "b/two", "three")):
        age(file(cache, name).path(), 100 - number)
    file(cache, "a/one").path()  # used again
    assert file(cache, "four").path().read_bytes() == bytes(10)
    assert names(cache) == {"one", "three", "four"}
    assert not file(cache, "b/two").is_cached


def test_folders_are_fetched_and_removed_as_one(tmp_path: Path) -> None:
    cache = FileCache(tmp_path, 25)
    path = folder(cache, "annotation/0001").path()
    assert (path / "deep/one").stat().st_size == 9
    age(path, 100)
    age(folder(cache, "annotation/0002").path(), 50)
    folder(cache, "annotation/0003").path()
    assert not path.exists()
    assert sorted(path.name for path in (tmp_path / "annotation").iterdir()) == ["0002.folder", "0003.folder"]


def test_file_that_was_just_asked_for_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_cache, "IN_USE", 0.5)
    cache = FileCache(tmp_path, 10)
    file(cache, "one").path()
    started = time.monotonic()
    file(cache, "two").path()  # waits until nobody can be about to open the first
    assert time.monotonic() - started > 0.3
    assert names(cache) == {"two"}


def test_interrupted_fetch_leaves_nothing(tmp_path: Path) -> None:
    cache = FileCache(tmp_path, 30)

    def interrupted(path: Path) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        CachedFile(cache, "one", 10, interrupted).path()
    assert not any(path.is_file() for path in tmp_path.rglob("*"))


def test_file_larger_than_the_cache_raises_and_removes_nothing(tmp_path: Path) -> None:
    cache = FileCache(tmp_path, 10)
    file(cache, "one").path()
    with pytest.raises(
        UserError, match=r"two: has 11 bytes, and the cache .* may have 10 \(set by SALDISTILL_CACHE_"
    ):
        file(cache, "two", 11).path()
    assert names(cache) == {"one"}


def fetch_slowly(cache: FileCache, log: Path, number: int) -> bytes:
    def fetch(path: Path) -> None:
        with log.open("a") as lines:
            lines.write(f"{number}\n")
        time.sleep(0.3)
        path.write_bytes(b"content")

    return CachedFile(cache, "file", 7, fetch).path().read_bytes()


def test_one_of_several_processes_fetches_and_the_others_wait(tmp_path: Path) -> None:
    cache, log = FileCache(tmp_path / "cache", 100), tmp_path / "log"
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        results = pool.starmap(fetch_slowly, [(cache, log, number) for number in range(3)], chunksize=1)
    assert results == [b"content"] * 3
    assert len(log.read_text().splitlines()) == 1
