"""Report on this project on one GPU: the tests marked gpu, then speed and memory, in less than nine minutes.

    scripts/gpu_report                                    writes runs/gpu/report.json and runs/gpu/report.md
    scripts/gpu_report --parts tests,inference
    scripts/gpu_report --device cpu --quick               proves the program without a GPU; its figures mean nothing
    scripts/gpu_report --compare one.json other.json

Each part runs in a process of its own under its own time limit, so that neither a failure nor a part that runs out
of time affects the others: its rows so far are kept, and its status names the reason.
"""

import argparse
import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from distill.benchmark.gpu_inference import compiled, inference, streaming
from distill.benchmark.gpu_pages import comparison, markdown
from distill.benchmark.gpu_rows import Plan, Row
from distill.benchmark.gpu_training import cache, students, training
from distill.benchmark.rows import device_name
from distill.errors import UserError, reading
from distill.files import finite, write_json, write_text
from distill.models.device import resolve_device

REPOSITORY = Path(__file__).resolve().parents[2]

BUDGET = 530.0
"""Seconds of the whole report: less than nine minutes."""

RESERVE = 10.0
"""Seconds that a part's process may take for starting and stopping, beyond its limit."""


@dataclass(frozen=True)
class Part:
    """A part of the report: its title, its share of the time in seconds, and what it measures in a process."""

    title: str
    seconds: float
    run: Callable[[Plan], Iterator[Row]] | None = None


PARTS: dict[str, Part] = {
    "tests": Part("Tests of every CUDA branch", 200),
    "inference": Part("Teachers: time and memory per map", 80, inference),
    "training": Part("Training step of the teacher, per clip", 40, training),
    "cache": Part("Target store from a video, end to end", 40, cache),
    "students": Part("Training runs of the students, per clip", 45, students),
    "streaming": Part("Streaming students: time per frame", 25, streaming),
    "compiled": Part("Compiled teachers: time per map", 100, compiled),
}
"""The parts in their order. The last one also has the time that the others leave."""

TEST = re.compile(r"^(tests/\S+?::.+?) (PASSED|FAILED|ERROR|SKIPPED)\b")
FAILURE = re.compile(r"^(?:FAILED|ERROR) (tests/\S+?::.+?) - (.*)")


def report(
    out: Path, *, device: str = "cuda", quick: bool = False, parts: Sequence[str] = (), budget: float = BUDGET
) -> dict[str, Any]:
    """Run the parts and write `report.json` and `report.md` after each of them.

    Args:
        out: folder of the report.
        device: device to measure.
        quick: the smallest models and one round.
        parts: names from PARTS; defaults to all.
        budget: seconds for all parts together.

    Returns:
        The content of report.json: `setting`, `parts` (seconds and status of each) and `rows`.

    Raises:
        UserError: a part or the device does not exist.
    """
    if unknown := [name for name in parts if name not in PARTS]:
        raise UserError(f"parts: expected one or more of {', '.join(PARTS)}, got {unknown[0]!r}")
    names = [name for name in PARTS if not parts or name in parts]
    found: dict[str, Any] = {"setting": setting(resolve_device(device), quick), "parts": {}, "rows": []}
    started = time.monotonic()
    for index, name in enumerate(names):
        left = budget - (time.monotonic() - started)
        limit = left if index + 1 == len(names) else min(left, PARTS[name].seconds * budget / BUDGET)
        print(f"{name}: at most {limit:.0f} s", file=sys.stderr, flush=True)
        begun = time.monotonic()
        rows, status = run_part(name, out, device, limit, quick=quick)
        seconds = time.monotonic() - begun
        found["parts"][name] = {"title": PARTS[name].title, "seconds": round(seconds, 1), "status": status}
        found["rows"] += [{"part": name, **row} for row in rows]
        print(f"{name}: {status}, {len(rows)} rows, {seconds:.0f} s", file=sys.stderr, flush=True)
        write_json(out / "report.json", finite(found))
        write_text(out / "report.md", markdown(found))
    return found


def setting(device: torch.device, quick: bool) -> dict[str, Any]:
    """Return the conditions of a report."""
    return {
        "device": device_name(device),
        "torch": str(torch.__version__),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if device.type == "cuda" else None,
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "tf32": False,
        "quick": quick,
    }


def run_part(name: str, out: Path, device: str, limit: float, *, quick: bool) -> tuple[list[Row], str]:
    """Return the rows of a part, and its status: "finished", or why it is not."""
    if limit < 2 * RESERVE and not quick:
        return [], "not started: no time was left"
    out.mkdir(parents=True, exist_ok=True)
    log, rows = out / f"{name}.log", out / f"{name}.jsonl"
    rows.unlink(missing_ok=True)
    if name == "tests":
        command = ["-m", "pytest", "tests/gpu", "-m", "gpu", "-v", "-p", "no:cacheprovider", "--color=no"]
        command += ["-o", "filterwarnings=default"]  # an older PyTorch has other warnings
    else:
        command = ["-m", "distill.benchmark.gpu_report", "--part", name, "--rows", str(rows), "--device", device]
        command += ["--seconds", str(limit - RESERVE), *(["--quick"] if quick else [])]
    status = _run(command, log, limit)
    if name == "tests":
        return test_rows(log.read_text(encoding="utf-8", errors="replace")), status
    lines = rows.read_text(encoding="utf-8").splitlines() if rows.exists() else []
    return [json.loads(line) for line in lines], status


def _run(command: Sequence[str], log: Path, limit: float) -> str:
    """Run Python with some arguments in the repository; return a status."""
    path = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "NO_COLOR": "1"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=REPOSITORY,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = process.wait(timeout=max(limit, 1))
        except subprocess.TimeoutExpired:
            return f"stopped after {limit:.0f} s; what it had not measured is missing"
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # with its workers
            process.wait()
    if code == 0:
        return "finished"
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return f"failed with exit code {code}: {lines[-1][:200] if lines else 'no output'}; see {log.name}"


def test_rows(output: str) -> list[Row]:
    """Return a row of the number of tests by outcome, and one per test that failed, from pytest's output."""
    outcomes, reasons = {}, {}
    for line in output.splitlines():
        if match := TEST.match(line):
            outcomes[match[1]] = match[2].lower()
        elif match := FAILURE.match(line):
            reasons[match[1]] = match[2]
    counts = {kind: [*outcomes.values()].count(kind) for kind in ("passed", "failed", "error", "skipped")}
    summary = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count) or "no test ran"
    failed = [name for name, outcome in outcomes.items() if outcome in ("failed", "error")]
    return [
        {"what": "all", "note": summary},
        *({"what": name, "error": reasons.get(name, "see tests.log")} for name in failed),
    ]


def measure_part(name: str, rows: Path, plan: Plan) -> None:
    """Measure a part in this process and append its rows to a file of JSON lines, one by one."""
    torch.backends.cudnn.allow_tf32 = False  # convolutions use TF32 by default; fp32 means fp32 here
    run = PARTS[name].run
    assert run is not None
    with rows.open("a", encoding="utf-8") as file:
        for row in run(plan):
            file.write(json.dumps(finite(row)) + "\n")
            file.flush()


def read_report(path: Path) -> dict[str, Any]:
    """Return the content of a report.json.

    Raises:
        UserError: the file is missing or is no report.
    """
    with reading(path, "a GPU report"):
        found = json.loads(path.read_text(encoding="utf-8"))
        return {"setting": dict(found["setting"]), "parts": found["parts"], "rows": list(found["rows"])}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; return 0, 1 if a part or a test failed, or 2 for invalid input."""
    parser = argparse.ArgumentParser(prog="gpu_report", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--out", type=Path, default=REPOSITORY / "runs" / "gpu", help="folder of the report")
    parser.add_argument("--device", default="cuda", help="device to measure (default: %(default)s)")
    parser.add_argument("--parts", default="", help=f"parts, separated by commas: {','.join(PARTS)} (default: all)")
    parser.add_argument("--budget", type=float, default=BUDGET, help="seconds for all parts (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="smallest models, one round: proves the program only")
    parser.add_argument("--compare", type=Path, nargs=2, metavar="JSON", help="compare two reports and stop")
    for hidden in ("--part", "--rows", "--seconds"):  # how the program starts the process of a part
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    try:
        if chosen.compare:
            print(comparison(*map(read_report, chosen.compare)))
            return 0
        if chosen.part:
            plan = Plan(resolve_device(chosen.device), chosen.quick, float(chosen.seconds))
            measure_part(chosen.part, Path(chosen.rows), plan)
            return 0
        run = partial(report, chosen.out.resolve(), device=chosen.device, quick=chosen.quick, budget=chosen.budget)
        found = run(parts=[name for name in chosen.parts.split(",") if name])
    except UserError as error:
        print(f"gpu_report: {error}", file=sys.stderr)
        return 2
    print(markdown(found))
    print(f"Written to {chosen.out}: report.json and report.md")
    return int(any(part["status"] != "finished" for part in found["parts"].values()))


if __name__ == "__main__":
    sys.exit(main())
