"""Which kernels a GPU runs, on which streams, and for how much of the time: PyTorch's profile of one piece of work.

On a CPU, the outermost operators of PyTorch stand for the kernels.
"""

import json
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from distill.benchmark.rows import wait

GROUPS = {
    "attention": ("flash", "fmha", "attention", "attn"),
    "compiled": ("triton_",),
    "convolution": ("conv", "fprop", "dgrad", "wgrad", "implicit", "cudnn"),
    "interpolation": ("upsample", "interpolate", "grid_sample"),
    "matrix product": ("gemm", "cublas", "cutlass", "nvjet", "linear", "matmul", "addmm", "::mm", "gemv", "splitk"),
    "normalisation": ("norm",),
    "copy": ("copy", "cat", "nchw", "nhwc", "transpose", "memcpy", "memset", "clone", "contiguous", "::to"),
    "reduction": ("reduce", "softmax", "sum", "mean", "amax"),
    "elementwise": ("elementwise", "gelu", "relu", "add", "mul", "div", "sub", "sigmoid", "exp"),
}
"""Group -> parts of the names of its kernels; a kernel belongs to the first group that fits."""


@dataclass(frozen=True)
class Kernel:
    """One run of a kernel; times in microseconds."""

    name: str
    stream: int
    start: float
    end: float


@dataclass(frozen=True)
class Profile:
    """The kernels of a piece of work, and its duration in seconds, the wait for the device included."""

    kernels: list[Kernel]
    seconds: float

    @property
    def busy(self) -> float:
        """Fraction of the duration in which at least one kernel ran."""
        return covered(self.kernels) / 1e6 / self.seconds

    def groups(self, count: int = 3) -> dict[str, float]:
        """Return the groups with the largest shares of all kernels' time, largest first."""
        times: dict[str, float] = {}
        for kernel in self.kernels:
            name = group_of(kernel.name)
            times[name] = times.get(name, 0.0) + kernel.end - kernel.start
        total = sum(times.values())
        largest = sorted(times.items(), key=lambda item: -item[1])[:count]
        return {name: value / total for name, value in largest} if total else {}


def profile_kernels(work: Callable[[], object], device: torch.device) -> Profile:
    """Return the kernels of some work, and the time until the device has finished it."""
    on_gpu = device.type == "cuda"
    activity = ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU
    wait(device)
    with profile(activities=[activity]) as profiled:
        started = time.perf_counter()
        work()
        wait(device)
        seconds = time.perf_counter() - started
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiled.export_chrome_trace(str(path))
        events = json.loads(path.read_text(encoding="utf-8", errors="replace"))["traceEvents"]
    kinds = ("kernel", "gpu_memcpy", "gpu_memset") if on_gpu else ("cpu_op",)
    kernels = [
        Kernel(event["name"], _stream(event), event["ts"], event["ts"] + event.get("dur", 0))
        for event in events
        if event.get("cat") in kinds
    ]
    return Profile(kernels if on_gpu else outermost(kernels), seconds)


def _stream(event: dict[str, object]) -> int:
    """Return the stream of a kernel; the thread of a CPU's operator."""
    arguments = event.get("args")
    found = arguments.get("stream") if isinstance(arguments, dict) else None
    return int(str(event["tid"] if found is None else found))


def outermost(kernels: Iterable[Kernel]) -> list[Kernel]:
    """Return the kernels that lie in no other one of the same stream."""
    found: dict[int, list[Kernel]] = {}
    for kernel in sorted(kernels, key=lambda each: (each.start, -each.end)):
        own = found.setdefault(kernel.stream, [])
        if not own or kernel.end > own[-1].end:
            own.append(kernel)
    return [kernel for own in found.values() for kernel in own]


def covered(kernels: Iterable[Kernel]) -> float:
    """Return the microseconds in which at least one kernel ran."""
    total, reached = 0.0, float("-inf")
    for kernel in sorted(kernels, key=lambda each: each.start):
        total += max(0.0, kernel.end - max(kernel.start, reached))
        reached = max(reached, kernel.end)
    return total


def overlap(kernels: Iterable[Kernel], stream: int) -> float:
    """Return the microseconds in which kernels of a stream ran at the same time as kernels of other streams."""
    kernels = list(kernels)
    own = [kernel for kernel in kernels if kernel.stream == stream]
    others = [kernel for kernel in kernels if kernel.stream != stream]
    return covered(own) + covered(others) - covered(kernels)


def group_of(name: str) -> str:
    """Return the group of a kernel by its name; "other" if none fits."""
    lower = name.lower()
    return next((group for group, parts in GROUPS.items() if any(part in lower for part in parts)), "other")
