"""Target stores after power cuts and on full disks: committed maps are kept and the next run resumes."""

import errno
import os
import resource
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from helpers.disk import Disk, PowerCutError
from helpers.places import REPOSITORY
from helpers.stores import EVERYTHING, assert_readable, content
from helpers.writer_process import ARGUMENTS, fill

from distill.errors import UserError
from distill.targets.store import TargetStore

TINY = {**ARGUMENTS, "videos": {"a": range(4)}, "views": ("plain",), "batch_size": 2, "batches_per_shard": 2}


# -- power cuts


def test_torn_or_zeroed_tail_is_not_read_and_rewritten(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda file: None)  # slow, and the disk is not tested
    with TargetStore.create(tmp_path / "whole", **TINY) as store:
        part = store.path / "shards" / "00000.part"
        fill(store, batches=0)
        sizes = [part.stat().st_size]
        store.close()
        fill(store, batches=1)
        sizes.append(part.stat().st_size)
        images = [part.read_bytes()]
        store.close()
        fill(store)
    final = content(tmp_path / "whole")
    whole = final["shards/00000.shard"]
    assert images[0] == whole[: sizes[1]]
    for cut in range(0, len(whole), 2):
        zeros = (0, len(whole) - cut, len(whole) + 100 - cut)[
            cut % 3
        ]  # torn, zeroed, or longer than the finished file
        path = tmp_path / "torn"
        (path / "shards").mkdir(parents=True)
        (path / "store.json").write_bytes(final["store.json"])
        image = whole[:cut] + bytes(zeros)
        if cut < sizes[0]:  # the header is fsynced before anything is written after it
            image = image[: sizes[0]]
        (path / "shards" / "00000.part").write_bytes(image)
        store = TargetStore.open(path)
        there = store.count_committed()
        second = store.plan[1]
        if image != whole:
            assert there == (0 if cut < sizes[1] else 2 if not store.has("a", 3) else 4)
            assert there < 4 or cut > sizes[1] + 8
        assert_readable(store, [("a", frame, "plain") for frame in range(there)])
        for frame in second.frames[there // 2 * 2 :]:
            with pytest.raises(UserError, match="not written yet"):
                store.read("a", frame)
        fill(store)
        store.close()
        assert content(path) == final
        shutil.rmtree(path)


def written_until(disk: Disk, path: Path) -> list[tuple[str, int, str]]:
    """Write a store until it is full or the power is cut; return the maps whose commit returned."""
    promised: list[tuple[str, int, str]] = []

    def report(index: int) -> None:
        batch = store.plan[index]
        promised.extend((batch.video, frame, batch.view) for frame in batch.frames)

    with suppress(PowerCutError), TargetStore.open(path) as store:
        fill(store, report=report)
    return promised


def lose_power(tmp_path: Path, monkeypatch, finished: Path, cut_at: int, seed: int) -> int:
    """Cut the power at one call, then twice more; return the number of maps left after the first cut."""
    path, promised, left = tmp_path / f"{cut_at}", set(), []
    for attempt in range(3):
        with monkeypatch.context() as patch:
            disk = Disk(
                patch, cut_at if attempt == 0 else cut_at // 2 + 4, seed=1000 * seed + 10 * cut_at + attempt
            )
            if attempt == 0:
                TargetStore.create(path, **ARGUMENTS)
            else:
                disk.remember_all(path)
            promised |= set(written_until(disk, path))
        restored = tmp_path / f"{cut_at}.{attempt}"
        disk.after_power_cut(path, restored)
        shutil.rmtree(path)
        path = restored
        store = TargetStore.open(path)
        there = [key for key in EVERYTHING if store.has(*key)]
        assert promised <= set(there), "committed maps are lost"
        assert_readable(store, there)
        store.close()
        left.append(len(there))
    with monkeypatch.context() as patch, TargetStore.open(path) as store:
        patch.setattr(os, "fsync", lambda file: None)
        fill(store)
    assert content(path) == content(finished)
    shutil.rmtree(path)
    return left[0]


@pytest.mark.parametrize(
    ("seed", "step"), [(0, 6), *(pytest.param(seed, 1, marks=pytest.mark.slow) for seed in range(1, 5))]
)
def test_power_cut_at_any_call_keeps_committed_maps(tmp_path, monkeypatch, finished, seed, step):
    with monkeypatch.context() as patch:
        disk = Disk(patch, None)
        written_until(disk, TargetStore.create(tmp_path / "straight", **ARGUMENTS).path)
    assert content(tmp_path / "straight") == content(finished)
    cuts = range(4, disk.calls, step)  # the first four calls create the store
    left = [lose_power(tmp_path, monkeypatch, finished, cut_at, seed) for cut_at in cuts]
    assert len(set(left)) > 3  # early and late


# -- concurrent creation, and limited file systems


def test_write_on_a_file_system_without_locks_raises(store, monkeypatch):
    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("portalocker.portalocker.LOCKER", flock)
    with pytest.raises(UserError, match=r"cannot lock files \(No locks available\)"):
        fill(store)


def test_concurrent_create_raises_and_keeps_the_first_store(tmp_path, monkeypatch):
    """The second process checked before the first created the store; it must not replace it."""
    first = TargetStore.create(tmp_path / "store", **ARGUMENTS)
    monkeypatch.setattr("distill.targets.store.refuse_existing", lambda *_, **__: None)
    with pytest.raises(UserError, match="another process has just created a target store"):
        TargetStore.create(tmp_path / "store", **{**ARGUMENTS, "notes": {"teacher": "elsewhere"}})
    assert TargetStore.open(tmp_path / "store").digest == first.digest
    assert [path.name for path in (tmp_path / "store").iterdir()] == ["store.json"]


def test_create_works_without_hard_links(tmp_path, monkeypatch):
    def link(*_):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    store = TargetStore.create(tmp_path / "store", **ARGUMENTS)
    monkeypatch.setattr("distill.targets.store.refuse_existing", lambda *_, **__: None)
    with pytest.raises(UserError, match="another process has just created"):
        TargetStore.create(store.path, **ARGUMENTS)
    assert [path.name for path in store.path.iterdir()] == ["store.json"]


# -- a full disk


@pytest.mark.parametrize("call", ["pwrite", "fsync"])
def test_full_disk_raises_and_the_next_run_resumes(store, finished, monkeypatch, call):
    real = {name: getattr(os, name) for name in ("pwrite", "fsync")}
    errors = 0
    for failing in [0, 1, 2, 1, 0, 3, 4] * 5:
        calls = 0

        def full(*arguments, failing=failing):
            nonlocal calls
            calls += 1
            if calls > failing:
                if call == "pwrite":  # a full disk writes what still fits
                    real["pwrite"](arguments[0], arguments[1][: len(arguments[1]) // 2], arguments[2])
                raise OSError(errno.ENOSPC, "No space left on device")
            return real[call](*arguments)

        monkeypatch.setattr(os, call, full)
        with TargetStore.open(store.path) as writer:
            message = ""
            try:
                fill(writer, batches=2)
            except UserError as error:
                message = str(error)
        if calls > failing:
            errors += 1
            assert "no space left to write (No space left on device); committed maps are kept" in message
        else:
            assert message == ""
        monkeypatch.setattr(os, call, real[call])
        reader = TargetStore.open(store.path)
        assert_readable(reader, [key for key in EVERYTHING if reader.has(*key)])
        reader.close()
    assert errors >= 8
    assert reader.count_committed() > 0
    with TargetStore.open(store.path) as writer:
        fill(writer)
    assert content(store.path) == content(finished)


def test_file_size_limit_raises_and_the_next_run_resumes(store, finished):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400, hard))
    try:
        with pytest.raises(UserError, match="no space left to write"):
            fill(store)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert 0 < store.count_committed() < 10
    store.close()
    fill(store)
    assert content(store.path) == content(finished)


def test_create_on_a_full_disk_raises_and_can_be_repeated(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(UserError, match="no space left"):
        patch.setattr(os, "fsync", full)
        TargetStore.create(tmp_path / "store", **ARGUMENTS)
    TargetStore.create(tmp_path / "store", **ARGUMENTS)


ON_A_SMALL_FILE_SYSTEM = """
import os, subprocess, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from helpers import writer_process
from helpers.writer_process import ARGUMENTS, fill
from distill.errors import UserError
from distill.targets.store import TargetStore
place = sys.argv[1]
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", place], check=True)
writer_process.SIZE = (48, 64)
store = TargetStore.create(Path(place) / "store", **{**ARGUMENTS, "map_size": (48, 64), "codec": "exact"})
try:
    fill(store)
except UserError as error:
    print(error)
store.close()
print("damage", store.damage())
read = [store.read(video, frame, view) for video, frames in ARGUMENTS["videos"].items()
        for view in ARGUMENTS["views"] for frame in frames if store.has(video, frame, view)]
print("read", len(read), store.count_committed())
subprocess.run(["mount", "-o", "remount,size=4m", place], check=True)
print("then", fill(store) > 0, store.complete, store.damage())
"""


def test_real_full_file_system_keeps_committed_maps(tmp_path):
    """Mount 64 KiB in a mount namespace that ends with the process."""
    alone = ["unshare", "--mount"]
    if os.geteuid() or shutil.which("unshare") is None or subprocess.run([*alone, "true"], check=False).returncode:
        pytest.skip("mounting a small file system needs root")
    done = subprocess.run(
        [*alone, sys.executable, "-c", ON_A_SMALL_FILE_SYSTEM, str(tmp_path), str(REPOSITORY / "tests")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    message, damage, read, then = done.stdout.splitlines()
    assert "no space left to write (No space left on device); committed maps are kept" in message
    assert damage == "damage []"
    _, maps, committed = read.split()
    assert 0 < int(maps) == int(committed) < len(EVERYTHING)
    assert then == "then True True []"
