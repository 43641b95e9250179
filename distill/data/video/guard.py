"""Work behind a guard: calls in processes of their own, which may hang or crash and take nothing with them.

A decoder can wait for ever in C, and while it holds Python's lock neither a thread nor a signal handler of ours
runs. So whatever may hang runs in another process, for which the kernel keeps the time: nothing heard of for a
while, and the process is ended. Each is a fresh interpreter: a fork would copy the locks of PyTorch's threads as
they happen to stand, and `multiprocessing` would run the script of a user without an `if __name__` a second time.
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
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.errors import UserError

LIMIT = 60.0
"""Seconds without news after which a call counts as hanging: a decoder gives a frame a second at least."""

EACH = 8
"""Short calls that are worth the start of one process more, which takes a third of a second."""

MOST = 16
"""Processes at most, however many cores there are."""

PATIENCE = 30.0
"""Seconds for which a process waits for more before it ends."""

WAKE = b"!"

Call = tuple[Callable[..., Any], tuple[Any, ...]]
"""A function that another process can import, and its arguments."""

START = "import sys; sys.path[:] = sys.argv[1:]; from distill.data.video.guard import serve; serve()"
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")

_limit = 0.0  # of the call at work, in a guarded process


@dataclass(frozen=True)
class NoAnswer:
    """What a call gives that gives no answer.

    Attributes:
        how: what happened, as a verb: `hung for 60 s and was ended`.
        died: its process hung or crashed, and did not merely raise an exception that nobody foresaw.
    """

    how: str
    died: bool


def guarded(calls: Sequence[Call], *, limit: float | None = None, each: int = EACH) -> Generator[tuple[int, Any]]:
    """Make calls in other processes, as many at once as there are cores.

    Leave the loop over it early only under `contextlib.closing`, which ends the processes.

    Args:
        calls: arguments and results are pickled. A function that works for long says `alive()` now and then.
        limit: seconds without news after which a call is ended; LIMIT when None.
        each: calls that are worth the start of one process more.

    Yields:
        (number of the call, its result) as they come; instead of a result the UserError that it raised, or a
        NoAnswer.

    Raises:
        RuntimeError: if the processes cannot start; they have written the reason to stderr.
    """
    limit = LIMIT if limit is None else limit
    waiting = deque(enumerate(calls))
    idle: list[_Process | None] = [None] * min(cores(), MOST, -(-len(calls) // each))  # started when needed
    if idle:
        idle[-1] = _spare.pop(os.getpid(), None)
    with selectors.DefaultSelector() as busy:
        try:
            while waiting or busy.get_map():
                while waiting and idle:
                    number, call = waiting.popleft()
                    process = _ready(idle.pop())
                    busy.register(process.answers, selectors.EVENT_READ, (number, process))
                    process.ask(call, limit)
                for key, _ in busy.select():
                    busy.unregister(key.fileobj)
                    number, process = key.data
                    result = process.answer(limit)
                    idle.append(process if process.alive else None)
                    yield number, result
        finally:
            for key in list(busy.get_map().values()):
                key.data[1].end()
            for process in filter(None, idle):
                _keep_spare(process)


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_spare: dict[int, "_Process"] = {}  # what the last calls of a process left, for its next ones; a fork has none


def _keep_spare(process: "_Process") -> None:
    _end_spare()
    _spare[os.getpid()] = process
    atexit.unregister(_end_spare)
    atexit.register(_end_spare)


def _end_spare() -> None:
    if (process := _spare.pop(os.getpid(), None)) is not None:
        process.end()


def _ready(process: "_Process | None") -> "_Process":
    """Return a process that waits for a call: this one, unless it may just be ending after a long wait."""
    if process is not None and process.alive and time.monotonic() - process.used < PATIENCE / 2:
        return process
    if process is not None:
        process.end()
    return _Process()


class _Process:
    """A fresh interpreter that makes calls, seen from the process that asks."""

    def __init__(self) -> None:
        self.used = time.monotonic()
        self._process = subprocess.Popen(
            [sys.executable, "-c", START, *sys.path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | ONE_THREAD,
            process_group=0,  # so that Ctrl-C reaches only the process that asks, which ends this one
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests, self.answers = self._process.stdin, self._process.stdout

    def ask(self, call: Call, limit: float) -> None:
        with suppress(BrokenPipeError):  # it is gone, as `answer` finds
            self._requests.write(WAKE + pickle.dumps((limit, Path.cwd(), sys.path)) + pickle.dumps(call))
            self._requests.flush()

    def answer(self, limit: float) -> Any:
        self.used = time.monotonic()
        try:
            return pickle.load(self.answers)
        except (EOFError, pickle.UnpicklingError):
            code = self._process.wait()
            self.end()
        if code > 0:
            raise RuntimeError(f"a process of {sys.executable} that imports {__name__} ended with exit code {code}")
        crashed = f"crashed ({signal.strsignal(-code)})"
        return NoAnswer(f"hung for {limit:g} s and was ended" if -code == signal.SIGALRM else crashed, died=True)

    @property
    def alive(self) -> bool:
        return self._process.returncode is None

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        self.answers.close()
        with suppress(BrokenPipeError):  # of a request that nobody has read
            self._requests.close()


def serve() -> None:
    """Answer requests from standard input until it ends: what a guarded process does."""
    global _limit
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)  # what libraries print would stand among the answers, or in a progress bar
    os.dup2(nowhere, 2)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # the kernel ends the process, whatever holds Python's lock
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
    while True:
        signal.setitimer(signal.ITIMER_REAL, PATIENCE)
        if requests.read(1) != WAKE:  # nobody will ask any more
            return
        signal.setitimer(signal.ITIMER_REAL, 0)
        _limit, folder, sys.path[:] = pickle.load(requests)
        os.chdir(folder)  # what paths are relative to
        function, arguments = pickle.load(requests)  # imports what the function needs
        alive()
        try:
            result = function(*arguments)
        except UserError as error:
            result = error
        except Exception as error:
            result = NoAnswer(f"failed ({type(error).__name__}: {error})", died=False)
        _limit = 0.0
        signal.setitimer(signal.ITIMER_REAL, 0)
        pickle.dump(result, answers)
        answers.flush()


def alive() -> None:
    """Say that the work goes on: the time without news counts from here. Outside of a guarded process, nothing."""
    if _limit:
        signal.setitimer(signal.ITIMER_REAL, _limit)
