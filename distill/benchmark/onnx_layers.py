"""Which layers the time of an ONNX file goes to: ONNX Runtime's own times, summed by operator and by module."""

import json
import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from distill.benchmark.onnx_files import OnnxFile, Shapes, exported, is_file
from distill.benchmark.rows import Benchmark, Tables
from distill.models.loaded import LoadedModel
from distill.models.references import load_model

CALLS = 20
"""Timed calls of a file, after one that only warms up; an operator's time is its median."""

ROWS = 12
"""The slowest parts are shown so far; the rest is one row."""


def layers(
    references: Sequence[str | Path | LoadedModel],
    *,
    batch_size: int = 1,
    threads: int | None = None,
    shapes: Shapes | None = None,
) -> Tables:
    """Say where the time goes in ONNX Runtime, on the CPU.

    What ONNX Runtime has fused counts as the last of the fused; what it has added, such as a change of a tensor's
    layout, belongs to no module. Files of this project name their operators after the network's modules.

    Args:
        references: .onnx files, or models, which are exported.
        batch_size: clips or frames in one call.
        threads: CPU threads; ONNX Runtime's choice when None.
        shapes: name of an .onnx file's input -> its shape, for the dimensions that the file leaves open.

    Returns:
        Two tables a file. A row has `part` (an operator, or a module down to its first numbered one),
        `milliseconds` (a call), `share` (of all operators' time) and `count` (of operators).

    Raises:
        UserError: as `OnnxFile` and `export`.
    """
    tables = Tables()
    with tempfile.TemporaryDirectory() as folder:
        for reference in references:
            path, name = Path(str(reference)), str(reference)
            if not is_file(reference):
                model = reference if isinstance(reference, LoadedModel) else load_model(reference)
                path, name = exported(model, Path(folder)), model.reference
            times = operator_times(path, batch_size=batch_size, threads=threads, shapes=shapes)
            for title, part_of in PARTS.items():
                tables[f"{name}: {title}"] = summed(times, part_of)
    return tables


def operator_times(
    path: str | Path, *, batch_size: int = 1, threads: int | None = None, shapes: Shapes | None = None
) -> dict[tuple[str, str], float]:
    """Return (name, operator) -> median seconds in a call, of every operator of a file that ran."""
    with tempfile.TemporaryDirectory() as folder:
        file = OnnxFile(path, threads=threads, shapes=shapes, profile=Path(folder) / "profile")
        feed = file.draw(batch_size)
        for _ in range(1 + CALLS):
            file.seconds(feed)
        events = json.loads(Path(file.session.end_profiling()).read_text())
    found: dict[tuple[str, str], list[float]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            name = event["name"].removesuffix("_kernel_time")
            found.setdefault((name, event["args"]["op_name"]), []).append(event["dur"] * 1e-6)
    return {key: float(np.median(seconds[1:])) for key, seconds in found.items()}


def summed(times: dict[tuple[str, str], float], part_of: Callable[[str, str], str]) -> Benchmark:
    """Sum operators' times by what they are part of, the slowest first."""
    parts: dict[str, list[float]] = {}
    for (name, operator), seconds in times.items():
        parts.setdefault(part_of(name, operator), []).append(seconds)
    ordered = sorted(parts.items(), key=lambda item: -sum(item[1]))
    shown = ordered[:ROWS]
    if rest := [seconds for _, each in ordered[ROWS:] for seconds in each]:
        shown.append((f"{len(ordered) - ROWS} more", rest))
    total = sum(times.values())
    rows: list[dict[str, Any]] = [
        {"part": part, "milliseconds": sum(each) * 1e3, "share": sum(each) / total, "count": len(each)}
        for part, each in shown
    ]
    return Benchmark(rows, COLUMNS, {"calls": CALLS})


def module_of(name: str, operator: str) -> str:
    """Return the module of an operator's name, such as `decoder.reduce.3` of `decoder.reduce.3.time.1/Relu`."""
    module, _, _ = name.strip("/").rpartition("/")
    found = re.match(r"\D*?\d+(?=[./]|$)|.*", module.replace("/", "."))
    return (found[0] if found else "") or "(no module)"


PARTS: dict[str, Callable[[str, str], str]] = {
    "by operator": lambda name, operator: operator,
    "by module": module_of,
}
"""What the times are summed by."""

COLUMNS = {
    "part": ("part", "{}"),
    "milliseconds": ("ms", "{:.3g}"),
    "share": ("share", "{:.1%}"),
    "count": ("operators", "{}"),
}
"""Key of a row -> its head and form in the table."""
