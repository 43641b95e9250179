"""The cache of file inspections: validity, expiry, damaged and unwritable cache files."""

import json
import os
import time

import pytest

from distill.data.video import guard, probe_cache
from distill.data.video.probe import probe, state_of
from distill.data.video.probe_cache import PROBE_CACHE, Inspection, inspect_all
from distill.errors import UserError
from distill.file_cache import cache_folder


@pytest.fixture(autouse=True)
def cache(empty_cache):
    return empty_cache


@pytest.fixture
def new_process(monkeypatch):
    """Forget what this process has cached in memory."""
    return lambda: monkeypatch.setattr(PROBE_CACHE, "_folders", {})


def inspection(path, expression="1", *, state=0, kind="sum", **arguments):
    return Inspection(kind, path, state, [(eval, (expression,))], **arguments)


def files(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return [folder / name for name in names]


def test_inspect_all_returns_results_in_order_and_caches_them(tmp_path, guarded_calls, new_process):
    inspections = [inspection(path, f"{n} * 2") for n, path in enumerate(files(tmp_path, "a", "b", "c d"))]
    assert inspect_all(inspections) == [0, 2, 4]
    assert inspect_all(inspections[::-1]) == [4, 2, 0]
    new_process()
    assert inspect_all(inspections) == [0, 2, 4]
    assert guarded_calls == [3]


def test_another_state_kind_or_thoroughness_is_inspected_again(tmp_path, guarded_calls, new_process):
    (path,) = files(tmp_path, "a")
    assert inspect_all([inspection(path)]) == [1]
    assert inspect_all([inspection(path, "2", state=1)]) == [2]
    assert inspect_all([inspection(path, "3", state=1, kind="other")]) == [3]
    assert inspect_all([inspection(path, "4", state=1, thorough=True)]) == [4]
    new_process()
    assert inspect_all([inspection(path, "5", state=1)]) == [4]  # a thorough result serves both
    assert len(guarded_calls) == 4


def test_error_of_a_broken_file_is_cached_and_names_the_requested_path(
    tmp_path, guarded_calls, new_process, monkeypatch
):
    (path,) = files(tmp_path, "a.mp4")
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        with pytest.raises(UserError, match=r"^.*/a\.mp4: the file is empty; expected a video$"):
            probe(path)
        new_process()
    with pytest.raises(UserError, match=r"^a\.mp4: the file is empty"):
        probe("a.mp4")
    assert guarded_calls == [1]


def test_hanging_file_is_named_and_retried_after_a_day(tmp_path, guarded_calls, new_process, monkeypatch):
    monkeypatch.setattr(guard, "TIMEOUT", 0.3)
    (path,) = files(tmp_path, "a.avi")
    hanging = Inspection("video", path, 0, [(time.sleep, (60,))])
    for _ in range(2):
        (result,) = inspect_all([hanging])
        assert str(result).startswith(f"{path}: the decoder hung for 0.3 s and was killed; the file may be damaged")
        new_process()
    assert guarded_calls == [1]
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + probe_cache.RETRY_AFTER + 60)
    inspect_all([hanging])
    assert guarded_calls == [1, 1]


def test_next_call_is_tried_after_a_hang(tmp_path, guarded_calls, monkeypatch):
    monkeypatch.setattr(guard, "TIMEOUT", 0.3)
    first, second = files(tmp_path, "a.avi", "b.avi")
    calls = [(time.sleep, (60,)), (abs, (-5,))]
    assert inspect_all([Inspection("video", first, 0, calls), Inspection("video", second, 0, calls[1:])]) == [5, 5]
    assert guarded_calls == [2, 1]


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "\x00\xff",
        lambda text: "[]",
        lambda text: "{}",
        lambda text: text.replace('"entries": {', '"entries": [{') + "]",
        lambda text: json.dumps(json.loads(text) | {"entries": []}),
        lambda text: json.dumps(json.loads(text) | {"entries": {"sum a": 3}}),
        lambda text: json.dumps(json.loads(text) | {"entries": {"sum a": {"state": 0}}}),
        lambda text: json.dumps(json.loads(text) | {"made_by": "another version"}),
        lambda text: text.replace('"answer": 1', '"answer": "one"'),
    ],
)
def test_damaged_cache_file_is_ignored_and_replaced(tmp_path, cache, guarded_calls, new_process, damage):
    (path,) = files(tmp_path, "a")
    inspect_all([inspection(path, read=abs)])
    (file,) = cache.iterdir()
    file.write_text(damage(file.read_text()))
    for expression in ("2", "3"):
        new_process()
        assert inspect_all([inspection(path, expression, read=abs)]) == [2]
    assert guarded_calls == [1, 1]


def test_unwritable_cache_folder_is_ignored(tmp_path, cache, guarded_calls):
    cache.parent.rmdir()
    cache.parent.write_text("a file where the folder should be")
    (path,) = files(tmp_path, "a")
    assert inspect_all([inspection(path)]) == inspect_all([inspection(path)]) == [1]
    assert guarded_calls == [1]


def test_cache_folder_can_be_removed_at_any_time(tmp_path, cache, guarded_calls):
    first, second = files(tmp_path, "a", "b")
    inspect_all([inspection(first)])
    next(cache.iterdir()).unlink()
    cache.rmdir()
    assert inspect_all([inspection(first), inspection(second, "2")]) == [1, 2]
    assert guarded_calls == [1, 1]


def test_processes_merge_their_results_and_vanished_files_are_dropped(tmp_path, cache, new_process, monkeypatch):
    paths = files(tmp_path, "a", "b", "c", "d")
    inspect_all([inspection(paths[0])])
    mine = PROBE_CACHE._folders
    new_process()  # started before the first result was saved
    inspect_all([inspection(paths[1])])
    monkeypatch.setattr(PROBE_CACHE, "_folders", mine)
    inspect_all([inspection(paths[2])])
    (file,) = cache.iterdir()
    assert set(json.loads(file.read_text())["entries"]) == {"sum a", "sum b", "sum c"}
    paths[1].unlink()
    inspect_all([inspection(paths[3])])
    assert set(json.loads(file.read_text())["entries"]) == {"sum a", "sum c", "sum d"}


def test_all_videos_of_a_folder_share_one_cache_file(tmp_path, cache):
    names = [name for n in range(5) for name in (f"train/{n}/images", f"notes/{n}/fixations.json")]
    inspect_all([inspection(path) for path in files(tmp_path, *names)])
    assert len(list(cache.iterdir())) == 2


def test_unexpected_exception_breaks_only_its_file(tmp_path):
    first, second = files(tmp_path, "a", "b")
    broken, intact = inspect_all([inspection(first, "1 / 0"), inspection(second)])
    assert str(broken).startswith(f"{first}: the decoder failed (ZeroDivisionError")
    assert intact == 1


def test_results_before_an_interruption_are_saved(tmp_path, guarded_calls, new_process):
    paths = files(tmp_path, "a", "b")
    read = iter([None])

    def stop(result):
        if next(read, 0) is None:
            return result
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        inspect_all([inspection(path, read=stop) for path in paths])
    new_process()
    assert inspect_all([inspection(path) for path in paths]) == [1, 1]
    assert guarded_calls == [2]


def test_cache_folder_of_the_environment_or_of_the_user(tmp_path, cache, monkeypatch):
    assert cache_folder() == cache.parent
    monkeypatch.delenv("SALDISTILL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "saldistill"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "saldistill"


def test_state_of_a_file_shows_changes_with_the_same_size_and_time(tmp_path):
    path = tmp_path / "a"
    path.write_text("abc")
    before = state_of(path)
    status = path.stat()
    path.write_text("abd")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert state_of(path) != before
    assert state_of(path)[:2] == before[:2]
