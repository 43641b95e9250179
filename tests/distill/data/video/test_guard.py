"""Guarded subprocesses: hangs, crashes and interruptions do not affect the calling process."""

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
from distill.data.video.guard import CallFailure, call_guarded, guarded
from distill.data.video.open import open_video
from distill.errors import UserError

HOLD_THE_GIL = "__import__('ctypes').PyDLL(None).sleep(60)"
"""Sleeps in C without releasing the GIL, so that neither threads nor Python signal handlers run."""


def results(*calls, timeout=None):
    return [result for _, result in sorted(guarded(calls, timeout=timeout), key=lambda pair: pair[0])]


def run(script, tmp_path, **arguments):
    """Start a user's script without `if __name__ == "__main__"`."""
    path = tmp_path / "script.py"
    path.write_text(textwrap.dedent(script))
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, str(path)], **streams, **arguments)


def test_every_result_has_the_index_of_its_call():
    assert results(*[(abs, (-n,)) for n in range(40)]) == list(range(40))
    assert results() == []


@pytest.mark.parametrize("call", [(time.sleep, (60,)), (eval, (HOLD_THE_GIL,))])
def test_hanging_call_is_killed_and_the_others_return(call):
    start = time.monotonic()
    hung = CallFailure("hung for 0.4 s and was killed", died=True)
    assert results((abs, (-1,)), call, (abs, (-2,)), timeout=0.4) == [1, hung, 2]
    assert time.monotonic() - start < 10


def test_crash_is_a_call_failure():
    found = results((exec, ("import os; os.kill(os.getpid(), 11)",)), (os.abort, ()), (abs, (-2,)))
    assert [getattr(each, "how", each) for each in found] == [
        "crashed (Segmentation fault)",
        "crashed (Aborted)",
        2,
    ]


def test_exceptions_are_results_and_the_process_survives():
    empty = "__import__('distill.errors').errors.UserError('the file is empty')"
    before, user_error, other, after = results(
        (os.getpid, ()), (exec, (f"raise {empty}",)), (int, ("x",)), (os.getpid, ())
    )
    assert isinstance(user_error, UserError)
    assert str(user_error) == "the file is empty"
    assert other.how.startswith("failed (ValueError: invalid literal")
    assert not other.died
    assert before == after != os.getpid()


def test_heartbeat_extends_the_timeout():
    work = "import time\nfrom distill.data.video.guard import heartbeat\nfor _ in range(10): {}; time.sleep(0.1)"
    assert results((exec, (work.format("heartbeat()"),)), timeout=0.6) == [None]
    assert results((exec, (work.format("pass"),)), timeout=0.6)[0].died
    guard.heartbeat()  # does nothing outside a subprocess
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_guarded_subprocesses_do_not_import_pytorch():
    imports = "import distill.data.video.probe, distill.data.video.folder_probe, distill.data.truth_check"
    loaded = "'torch' in __import__('sys').modules"
    assert results((exec, (imports,)), (eval, (loaded,))) == [None, False]


def test_idle_process_is_reused_until_it_may_exit(monkeypatch):
    (first,), (second,) = results((os.getpid, ())), results((os.getpid, ()))
    assert first == second
    monkeypatch.setattr(guard, "IDLE_TIMEOUT", 0.0)
    (third,) = results((os.getpid, ()))
    assert third != second


def test_idle_process_exits_by_itself():
    setting = "import distill.data.video.guard; distill.data.video.guard.IDLE_TIMEOUT = 0.2"
    assert results((exec, (setting,))) == [None]
    process = guard._spare[os.getpid()]._process
    assert process.wait(timeout=10) == -signal.SIGALRM


def test_relative_paths_and_new_modules_are_those_of_the_caller(tmp_path, monkeypatch):
    results((abs, (1,)))  # starts a process in another folder
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fresh_module.py").write_text("def word():\n    return 'found'\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import fresh_module

    assert results((os.getcwd, ()), (fresh_module.word, ())) == [str(tmp_path), "found"]


def test_processes_that_cannot_start_raise_a_runtime_error(monkeypatch):
    monkeypatch.setattr(guard, "START", "raise SystemExit(3)")
    guard._kill_spare()
    with pytest.raises(RuntimeError, match="exited with code 3"):
        results((abs, (1,)))


def test_closing_the_generator_kills_the_processes():
    guard._kill_spare()
    calls = guarded([(os.getpid, ()), *[(time.sleep, (60,))] * 20])
    _, pid = next(calls)
    assert pid in [child.pid for child in psutil.Process().children()]
    calls.close()
    running = [child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]
    left = [child.pid for child in running if child.cmdline()[1:3] == ["-c", guard.START]]
    assert set(left) <= {pid}  # the idle one


def test_guarded_works_in_a_plain_script_and_in_its_fork(tmp_path):
    script = """
    import os
    from distill.data.video.guard import guarded
    print("once", [result for _, result in guarded([(abs, (-7,))])], flush=True)
    child = os.fork()
    print("in each", [result for _, result in guarded([(abs, (-8,))])], flush=True)
    if child:
        print("the fork ended with", os.waitpid(child, 0)[1], flush=True)
    """
    out, errors = run(script, tmp_path).communicate(timeout=60)
    assert sorted(out.splitlines()) == ["in each [8]", "in each [8]", "once [7]", "the fork ended with 0"]
    assert errors == ""


def test_ctrl_c_ends_all_processes(tmp_path):
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


def test_large_arguments_and_results_survive_pickling():
    payload = {"path": Path("a b"), "numbers": list(range(50_000))}
    assert results((pickle.loads, (pickle.dumps(payload),))) == [payload]


def test_call_guarded_returns_results_and_turns_crashes_into_one_sentence(tmp_path):
    path = tmp_path / "a.mat"
    assert call_guarded(path, "a MATLAB file", abs, -3) == 3
    with pytest.raises(
        UserError, match=r"a\.mat: cannot be read as a MATLAB file \(the reader crashed \(.*\)\); it may"
    ):
        call_guarded(path, "a MATLAB file", os.abort)
    with pytest.raises(UserError, match=r"the reader failed \(ValueError: .*\)"):
        call_guarded(path, "a MATLAB file", int, "x")
    with pytest.raises(UserError, match=r"gone: no such video"):
        call_guarded(path, "a MATLAB file", open_video, tmp_path / "gone")
