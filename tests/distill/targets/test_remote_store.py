"""Target stores at addresses: push, pull, reading through the cache, and every fault of a network on the way."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers.object_storage import Storage, first, object_storage
from helpers.stores import EVERYTHING, assert_readable, content, flip_byte
from helpers.writer_process import ARGUMENTS, fill

from distill import remote
from distill.errors import UserError
from distill.targets import transfer
from distill.targets.info import info
from distill.targets.store import TargetStore
from distill.targets.transfer import pull_store, push_store

ADDRESS = Storage.address("deep/targets")
SHARDS = 5


@pytest.fixture(scope="module")
def endpoint() -> Iterator[Storage]:
    with pytest.MonkeyPatch.context() as environment, object_storage(environment) as storage:
        yield storage


@pytest.fixture
def storage(endpoint: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Storage:
    """An empty bucket, an empty cache and no wait between tries."""
    endpoint.empty()
    monkeypatch.setenv("SALDISTILL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "FIRST_WAIT", 0.001)
    return endpoint


@pytest.fixture
def pushed(storage: Storage, finished: Path) -> Storage:
    push_store(finished, ADDRESS, progress=False)
    storage.requests.clear()
    return storage


def partial_store(path: Path) -> TargetStore:
    """Return a store of which two shards are full."""
    store = TargetStore.create(path, **ARGUMENTS)
    for number, batches in enumerate(store.missing()):
        if number == 2:
            break
        for batch in batches:
            store.commit(batch, np.zeros((len(batch.frames), *store.map_size), np.float32))
    store.close()
    return store


# ---------------------------------------------------------------- there and back


def test_push_then_pull_gives_the_same_bytes(pushed: Storage, finished: Path, tmp_path: Path) -> None:
    report = pull_store(ADDRESS, tmp_path / "back", progress=False)
    assert content(tmp_path / "back") == content(finished)
    assert (report.shards, report.planned_shards, report.copied) == (SHARDS, SHARDS, SHARDS)
    assert report.bytes == sum(len(each) for name, each in content(finished).items() if name.endswith(".shard"))
    assert str(report).startswith(f"{tmp_path / 'back'}: 5 of 5 shards, 5 copied now")
    again = pull_store(ADDRESS, tmp_path / "back", progress=False)
    assert (again.copied, again.bytes) == (0, 0)


def test_push_again_uploads_only_the_manifest(pushed: Storage, finished: Path) -> None:
    assert push_store(finished, ADDRESS, progress=False).copied == 0
    assert [path for method, path in pushed.requests if method == "PUT"] == ["/bucket/deep/targets/manifest.json"]


def test_store_is_invisible_until_its_manifest_is_written(storage: Storage, finished: Path) -> None:
    shards_put = 0

    def look(method: str, path: str) -> str:
        nonlocal shards_put
        if method == "PUT" and path.endswith(".shard"):
            shards_put += 1
            assert not TargetStore.exists(ADDRESS)
        return ""

    storage.fault = look
    push_store(finished, ADDRESS, progress=False)
    assert shards_put == SHARDS
    assert TargetStore.open(ADDRESS).complete


def test_interrupted_push_is_partial_and_resumes(
    storage: Storage, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "TRANSFERS", 1)
    monkeypatch.setattr("distill.targets.manifest.MANIFEST_EVERY", 0.0)
    put, count = remote.RemoteFolder.put, 0

    def interrupted(self: remote.RemoteFolder, path: Path, name: str) -> None:
        nonlocal count
        count += 1
        if count == 3:
            raise KeyboardInterrupt
        put(self, path, name)

    with monkeypatch.context() as patch:
        patch.setattr(remote.RemoteFolder, "put", interrupted)
        with pytest.raises(KeyboardInterrupt):
            push_store(finished, ADDRESS, progress=False)
    store = TargetStore.open(ADDRESS)
    assert (store.complete, store.count_sealed()) == (False, 2)
    with pytest.raises(UserError, match=r"the target store is partial; finish it with `saldistill cache push`, or"):
        pull_store(ADDRESS, tmp_path / "back", progress=False)
    report = pull_store(ADDRESS, tmp_path / "back", partial=True, progress=False)
    assert str(report).endswith("; the store is partial")
    assert not TargetStore.open(tmp_path / "back").complete

    storage.requests.clear()
    assert push_store(finished, ADDRESS, progress=False).copied == SHARDS - 2
    assert sum(method == "PUT" and path.endswith(".shard") for method, path in storage.requests) == SHARDS - 2
    assert pull_store(ADDRESS, tmp_path / "back", progress=False).copied == SHARDS - 2
    assert content(tmp_path / "back") == content(finished)


def test_interrupted_pull_resumes(
    pushed: Storage, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "TRANSFERS", 1)
    fetch, count = remote.RemoteFolder.fetch, 0

    def interrupted(self: remote.RemoteFolder, name: str, path: Path, check: Callable[[Path], str | None]) -> None:
        nonlocal count
        count += 1
        fetch(self, name, path, check)
        if count == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(remote.RemoteFolder, "fetch", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pull_store(ADDRESS, tmp_path / "back", progress=False)
    assert sorted(path.name for path in (tmp_path / "back/shards").iterdir()) == ["00000.shard", "00001.shard"]
    flip_byte(tmp_path / "back/shards/00001.shard", 100)  # damaged since
    assert pull_store(ADDRESS, tmp_path / "back", progress=False).copied == SHARDS - 1
    assert content(tmp_path / "back") == content(finished)


def test_push_of_a_partial_store_needs_partial_and_reads_as_such(storage: Storage, tmp_path: Path) -> None:
    local = partial_store(tmp_path / "store")
    with pytest.raises(UserError, match="the target store is incomplete; finish it with `saldistill cache build`"):
        push_store(local.path, ADDRESS, progress=False)
    push_store(local.path, ADDRESS, partial=True, progress=False)
    store = TargetStore.open(ADDRESS)
    assert not store.complete
    assert store.count_committed() == local.count_committed() == 20
    assert [store.has(*key) for key in EVERYTHING] == [local.has(*key) for key in EVERYTHING]
    assert "shards     2 of 5 full" in str(info(ADDRESS))
    assert storage.gets(".shard") == 0  # all this is in the manifest
    with pytest.raises(UserError, match="is not written yet"):
        store.read(*EVERYTHING[-1])


# ---------------------------------------------------------------- reading through the cache


def test_open_address_reads_every_map_and_fetches_each_shard_once(pushed: Storage) -> None:
    with TargetStore.open(ADDRESS) as store:
        assert pushed.gets(".shard") == 0
        assert_readable(store, EVERYTHING)
    with TargetStore.open(ADDRESS) as store:  # another run
        assert_readable(store, EVERYTHING)
        assert store.damage() == []
    assert pushed.gets(".shard") == SHARDS


def test_open_web_server_and_memory_addresses_read_the_same(pushed: Storage, finished: Path) -> None:
    push_store(finished, "memory://stores/targets", progress=False)
    for address in ("memory://stores/targets", f"{pushed.url}/bucket/deep/targets"):
        with TargetStore.open(address) as store:
            assert_readable(store, EVERYTHING)


def test_cache_smaller_than_the_store_stays_within_its_size(
    pushed: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distill.file_cache.IN_USE", 0.0)
    monkeypatch.setattr("distill.file_cache.ESTIMATE", 0.0)
    monkeypatch.setattr("distill.targets.reader.OPEN_FILES", 1)
    largest = max(record["bytes"] for record in manifest(pushed)["shards"].values())
    monkeypatch.setenv("SALDISTILL_CACHE_GIB", str(2.5 * largest / 2**30))
    with TargetStore.open(ADDRESS) as store:
        for key in [*EVERYTHING, *EVERYTHING]:
            assert_readable(store, [key])
            cached = [path.stat().st_size for path in (tmp_path / "cache/remote").rglob("*.shard")]
            assert sum(cached) <= 2.5 * largest
    assert pushed.gets(".shard") > SHARDS


def test_shard_larger_than_the_cache_raises(pushed: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SALDISTILL_CACHE_GIB", "0.0000001")
    with TargetStore.open(ADDRESS) as store, pytest.raises(UserError, match=r"has [0-9,]+ bytes, and the cache"):
        store.read(*EVERYTHING[0])


@pytest.mark.parametrize("text", ["none", "-1", "nan", "inf"])
def test_cache_size_that_is_no_size_raises(text: str, pushed: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SALDISTILL_CACHE_GIB", text)
    with pytest.raises(UserError, match="SALDISTILL_CACHE_GIB: expected a number of GiB above 0, got"):
        TargetStore.open(ADDRESS)


def test_no_space_in_the_cache_raises_and_leaves_no_file(
    pushed: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=100))
    with (
        TargetStore.open(ADDRESS) as store,
        pytest.raises(UserError, match="no space left in the cache for a file"),
    ):
        store.read(*EVERYTHING[0])
    assert not list((tmp_path / "cache").rglob("*.shard"))


def test_disk_that_fills_up_while_fetching_raises_and_leaves_no_file(
    pushed: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(remote.RemoteFolder, "fetch", full)
    with TargetStore.open(ADDRESS) as store, pytest.raises(UserError, match="no space left in the cache"):
        store.read(*EVERYTHING[0])
    assert not list((tmp_path / "cache").rglob("*.shard"))
    with pytest.raises(UserError, match="no space left to write"):
        pull_store(ADDRESS, tmp_path / "back", progress=False)


# ---------------------------------------------------------------- faults of the network


@pytest.mark.parametrize("fault", ["drop", "503", "cut", "shorten"])
def test_pull_and_read_survive_a_fault_of_every_first_request(
    fault: str, pushed: Storage, finished: Path, tmp_path: Path
) -> None:
    pushed.fault = first(1, fault)
    pull_store(ADDRESS, tmp_path / "back", progress=False)
    assert content(tmp_path / "back") == content(finished)
    assert pushed.faults[fault] == SHARDS
    pushed.fault = first(1, fault)
    with TargetStore.open(ADDRESS) as store:
        assert_readable(store, EVERYTHING)
    assert pushed.faults[fault] == 2 * SHARDS


@pytest.mark.parametrize("fault", ["drop", "503"])
def test_push_survives_a_fault_of_every_first_upload(fault: str, storage: Storage, finished: Path) -> None:
    storage.fault = first(1, fault, method="PUT")
    push_store(finished, ADDRESS, progress=False)
    storage.fault = lambda method, path: ""
    assert storage.faults[fault] == SHARDS
    with TargetStore.open(ADDRESS) as store:
        assert_readable(store, EVERYTHING)


@pytest.mark.parametrize("fault", ["drop", "503", "shorten"])
def test_fault_of_every_request_raises_one_sentence_and_keeps_the_rest(
    fault: str, pushed: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "TRANSFERS", 1)
    monkeypatch.setattr(remote, "TRIES", 1)
    pushed.fault = first(1000, fault, ending="00003.shard")
    with pytest.raises(UserError, match=r"00003.shard: cannot be downloaded, tried 1 times .*check the address"):
        pull_store(ADDRESS, tmp_path / "back", progress=False)
    assert sorted(path.name for path in (tmp_path / "back/shards").iterdir()) == [
        f"0000{n}.shard" for n in range(3)
    ]


def test_shard_replaced_by_another_version_raises_and_is_never_read(
    pushed: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "TRIES", 2)
    replaced = bytearray(pushed.get("deep/targets/shards/00000.shard"))
    replaced[100] ^= 1
    pushed.put("deep/targets/shards/00000.shard", bytes(replaced))
    sentence = r"00000.shard: cannot be downloaded.*its SHA-256 is .* it was replaced or damaged"
    with TargetStore.open(ADDRESS) as store, pytest.raises(UserError, match=sentence):
        store.read(*EVERYTHING[0])
    with pytest.raises(UserError, match=sentence):
        pull_store(ADDRESS, tmp_path / "back", progress=False)
    assert not list((tmp_path / "cache").rglob("*.shard"))
    assert not (tmp_path / "back/shards/00000.shard").exists()


def test_shard_pushed_again_with_other_maps_is_fetched_again(
    pushed: Storage, finished: Path, tmp_path: Path
) -> None:
    """The same store.json, built again: the name in the cache contains the checksum."""
    with TargetStore.open(ADDRESS) as store:
        assert_readable(store, EVERYTHING)
    with TargetStore.create(tmp_path / "again", **ARGUMENTS) as again:
        for batches in again.missing():
            for batch in batches:
                again.commit(batch, np.zeros((len(batch.frames), *again.map_size), np.float32))
    push_store(tmp_path / "again", ADDRESS, progress=False)
    with TargetStore.open(ADDRESS) as store, TargetStore.open(tmp_path / "again") as expected:
        for key in EVERYTHING:
            np.testing.assert_array_equal(store.read(*key), expected.read(*key))


# ---------------------------------------------------------------- bad input


def manifest(storage: Storage) -> dict:
    return json.loads(storage.get("deep/targets/manifest.json"))


def put_manifest(storage: Storage, **changes: object) -> None:
    storage.put("deep/targets/manifest.json", json.dumps({**manifest(storage), **changes}).encode())


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("s3://nowhere/targets", r"s3://nowhere/targets/manifest.json: no such bucket; check the address"),
        (
            "s3://bucket/nothing",
            r"s3://bucket/nothing: no target store at this address \(no manifest.json\); upload",
        ),
        ("memory://nothing", r"memory://nothing: no target store at this address"),
        ("ftq://a/b", r"ftq://a/b: Protocol not known: ftq; expected an address that starts with s3://"),
        ("gs://a/b", r"gs://a/b: needs a package that is not installed; pip install 'saldistill\[gs\]'"),
    ],
)
def test_open_address_without_a_store_raises(address: str, sentence: str, storage: Storage) -> None:
    with pytest.raises(UserError, match=sentence):
        TargetStore.open(address)


def test_open_without_credentials_raises(pushed: Storage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from helpers.object_storage import forget_connections

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    forget_connections()
    with pytest.raises(UserError, match=r"no credentials \(Unable to locate credentials\); set AWS_PROFILE, or"):
        TargetStore.open(ADDRESS)
    forget_connections()


def test_open_manifest_from_the_future_raises(pushed: Storage) -> None:
    put_manifest(pushed, format=2)
    with pytest.raises(
        UserError, match="expected a manifest of format 1, got 2; use the version of saldistill that"
    ):
        TargetStore.open(ADDRESS)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"shards": {"0": {"bytes": -1, "sha256": "0" * 64}}}, "manifest.json: cannot be read as a manifest"),
        ({"shards": {"0": {"bytes": 10, "sha256": "../../x"}}}, "manifest.json: cannot be read as a manifest"),
        ({"store": "0" * 64}, "store.json and manifest.json belong to different target stores"),
    ],
)
def test_open_damaged_manifest_raises(changes: dict[str, object], sentence: str, pushed: Storage) -> None:
    put_manifest(pushed, **changes)
    with pytest.raises(UserError, match=sentence):
        TargetStore.open(ADDRESS)


def test_push_to_the_address_of_another_store_raises_and_changes_nothing(pushed: Storage, tmp_path: Path) -> None:
    with TargetStore.create(tmp_path / "other", **{**ARGUMENTS, "notes": {"teacher": "other"}}) as other:
        fill(other)
    before = pushed.get("deep/targets/store.json")
    with pytest.raises(UserError, match="another target store is at this address; choose another, or remove it"):
        push_store(tmp_path / "other", ADDRESS, progress=False)
    assert pushed.get("deep/targets/store.json") == before


def test_push_of_a_damaged_shard_raises(storage: Storage, finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "store")
    flip_byte(tmp_path / "store/shards/00002.shard", 150)
    with pytest.raises(UserError, match=r"00002.shard: .* damaged; remove the file and run"):
        push_store(tmp_path / "store", ADDRESS, progress=False)
    assert not TargetStore.open(ADDRESS).complete


def test_push_to_a_web_server_raises(storage: Storage, finished: Path) -> None:
    with pytest.raises(UserError, match="http:// addresses are for reading only; choose s3://"):
        push_store(finished, f"{storage.url}/bucket/targets", progress=False)


def test_pull_into_the_folder_of_another_store_raises(pushed: Storage, tmp_path: Path) -> None:
    partial_store(tmp_path / "other")
    TargetStore.create(tmp_path / "store", **{**ARGUMENTS, "notes": {"teacher": "other"}})
    before = content(tmp_path / "store")
    with pytest.raises(UserError, match="holds another target store than s3://bucket/deep/targets; choose another"):
        pull_store(ADDRESS, tmp_path / "store", progress=False)
    assert content(tmp_path / "store") == before
    (tmp_path / "file").mkdir()
    (tmp_path / "file/text").write_text("mine")
    with pytest.raises(UserError, match="the target store already exists; choose another name or remove it"):
        pull_store(ADDRESS, tmp_path / "file", progress=False)


def test_writing_to_a_store_at_an_address_raises(pushed: Storage) -> None:
    with (
        TargetStore.open(ADDRESS) as store,
        pytest.raises(UserError, match="cannot be written in place; build it in a folder and upload it"),
    ):
        next(store.missing())


def test_push_and_pull_with_paths_the_wrong_way_round_raise(
    pushed: Storage, finished: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="expected the folder of a target store, got an address"):
        push_store(ADDRESS, ADDRESS)
    with pytest.raises(UserError, match="expected an address such as s3://bucket/targets, got a path"):
        push_store(finished, str(tmp_path / "x"))
    with pytest.raises(UserError, match="expected an address such as s3://bucket/targets, got a path"):
        pull_store(str(finished), tmp_path / "x")
