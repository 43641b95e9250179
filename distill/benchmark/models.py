"""Cost of models: weights, operations, time and memory, compared in one run.

    saldistill benchmark MODEL [MODEL ...] [--runtime pytorch,onnx] [--batch-size 1,2,4] [--precision fp32,bf16]

PyTorch networks, their exports and external .onnx files share one table, with a row for each runtime, batch size
and precision. Rounds are interleaved: each one times every row once, and a matrix product, so that a slowdown of
the machine affects all rows alike.
"""

import gc
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import timm  # noqa: F401  (loaded here, so that memory_growth does not count the libraries)
import torch
import torchvision  # noqa: F401

from distill.benchmark.onnx_files import OnnxFile, Shapes, export_temporary, is_onnx
from distill.benchmark.process import memory_growth
from distill.benchmark.rows import (
    Call,
    Table,
    device_name,
    environment,
    interleave,
    summarise,
    timed,
    wait,
)
from distill.errors import UserError
from distill.limits import MAX_BATCH_BYTES, check_limit
from distill.models.cost import count_weights, gflops_if_known
from distill.models.device import PRECISIONS, check_precision, resolve_device, torch_threads
from distill.models.loaded import LoadedModel
from distill.models.protocols import SaliencyModel, is_streaming
from distill.models.references import load_model

RUNTIMES = {"pytorch": "PyTorch", "onnx": "ONNX Runtime"}

MATRIX = {"cpu": 2048, "mps": 4096, "cuda": 8192}
"""Rows of the square matrices whose product measures a device's rate: far larger than its caches."""

CPU_MEMORY = "growth of a fresh process's peak resident memory"
GPU_MEMORY = f"peak of the GPU's allocator (.onnx files: {CPU_MEMORY})"

COLUMNS = "model runtime mode weights gmacs batch_size precision milliseconds p99 ratio share memory_mb file_mb"


@dataclass(frozen=True)
class Settings:
    """Settings that all rows share."""

    batch_sizes: Sequence[int]
    precisions: Sequence[str]
    runtimes: Sequence[str]
    device: torch.device
    threads: int
    shapes: Shapes


@dataclass(frozen=True)
class Case:
    """What one row measures: a call of the model, for a number of maps, and its memory in MB, if known."""

    row: dict[str, Any]
    maps: int
    call: Call
    device: torch.device
    memory: Callable[[], float] | None


def benchmark_models(
    references: Sequence[str | Path | LoadedModel],
    *,
    rounds: int = 5,
    batch_size: Sequence[int] = (1,),
    threads: int | None = None,
    device: str = "auto",
    precision: Sequence[str] = ("fp32",),
    runtime: Sequence[str] = ("pytorch",),
    shapes: Shapes | None = None,
    memory: bool = True,
    progress: bool = True,
) -> Table:
    """Return time, memory and size of models, measured in one run.

    A call takes one batch, already on the device, to its maps; its time is divided by the number of maps:
    batch_size x N for clips, batch_size for the frames of a streaming network (with the state before them), and
    batch_size for external files. An .onnx file runs in ONNX Runtime on the CPU in its own precision.

    On a GPU, memory is the peak of PyTorch's allocator during a call, weights included. On the CPU, it is the
    growth of a fresh process's peak resident memory while it loads the model and calls it once.

    Args:
        references: models or their references, as `distill.models.references.load_model` takes them, or any .onnx
            files.
        rounds: interleaved rounds.
        batch_size: clips or frames per call.
        threads: CPU threads of PyTorch and of ONNX Runtime; defaults to PyTorch's current number.
        device: device for networks.
        precision: keys of `PRECISIONS`, for networks.
        runtime: keys of `RUNTIMES`, for networks; "onnx" exports them to a temporary file.
        shapes: input name -> shape, for the dimensions that an .onnx file leaves open.
        memory: measure memory; costs one process per row on the CPU. None there for models that are passed loaded.
        progress: show a progress bar.

    Returns:
        One row per model, runtime, batch size and precision. Keys: `model`, `runtime`, `mode` ("clip", "step" for
        streaming networks, None for external files), `weights`, `gflops` and `gmacs` (per map; None if unknown; a
        multiply-add is two operations), `file_mb` (.onnx files), `batch_size`, `precision`, `milliseconds` (median
        per map), `p99`, `calls`, `maps_per_second`, `ratio` (time per map relative to the first row),
        `gflops_per_second`, `share` (of the matrix product's rate in the same precision and run; None if unknown)
        and `memory_mb`. The setting has the matrix product's rates as `matrix_gflops_per_second`.

    Raises:
        UserError: no model, an unknown one, or an invalid setting.
    """
    where = resolve_device(device)
    with torch_threads(threads) as used, tempfile.TemporaryDirectory() as folder:
        chosen = Settings(batch_size, precision, runtime, where, used, shapes or {})
        _check(references, rounds, threads, chosen)
        cases = list(_cases(references, chosen, Path(folder)))
        calls = [case.call for case in cases] + [matrix_call(where, each) for each in precision]
        times = interleave(calls, rounds, progress=progress)
        products = zip(precision, times[len(cases) :], strict=True)
        rates = {each: 2e-9 * MATRIX[where.type] ** 3 / float(np.median(own)) for each, own in products}
        rows = [_row(case, own, rates, where, memory=memory) for case, own in zip(cases, times, strict=False)]
    return _table(rows, rates, chosen, rounds)


def _table(rows: list[dict[str, Any]], rates: dict[str, float], chosen: Settings, rounds: int) -> Table:
    device = chosen.device
    for row in rows:
        row["ratio"] = row["milliseconds"] / rows[0]["milliseconds"]
    setting = {
        "device": device_name(device),
        "threads": chosen.threads,
        "rounds": rounds,
        "matrix": MATRIX[device.type],
        "matrix_gflops_per_second": rates,
        "memory": GPU_MEMORY if device.type == "cuda" else CPU_MEMORY,
        "onnxruntime": onnxruntime.__version__,
        **environment(),
    }
    reached = ", ".join(f"{precision} {rate / 1000:.3g} TFLOP/s" for precision, rate in rates.items())
    notes = [
        "{device}, {threads} CPU threads, {rounds} rounds; ms: per map; memory: {memory}".format(**setting),
        f"share: of the rate of a product of two {MATRIX[device.type]}x{MATRIX[device.type]} matrices: {reached}",
    ]
    if any(row["mode"] is None for row in rows):
        notes.append("files without a mode are external: each item of a batch counts as one map")
    return Table(rows, COLUMNS, setting, notes)


def _check(references: Sequence[object], rounds: int, threads: int | None, chosen: Settings) -> None:
    sizes, runtimes = chosen.batch_sizes, chosen.runtimes
    if not references:
        raise UserError("benchmark: name at least one model")
    if min(rounds, *sizes, threads or 1) < 1:
        raise UserError(f"rounds, batch_size and threads must be at least 1, got {rounds}, {sizes}, {threads}")
    for each in chosen.precisions:
        check_precision(each)
    if not runtimes or not set(runtimes) <= RUNTIMES.keys():
        raise UserError(f"runtime: expected {' or '.join(RUNTIMES)} or both, got {', '.join(runtimes)!r}")


def _cases(references: Sequence[str | Path | LoadedModel], chosen: Settings, folder: Path) -> Iterator[Case]:
    """Yield the cases of all models."""
    files: list[OnnxFile] = []
    for reference in references:
        if is_onnx(reference):
            files.append(OnnxFile(str(reference), threads=chosen.threads, shapes=chosen.shapes))
            yield from _file_cases(str(reference), files[-1], chosen)
            continue
        model = _load(reference, chosen.device)
        if "pytorch" in chosen.runtimes:
            yield from _network_cases(reference, model, chosen)
        if "onnx" in chosen.runtimes:
            files.append(OnnxFile(export_temporary(model, folder), threads=chosen.threads))
            yield from _file_cases(model.reference, files[-1], chosen)
    names = {each.name for file in files for each in file.session.get_inputs()}
    if unknown := chosen.shapes.keys() - names:
        raise UserError(f"shape: no file has an input {', '.join(unknown)}; expected {', '.join(sorted(names))}")


def _load(reference: str | Path | LoadedModel, device: torch.device) -> LoadedModel:
    if isinstance(reference, LoadedModel):
        reference.network.to(device).eval()
        return reference
    return load_model(reference, device=device)


def _network_cases(reference: str | Path | LoadedModel, model: LoadedModel, chosen: Settings) -> Iterator[Case]:
    """Yield the cases of a network in PyTorch."""
    network, device = model.network, chosen.device
    step = is_streaming(network)
    row = {
        "model": model.reference,
        "runtime": RUNTIMES["pytorch"],
        "mode": "step" if step else "clip",
        "weights": count_weights(network),
        "gflops": gflops_if_known(model),
        "file_mb": None,
    }
    for precision, size in product(chosen.precisions, chosen.batch_sizes):
        call = network_call(network, device, size, precision)
        memory: Callable[[], float] | None = None
        if device.type == "cuda":
            memory = partial(gpu_memory, network, call, device)
        elif not isinstance(reference, LoadedModel):
            memory = partial(_cpu_memory, str(reference), size, chosen.threads, precision)
        maps = size if step else size * len(network.target_frames)
        yield Case({**row, "batch_size": size, "precision": precision}, maps, call, device, memory)


def _file_cases(name: str, file: OnnxFile, chosen: Settings) -> Iterator[Case]:
    """Yield the cases of an .onnx file."""
    for size in chosen.batch_sizes:
        feed = file.draw(size)
        row = {"model": name, "runtime": RUNTIMES["onnx"], "batch_size": size, **file.describe(feed, size)}
        memory = partial(_cpu_memory, str(file.path), size, chosen.threads, row["precision"], file.shapes)
        yield Case(row, size * file.targets, partial(file.seconds, feed), torch.device("cpu"), memory)


def _row(
    case: Case, seconds: Sequence[float], rates: dict[str, float], device: torch.device, *, memory: bool
) -> dict[str, Any]:
    """Return a row, given the seconds of its calls and the matrix product's rates."""
    row = {**case.row, **summarise(seconds, case.maps)}
    row["maps_per_second"] = 1000 / row["milliseconds"]
    gflops = row["gflops"]
    comparable = gflops is not None and row["precision"] in rates and case.device.type == device.type
    row["gmacs"] = None if gflops is None else gflops / 2
    row["gflops_per_second"] = None if gflops is None else gflops * row["maps_per_second"]
    row["share"] = row["gflops_per_second"] / rates[row["precision"]] if comparable else None
    row["memory_mb"] = case.memory() if memory and case.memory else None
    return row


def network_call(network: SaliencyModel, device: torch.device, batch_size: int, precision: str) -> Call:
    """Return a call that runs one batch of clips, or of frames with the state before them."""
    generator = torch.Generator().manual_seed(0)
    shape = (batch_size, 3, *([] if is_streaming(network) else [network.num_frames]), *network.size)
    check_limit(math.prod(shape), MAX_BATCH_BYTES, f"batch size {batch_size}: bytes of a batch")
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator).to(device)
    if not is_streaming(network):
        return device_call(partial(network, images), device, precision)
    with torch.inference_mode():
        _, state = network.step(images, network.initial_state(batch_size))
    return device_call(partial(network.step, images, state), device, precision)


def matrix_call(device: torch.device, precision: str) -> Call:
    """Return a call that multiplies two square matrices of normally distributed numbers."""
    generator = torch.Generator(device).manual_seed(0)
    shape = (MATRIX[device.type], MATRIX[device.type])
    dtype = PRECISIONS[precision] or torch.float32
    a, b = (torch.randn(shape, device=device, generator=generator).to(dtype) for _ in range(2))
    return device_call(lambda: torch.mm(a, b), device)


def device_call(work: Callable[[], object], device: torch.device, precision: str = "fp32") -> Call:
    """Return a call that runs work on a device without gradients and waits until it is finished."""
    dtype = PRECISIONS[precision]

    def finish() -> None:
        work()
        wait(device)

    def call() -> float:
        with torch.inference_mode(), torch.autocast(device.type, dtype) if dtype else nullcontext():
            wait(device)
            return timed(finish)()

    return call


def gpu_memory(model: SaliencyModel, call: Call, device: torch.device) -> float:
    """Return the allocator's peak in MB during a call, without the weights of other models."""
    own = sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers()))
    gc.collect()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    call()
    return (torch.cuda.max_memory_allocated(device) - before + own) / 1e6


def _cpu_memory(
    reference: str, batch_size: int, threads: int, precision: str, shapes: Shapes | None = None
) -> float:
    return memory_growth(load_and_call, reference, batch_size, threads, precision, shapes)


def load_and_call(
    reference: str, batch_size: int, threads: int, precision: str, shapes: Shapes | None
) -> Callable[[], object]:
    """Return the work whose memory is measured on the CPU: loading a model and calling it once."""
    torch.set_num_threads(threads)
    device = torch.device("cpu")

    def work() -> float:
        if is_onnx(reference):
            file = OnnxFile(reference, threads=threads, shapes=shapes)
            return file.seconds(file.draw(batch_size))
        return network_call(_load(reference, device).network, device, batch_size, precision)()

    return work
