"""Rows of the GPU report: independent measurements under a time limit, each of which may fail on its own."""

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from distill.benchmark.models import MATRIX, matrix_call
from distill.benchmark.rows import Call, interleave
from distill.errors import reason_of
from distill.models.device import is_out_of_memory

Row = dict[str, Any]
"""A row: `what` is measured, `model`, `precision`, `batch` and `mode` if they apply, and values or an `error`."""

RUN_OUT = "not measured: the part's time had run out"


@dataclass(frozen=True)
class Plan:
    """How the parts of a report measure.

    Attributes:
        device: device to measure.
        quick: whether to use the smallest models and one round, to prove the program rather than measure.
        seconds: time that a part may take.
    """

    device: torch.device
    quick: bool = False
    seconds: float = 600.0
    started: float = field(default_factory=time.monotonic)

    @property
    def rounds(self) -> int:
        """Number of interleaved rounds."""
        return 1 if self.quick else 2

    @property
    def matrix(self) -> int:
        """Rows of the square matrices whose product measures the device's rate."""
        return 256 if self.quick else MATRIX[self.device.type]

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return self.started + self.seconds - time.monotonic()

    def choose(self, usual: Any, quick: Any) -> Any:
        """Return the second value for a quick report, else the first."""
        return quick if self.quick else usual


@dataclass(frozen=True)
class Case:
    """One measurement of a group.

    Attributes:
        row: what the row says before it is measured.
        prepare: returns the call to measure; may run out of memory, as may the call.
        units: maps or clips of one call.
        gflops: floating-point operations of a unit in 10^9, or None.
        memory: returns the megabytes of one call, given the call, or None.
    """

    row: Row
    prepare: Callable[[], Call]
    units: int
    gflops: float | None = None
    memory: Callable[[Call], float | None] = lambda call: None


def attempt(plan: Plan, row: Row, measure: Callable[[], Row]) -> Row:
    """Return a row with what a measurement found, or with the reason why it failed."""
    if plan.left <= 0:
        return {**row, "error": RUN_OUT}
    try:
        return {**row, **measure()}
    except Exception as error:
        found = {**row, "error": reason(error)}
    free(plan.device)
    return found


def reason(error: BaseException) -> str:
    """Return an error in one sentence."""
    return "out of memory" if is_out_of_memory(error) else f"{type(error).__name__}: {reason_of(error)}"


def free(device: torch.device) -> None:
    """Release the memory of tensors that nothing refers to."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def measure_group(plan: Plan, cases: Sequence[Case], precision: str) -> Iterator[Row]:
    """Measure cases and a matrix product of the same precision in interleaved rounds.

    Each case runs alone first, so that those that fail do not affect the others.

    Yields:
        A row per case, those that fail first: `milliseconds` and `per_second` of a unit, `share` of the matrix
        product's rate, `matrix_tflops` per second and `memory_mb`.
    """
    ready: list[tuple[Case, Call, Row]] = []
    for case in cases:
        found: Row = {}

        def run(case: Case = case, found: Row = found) -> Row:
            found["call"] = call = case.prepare()
            call()
            return {"memory_mb": case.memory(call)}

        row = attempt(plan, case.row, run)
        if "error" in row:
            yield row
        else:
            ready.append((case, found["call"], row))
    if not ready:
        return
    times: list[list[float]] = []

    def interleaved() -> Row:
        calls = [call for _, call, _ in ready] + [matrix_call(plan.device, precision, plan.matrix)]
        times.extend(interleave(calls, plan.rounds, progress=False))
        return {}

    failed = attempt(plan, {}, interleaved)
    for (case, _, row), own in zip(ready, times or [[]] * len(ready), strict=False):
        yield {**row, **failed} if failed else {**row, **_values(case, own, times[-1], plan.matrix)}


def _values(case: Case, seconds: Sequence[float], matrix: Sequence[float], side: int) -> Row:
    """Return the values of a row, given the seconds of its calls and of the matrix products."""
    unit = float(np.median(seconds)) / case.units
    rate = 2e-12 * side**3 / float(np.median(matrix))
    share = None if case.gflops is None else case.gflops / 1000 / unit / rate
    return {"milliseconds": 1000 * unit, "per_second": 1 / unit, "share": share, "matrix_tflops": rate}
