"""What models cost: weights, operations, time and memory, side by side in one run.

    saldistill benchmark MODEL [MODEL ...] [--batch-size 1,2,4] [--precision fp32,bf16]

PyTorch networks and exported .onnx files stand in one table, a row for each batch size and precision. The rounds
are interleaved (each round times every row once, and a product of two matrices), so that a machine that slows down
slows down all of them.
"""

import gc
import importlib
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from distill import models
from distill.benchmark.memory import growth
from distill.benchmark.rows import Benchmark, interleave
from distill.errors import UserError

MATRIX = {"cpu": 2048, "mps": 4096, "cuda": 8192}
"""Rows of the square matrices by whose product a kind of device's rate is measured: far beyond its caches."""

CPU_MEMORY = "growth of a fresh process's peak resident memory"
GPU_MEMORY = "peak of the GPU's allocator (.onnx files: growth of a fresh process's peak resident memory)"

COLUMNS = {
    "model": ("model", "{}"),
    "weights": ("weights", "{:,}"),
    "gflops": ("GFLOPs/map", "{:.3g}"),
    "batch_size": ("batch", "{}"),
    "precision": ("precision", "{}"),
    "milliseconds": ("ms/map", "{:.4g}"),
    "p99": ("p99", "{:.4g}"),
    "ratio": ("ratio", "{:.3g}"),
    "share": ("of matrix rate", "{:.0%}"),
    "memory_mb": ("memory MB", "{:.0f}"),
}
"""Key of a row -> its head and form in the table."""


def benchmark(
    references: Sequence[str | Path | nn.Module],
    *,
    rounds: int = 5,
    batch_size: int | Sequence[int] = 1,
    threads: int | None = None,
    device: str = "auto",
    precision: str | Sequence[str] = "fp32",
    memory: bool = True,
    progress: bool = True,
) -> Benchmark:
    """Measure models side by side.

    A call is one clip batch, already on the device, to its maps; its time is divided by the maps that it makes
    (batch_size x N). Median and 99th percentile are taken over all timed calls (of few calls, p99 is the largest).
    An .onnx file runs in ONNX Runtime on the CPU, and always in the precision that it was written in: it has one
    row a batch size.

    Memory is the peak of PyTorch's allocator during a call on a GPU, weights included. On the CPU it is by how much
    the peak of resident memory grows when a fresh process loads the model and calls it once; the libraries are
    loaded before and not counted.

    Args:
        references: models, as `distill.models.load_model` takes them, or networks.
        rounds: interleaved rounds.
        batch_size: clips in one call, or several such numbers.
        threads: CPU threads of PyTorch and of ONNX Runtime; PyTorch's present number when None.
        device: where networks run.
        precision: one of `models.PRECISIONS`, or several.
        memory: measure it; costs a process a row on the CPU. Networks given as objects have none there.
        progress: show a bar.

    Returns:
        One row a model, batch size and precision, in the order asked for. A row has `model`, `runtime`, `weights`,
        `gflops` (a map; None where unknown), `file_mb` (of an .onnx file), `batch_size`, `precision`,
        `milliseconds` (median a map), `p99` (milliseconds a map), `maps_per_second`, `ratio` (time a map against
        the first row's), `gflops_per_second`, `share` (of that, in what the device reached on the product of two
        matrices in the same precision and run; None where unknown), `memory_mb` and `calls`. The setting has what
        the device reached, by precision, under `matrix_gflops_per_second`.

    Raises:
        UserError: no model, an unknown one, or a bad setting.
    """
    if not references:
        raise UserError("benchmark: name at least one model")
    sizes = [batch_size] if isinstance(batch_size, int) else list(batch_size)
    precisions = [precision] if isinstance(precision, str) else list(precision)
    if rounds < 1 or min(sizes) < 1 or (threads is not None and threads < 1):
        raise UserError(f"rounds, batch_size and threads must be at least 1: {rounds}, {batch_size}, {threads}")
    for each in precisions:
        models.check_precision(each)
    where = models.resolve_device(device)

    with threads_set(threads) as used:
        cases = []
        for reference in references:
            model = _load(reference, where, used)
            own = ["own"] if isinstance(model, models.OnnxModel) else precisions
            cases += [(reference, model, size, each) for each in own for size in sizes]
        calls = [_call(model, where, size, each) for _, model, size, each in cases]
        times = interleave([*calls, *(_matrix_call(where, each) for each in precisions)], rounds, progress=progress)
        operations = 2e-9 * MATRIX[where.type] ** 3
        rates = {
            each: operations / float(np.median(seconds))
            for each, seconds in zip(precisions, times[len(cases) :], strict=True)
        }
        rows = []
        for (reference, model, size, each), call, seconds in zip(cases, calls, times[: len(cases)], strict=True):
            row = {
                **_describe(model),
                "batch_size": size,
                "precision": each,
                **_times_a_map(seconds, size * len(model.target_frames)),
                "memory_mb": None,
            }
            if memory and where.type == "cuda" and not isinstance(model, models.OnnxModel):
                row["memory_mb"] = _gpu_memory(model, call, where)
            elif memory and not isinstance(reference, nn.Module):
                row["memory_mb"] = _cpu_memory(reference, size, used, each)
            known = row["gflops"] is not None
            row["gflops_per_second"] = row["gflops"] * row["maps_per_second"] if known else None
            row["share"] = row["gflops_per_second"] / rates[each] if known and each in rates else None
            rows.append(row)
    for row in rows:
        row["ratio"] = row["milliseconds"] / rows[0]["milliseconds"]
    setting = {
        "device": torch.cuda.get_device_name(where) if where.type == "cuda" else f"{where} ({platform.machine()})",
        "threads": used,
        "rounds": rounds,
        "matrix": MATRIX[where.type],
        "matrix_gflops_per_second": rates,
        "memory": GPU_MEMORY if where.type == "cuda" else CPU_MEMORY,
        "torch": str(torch.__version__),
        "cpus": os.cpu_count(),
    }
    reached = ", ".join(f"{precision} {rate / 1000:.3g} TFLOP/s" for precision, rate in rates.items())
    notes = [
        "{device}, {threads} CPU threads, {rounds} rounds; memory: {memory}".format(**setting),
        f"product of two matrices of {MATRIX[where.type]} rows: {reached}",
    ]
    return Benchmark(rows, COLUMNS, setting, notes)


def _times_a_map(seconds: Sequence[float], maps: int) -> dict[str, Any]:
    """Return what a row says of the seconds of its calls, each of which made so many maps."""
    each = np.array(seconds) * 1000 / maps
    return {
        "milliseconds": float(np.median(each)),
        "p99": float(np.percentile(each, 99)),
        "maps_per_second": float(1000 / np.median(each)),
        "calls": len(seconds),
    }


def _load(reference: str | Path | nn.Module, device: torch.device, threads: int) -> Any:
    if isinstance(reference, nn.Module):
        return reference.to(device).eval()
    if Path(reference).suffix == ".onnx":
        model = models.OnnxModel(reference, threads=threads)
        return model.eval()
    return models.load_model(reference, device=device)


def _call(model: Any, device: torch.device, batch_size: int, precision: str) -> Callable[[], float]:
    """Return a function that runs one clip batch and returns its seconds."""
    onnx = isinstance(model, models.OnnxModel)
    clip = torch.randint(
        0,
        256,
        (batch_size, 3, model.num_frames, *model.size),
        dtype=torch.uint8,
        generator=torch.Generator().manual_seed(0),
    )
    if onnx:
        values = clip.numpy()

        def run_onnx() -> float:
            started = time.perf_counter()
            model.edge(values)
            return time.perf_counter() - started

        return run_onnx

    clip = clip.to(device)
    dtype = models.PRECISIONS[precision]

    def run() -> float:
        with torch.inference_mode(), torch.autocast(device.type, dtype) if dtype else nullcontext():
            wait(device)
            started = time.perf_counter()
            model(clip)
            wait(device)
            return time.perf_counter() - started

    return run


def _matrix_call(device: torch.device, precision: str) -> Callable[[], float]:
    """Return a function that multiplies two square matrices of normal numbers and returns its seconds."""
    generator = torch.Generator(device).manual_seed(0)
    shape = (MATRIX[device.type], MATRIX[device.type])
    a, b = (torch.randn(shape, device=device, generator=generator) for _ in range(2))
    dtype = models.PRECISIONS[precision] or torch.float32
    a, b = a.to(dtype), b.to(dtype)

    def run() -> float:
        with torch.inference_mode():
            wait(device)
            started = time.perf_counter()
            torch.mm(a, b)
            wait(device)
            return time.perf_counter() - started

    return run


def wait(device: torch.device) -> None:
    """Return when a device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _describe(model: Any) -> dict[str, Any]:
    onnx = isinstance(model, models.OnnxModel)
    weights = model.edge.metadata.get("weights") if onnx else models.count_weights(model)
    try:
        gflops = model.edge.metadata.get("gflops_per_map") if onnx else models.gflops_per_map(model)
    except AttributeError:  # a network that create_model did not build has no identity to build it anew from
        gflops = None
    return {
        "model": str(getattr(model, "reference", type(model).__name__)),
        "runtime": "ONNX Runtime" if onnx else "PyTorch",
        "file_mb": model.path.stat().st_size / 1e6 if onnx else None,
        "weights": weights,
        "gflops": gflops,
    }


def _gpu_memory(model: nn.Module, call: Callable[[], float], device: torch.device) -> float:
    """Return the allocator's peak in MB during a call, of the model alone: other models' weights not counted."""
    own = sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers()))
    gc.collect()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    call()
    return (torch.cuda.max_memory_allocated(device) - before + own) / 1e6


def _cpu_memory(reference: str | Path, batch_size: int, threads: int, precision: str) -> float:
    """Return how many MB the peak of resident memory grows when a fresh process loads a model and calls it once."""
    return growth(load_and_call, str(reference), batch_size, threads, precision)


def load_and_call(reference: str, batch_size: int, threads: int, precision: str) -> Callable[[], object]:
    """Return the work whose memory is measured on the CPU; the libraries are loaded before it begins."""
    for library in ("torchvision", "timm", "onnxruntime"):
        importlib.import_module(library)
    torch.set_num_threads(threads)
    device = torch.device("cpu")
    return lambda: _call(_load(reference, device, threads), device, batch_size, precision)()


@contextmanager
def threads_set(count: int | None) -> Iterator[int]:
    """Set PyTorch's CPU threads for a block; yields their number."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield count or before
    finally:
        torch.set_num_threads(before)
