"""Calls in guarded processes: whatever happens to them, the process that asks goes on."""

import os
import pickle
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from distill.data.video import guard
from distill.data.video.guard import NoAnswer, guarded
from distill.errors import UserError

HOLD_THE_LOCK = "__import__('ctypes').PyDLL(None).sleep(60)"
"""Sleeps in C without letting go of Python's lock: no thread and no signal handler runs meanwhile."""


def answers(*calls, limit=None):
    return [result for _, result in sorted(guarded(calls, limit=limit), key=lambda pair: pair[0])]


def run(script, tmp_path, **arguments):
    """Start a user's plain script, without `if __name__ == "__main__"`."""
    path = tmp_path / "script.py"
    path.write_text(textwrap.dedent(script))
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, str(path)], **streams, **arguments)


def test_every_call_is_answered_under_its_number():
    assert answers(*[(abs, (-n,)) for n in range(40)]) == list(range(40))
    assert answers() == []


@pytest.mark.parametrize("call", [(time.sleep, (60,)), (eval, (HOLD_THE_LOCK,))])
def test_what_hangs_is_ended_and_the_others_are_answered(call):
    start = time.monotonic()
    assert answers((abs, (-1,)), call, (abs, (-2,)), limit=0.4) == [
        1,
        NoAnswer("hung for 0.4 s and was ended", died=True),
        2,
    ]
    assert time.monotonic() - start < 10  # a minute of sleep was not slept


def test_a_crash_is_an_answer_too():
    found = answers((exec, ("import os; os.kill(os.getpid(), 11)",)), (os.abort, ()), (abs, (-2,)))
    assert [getattr(each, "how", each) for each in found] == [
        "crashed (Segmentation fault)",
        "crashed (Aborted)",
        2,
    ]


def test_exceptions_come_back_and_the_process_lives():
    empty = "__import__('distill.errors').errors.UserError('the file is empty')"
    before, user_error, other, after = answers(
        (os.getpid, ()), (exec, (f"raise {empty}",)), (int, ("x",)), (os.getpid, ())
    )
    assert isinstance(user_error, UserError)
    assert str(user_error) == "the file is empty"
    assert other.how.startswith("failed (ValueError: invalid literal")
    assert not other.died
    assert before == after != os.getpid()


def test_who_says_that_it_is_alive_may_take_longer_than_the_limit():
    work = "import time\nfrom distill.data.video.guard import alive\nfor _ in range(10): {}; time.sleep(0.1)"
    assert answers((exec, (work.format("alive()"),)), limit=0.6) == [None]
    assert answers((exec, (work.format("pass"),)), limit=0.6)[0].died
    guard.alive()  # and sets no clock here
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_guarded_processes_do_not_import_pytorch():
    modules = (
        "distill.data.video.examine",
        "distill.data.video.frames",
        "distill.data.truth_check",
        "distill.data.video",
    )
    imports = "\n".join(f"import {name}" for name in modules)
    loaded = "'torch' in __import__('sys').modules"
    assert answers((exec, (imports,)), (eval, (loaded,))) == [None, False]


def test_one_process_waits_for_the_next_calls_but_not_for_long(monkeypatch):
    (first,), (second,) = answers((os.getpid, ())), answers((os.getpid, ()))
    assert first == second
    monkeypatch.setattr(guard, "PATIENCE", 0.0)
    (third,) = answers((os.getpid, ()))
    assert third != second


def test_a_waiting_process_ends_by_itself():
    assert answers((exec, ("import distill.data.video.guard; distill.data.video.guard.PATIENCE = 0.2",))) == [None]
    process = guard._spare[os.getpid()]._process
    assert process.wait(timeout=10) == -signal.SIGALRM


def test_paths_are_relative_to_where_the_call_is_made(tmp_path, monkeypatch):
    answers((abs, (1,)))  # a process that was started elsewhere
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fresh_module.py").write_text("def word():\n    return 'found'\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import fresh_module

    assert answers((os.getcwd, ()), (fresh_module.word, ())) == [str(tmp_path), "found"]


def test_processes_that_cannot_start_are_an_error_of_ours(monkeypatch):
    monkeypatch.setattr(guard, "START", "raise SystemExit(3)")
    guard._end_spare()
    with pytest.raises(RuntimeError, match="ended with exit code 3"):
        answers((abs, (1,)))


def test_leaving_the_loop_early_ends_the_processes():
    guard._end_spare()
    calls = guarded([(os.getpid, ()), *[(time.sleep, (60,))] * 20])
    _, pid = next(calls)
    assert pid in [child.pid for child in psutil.Process().children()]
    calls.close()
    running = [child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]
    left = [child.pid for child in running if child.cmdline()[1:3] == ["-c", guard.START]]
    assert set(left) <= {pid}  # it has nothing to do and waits


def test_from_a_plain_script_and_from_its_fork(tmp_path):
    script = """
    import os
    from distill.data.video.guard import guarded
    print("once", [result for _, result in guarded([(abs, (-7,))])], flush=True)
    child = os.fork()
    print("in each", [result for _, result in guarded([(abs, (-8,))])], flush=True)
    if child:
        print("the fork ended with", os.waitpid(child, 0)[1], flush=True)
    """
    process = run(script, tmp_path)
    out, errors = process.communicate(timeout=60)
    assert sorted(out.splitlines()) == ["in each [8]", "in each [8]", "once [7]", "the fork ended with 0"]
    assert errors == ""


def test_ctrl_c_ends_everything(tmp_path):
    script = """
    import os, time
    from distill.data.video.guard import guarded
    for number, result in guarded([(os.getpid, ()), (time.sleep, (60,))]):
        print(result, flush=True)
    """
    process = run(script, tmp_path, process_group=0)
    guarded_process = int(process.stdout.readline())
    time.sleep(0.3)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, errors = process.communicate(timeout=10)
    assert "KeyboardInterrupt" in errors
    assert errors.count("Traceback") == 1
    with pytest.raises(ProcessLookupError):
        os.kill(guarded_process, 0)


def test_requests_and_answers_survive_pickling():
    """Both ends of the pipe speak pickle: what is sent is what arrives."""
    payload = {"path": Path("a b"), "numbers": list(range(50_000))}
    assert answers((pickle.loads, (pickle.dumps(payload),))) == [payload]
