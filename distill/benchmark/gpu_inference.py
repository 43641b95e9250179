"""Parts of the GPU report that run networks: teachers eager and compiled, and the streaming student."""

import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch._dynamo.utils import counters

from distill.benchmark.gpu_rows import Case, Plan, Row, attempt, free, measure_group
from distill.benchmark.kernels import profile_kernels
from distill.benchmark.models import device_call, gpu_memory, network_call
from distill.benchmark.rows import Call, wait
from distill.models.cost import gflops_if_known
from distill.models.device import PRECISIONS
from distill.models.loaded import LoadedModel
from distill.models.protocols import StreamingModel, is_streaming
from distill.models.references import load_model

TEACHERS = ("teacher/salfom:base", "teacher/salfom:umt-b8-d12")

BATCHES = {"bf16": (1, 2, 4, 8, 16, 32, 64), "fp16": (1, 2, 4, 8, 16, 32, 64), "fp32": (1, 4, 16)}
"""Batch sizes by precision; fp32, about ten times slower, has fewer."""

COMPILED = (1, 8)
"""Batch sizes that are compiled, each of which takes minutes."""


def inference(plan: Plan) -> Iterator[Row]:
    """Measure the teachers in each precision and batch size, and the largest groups of kernels."""
    for reference in plan.choose(TEACHERS, ("teacher/salfom:micro",)):
        model = load_model(reference, device=plan.device)
        for precision, batches in BATCHES.items():
            rows = list(
                measure_group(plan, _cases(plan, model, precision, plan.choose(batches, (1, 2))), precision)
            )
            yield from rows
            measured = [row for row in rows if "error" not in row]
            if measured:
                best = min(measured, key=lambda row: row["milliseconds"])["batch"]
                for batch in sorted({1, best}):
                    row = {"what": "kernels", "model": reference, "precision": precision, "batch": batch}
                    yield attempt(plan, row, partial(_kernels, plan, model, precision, batch))
        del model
        free(plan.device)


def _cases(plan: Plan, model: LoadedModel, precision: str, batches: Sequence[int]) -> list[Case]:
    """Return the cases of a network in one precision: clips, or steps of a stream."""
    network, device = model.network, plan.device
    maps = 1 if is_streaming(network) else len(network.target_frames)

    def memory(call: Call) -> float | None:
        return gpu_memory(network, call, device) if device.type == "cuda" else None

    return [
        Case(
            {"what": "forward", "model": model.reference, "precision": precision, "batch": batch, "mode": "eager"},
            partial(network_call, network, device, batch, precision),
            batch * maps,
            gflops_if_known(model),
            memory,
        )
        for batch in batches
    ]


def _kernels(plan: Plan, model: LoadedModel, precision: str, batch: int) -> Row:
    call = network_call(model.network, plan.device, batch, precision)
    call()
    found = profile_kernels(call, plan.device)
    groups = ", ".join(f"{name} {share:.0%}" for name, share in found.groups().items())
    return {"note": groups, "busy": found.busy, "kernels": len(found.kernels)}


def compiled(plan: Plan) -> Iterator[Row]:
    """Measure the teachers compiled with max-autotune, in bf16, and count the graph breaks."""
    for reference in plan.choose(TEACHERS, ("student/thtdnet:micro",)):
        model = load_model(reference, device=plan.device)
        for batch in plan.choose(COMPILED, (1,)):
            case = Case(
                {"what": "forward", "model": reference, "precision": "bf16", "batch": batch, "mode": "compiled"},
                partial(network_call, _compile(plan, model), plan.device, batch, "bf16"),
                batch * len(model.network.target_frames),
                gflops_if_known(model),
            )
            started = time.monotonic()
            for row in measure_group(plan, [case], "bf16"):
                breaks = sum(counters["graph_break"].values())
                yield {**row, "note": f"{breaks} graph breaks, {time.monotonic() - started:.0f} s with compiling"}
        del model
        free(plan.device)


def _compile(plan: Plan, model: LoadedModel) -> Any:
    """Return the compiled network; a quick report only traces it."""
    torch._dynamo.reset()
    counters.clear()
    options: dict[str, Any] = plan.choose({"mode": "max-autotune"}, {"backend": "eager"})
    return torch.compile(model.network, dynamic=False, **options)


def streaming(plan: Plan) -> Iterator[Row]:
    """Measure a step of the streaming students, eager and as a CUDA graph."""
    for reference in plan.choose(("stream-small", "stream-nano"), ("student/stream:micro",)):
        model = load_model(reference, device=plan.device)
        for precision in plan.choose(("bf16", "fp32"), ("fp32",)):
            cases = _cases(plan, model, precision, plan.choose((1, 2, 4, 8, 16, 32, 64), (1, 2)))
            if plan.device.type == "cuda":
                graphs = [_graph_case(plan, model, case) for case in cases]
                cases = [each for pair in zip(cases, graphs, strict=True) for each in pair]
            yield from measure_group(plan, cases, precision)


def _graph_case(plan: Plan, model: LoadedModel, case: Case) -> Case:
    """Return a streaming model's case with its step as a CUDA graph."""
    network, row = model.network, case.row
    assert is_streaming(network)
    prepare = partial(graph_call, network, plan.device, row["batch"], row["precision"])
    return Case({**row, "mode": "CUDA graph"}, prepare, case.units, case.gflops)


def graph_call(network: StreamingModel, device: torch.device, batch: int, precision: str) -> Call:
    """Return a call that replays one step of a stream, captured as a CUDA graph; it continues its own state."""
    dtype = PRECISIONS[precision]
    autocast = torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None, cache_enabled=False)
    frames = torch.zeros(batch, 3, *network.size, dtype=torch.uint8, device=device)
    with torch.inference_mode(), autocast:
        state = network.initial_state(batch)

        def step() -> torch.Tensor:
            maps, after = network.step(frames, state)
            for name, value in after.items():
                state[name].copy_(value)
            return maps

        side = torch.cuda.Stream(device)  # warm up outside the graph, as capturing demands
        side.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(side):
            for _ in range(3):
                step()
        torch.cuda.current_stream(device).wait_stream(side)
        wait(device)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
    return device_call(graph.replay, device)
