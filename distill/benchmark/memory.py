"""Memory of a piece of work: by how much a fresh process's peak of resident memory grows while it does it."""

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil

PROGRAM = "import json, sys; from distill.benchmark.memory import measure; print(measure(*json.loads(sys.argv[1])))"


def growth(prepare: Callable[..., Callable[[], object]], *arguments: str | int | None) -> float:
    """Return in MB how much memory a piece of work takes, beyond what is loaded before it begins.

    Args:
        prepare: a function of a module, which is called in the fresh process and returns the work; what it imports
            is not counted.
        arguments: for `prepare`.

    Raises:
        RuntimeError: if the process fails; it says how.
    """
    case = json.dumps([prepare.__module__, prepare.__name__, *arguments])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, case],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(place for place in sys.path if place)},
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"measuring the memory of {', '.join(map(str, arguments))} failed:\n{done.stderr}")
    return float(done.stdout.split()[-1])


def measure(module: str, prepare: str, *arguments: str | int | None) -> float:
    """What the fresh process does."""
    work = getattr(importlib.import_module(module), prepare)(*arguments)
    before = psutil.Process().memory_info().rss
    work()
    return (peak_resident() - before) / 1e6


def peak_resident() -> int:
    """Return the peak of this process's resident memory, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # not getrusage: on Linux a process inherits that peak from the one that started it
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
