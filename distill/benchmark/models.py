"""What models cost: weights, operations, time and memory, side by side in one run.

    saldistill benchmark MODEL [MODEL ...] [--runtime pytorch,onnx] [--batch-size 1,2,4] [--precision fp32,bf16]

PyTorch networks, their exported forms, and anybody's .onnx files stand in one table, a row for each runtime, batch
size and precision. The rounds are interleaved (each round times every row once, and a product of two matrices), so
that a machine that slows down slows down all of them.
"""

import gc
import importlib
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

from distill.benchmark.memory import growth
from distill.benchmark.onnx_files import OnnxFile, Shapes, exported, is_file
from distill.benchmark.rows import Benchmark, interleave
from distill.errors import UserError
from distill.models.cost import count_weights, gflops_if_known
from distill.models.device import PRECISIONS, check_precision, resolve_device
from distill.models.loaded import LoadedModel
from distill.models.protocols import SaliencyModel, is_streaming
from distill.models.references import load_model

RUNTIMES = {"pytorch": "PyTorch", "onnx": "ONNX Runtime"}

MATRIX = {"cpu": 2048, "mps": 4096, "cuda": 8192}
"""Rows of the square matrices by whose product a kind of device's rate is measured: far beyond its caches."""

CPU_MEMORY = "growth of a fresh process's peak resident memory"
GPU_MEMORY = "peak of the GPU's allocator (.onnx files: growth of a fresh process's peak resident memory)"

COLUMNS = {
    "model": ("model", "{}"),
    "runtime": ("runtime", "{}"),
    "mode": ("mode", "{}"),
    "weights": ("weights", "{:,}"),
    "gmacs": ("GMACs/map", "{:.3g}"),
    "batch_size": ("batch", "{}"),
    "precision": ("precision", "{}"),
    "milliseconds": ("ms/map", "{:.4g}"),
    "p99": ("p99", "{:.4g}"),
    "ratio": ("ratio", "{:.3g}"),
    "share": ("of matrix rate", "{:.0%}"),
    "memory_mb": ("memory MB", "{:.0f}"),
    "file_mb": ("file MB", "{:.3g}"),
}
"""Key of a row -> its head and form in the table."""


@dataclass(frozen=True)
class Case:
    """A row to be.

    Args:
        about: what the row says beside what is measured.
        maps: that one call makes.
        call: runs the model once and returns the seconds.
        device: where it runs.
        memory: measures it, in MB; None where it cannot be known.
    """

    about: dict[str, Any]
    maps: int
    call: Callable[[], float]
    device: torch.device
    memory: Callable[[], float] | None


def benchmark(
    references: Sequence[str | Path | LoadedModel],
    *,
    rounds: int = 5,
    batch_size: int | Sequence[int] = 1,
    threads: int | None = None,
    device: str = "auto",
    precision: str | Sequence[str] = "fp32",
    runtime: str | Sequence[str] = "pytorch",
    shapes: Shapes | None = None,
    memory: bool = True,
    progress: bool = True,
) -> Benchmark:
    """Measure models side by side.

    A call is one batch, already on the device, to its maps; its time is divided by the maps that it makes:
    batch_size x N of clips, batch_size of the frames that a network that streams takes with the state before them,
    batch_size of a file of somebody else. Median and 99th percentile are taken over all timed calls (of few calls,
    p99 is the largest). An .onnx file runs in ONNX Runtime on the CPU, and always in the precision that it was
    written in: it has one row a batch size.

    Memory is the peak of PyTorch's allocator during a call on a GPU, weights included. On the CPU it is by how much
    the peak of resident memory grows when a fresh process loads the model and calls it once; the libraries are
    loaded before and not counted.

    Args:
        references: models, as `distill.models.load_model` takes them, networks, or any .onnx files.
        rounds: interleaved rounds.
        batch_size: clips or frames in one call, or several such numbers.
        threads: CPU threads of PyTorch and of ONNX Runtime; PyTorch's present number when None.
        device: where networks run.
        precision: one of `PRECISIONS`, or several.
        runtime: of networks, one of `RUNTIMES` or both; "onnx" exports them to a file that is removed afterwards.
        shapes: name of an .onnx file's input -> its shape, for the dimensions that the file leaves open.
        memory: measure it; costs a process a row on the CPU. Networks given as objects have none there.
        progress: show a bar.

    Returns:
        One row a model, runtime, batch size and precision, in the order asked for. A row has `model`, `runtime`,
        `mode` ("clip", or "step" of networks that stream; None of others' files), `weights`, `gflops` and `gmacs`
        (a map; None where unknown; a multiply-add is two operations), `file_mb` (of .onnx files), `batch_size`,
        `precision`, `milliseconds` (median a map), `p99` (milliseconds a map), `maps_per_second`, `ratio` (time a
        map against the first row's), `gflops_per_second`, `share` (of that, in what the device reached on the
        product of two matrices in the same precision and run; None where unknown), `memory_mb` and `calls`. The
        setting has what the device reached, by precision, under `matrix_gflops_per_second`.

    Raises:
        UserError: no model, an unknown one, or a bad setting.
    """
    if not references:
        raise UserError("benchmark: name at least one model")
    sizes = [batch_size] if isinstance(batch_size, int) else list(batch_size)
    precisions = [precision] if isinstance(precision, str) else list(precision)
    runtimes = [runtime] if isinstance(runtime, str) else list(runtime)
    if rounds < 1 or min(sizes) < 1 or (threads is not None and threads < 1):
        raise UserError(f"rounds, batch_size and threads must be at least 1: {rounds}, {batch_size}, {threads}")
    for each in precisions:
        check_precision(each)
    if not runtimes or not set(runtimes) <= RUNTIMES.keys():
        raise UserError(f"runtime: expected {' or '.join(RUNTIMES)} or both, got {runtime!r}")
    where = resolve_device(device)

    with threads_set(threads) as used, tempfile.TemporaryDirectory() as folder:
        cases: list[Case] = []
        files: list[OnnxFile] = []
        for reference in references:
            if is_file(reference):
                files.append(OnnxFile(str(reference), threads=used, shapes=shapes))
                cases += _file_cases(str(reference), files[-1], sizes, used)
                continue
            model = _load(reference, where)
            if "pytorch" in runtimes:
                cases += _network_cases(reference, model, sizes, precisions, where, used)
            if "onnx" in runtimes:
                files.append(OnnxFile(exported(model, Path(folder)), threads=used))
                cases += _file_cases(model.reference, files[-1], sizes, used)
        there = {each.name for file in files for each in file.session.get_inputs()}
        if unknown := (shapes or {}).keys() - there:
            raise UserError(
                f"shape: no file has an input {', '.join(unknown)}; there are {', '.join(sorted(there))}"
            )
        calls = [case.call for case in cases]
        times = interleave([*calls, *(_matrix_call(where, each) for each in precisions)], rounds, progress=progress)
        operations = 2e-9 * MATRIX[where.type] ** 3
        rates = {
            each: operations / float(np.median(seconds))
            for each, seconds in zip(precisions, times[len(cases) :], strict=True)
        }
        rows = []
        for case, seconds in zip(cases, times[: len(cases)], strict=True):
            row = {**case.about, **_times_a_map(seconds, case.maps)}
            known = row["gflops"] is not None
            compared = known and row["precision"] in rates and case.device.type == where.type
            row["gmacs"] = row["gflops"] / 2 if known else None
            row["gflops_per_second"] = row["gflops"] * row["maps_per_second"] if known else None
            row["share"] = row["gflops_per_second"] / rates[row["precision"]] if compared else None
            row["memory_mb"] = case.memory() if memory and case.memory else None
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
        "onnxruntime": onnxruntime.__version__,
        "cpus": os.cpu_count(),
    }
    reached = ", ".join(f"{precision} {rate / 1000:.3g} TFLOP/s" for precision, rate in rates.items())
    notes = [
        "{device}, {threads} CPU threads, {rounds} rounds; memory: {memory}".format(**setting),
        f"product of two matrices of {MATRIX[where.type]} rows: {reached}",
    ]
    if any(row["mode"] is None for row in rows):
        notes.append("files without a mode are others': each of a batch counts as one map")
    return Benchmark(rows, COLUMNS, setting, notes)


def _load(reference: str | Path | LoadedModel, device: torch.device) -> LoadedModel:
    if isinstance(reference, LoadedModel):
        reference.network.to(device).eval()
        return reference
    return load_model(reference, device=device)


def _network_cases(
    reference: str | Path | LoadedModel,
    model: LoadedModel,
    sizes: Sequence[int],
    precisions: Sequence[str],
    device: torch.device,
    threads: int,
) -> Iterator[Case]:
    """Yield the cases of a network in PyTorch."""
    network = model.network
    step = is_streaming(network)
    about = {
        "model": model.reference,
        "runtime": RUNTIMES["pytorch"],
        "mode": "step" if step else "clip",
        "weights": count_weights(network),
        "gflops": gflops_if_known(model),
        "file_mb": None,
    }
    for precision in precisions:
        for size in sizes:
            call = _network_call(network, device, size, precision)
            memory: Callable[[], float] | None = None
            if device.type == "cuda":
                memory = partial(_gpu_memory, network, call, device)
            elif not isinstance(reference, LoadedModel):
                memory = partial(_cpu_memory, str(reference), size, threads, precision)
            maps = size if step else size * len(network.target_frames)
            yield Case({**about, "batch_size": size, "precision": precision}, maps, call, device, memory)


def _file_cases(name: str, file: OnnxFile, sizes: Sequence[int], threads: int) -> Iterator[Case]:
    """Yield the cases of an .onnx file."""
    for size in sizes:
        feed = file.draw(size)
        about = {"model": name, "runtime": RUNTIMES["onnx"], "batch_size": size, **file.describe(feed, size)}
        memory = partial(_cpu_memory, str(file.path), size, threads, about["precision"], json.dumps(file.shapes))
        yield Case(about, size * file.targets, partial(file.seconds, feed), torch.device("cpu"), memory)


def _times_a_map(seconds: Sequence[float], maps: int) -> dict[str, Any]:
    """Return what a row says of the seconds of its calls, each of which made so many maps."""
    each = np.array(seconds) * 1000 / maps
    return {
        "milliseconds": float(np.median(each)),
        "p99": float(np.percentile(each, 99)),
        "maps_per_second": float(1000 / np.median(each)),
        "calls": len(seconds),
    }


def _network_call(
    network: SaliencyModel, device: torch.device, batch_size: int, precision: str
) -> Callable[[], float]:
    """Return a function that runs one batch of clips, or of frames with the state before them, and times it."""
    generator = torch.Generator().manual_seed(0)
    shape = (batch_size, 3, *([] if is_streaming(network) else [network.num_frames]), *network.size)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator).to(device)
    dtype = PRECISIONS[precision]

    def run() -> float:
        with torch.inference_mode(), torch.autocast(device.type, dtype) if dtype else nullcontext():
            wait(device)
            started = time.perf_counter()
            forward()
            wait(device)
            return time.perf_counter() - started

    forward: Callable[[], object] = partial(network, images)
    if is_streaming(network):
        with torch.inference_mode():
            _, state = network.step(images, network.initial_state(batch_size))
        forward = partial(network.step, images, state)
    return run


def _matrix_call(device: torch.device, precision: str) -> Callable[[], float]:
    """Return a function that multiplies two square matrices of normal numbers and returns its seconds."""
    generator = torch.Generator(device).manual_seed(0)
    shape = (MATRIX[device.type], MATRIX[device.type])
    a, b = (torch.randn(shape, device=device, generator=generator) for _ in range(2))
    dtype = PRECISIONS[precision] or torch.float32
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


def _gpu_memory(model: SaliencyModel, call: Callable[[], float], device: torch.device) -> float:
    """Return the allocator's peak in MB during a call, of the model alone: other models' weights not counted."""
    own = sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers()))
    gc.collect()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    call()
    return (torch.cuda.max_memory_allocated(device) - before + own) / 1e6


def _cpu_memory(reference: str, batch_size: int, threads: int, precision: str, shapes: str = "{}") -> float:
    """Return how many MB the peak of resident memory grows when a fresh process loads a model and calls it once."""
    return growth(load_and_call, reference, batch_size, threads, precision, shapes)


def load_and_call(
    reference: str, batch_size: int, threads: int, precision: str, shapes: str
) -> Callable[[], object]:
    """Return the work whose memory is measured on the CPU; the libraries are loaded before it begins."""
    for library in ("torchvision", "timm", "onnxruntime"):
        importlib.import_module(library)
    torch.set_num_threads(threads)
    device = torch.device("cpu")

    def work() -> float:
        if is_file(reference):
            file = OnnxFile(reference, threads=threads, shapes=json.loads(shapes))
            return file.seconds(file.draw(batch_size))
        return _network_call(_load(reference, device).network, device, batch_size, precision)()

    return work


@contextmanager
def threads_set(count: int | None) -> Iterator[int]:
    """Set PyTorch's CPU threads for a block; yields their number."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield count or before
    finally:
        torch.set_num_threads(before)
