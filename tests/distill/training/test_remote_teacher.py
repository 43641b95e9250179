"""Training from a target store at an address: the same losses, shards fetched once and ahead of their clips."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.object_storage import Storage, every, object_storage
from helpers.runs import config, losses

from distill.errors import UserError
from distill.file_cache import CachedFile, FileCache
from distill.remote import RemoteFolder
from distill.targets.manifest import ManifestWriter
from distill.targets.store import TargetStore
from distill.targets.transfer import push_store
from distill.training.config import RunConfig
from distill.training.read_ahead import _fetched_ahead
from distill.training.setup import build_store
from distill.training.train import train

ADDRESS = Storage.address("targets")


def student(out: Path, store: str | Path, *, workers: int = 0, **teacher: Any) -> RunConfig:
    return config(
        out,
        model={"name": "student/thtdnet", "variant": "micro"},
        teacher={"store": str(store), **teacher},
        losses=[{"name": "kldiv", "against": "teacher"}],
        data={"train": [{"dataset": "synthetic", "frames": [1, 20]}], "workers": workers},
        training={"steps": 4, "batch_size": 2},
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("store") / "targets"
    run = student(path.parent / "run", path, model="teacher/salfom:micro", batch_size=4)
    build_store(run)
    return path


@pytest.fixture
def storage(store: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, empty_cache: Path) -> Iterator[Storage]:
    with object_storage(monkeypatch) as storage:
        push_store(store, ADDRESS, progress=False)
        storage.requests.clear()
        yield storage


@pytest.mark.parametrize("workers", [0, 2])
def test_train_from_an_address_has_the_losses_of_the_local_store(
    workers: int, storage: Storage, store: Path, tmp_path: Path
) -> None:
    train(student(tmp_path / "local", store, workers=workers))
    storage.fault = every(3, "cut")
    train(student(tmp_path / "remote", ADDRESS, workers=workers))
    assert losses(tmp_path / "remote") == losses(tmp_path / "local")
    fetched = {path for method, path in storage.requests if method == "GET" and path.endswith(".shard")}
    assert fetched
    storage.requests.clear()
    train(student(tmp_path / "warm", ADDRESS, workers=workers))
    assert losses(tmp_path / "warm") == losses(tmp_path / "local")
    assert storage.gets(".shard") == 0


def test_train_from_a_partial_store_needs_partial(storage: Storage, store: Path, tmp_path: Path) -> None:
    remote = TargetStore.open(ADDRESS)
    manifest = remote.files.manifest  # type: ignore[attr-defined]
    del manifest.shards[0]
    ManifestWriter(RemoteFolder(ADDRESS), manifest, remote.plan.num_shards).flush()
    with pytest.raises(
        UserError, match=r"s3://bucket/targets: the target store lacks [0-9]+ maps that this run needs"
    ):
        train(student(tmp_path / "run", ADDRESS))


# ---------------------------------------------------------------- fetched ahead


class Files:
    """Files of ten bytes whose download can be held back."""

    def __init__(self, folder: Path, limit: int = 1000) -> None:
        self.cache = FileCache(folder, limit)
        self.fetched: list[str] = []
        self.gate = threading.Event()
        self.gate.set()

    def fetch(self, path: Path) -> None:
        self.gate.wait()
        path.write_bytes(b"0123456789")

    def of(self, batch: list[int]) -> list[CachedFile]:
        return [self.file(number) for number in batch]

    def file(self, number: int) -> CachedFile:
        def fetch(path: Path) -> None:
            self.fetched.append(str(number))
            self.fetch(path)

        return CachedFile(self.cache, f"{number}", 10, fetch)


def wait_for(condition: Any) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_read_ahead_yields_the_batches_and_fetches_each_file_once(tmp_path: Path) -> None:
    files = Files(tmp_path)
    batches = [[0, 1], [1, 2], [0, 3], [3, 3]]
    ahead = _fetched_ahead(batches, files.of)
    assert next(ahead) == [0, 1]
    wait_for(lambda: len(files.fetched) == 4)  # before they are asked for
    assert list(ahead) == batches[1:]
    assert sorted(files.fetched) == ["0", "1", "2", "3"]


def test_read_ahead_fetches_at_most_half_of_the_cache(tmp_path: Path) -> None:
    files = Files(tmp_path, limit=100)
    ahead = _fetched_ahead(([number] for number in range(50)), files.of)
    assert next(ahead) == [0]
    wait_for(lambda: len(files.fetched) == 6)
    time.sleep(0.1)
    assert len(files.fetched) == 6
    assert [batch for (batch,) in ahead] == list(range(1, 50))


def test_read_ahead_ignores_a_file_that_cannot_be_fetched(tmp_path: Path) -> None:
    files = Files(tmp_path)

    def fail(path: Path) -> None:
        raise UserError("gone")

    def files_of(batch: list[int]) -> list[CachedFile]:
        return [CachedFile(files.cache, "x", 10, fail)]

    assert list(_fetched_ahead([[0], [1]], files_of)) == [[0], [1]]


def test_read_ahead_that_is_closed_does_not_wait_for_its_downloads(tmp_path: Path) -> None:
    files = Files(tmp_path)
    files.gate.clear()
    ahead = _fetched_ahead(([number] for number in range(100)), files.of)
    next(ahead)
    started = time.monotonic()
    ahead.close()  # type: ignore[attr-defined]
    assert time.monotonic() - started < 5
    files.gate.set()
