"""Log of a run: one JSON object per line in log.jsonl, the same numbers for TensorBoard, and a progress bar."""

import json
import math
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tqdm import tqdm

from distill.files import write_text


class StepLog:
    """Writes log.jsonl and tensorboard/ in a run folder and shows the progress bar.

    A resumed run first removes the lines after its checkpoint, so that the file has each step once.

    Args:
        run: the run folder.
        start: number of steps that are already done.
        steps: length of the run.
        quiet: write and show nothing; set in all processes but the main one.
    """

    def __init__(self, run: Path, *, start: int, steps: int, quiet: bool = False) -> None:
        self.quiet = quiet
        self.path = run / "log.jsonl"
        self._tensorboard: Any = None
        if not quiet:
            if self.path.exists():
                kept = [line for line in read_log(self.path) if line["step"] <= start]
                write_text(self.path, "".join(json.dumps(line) + "\n" for line in kept))
            self._tensorboard = _tensorboard(run / "tensorboard", start)
        self.bar = tqdm(total=steps, initial=start, unit="step", disable=quiet, dynamic_ncols=True, desc="train")

    def __enter__(self) -> Self:
        """Return the log itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the bar and the files."""
        self.bar.close()
        if self._tensorboard is not None:
            self._tensorboard.close()

    def step(self, record: dict[str, Any]) -> None:
        """Log one training step and advance the bar."""
        self._write({"kind": "train", **record})
        self.bar.set_postfix_str(
            f"loss {record['loss']:.4f}, lr {record['lr']:.1e}, {record['clips_per_second']:.1f} clips/s"
        )
        self.bar.update()

    def validation(self, record: dict[str, Any]) -> None:
        """Log one validation."""
        self._write({"kind": "validation", **record})
        scores = ", ".join(f"{name} {value:.3f}" for name, value in record["scores"].items())
        self.message(f"step {record['step']}: validation {scores}")

    def message(self, text: str) -> None:
        """Print a line above the bar."""
        if not self.quiet:
            self.bar.write(text)

    def _write(self, record: dict[str, Any]) -> None:
        if self.quiet:
            return
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(_finite(record)) + "\n")
        if self._tensorboard is not None:
            for name, value in flatten(record, "/").items():
                if isinstance(value, int | float) and name != "step":
                    self._tensorboard.add_scalar(f"{record['kind']}/{name}", value, record["step"])


def read_log(path: str | Path) -> list[dict[str, Any]]:
    """Return the lines of log.jsonl up to one that a crash left incomplete; empty if the file does not exist."""
    path = Path(path)
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return lines


def _finite(value: Any) -> Any:
    """Return nested mappings with None in place of NaN and infinity, which JSON lacks."""
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def flatten(values: Any, separator: str = ".", path: str = "") -> dict[str, Any]:
    """Return nested mappings as one mapping from `key.path` to value."""
    if not isinstance(values, dict) or not values:
        return {path: values}
    return {
        key: value
        for name, inner in values.items()
        for key, value in flatten(inner, separator, f"{path}{separator}{name}" if path else name).items()
    }


def _tensorboard(folder: Path, start: int) -> Any:
    """Return a TensorBoard writer, or None if the extra `tracking` is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=start + 1)
