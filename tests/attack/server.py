"""Warm process that runs commands in forks, so that a case costs its work and not the import of PyTorch.

    python server.py

Reads requests from standard input and writes results to standard output, one JSON object per line:

    {"id": 1, "program": "saldistill", "argv": [...], "folder": "...", "environment": {...}, "seconds": 30,
     "memory": 2000000000, "file_size": null, "disk": null}  starts a command; harness.py describes the fields
    {"id": 1, "signal": 9}                                   signals a running command
    {"id": 1, "code": 2, "seconds": 0.4, "cpu": 0.3, "memory": 4e8, "ended": "itself" | "time" | "memory"}

A command is its own session. At its end, threads are joined and exit handlers run.
"""

import atexit
import ctypes
import importlib
import json
import os
import pkgutil
import resource
import select
import signal
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

PACKAGES = ("distill", "teacher", "student")
LIBRARIES = (
    "av", "h5py", "onnx", "onnxruntime", "onnxscript", "PIL.Image", "safetensors.torch", "scipy.io", "torch.onnx",
    "torch.export", "torchvision", "yaml",
)  # fmt: skip
CLONE_NEWNS, MS_REC, MS_PRIVATE = 0x20000, 0x4000, 0x40000
POLL = 0.02
"""Seconds between two looks at the running commands."""

SPARE = 16e9
"""Bytes of data that a command may allocate before its allocations fail: it is killed long before."""


@dataclass
class Job:
    """A running command; `ended` says whether it was killed for its time or its memory."""

    request: dict[str, Any]
    started: float
    memory: float = 0.0
    ended: str = "itself"


def preload() -> None:
    """Import what commands import."""
    for name in LIBRARIES:
        importlib.import_module(name)
    for package in PACKAGES:
        for found in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
            with suppress(ImportError):  # an optional reader or runtime
                importlib.import_module(found.name)


def serve(requests: int, results: int) -> dict[str, Any] | None:
    """Start and watch commands until the requests end; return a request in the process that is to run it."""
    jobs: dict[int, Job] = {}
    unread = b""
    while True:
        if select.select([requests], [], [], POLL if jobs else None)[0]:
            received = os.read(requests, 1 << 20)
            if not received:
                for pid in jobs:
                    kill_session(pid)
                return None
            *lines, unread = (unread + received).split(b"\n")
            for request in map(json.loads, lines):
                if "signal" in request:
                    for pid, job in jobs.items():
                        if job.request["id"] == request["id"]:
                            send_signal(pid, request["signal"])
                    continue
                pid = os.fork()
                if pid == 0:
                    return request
                jobs[pid] = Job(request, time.monotonic())
        for pid in list(jobs):
            result = watch(pid, jobs[pid])
            if result is not None:
                jobs.pop(pid)
                os.write(results, json.dumps(result).encode() + b"\n")


def watch(pid: int, job: Job) -> dict[str, Any] | None:
    """Kill a command that exceeds its time or memory; return its result once it has ended."""
    done, status, usage = os.wait4(pid, os.WNOHANG)
    seconds = time.monotonic() - job.started
    if done:
        kill_session(pid)  # workers that outlive it
        memory = max(job.memory, usage.ru_maxrss * 1024)
        if memory > job.request["memory"] and job.ended == "itself":
            job.ended = "memory"
        return {
            "id": job.request["id"],
            "code": os.waitstatus_to_exitcode(status),
            "seconds": seconds,
            "cpu": usage.ru_utime + usage.ru_stime,
            "memory": memory,
            "ended": job.ended,
        }
    job.memory = max([job.memory, *(resident(each) for each in members(pid))])
    if job.ended == "itself" and seconds > job.request["seconds"]:
        job.ended = "time"
    elif job.ended == "itself" and job.memory > job.request["memory"]:
        job.ended = "memory"
    if job.ended != "itself":
        kill_session(pid)
    return None


def members(session: int) -> list[int]:
    """Return the processes of a session."""
    found = []
    for place in Path("/proc").iterdir():
        with suppress(ProcessLookupError):
            if place.name.isdecimal() and os.getsid(int(place.name)) == session:
                found.append(int(place.name))
    return found


def resident(pid: int) -> float:
    """Return a process's resident memory in bytes; 0 if it has ended."""
    with suppress(OSError, ValueError, IndexError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()
    return 0.0


def kill_session(session: int) -> None:
    for pid in members(session):
        send_signal(pid, signal.SIGKILL)


def send_signal(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def run(request: dict[str, Any]) -> int:
    """Run a command in this process and return its exit code."""
    os.setsid()
    os.chdir(request["folder"])
    streams = [os.open(os.devnull, os.O_RDONLY)]
    streams += [os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_APPEND) for name in ("stdout", "stderr")]
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    os.closerange(3, 256)
    os.environ.update(request["environment"])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (int(SPARE), int(SPARE)))
    if request["disk"] is not None:
        mount(Path("disk"), request["disk"])
    if request["file_size"] is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["file_size"], request["file_size"]))
    sys.argv = [request["program"], *request["argv"]]
    module = importlib.import_module({"saldistill": "distill.cli.main", "edge": "student.edge"}[request["program"]])
    return module.main(request["argv"])


def mount(place: Path, size: int) -> None:
    """Mount an empty file system of a size in bytes, which only this process and its children see."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNS) or libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None):
        raise OSError(ctypes.get_errno(), "a mount namespace needs root")
    if libc.mount(b"none", os.fsencode(place), b"tmpfs", 0, f"size={size}".encode()):
        raise OSError(ctypes.get_errno(), "a small file system cannot be mounted")


def main() -> int:
    requests, results = os.dup(0), os.dup(1)
    os.dup2(2, 1)  # what libraries print while they are imported
    preload()
    os.write(results, b'{"id": 0}\n')
    request = serve(requests, results)
    if request is None:
        return 0
    code = 1
    try:
        code = run(request)
    except SystemExit as error:  # of argparse
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
    if request["disk"] is not None:
        left = sorted(str(path) for path in Path("disk").rglob("*"))
        Path(request["left"]).write_text(json.dumps(left))
    return end(code)


def end(code: int) -> NoReturn:
    """End as the interpreter does, but without the destructors of C++ libraries, which may crash in a fork."""
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    sys.exit(main())
