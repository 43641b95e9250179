import json
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest
from helpers.places import REPOSITORY
from helpers.stores import EVERYTHING, assert_readable, content, flip_byte, stored
from helpers.writer_process import ARGUMENTS, batch_maps, fill
from hypothesis import given
from hypothesis import strategies as st

from distill.errors import UserError
from distill.targets.plan import Plan
from distill.targets.store import TargetStore

# -- the plan

frames = st.one_of(
    st.builds(lambda first, count, step: range(first, first + count * step, step), *[st.integers(1, 20)] * 3),
    st.sets(st.integers(0, 60), min_size=1, max_size=20).map(sorted),
)


@given(
    st.lists(frames, min_size=1, max_size=4),
    st.sampled_from([("plain",), ("flipped",), ("plain", "flipped")]),
    st.integers(1, 7),
    st.integers(1, 4),
)
def test_plan_lists_and_locates_every_map_once(frames, views, batch_size, batches_per_shard):
    videos = {f"v{number}": each for number, each in enumerate(frames)}
    plan = Plan(videos, views=views, batch_size=batch_size, batches_per_shard=batches_per_shard)
    listed = [(batch.video, frame, batch.view) for batch in plan for frame in batch.frames]
    assert listed == [(video, f, view) for video in videos for view in views for f in videos[video]]
    assert plan.num_records == len(listed)
    assert max(len(batch.frames) for batch in plan) <= batch_size

    place = 0
    for shard in range(plan.num_shards):
        batches = [plan[index] for index in plan.batches_of(shard)]
        assert len(batches) == batches_per_shard or shard == plan.num_shards - 1
        keys = [(batch.video, frame, batch.view) for batch in batches for frame in batch.frames]
        assert plan.records_of(plan.batches_of(shard)) == len(keys)
        assert [plan.locate(*key) for key in keys] == [(shard, number) for number in range(len(keys))]
        assert listed[place : place + len(keys)] == keys
        place += len(keys)
    assert place == len(listed)
    again = Plan.from_json(json.loads(json.dumps(plan.to_json())))
    assert list(again) == list(plan)
    assert plan.locate("v0", 1000, views[0]) is None
    assert plan.locate("other", 0, views[0]) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"videos": {}}, "at least one video"),
        ({"videos": {"a": []}}, "video a: expected at least one frame"),
        ({"videos": {"a": [3, 3]}}, "ascending"),
        ({"videos": {"a": [-1, 3]}}, "ascending"),
        ({"views": ("mirrored",)}, "plain, flipped"),
        ({"views": ()}, "plain, flipped"),
        ({"batch_size": 0}, "at least 1"),
        ({"codec": "jpeg"}, "codec: expected one of log8, exact, half, got 'jpeg'"),
    ],
)
def test_create_with_invalid_settings_raises(tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        TargetStore.create(tmp_path / "store", **{**ARGUMENTS, **change})
    assert not (tmp_path / "store").exists()


# -- writing and reading


def test_committed_maps_are_readable_at_once_by_another_reader(store):
    reader = TargetStore.open(store.path)
    written = 0
    for batches in store.missing():
        for batch in batches:
            assert not reader.has(batch.video, batch.frames[0], batch.view)
            store.commit(batch, batch_maps(batch))
            written += len(batch.frames)
            assert reader.count_committed() == written
            assert_readable(reader, [(batch.video, frame, batch.view) for frame in batch.frames])
    assert store.complete
    assert reader.complete
    assert written == len(EVERYTHING) == reader.plan.num_records
    assert_readable(reader, EVERYTHING)
    assert reader.damage() == []
    assert list(store.missing()) == []
    assert reader.size_on_disk() == sum(map(len, content(store.path).values()))


def test_read_of_a_missing_map_raises(store):
    fill(store, batches=4)
    with pytest.raises(
        UserError, match=r"frame 1 \(plain\), is not written yet: the target store has 14 of 44 maps"
    ):
        store.read("c", 0)
    for key, message in [
        (("d", 0), "no video 'd'; the target store has a, b, c"),
        (("a", 10), "no frame 11 of a; the target store has 10 frames from 1 to 10"),
        (("b", 4), "no frame 5 of b"),
    ]:
        with pytest.raises(UserError, match=message):
            store.read(*key)
        assert not store.has(*key)
    assert not store.complete


def test_read_of_a_missing_view_raises(tmp_path):
    with TargetStore.create(tmp_path / "store", **{**ARGUMENTS, "views": ("plain",)}) as store:
        fill(store)
        with pytest.raises(UserError, match="no flipped view; the target store has plain"):
            store.read("a", 0, "flipped")


def test_commit_of_invalid_maps_raises_and_writes_nothing(store):
    batch = next(store.missing())[0]
    with pytest.raises(ValueError, match=r"expected maps of shape \(4, 6, 9\), got \(4, 6, 8\)"):
        store.commit(batch, batch_maps(batch)[..., :8])
    maps = batch_maps(batch)
    maps[2, 0, 0] = np.nan
    with pytest.raises(UserError, match="video a, frames 1 to 4: expected a map of finite values"):
        store.commit(batch, maps)
    assert store.count_committed() == 0
    store.commit(batch, batch_maps(batch))
    assert store.count_committed() == 4


def test_create_never_overwrites(store, tmp_path):
    with pytest.raises(UserError, match="already exists"):
        TargetStore.create(store.path, **ARGUMENTS)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("")
    with pytest.raises(UserError, match="already exists"):
        TargetStore.create(tmp_path / "other", **ARGUMENTS)
    (tmp_path / "other" / "thesis.tex").rename(tmp_path / "other" / ".store.01234567.tmp.json")
    TargetStore.create(tmp_path / "other", **ARGUMENTS)  # left by a killed process, and ignored
    with pytest.raises(UserError, match="not a target store"):
        TargetStore.open(tmp_path / "nowhere")


def test_store_is_readable_after_pickling(finished):
    store = TargetStore.open(finished)
    expected = store.read("b", 5, "flipped")
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(store)).read("b", 5, "flipped"), expected)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        np.testing.assert_array_equal(pool.apply(store.read, ("b", 5, "flipped")), expected)


def test_reader_keeps_a_bounded_number_of_files_open(tmp_path):
    arguments = {**ARGUMENTS, "batch_size": 1, "batches_per_shard": 1}
    with TargetStore.create(tmp_path / "store", **arguments) as store:
        fill(store)
    assert store.plan.num_shards == 44
    reader = TargetStore.open(store.path)
    assert_readable(reader, EVERYTHING + EVERYTHING[::-1])
    assert len(reader._reader._files) == 32


def test_moved_store_is_readable(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "moved")
    assert_readable(TargetStore.open(tmp_path / "moved"), EVERYTHING)


# -- fingerprint


def test_check_lists_all_differences(store):
    made = ARGUMENTS["fingerprint"]
    assert store.check(made) == []
    assert store.check({"videos": {"b": {"bytes": 1}}}) == []  # a run on some of the videos
    assert store.check({"teacher": {"weights": "4567"}, "videos": {"b": {"bytes": 2}}}) == [
        'teacher.weights was "0123" and is now "4567"',
        "videos.b.bytes was 1 and is now 2",
    ]
    assert store.check({"videos": {"d": {"bytes": 1}}, "input": {"stride": 1}}) == [
        "videos.d is not in the store",
        "input.stride is not in the store",
    ]
    with pytest.raises(UserError, match=r"does not match: videos.d is not in the store; rebuild it"):
        store.require({"videos": {"d": {}}}, "rebuild it")


# -- several processes


def test_two_processes_write_the_bytes_of_one(store, finished):
    script = REPOSITORY / "tests" / "helpers" / "writer_process.py"
    command = [sys.executable, str(script), str(store.path), "-1", "0", "0.02"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    batches = [process.communicate(timeout=60)[0].split("calls")[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert all(batches), "both wrote something"
    assert sorted(map(int, batches[0] + batches[1])) == list(range(len(store.plan)))
    assert content(store.path) == content(finished)


def test_claimed_shards_are_skipped_until_released(store, finished):
    with TargetStore.open(store.path) as other:
        mine = next(store.missing())
        theirs = [
            batch for batches in other.missing() for batch in batches if not other.commit(batch, batch_maps(batch))
        ]
        assert {batch.shard for batch in mine} == {0}
        assert {batch.shard for batch in theirs} == set(range(1, store.plan.num_shards))
        store.commit(mine[0], batch_maps(mine[0]))
        store.close()  # as when its process ends
        assert [batch.index for batch in next(other.missing())] == [1, 2]
        other.close()
        fill(other)
    assert content(store.path) == content(finished)


def test_stray_partial_file_of_a_sealed_shard_is_removed(store, finished):
    fill(store)
    stray = store.path / "shards" / "00002.part"
    stray.touch()  # as left by a process killed right after opening it
    assert TargetStore.open(store.path).complete
    assert list(TargetStore.open(store.path).missing()) == []
    assert content(store.path) == content(finished)


# -- damage


def test_any_flipped_byte_is_detected(tmp_path):
    arguments = {**ARGUMENTS, "videos": {"a": range(7)}, "views": ("plain",), "batch_size": 2}
    arguments.update(batches_per_shard=2)
    with TargetStore.create(tmp_path / "store", **arguments) as store:
        fill(store, batches=3)  # one full shard, one partial
    keys = [("a", frame, "plain") for frame in range(6)]
    assert store.damage() == []
    files = [path for path in store.path.rglob("*") if path.is_file()]
    assert sorted(path.suffix for path in files) == [".json", ".part", ".shard"]
    for path in files:
        good = path.read_bytes()
        for position in sorted({*range(0, len(good), 3), len(good) - 2, len(good) - 1}):
            bad = bytearray(good)
            bad[position] ^= 1 << (position % 8)
            path.write_bytes(bad)
            if path.suffix == ".json":
                with pytest.raises(UserError, match=r"store\.json"):
                    TargetStore.open(store.path)
            else:
                reader = TargetStore.open(store.path)
                (message,) = reader.damage()
                assert path.name in message
                for key in keys:  # a wrong map is never returned
                    try:
                        np.testing.assert_array_equal(reader.read(*key), stored(*key))
                    except UserError:
                        continue
                reader.close()
        path.write_bytes(good)
    assert TargetStore.open(store.path).damage() == []


def test_damaged_shard_is_recomputed_after_removal(finished, tmp_path):
    path = tmp_path / "store"
    shutil.copytree(finished, path)
    shard = path / "shards" / "00001.shard"
    flip_byte(shard, 100)
    with TargetStore.open(path) as store:
        (message,) = store.damage()
        assert "00001.shard: batch 1 of 3 is damaged" in message
        shard.unlink()
        assert not store.complete
        assert fill(store) == 3
    assert content(path) == content(finished)


def test_shard_of_another_store_is_rejected(finished, tmp_path):
    other = {**ARGUMENTS, "fingerprint": {"teacher": {"weights": "another"}}}
    with TargetStore.create(tmp_path / "store", **other) as store:
        (store.path / "shards").mkdir()
        shutil.copy(finished / "shards" / "00000.shard", store.path / "shards")
        with pytest.raises(UserError, match="belongs to another store"):
            store.read("a", 0)
        assert "belongs to another store" in store.damage()[0]
        shutil.copy(finished / "shards" / "00000.shard", store.path / "shards" / "00001.part")
        with pytest.raises(UserError, match="belongs to another target store"):
            fill(store)


# -- size


def test_large_plan_is_small_on_disk(tmp_path):
    arguments = {**ARGUMENTS, "videos": {f"{n:04d}": range(500) for n in range(700)}, "map_size": (8, 8)}
    arguments.update(views=("plain",), batch_size=8, batches_per_shard=64)
    store = TargetStore.create(tmp_path / "store", **arguments)
    assert (tmp_path / "store" / "store.json").stat().st_size < 2**18
    assert store.plan.num_records == 350_000
    assert len(store.plan) == 700 * 63
    assert store.plan.locate("0699", 499, "plain") == (689, 27)
