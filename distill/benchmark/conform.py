"""Replay golden vectors in every installed runtime, each in a fresh process, and say which reproduce the maps.

saldistill conform small.onnx
"""

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from distill.benchmark.process import peak_resident, run_fresh
from distill.benchmark.rows import Table, environment
from distill.data.progress import ProgressBar
from distill.data.text import plural
from distill.deploy.device_runtimes import DEVICE_RUNTIMES
from distill.deploy.formats.find import FORMATS, format_of
from distill.deploy.formats.format import files_of, load, read_metadata
from distill.deploy.golden_vectors import INDEX, GoldenVectors, check_same_model, read_kit
from distill.deploy.lint import Finding, lint
from distill.deploy.replay import replay
from distill.errors import UserError, reason_of
from distill.extras import install_line, is_installed
from distill.models.onnx import load_onnx
from distill.runtimes.openvino_runtime import load_in_openvino

log = logging.getLogger(__name__)

COLUMNS = (
    "file precision runtime loads unsupported verdict max_error cc lowest_cc first_ms steady_ms file_mb memory_mb"
)

HEADINGS = {"cc": "CC", "lowest_cc": "lowest CC", "first_ms": "first ms", "steady_ms": "steady ms"}

PASS, FAIL, NOT_RUN = "pass", "fail", "not run here"

STEADY = 8
"""Calls at the end of the replay whose median is the steady latency."""


@dataclass(frozen=True)
class Runtime:
    """A runtime that can replay golden vectors.

    Attributes:
        title: name in the table.
        package: package that it needs.
        suffix: of the files that it reads.
        load: function from a file and a number of threads to a `student.edge.EdgeModel`.
    """

    title: str
    package: str
    suffix: str
    load: Callable[..., Any]


def _load_onnx(path: Path, *, threads: int | None) -> Any:
    return load_onnx(path, threads=threads).edge


def _load_in_openvino(path: Path, *, threads: int | None) -> Any:
    return load_in_openvino(path, threads=threads).edge


RUNTIMES: dict[str, Runtime] = {
    "onnx": Runtime("ONNX Runtime", "onnxruntime", ".onnx", _load_onnx),
    "openvino-onnx": Runtime("OpenVINO", "openvino", ".onnx", _load_in_openvino),
    **{
        kind.name: Runtime(kind.runtime, kind.runners[0], kind.suffix, partial(load, kind))
        for kind in FORMATS.values()
    },
}
"""Runtimes by name, the values of `conform --runtime`."""


class Conformance(Table):
    """The table of a kit, and what the lint found in its ONNX graphs for runtimes that cannot run here.

    Attributes:
        findings: of `distill.deploy.lint`, in the order of the rows.
    """

    findings: tuple[Finding, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return setting, rows and findings as plain values for JSON."""
        return {**super().as_dict(), "findings": [asdict(each) for each in self.findings]}

    @property
    def failed(self) -> list[dict[str, Any]]:
        """Rows of runtimes that do not reproduce the maps."""
        return [row for row in self if row["verdict"] == FAIL]


def conform(
    where: str | Path,
    *,
    kit: str | Path | None = None,
    runtimes: Sequence[str] | None = None,
    threads: int = 1,
    progress: bool = True,
) -> Conformance:
    """Replay the golden vectors of a model in its exported files.

    Args:
        where: an exported file of any format, or a kit, whose files are those next to it and in it that belong to
            the same model.
        kit: the kit of a file; defaults to `where` + ".kit", or the folder of the file.
        runtimes: keys of RUNTIMES; defaults to those that are installed.
        threads: threads per call.
        progress: show a progress bar.

    Returns:
        One row per file and runtime, and, unless runtimes are named, one per .onnx file and runtime of
        `deploy.device_runtimes`. Keys: `file`, `precision`, `runtime`, `loads` ("yes" or "no"; "-" if it was not
        tried), `unsupported` (operators that the runtime lacks; None if it publishes no list), `verdict` ("pass",
        "fail" or "not run here"), `reason` (why it failed, or the number of findings), `max_error`, `cc` and
        `lowest_cc` (mean and lowest linear correlation with PyTorch's maps), `state_error` (None where the runtime
        keeps the state), `load_ms`, `first_ms`, `steady_ms`, `file_mb` and `memory_mb` (peak resident memory of the
        process beyond what it had before it loaded the runtime).

    Raises:
        UserError: there is no kit or no file, the kit belongs to another model, a runtime is unknown or not
            installed, or none that is installed reads the files.
    """
    where = Path(where)
    folder, files = _find(where, None if kit is None else Path(kit))
    vectors = read_kit(folder)
    chosen = _choose(runtimes)
    jobs = [(file, name) for file in files for name in chosen if RUNTIMES[name].suffix == file.suffix]
    skipped = [_not_run(file, chosen) for file in files if file not in {job[0] for job in jobs}]
    if not jobs:
        raise UserError(skipped[0])
    metadata = {file: _metadata(file, vectors) for file, _ in jobs}
    bar = ProgressBar("replaying golden vectors", "file and runtime", jobs, shown=progress)
    rows = [_row(folder, file, metadata[file], name, threads) for file, name in bar]
    notes = [
        f"{len(vectors.calls)} calls on frames of {vectors.source}, {threads} CPU threads, batch 1, each row in a "
        "fresh process; max error: for maps whose maximum is 1"
    ]
    notes += skipped
    findings = [(file, lint(file)) for file in files if file.suffix == ".onnx" and runtimes is None]
    rows += [_device_row(file, metadata[file], name, found) for file, found in findings for name in DEVICE_RUNTIMES]
    notes += [f"{row['file']} in {row['runtime']}: {row['reason']}" for row in rows if row["verdict"] == FAIL]
    notes += [f"{file.name}: {each}" for file, found in findings for each in found]
    setting = {"kit": str(folder), "calls": len(vectors.calls), "threads": threads, **environment()}
    table = Conformance(rows, COLUMNS, setting, notes, HEADINGS)
    table.findings = tuple(each for _, found in findings for each in found)
    return table


def _metadata(file: Path, vectors: GoldenVectors) -> dict[str, Any]:
    """Return the metadata of a file of the model of golden vectors."""
    found: dict[str, Any] = read_metadata(file) if format_of(file) else load_onnx(file, threads=1).edge.metadata
    check_same_model(vectors, found, file)
    return found


def _not_run(file: Path, chosen: Sequence[str]) -> str:
    """Return why none of the chosen runtimes runs a file."""
    reading = next(each for each in RUNTIMES.values() if each.suffix == file.suffix)
    if is_installed(reading.package):
        return f"{file}: none of the runtimes {', '.join(chosen)} reads it; expected {reading.title}"
    return f"{file}: {reading.title}, which reads it, is not installed; {install_line(reading.package)}"


def _device_row(file: Path, metadata: dict[str, Any], name: str, findings: Sequence[Finding]) -> dict[str, Any]:
    """Return the row of a runtime that cannot run here, from what the lint found."""
    found = [each for each in findings if each.runtime == name]
    unsupported = sum(each.where.startswith("operator ") for each in found)
    return {
        **_empty_row(file, metadata, DEVICE_RUNTIMES[name].title),
        "loads": "-",
        "unsupported": unsupported if DEVICE_RUNTIMES[name].operators is not None else None,
        "verdict": NOT_RUN,
        "reason": f"{plural(len(found), 'finding')} of the lint" if found else "",
    }


def _empty_row(file: Path, metadata: dict[str, Any], runtime: str) -> dict[str, Any]:
    """Return the row of a file that could not be run."""
    files = files_of(file) if format_of(file) else [file]
    numbers = ("max_error", "cc", "lowest_cc", "state_error", "load_ms", "first_ms", "steady_ms", "memory_mb")
    return {
        "file": file.name,
        "precision": str(metadata.get("precision", "fp32")),
        "runtime": runtime,
        "loads": "no",
        "unsupported": None,
        "verdict": FAIL,
        "reason": "",
        **dict.fromkeys(numbers, math.nan),
        "file_mb": sum(each.stat().st_size for each in files) / 1e6,
    }


def _find(where: Path, kit: Path | None) -> tuple[Path, list[Path]]:
    """Return the kit, and the exported files to run."""
    if where.is_dir():
        return where, _exported_files(where)
    if not where.is_file():
        raise UserError(f"{where}: no such file or folder; expected an exported model, or a kit of `export --kit`")
    if where.suffix not in {each.suffix for each in RUNTIMES.values()}:
        known = ", ".join(dict.fromkeys(each.suffix for each in RUNTIMES.values()))
        raise UserError(f"{where}: expected a kit, or an exported model that ends in {known}")
    candidates = [kit] if kit is not None else [where.with_name(f"{where.name}.kit"), where.parent]
    for candidate in candidates:
        if (candidate / INDEX).is_file():
            return candidate, [where]
    raise UserError(
        f"{candidates[0]}: no kit; write one with `saldistill export MODEL -o FILE --kit`, or name it with --kit"
    )


def _exported_files(kit: Path) -> list[Path]:
    """Return the exported files in a kit, and the file next to it that it was written with."""
    suffixes = {each.suffix for each in RUNTIMES.values()}
    beside = kit.with_suffix("")
    found = [path for path in sorted(kit.iterdir()) if path.suffix in suffixes]
    if kit.suffix == ".kit" and beside.is_file():
        found.insert(0, beside)
    if not found:
        raise UserError(f"{kit}: has no exported model in it or next to it; copy one into it, or name a file")
    return found


def _choose(names: Sequence[str] | None) -> list[str]:
    if names is None:
        return [name for name, each in RUNTIMES.items() if is_installed(each.package)]
    for name in names:
        if name not in RUNTIMES:
            raise UserError(f"runtime: expected one or more of {', '.join(RUNTIMES)}, got {name!r}")
        package = RUNTIMES[name].package
        if not is_installed(package):
            raise UserError(f"runtime {name}: {package} is not installed; {install_line(package)}")
    return list(names)


def _row(folder: Path, file: Path, metadata: dict[str, Any], name: str, threads: int) -> dict[str, Any]:
    """Return the row of one file in one runtime."""
    row = _empty_row(file, metadata, RUNTIMES[name].title)
    try:
        found = run_fresh(measure, folder, file, name, threads, quiet=True)
    except RuntimeError as error:
        return {**row, "reason": reason_of(error)}
    return {**row, **found}


def measure(folder: Path, file: Path, name: str, threads: int) -> dict[str, Any]:
    """Replay golden vectors in this process, and return the measured part of a row."""
    vectors = read_kit(folder)
    before = peak_resident()
    try:
        started = time.perf_counter()
        edge = RUNTIMES[name].load(file, threads=threads)
        load_ms = (time.perf_counter() - started) * 1000
        found = replay(edge, vectors)
    except ValueError as error:
        return {"reason": reason_of(error)}
    problem = found.problem(str(edge.metadata.get("precision", "fp32")))
    return {
        "loads": "yes",
        "unsupported": 0,
        "load_ms": load_ms,
        "verdict": FAIL if problem else PASS,
        "reason": problem or "",
        "max_error": found.max_error,
        "cc": found.cc,
        "lowest_cc": found.lowest_cc,
        "state_error": found.state_error,
        "first_ms": found.seconds[0] * 1000,
        "steady_ms": float(np.median(found.seconds[-STEADY:])) * 1000,
        "memory_mb": (peak_resident() - before) / 1e6,
    }
