"""What every benchmark shares: rounds that interleave, and rows printed as a table and saved as JSON."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from distill.files import write_json

ROUND_SECONDS = 0.5
"""What is measured is called in one round until about so much time has passed, once at least, ..."""

MOST_CALLS = 20
"""... and so often at most."""

SETTLE_SECONDS = 0.05
"""Before each: threads of what ran before may still wait for more work, at full speed (ONNX Runtime's do). On two
cores, that made another file's median half as long again."""


class Benchmark(list[dict[str, Any]]):
    """Rows of plain values, printed as a table and saved as JSON.

    Args:
        rows: what was measured, one mapping a row, with the keys that `columns` names at least.
        columns: key of a row -> its head and form in the table, such as ("ms", "{:.4g}"). None prints as "-".
        setting: how it was measured: device, threads, rounds and the like.
        notes: lines under the table.
    """

    def __init__(
        self,
        rows: Sequence[dict[str, Any]],
        columns: Mapping[str, tuple[str, str]],
        setting: Mapping[str, Any],
        notes: Sequence[str] = (),
    ) -> None:
        super().__init__(rows)
        self.columns, self.setting, self.notes = dict(columns), dict(setting), list(notes)

    def __str__(self) -> str:
        cells = [[head for head, _ in self.columns.values()]] + [
            [form.format(row[key]) if row[key] is not None else "-" for key, (_, form) in self.columns.items()]
            for row in self
        ]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = [
            "  ".join([line[0].ljust(widths[0])] + [c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True)])
            for line in cells
        ]
        return "\n".join([*lines, *self.notes])

    def save(self, path: str | Path) -> None:
        """Write rows and setting as JSON, atomically."""
        write_json(path, {"setting": self.setting, "rows": list(self)})


class Tables(dict[str, Benchmark]):
    """Several benchmarks under their titles, printed one after the other and saved in one file."""

    def __str__(self) -> str:
        return "\n\n".join(f"{title}\n{table}" for title, table in self.items())

    def save(self, path: str | Path) -> None:
        """Write rows and setting of each, under its title, as JSON, atomically."""
        write_json(path, {title: {"setting": each.setting, "rows": list(each)} for title, each in self.items()})


def interleave(calls: Sequence[Callable[[], float]], rounds: int, *, progress: bool) -> list[list[float]]:
    """Time every call once a round, after a round that only warms up.

    A machine that slows down slows down all of them, so that their ratios hold.

    Args:
        calls: functions that do what is measured once, and return the seconds it took.
        rounds: how many; a fast call runs several times in each.
        progress: show a bar.

    Returns:
        For each call, the seconds of each time it ran.
    """
    seconds: list[list[float]] = [[] for _ in calls]
    with tqdm(total=(rounds + 1) * len(calls), unit="round", desc="timing", disable=not progress) as bar:
        counts = []
        for call in calls:
            usual = min(call(), call())
            counts.append(max(1, min(MOST_CALLS, int(ROUND_SECONDS / max(usual, 1e-9)))))
            bar.update()
        for _ in range(rounds):
            for call, count, own in zip(calls, counts, seconds, strict=True):
                time.sleep(SETTLE_SECONDS)
                if count > 1:
                    call()  # the others have emptied the caches; of a slow one that is no matter
                own.extend(call() for _ in range(count))
                bar.update()
    return seconds
