"""What is remembered of files, for how long, and what becomes of a cache that is damaged or cannot be written."""

import json
import os
import time

import pytest

from distill.data.video import guard, known
from distill.data.video.known import Question, cache_folder, learn
from distill.data.video.probe import probe, state_of
from distill.errors import UserError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache folder and a memory of this test's own."""
    monkeypatch.setenv("SALDISTILL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(known.KNOWN, "_folders", {})
    return tmp_path / "cache" / "known"


def forget_in_this_process(monkeypatch):
    monkeypatch.setattr(known.KNOWN, "_folders", {})


def question(path, expression="1", *, state=0, **arguments):
    return Question("sum", path, state, [(eval, (expression,))], **arguments)


def files(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return [folder / name for name in names]


def test_answers_come_in_order_and_are_not_asked_twice(tmp_path, asked, monkeypatch):
    paths = files(tmp_path, "a", "b", "c d")
    questions = [question(path, f"{number} * 2") for number, path in enumerate(paths)]
    assert learn(questions) == [0, 2, 4]
    assert learn(questions[::-1]) == [4, 2, 0]
    forget_in_this_process(monkeypatch)
    assert learn(questions) == [0, 2, 4]
    assert asked == [3]


def test_a_changed_state_another_kind_and_a_thorough_look_are_asked_anew(tmp_path, asked, monkeypatch):
    (path,) = files(tmp_path, "a")
    assert learn([question(path)]) == [1]
    assert learn([question(path, "2", state=1)]) == [2]
    assert learn([Question("other", path, 1, [(eval, ("3",))])]) == [3]
    assert learn([question(path, "4", state=1, thorough=True)]) == [4]
    forget_in_this_process(monkeypatch)
    assert learn([question(path, "5", state=1)]) == [4]  # a thorough answer serves everybody
    assert len(asked) == 4


def test_broken_files_are_remembered_under_the_path_they_are_asked_by(tmp_path, asked, monkeypatch):
    (path,) = files(tmp_path, "a.mp4")
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        with pytest.raises(UserError, match=r"^.*/a\.mp4: the file is empty; expected a video$"):
            probe(path)
        forget_in_this_process(monkeypatch)
    with pytest.raises(UserError, match=r"^a\.mp4: the file is empty"):
        probe("a.mp4")
    assert asked == [1]


def test_what_hangs_is_named_and_left_alone_for_a_day(tmp_path, asked, monkeypatch):
    monkeypatch.setattr(guard, "LIMIT", 0.3)
    (path,) = files(tmp_path, "a.avi")
    hanging = Question("video", path, 0, [(time.sleep, (60,))])
    for _ in range(2):
        (answer,) = learn([hanging])
        assert str(answer).startswith(f"{path}: what reads it hung for 0.3 s and was ended; it may be damaged")
        forget_in_this_process(monkeypatch)
    assert asked == [1]
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + known.DAY + 60)
    learn([hanging])
    assert asked == [1, 1]


def test_after_a_hang_the_next_way_is_tried(tmp_path, asked, monkeypatch):
    monkeypatch.setattr(guard, "LIMIT", 0.3)
    first, second = files(tmp_path, "a.avi", "b.avi")
    calls = [(time.sleep, (60,)), (abs, (-5,))]
    assert learn([Question("video", first, 0, calls), Question("video", second, 0, calls[1:])]) == [5, 5]
    assert asked == [2, 1]


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
def test_a_damaged_cache_is_as_good_as_none(tmp_path, cache, asked, monkeypatch, damage):
    (path,) = files(tmp_path, "a")
    learn([question(path, read=abs)])
    (file,) = cache.iterdir()
    file.write_text(damage(file.read_text()))
    forget_in_this_process(monkeypatch)
    assert learn([question(path, "2", read=abs)]) == [2]
    forget_in_this_process(monkeypatch)
    assert learn([question(path, "3", read=abs)]) == [2]  # and is mended
    assert asked == [1, 1]


def test_a_cache_that_cannot_be_written_changes_nothing(tmp_path, cache, asked, monkeypatch):
    cache.parent.write_text("a file where the folder should be")
    (path,) = files(tmp_path, "a")
    assert learn([question(path)]) == [1]
    assert learn([question(path)]) == [1]
    assert asked == [1]


def test_the_cache_can_be_removed_at_any_time(tmp_path, cache, asked, monkeypatch):
    first, second = files(tmp_path, "a", "b")
    learn([question(first)])
    next(cache.iterdir()).unlink()
    cache.rmdir()
    assert learn([question(first), question(second, "2")]) == [1, 2]
    assert asked == [1, 1]


def test_processes_add_to_one_another_and_vanished_files_are_dropped(tmp_path, cache, asked, monkeypatch):
    paths = files(tmp_path, "a", "b", "c", "d")
    learn([question(paths[0])])
    mine = known.KNOWN._folders
    forget_in_this_process(monkeypatch)  # as another one, which started before, would not know
    learn([question(paths[1])])
    monkeypatch.setattr(known.KNOWN, "_folders", mine)
    learn([question(paths[2])])
    (file,) = cache.iterdir()
    assert set(json.loads(file.read_text())["entries"]) == {"sum a", "sum b", "sum c"}
    paths[1].unlink()
    learn([question(paths[3])])
    assert set(json.loads(file.read_text())["entries"]) == {"sum a", "sum c", "sum d"}


def test_one_file_a_folder_of_videos(tmp_path, cache):
    paths = files(
        tmp_path, *(f"train/{n}/images" for n in range(5)), *(f"notes/{n}/fixations.json" for n in range(5))
    )
    learn([question(path) for path in paths])
    assert len(list(cache.iterdir())) == 2


def test_a_call_that_fails_in_a_way_nobody_foresaw_breaks_that_file_alone(tmp_path):
    first, second = files(tmp_path, "a", "b")
    broken, whole = learn([question(first, "1 / 0"), question(second)])
    assert str(broken).startswith(f"{first}: what reads it failed (ZeroDivisionError")
    assert whole == 1


def test_what_was_learnt_before_an_interruption_is_kept(tmp_path, asked, monkeypatch):
    paths = files(tmp_path, "a", "b")
    read = iter([None])

    def stop(answer):
        if next(read, 0) is None:
            return answer
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learn([question(path, read=stop) for path in paths])
    forget_in_this_process(monkeypatch)
    assert learn([question(paths[0]), question(paths[1])]) == [1, 1]
    assert asked == [2]


def test_where_the_cache_is(tmp_path, monkeypatch):
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("SALDISTILL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "everybody"))
    assert cache_folder() == tmp_path / "everybody" / "saldistill"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "saldistill"


def test_the_state_of_a_file_shows_every_change(tmp_path):
    path = tmp_path / "a"
    path.write_text("abc")
    before = state_of(path)
    status = path.stat()
    path.write_text("abd")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # as a copy that keeps the times does
    assert state_of(path) != before
    assert state_of(path)[:2] == before[:2]
