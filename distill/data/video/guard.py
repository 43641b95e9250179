"""Run functions in disposable subprocesses with a timeout, so that a hanging decoder cannot take the program down.

A decoder can hang in C while it holds the GIL, when neither threads nor Python signal handlers run. Each subprocess
therefore sets an alarm, and the kernel kills the process when it expires. Subprocesses are fresh interpreters: a
fork would copy locks held by PyTorch's threads, and `multiprocessing` would run a user's script again if it has no
`if __name__ == "__main__"`.
"""

import atexit
import os
import pickle
import selectors
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from distill.errors import UserError

T = TypeVar("T")

TIMEOUT = 60.0
"""Seconds without a heartbeat after which a call is killed; decoders take less than a second per frame."""

CALLS_PER_PROCESS = 8
"""Short calls that justify starting another process, which takes a third of a second."""

MAX_PROCESSES = 16

IDLE_TIMEOUT = 30.0
"""Seconds after which an idle process exits."""

WAKE = b"!"

Call = tuple[Callable[..., Any], tuple[Any, ...]]
"""An importable function and its arguments."""

START = "import sys; sys.path[:] = sys.argv[1:]; from distill.data.video.guard import serve; serve()"
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")

_timeout = 0.0  # of the current call, in a subprocess


@dataclass(frozen=True)
class CallFailure:
    """Result of a call that did not return.

    Attributes:
        how: a verb phrase for messages, e.g. `hung for 60 s and was killed`.
        died: the process hung or crashed; False for an unexpected exception.
    """

    how: str
    died: bool


def guarded(
    calls: Sequence[Call], *, timeout: float | None = None, per_process: int = CALLS_PER_PROCESS
) -> Generator[tuple[int, Any]]:
    """Make calls in subprocesses, in parallel on all cores.

    Wrap the generator in `contextlib.closing` if the loop may end early, so that the processes are killed.

    Args:
        calls: arguments and results are pickled. Functions that run long call `heartbeat` regularly.
        timeout: seconds without a heartbeat after which a call is killed; defaults to TIMEOUT.
        per_process: number of calls that justify starting another process.

    Yields:
        (index of the call, result) in order of completion. The result is the UserError that the call raised, or a
        CallFailure if it did not return.

    Raises:
        RuntimeError: if the processes cannot start; the reason is on stderr.
    """
    timeout = TIMEOUT if timeout is None else timeout
    waiting = deque(enumerate(calls))
    idle: list[_Process | None] = [None] * min(cores(), MAX_PROCESSES, -(-len(calls) // per_process))
    if idle:  # None: started when needed
        idle[-1] = _spare.pop(os.getpid(), None)
    with selectors.DefaultSelector() as busy:
        try:
            while waiting or busy.get_map():
                while waiting and idle:
                    number, call = waiting.popleft()
                    process = _ready(idle.pop())
                    busy.register(process.results, selectors.EVENT_READ, (number, process))
                    process.send(call, timeout)
                for key, _ in busy.select():
                    busy.unregister(key.fileobj)
                    number, process = key.data
                    result = process.receive(timeout)
                    idle.append(process if process.alive else None)
                    yield number, result
        finally:
            for key in list(busy.get_map().values()):
                key.data[1].kill()
            for process in filter(None, idle):
                _keep_spare(process)


def call_guarded(path: Path, what: str, function: Callable[..., T], *arguments: Any) -> T:
    """Return the result of a call in a subprocess that may crash; in a guarded subprocess, call it directly.

    Args:
        path: the file that it reads, for messages.
        what: the file's format, with its article.
        function: as for `guarded`.
        arguments: its arguments.

    Raises:
        UserError: that the call raised, or because it did not return.
    """
    if _timeout:
        return function(*arguments)
    with closing(guarded([(function, arguments)])) as done:
        ((_, result),) = done
    if isinstance(result, CallFailure):
        raise UserError(f"{path}: cannot be read as {what} (the reader {result.how}); it may be damaged")
    if isinstance(result, UserError):
        raise result
    returned: T = result
    return returned


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_spare: dict[int, "_Process"] = {}  # process id -> the subprocess kept for the next calls; empty in a fork


def _keep_spare(process: "_Process") -> None:
    _kill_spare()
    _spare[os.getpid()] = process
    atexit.unregister(_kill_spare)
    atexit.register(_kill_spare)


def _kill_spare() -> None:
    if (process := _spare.pop(os.getpid(), None)) is not None:
        process.kill()


def _ready(process: "_Process | None") -> "_Process":
    """Return an idle process: the given one, unless it may be about to exit."""
    if process is not None and process.alive and time.monotonic() - process.used < IDLE_TIMEOUT / 2:
        return process
    if process is not None:
        process.kill()
    return _Process()


class _Process:
    """A fresh interpreter that executes calls."""

    def __init__(self) -> None:
        self.used = time.monotonic()
        self._process = subprocess.Popen(
            [sys.executable, "-c", START, *sys.path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | ONE_THREAD,
            process_group=0,  # Ctrl-C reaches only the parent, which kills this process
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests, self.results = self._process.stdin, self._process.stdout

    def send(self, call: Call, timeout: float) -> None:
        with suppress(BrokenPipeError):  # the process has died; `receive` reports it
            state = (timeout, Path.cwd(), sys.path, dict(os.environ | ONE_THREAD))
            self._requests.write(WAKE + pickle.dumps(state) + pickle.dumps(call))
            self._requests.flush()

    def receive(self, timeout: float) -> Any:
        self.used = time.monotonic()
        try:
            return pickle.load(self.results)
        except (EOFError, pickle.UnpicklingError):
            code = self._process.wait()
            self.kill()
        if code > 0:
            raise RuntimeError(f"a subprocess of {sys.executable} that imports {__name__} exited with code {code}")
        crashed = f"crashed ({signal.strsignal(-code)})"
        return CallFailure(
            f"hung for {timeout:g} s and was killed" if -code == signal.SIGALRM else crashed, died=True
        )

    @property
    def alive(self) -> bool:
        return self._process.returncode is None

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self.results.close()
        with suppress(BrokenPipeError):  # an unread request
            self._requests.close()


def serve() -> None:
    """Execute calls from standard input until it is closed; the main function of a subprocess."""
    global _timeout
    requests, results = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)  # libraries must print neither between the results nor into a progress bar
    os.dup2(null, 2)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # the kernel kills the process even if the GIL is held
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
    while True:
        signal.setitimer(signal.ITIMER_REAL, IDLE_TIMEOUT)
        if requests.read(1) != WAKE:
            return
        signal.setitimer(signal.ITIMER_REAL, 0)
        _timeout, folder, sys.path[:], environment = pickle.load(requests)
        if environment != os.environ:  # it may name another cache folder since
            os.environ.clear()
            os.environ.update(environment)
        os.chdir(folder)  # for relative paths
        function, arguments = pickle.load(requests)  # imports the function's module
        heartbeat()
        try:
            result = function(*arguments)
        except UserError as error:
            result = error
        except Exception as error:
            result = CallFailure(f"failed ({type(error).__name__}: {error})", died=False)
        _timeout = 0.0
        signal.setitimer(signal.ITIMER_REAL, 0)
        pickle.dump(result, results)
        results.flush()


def heartbeat() -> None:
    """Restart the timeout of the current call. Does nothing outside a guarded subprocess."""
    if _timeout:
        signal.setitimer(signal.ITIMER_REAL, _timeout)
