"""Calls in a fresh Python process, and how much memory their work needs there."""

import json
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil

from distill.memory import peak_memory_mib

PROGRAM = (
    "import json, pickle, sys; run, arguments = pickle.load(sys.stdin.buffer); print(json.dumps(run(*arguments)))"
)


def run_fresh(
    function: Callable[..., Any], *arguments: object, env: Mapping[str, str] | None = None, quiet: bool = False
) -> Any:
    """Call a module-level function in a fresh process and return its result.

    Args:
        function: returns plain JSON values; standard error is passed through.
        arguments: its arguments, which must be picklable.
        env: environment variables to set in the process.
        quiet: do not pass standard error through; its last line is the error's message.

    Raises:
        RuntimeError: the process failed.
    """
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=pickle.dumps((function, arguments)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE if quiet else None,
        env={**os.environ, **(env or {}), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        check=False,
    )
    if done.returncode < 0 and quiet:
        raise RuntimeError(f"crashed ({signal.strsignal(-done.returncode)})")
    if done.returncode != 0 and quiet:
        raise RuntimeError((done.stderr.decode(errors="replace").strip().splitlines() or ["failed"])[-1])
    if done.returncode != 0:
        raise RuntimeError(f"{function.__name__}{arguments}: failed in a fresh process; see its traceback above")
    return json.loads(done.stdout.splitlines()[-1])


def memory_growth(prepare: Callable[..., Callable[[], object]], *arguments: object) -> float:
    """Return the megabytes by which work raises the peak resident memory of a fresh process.

    Args:
        prepare: module-level function that returns the work. Its own memory and its imports are not counted.
        arguments: its arguments, which must be picklable.

    Raises:
        RuntimeError: the process failed.
    """
    return float(run_fresh(_measure_growth, prepare, *arguments))


def _measure_growth(prepare: Callable[..., Callable[[], object]], *arguments: object) -> float:
    work = prepare(*arguments)
    before = psutil.Process().memory_info().rss
    work()
    return (peak_resident() - before) / 1e6


def peak_resident() -> int:
    """Return the peak of this process's resident memory in bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # not getrusage: on Linux a process inherits that peak from its parent
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return int(peak_memory_mib() * 2**20)
