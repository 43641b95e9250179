"""Interleaved timing rounds, and tables of rows that print as text and save as JSON."""

import math
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distill.data.progress import ProgressBar
from distill.files import write_json

ROUND_SECONDS = 0.5
"""Within one round, a call is repeated until about this much time has passed; at least once ..."""

MAX_CALLS = 20
"""... and at most this often."""

SETTLE_SECONDS = 0.05
"""Pause before each call. ONNX Runtime's threads spin for a moment after a call; on two cores, that made the next
row's median 50 % longer."""

Call = Callable[[], float]
"""Runs the measured work once and returns its seconds."""

HEADINGS = {
    "milliseconds": "ms",
    "gmacs": "GMACs/map",
    "clips_per_second": "clips/s",
    "frames_per_second": "frames/s",
    "memory_mb": "memory MB",
    "file_mb": "file MB",
}
"""Key of a column -> heading; other headings are the key with spaces."""


class Table(list[dict[str, Any]]):
    """Rows of plain values, printed as a table and saved as JSON.

    Args:
        rows: one mapping per row, with at least the keys of `columns`.
        columns: keys of the printed columns, separated by spaces.
        setting: conditions of the measurement, such as device, threads and rounds.
        notes: lines below the table.
        headings: key of a column -> heading, before those of HEADINGS.
    """

    def __init__(
        self,
        rows: Sequence[dict[str, Any]],
        columns: str,
        setting: Mapping[str, Any],
        notes: Sequence[str] = (),
        headings: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(rows)
        self.columns, self.setting, self.notes = columns.split(), dict(setting), list(notes)
        self.headings = {**HEADINGS, **(headings or {})}

    def __str__(self) -> str:
        cells = [[self.headings.get(key, key.replace("_", " ")) for key in self.columns]]
        cells += [[_cell(row[key]) for key in self.columns] for row in self]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = [
            "  ".join([line[0].ljust(widths[0])] + [c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True)])
            for line in cells
        ]
        return "\n".join([*lines, *self.notes])

    def as_dict(self) -> dict[str, Any]:
        """Return setting and rows as plain values for JSON."""
        return {"setting": self.setting, "rows": list(self)}

    def save(self, path: str | Path) -> None:
        """Write setting and rows as JSON, atomically; an existing file is not replaced but a UserError."""
        write_json(path, self.as_dict(), overwrite=False)


def _cell(value: object) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return "-"
    if isinstance(value, float) and abs(value) < 1000:
        return f"{value:.4g}"
    return "-" if value is None else f"{value:,.0f}" if isinstance(value, int | float) else str(value)


class Tables(dict[str, Table]):
    """Several tables by title, printed one after the other and saved in one file."""

    def __str__(self) -> str:
        return "\n\n".join(f"{title}\n{table}" for title, table in self.items())

    def as_dict(self) -> dict[str, Any]:
        """Return every table under its title as plain values for JSON."""
        return {title: table.as_dict() for title, table in self.items()}

    def save(self, path: str | Path) -> None:
        """Write every table under its title as JSON, atomically; as `Table.save`."""
        write_json(path, self.as_dict(), overwrite=False)


def interleave(calls: Sequence[Call], rounds: int, *, progress: bool) -> list[list[float]]:
    """Return the times of calls, each run once per round, after a warm-up round.

    A slowdown of the machine affects all calls alike, so that their ratios hold.

    Args:
        calls: the measured work.
        rounds: number of rounds; a fast call runs several times in each.
        progress: show a progress bar.

    Returns:
        For each call, the seconds of each time it ran.
    """
    seconds: list[list[float]] = [[] for _ in calls]
    with ProgressBar("timing", "measurement", total=(rounds + 1) * len(calls), shown=progress, result=False) as bar:
        counts = []
        for call in calls:
            usual = min(call(), call())
            counts.append(max(1, min(MAX_CALLS, int(ROUND_SECONDS / max(usual, 1e-9)))))
            bar.update()
        for _ in range(rounds):
            for call, count, own in zip(calls, counts, seconds, strict=True):
                time.sleep(SETTLE_SECONDS)
                if count > 1:
                    call()  # the other calls have evicted the caches, which matters for fast calls only
                own.extend(call() for _ in range(count))
                bar.update()
    return seconds


def timed(work: Callable[[], object], clock: Call = time.perf_counter) -> Call:
    """Return a call that does the work and returns the seconds that pass on a clock."""

    def call() -> float:
        started = clock()
        work()
        return clock() - started

    return call


def summarise(seconds: Sequence[float], units: int = 1) -> dict[str, Any]:
    """Return `milliseconds` (median per unit), `p99` (milliseconds per unit) and `calls` of timed calls.

    Args:
        seconds: of each call.
        units: maps, clips or frames that one call processes.
    """
    each = np.asarray(seconds) * 1000 / units
    return {"milliseconds": float(np.median(each)), "p99": float(np.percentile(each, 99)), "calls": len(seconds)}


def device_name(device: torch.device) -> str:
    """Return the name of a device for tables: the GPU's name, or the kind of device and the architecture."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device} ({platform.machine()})"


def environment() -> dict[str, Any]:
    """Return the parts of a setting that every table has: number of CPUs and PyTorch's version."""
    return {"cpus": os.cpu_count(), "torch": str(torch.__version__)}


def wait(device: torch.device) -> None:
    """Wait until a device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
