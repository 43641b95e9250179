"""Run commands on bad inputs in folders of their own, and judge how they end.

    with Runner(folder) as runner:
        results = runner.run([Case("empty PNG", ["evaluate", ...], prepare)])

A case ends correctly, or is refused: exit code 2 and one line. Everything else is a violation, of one of KINDS.
"""

import json
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from helpers.places import REPOSITORY

SECONDS, MEMORY = 30.0 * float(os.environ.get("ATTACK_PATIENCE", "1")), 2e9
"""Time and memory that a command may take; ATTACK_PATIENCE is for machines that are busy with other work."""

LANES = max(1, min(4, len(os.sched_getaffinity(0)) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))))
"""Commands that run at once: one per core, shared with the other processes of pytest-xdist."""

LONGEST = 2000
"""Characters of a message; longer ones repeat their input."""

KINDS = {
    "traceback": "a traceback, or a note of the interpreter about an ignored exception",
    "crash": "killed by a signal that nobody sent",
    "exit code": "an exit code that is not documented for this",
    "message": "no message, several lines, or a line of more than 2000 characters",
    "time": "more than 30 seconds",
    "memory": "more than 2 GB",
    "outside": "a file created, changed or removed outside the output",
    "leftover": "a temporary file, or a part of the output, that a finished command left",
    "silent": "exit code 0 with a wrong result, or for an input that cannot have a right one",
}

TRACES = ("Traceback (most recent call last)", "Exception ignored in", "Fatal Python error", "dumped core")
MESSAGE = re.compile(r"^(?:saldistill|edge\.py)(?: [\w -]+: error)?: ", re.MULTILINE)

Check = Callable[["Outcome", Path], str | None]
"""(outcome, the case's folder) -> what is wrong with the result of a command that exited with 0, or None."""


def anything(outcome: "Outcome", folder: Path) -> None:
    """Accept every result: the damage may be harmless."""


def nothing(outcome: "Outcome", folder: Path) -> str:
    """Accept no result: the input has no right one."""
    return f"accepted; it printed {outcome.stdout.strip()[-200:]!r}"


@dataclass(frozen=True)
class Case:
    """A command on a bad input.

    Attributes:
        name: the input and the verb, for the report.
        argv: arguments of the command; relative paths start at the case's folder.
        prepare: writes the input into the case's folder.
        check: judges the result if the command exits with 0.
        program: `saldistill` or `edge`, the runner without PyTorch.
        out: names in the case's folder that the command may create.
        refusals: exit codes of a refusal.
        lists: the message may be followed by an indented list, as for a config with several mistakes.
        environment: variables of the command.
        file_size: largest file that the command can write, in bytes, as on a full disk.
        disk: size in bytes of a file system that is mounted on the folder `disk`; needs root. It is gone with the
            command, but for the names of what was left on it.
    """

    name: str
    argv: Sequence[object]
    prepare: Callable[[Path], object] = lambda folder: None
    check: Check = anything
    program: str = "saldistill"
    out: tuple[str, ...] = ("out", "out.mp4", "out.onnx", "out.safetensors", "out.json", "maps")
    refusals: tuple[int, ...] = (2,)
    lists: bool = False
    environment: dict[str, str] = field(default_factory=dict)
    file_size: int | None = None
    disk: int | None = None


@dataclass(frozen=True)
class Outcome:
    """How a command ended: exit code (negative: signal), cost, what it printed, and what it left on its disk."""

    code: int
    seconds: float
    memory: float
    ended: str
    stdout: str
    stderr: str
    left: tuple[str, ...] = ()

    @property
    def message(self) -> str:
        """The error message: everything from the last line that starts as one."""
        starts = [match.end() for match in MESSAGE.finditer(self.stderr.replace("\r", "\n"))]
        return self.stderr[starts[-1] :].strip() if starts else ""


@dataclass(frozen=True)
class Result:
    """A judged case: `kind` is correct, refused, or one of KINDS."""

    case: Case
    kind: str
    detail: str = ""
    folder: Path | None = None

    @property
    def is_violation(self) -> bool:
        return self.kind in KINDS

    def __str__(self) -> str:
        program = "python student/edge.py" if self.case.program == "edge" else "saldistill"
        command = shlex.join([*program.split(), *map(str, self.case.argv)])
        return f"[{self.kind}] {self.case.name}: {self.detail}\n    cd {self.folder} && {command}"


class Runner:
    """Runs commands in forks of a warm process.

    Args:
        folder: folder for the cases; those that end as they should are removed.

    Attributes:
        cpu: CPU seconds of all commands so far.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.number = 0
        self.cpu = 0.0
        self._waiting: dict[int, Future[dict[str, Any]]] = {}
        self._lock = threading.Lock()
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        self._server = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("server.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **threads, "PYTHONPATH": str(REPOSITORY), "PYTHONHASHSEED": "0"},
        )
        assert self._server.stdout is not None
        assert json.loads(self._server.stdout.readline()) == {"id": 0}
        threading.Thread(target=self._receive, daemon=True).start()

    def __enter__(self) -> "Runner":
        return self

    def __exit__(self, *_: object) -> None:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.close()
        self._server.wait()

    def _receive(self) -> None:
        assert self._server.stdout is not None
        for line in self._server.stdout:
            result = json.loads(line)
            self._waiting.pop(result["id"]).set_result(result)
        self._server.stdout.close()

    def _send(self, request: dict[str, Any]) -> None:
        assert self._server.stdin is not None
        with self._lock:
            self._server.stdin.write(json.dumps(request).encode() + b"\n")
            self._server.stdin.flush()

    def new_folder(self, name: str = "case") -> Path:
        """Return a new folder, nested so that names with `..` stay inside this run's folder."""
        with self._lock:
            self.number += 1
            folder = self.folder / f"{self.number:05d}" / "outer" / name
        folder.mkdir(parents=True)
        return folder

    def start(
        self,
        argv: Sequence[object],
        folder: Path,
        *,
        program: str = "saldistill",
        environment: dict[str, str] | None = None,
        seconds: float = SECONDS,
        memory: float = MEMORY,
        file_size: int | None = None,
        disk: int | None = None,
    ) -> "Running":
        """Start a command in a folder."""
        with self._lock:
            self.number += 1
            number = self.number
        logs = self.folder / "logs" / str(number)
        logs.mkdir(parents=True)
        cache = {"SALDISTILL_CACHE": str(logs / "cache"), "HF_HUB_OFFLINE": "1"}
        waiting: Future[dict[str, Any]] = Future()
        self._waiting[number] = waiting
        self._send(
            {
                "id": number,
                "program": program,
                "argv": [str(each) for each in argv],
                "folder": str(folder),
                "stdout": str(logs / "stdout"),
                "stderr": str(logs / "stderr"),
                "environment": {**cache, **(environment or {})},
                "seconds": seconds,
                "memory": memory,
                "file_size": file_size,
                "disk": disk,
                "left": str(logs / "left"),
            }
        )
        return Running(self, number, logs, waiting)

    def command(self, *argv: object, folder: Path, seconds: float = 300.0, **options: Any) -> Outcome:
        """Run a command that must succeed, e.g. to make material for cases."""
        outcome = self.start(argv, folder, seconds=seconds, **options).wait()
        assert outcome.code == 0, f"{shlex.join(map(str, argv))}: exit code {outcome.code}: {outcome.stderr}"
        return outcome

    def run(self, cases: Iterable[Case]) -> list[Result]:
        """Run cases, LANES at a time; return their results in order."""
        results, waiting = [], deque[Future[Result]]()
        with ThreadPoolExecutor(LANES) as lanes:
            for case in cases:
                waiting.append(lanes.submit(self.run_one, case))
                if len(waiting) > 4 * LANES:  # cases hold their files in memory
                    results.append(waiting.popleft().result())
        return [*results, *(each.result() for each in waiting)]

    def run_one(self, case: Case) -> Result:
        """Run one case in a folder of its own and judge it."""
        folder = self.new_folder()
        try:
            case.prepare(folder)
        except Exception as error:  # a mistake of the suite, not of the command
            raise AssertionError(f"{case.name}: cannot be prepared") from error
        before = contents(folder.parents[1], except_for=folder)
        inside = contents(folder)
        running = self.start(
            case.argv,
            folder,
            program=case.program,
            environment=case.environment,
            file_size=case.file_size,
            disk=case.disk,
        )
        outcome = running.wait()
        result = judge(case, outcome, folder)
        if result is None or result[0] == "silent":
            changed = differences(inside, contents(folder))
            others = differences(before, contents(folder.parents[1], except_for=folder))
            others += [name for name in changed if name.split("/")[0] not in case.out and not is_temporary(name)]
            hidden = [name for name in (*changed, *outcome.left) if is_temporary(name)]
            if others:
                result = ("outside", ", ".join(others[:5]))
            elif hidden and result is None:
                result = ("leftover", ", ".join(hidden[:5]))
        if result is None:
            result = ("correct" if outcome.code == 0 else "refused", "")
        done = Result(case, *result, folder=folder)
        if not done.is_violation:
            shutil.rmtree(folder.parents[1])
        return done


@dataclass(frozen=True)
class Running:
    """A started command."""

    runner: Runner
    number: int
    logs: Path
    waiting: "Future[dict[str, Any]]"

    def wait(self) -> Outcome:
        """Return how the command ended."""
        result = self.waiting.result()
        self.runner.cpu += result["cpu"]
        printed = [
            (self.logs / name).read_text(errors="replace") if (self.logs / name).exists() else ""
            for name in ("stdout", "stderr")
        ]
        left = json.loads((self.logs / "left").read_text()) if (self.logs / "left").exists() else []
        shutil.rmtree(self.logs, ignore_errors=True)
        return Outcome(*(result[key] for key in ("code", "seconds", "memory", "ended")), *printed, tuple(left))

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to the command; nothing happens if it has ended."""
        self.runner._send({"id": self.number, "signal": int(number)})

    def kill_after(self, seconds: float, number: int = signal.SIGKILL) -> Outcome:
        """Send a signal after a time, and return how the command ended."""
        end = time.monotonic() + seconds
        while not self.waiting.done() and time.monotonic() < end:
            time.sleep(0.005)
        self.kill(number)
        return self.wait()


def judge(case: Case, outcome: Outcome, folder: Path) -> tuple[str, str] | None:
    """Return what is wrong with how a command ended, (kind, detail); None if nothing is."""
    if outcome.ended in ("time", "memory"):
        used = f"{outcome.seconds:.0f} s" if outcome.ended == "time" else f"{outcome.memory / 1e9:.1f} GB"
        return outcome.ended, f"{used}; last line: {last_line(outcome.stderr)}"
    if any(trace in outcome.stderr for trace in TRACES):
        return "traceback", last_line(outcome.stderr)
    if outcome.code < 0:
        return "crash", f"{signal.Signals(-outcome.code).name}; last line: {last_line(outcome.stderr)}"
    if outcome.code == 0:
        wrong = case.check(outcome, folder)
        return ("silent", wrong) if wrong else None
    if outcome.code not in case.refusals:
        return "exit code", f"{outcome.code}; last line: {last_line(outcome.stderr)}"
    typed = [value for word in case.argv if len(value := str(word).rpartition("=")[2]) > 100]
    return judge_message(outcome, lists=case.lists, typed=typed)


def judge_message(outcome: Outcome, *, lists: bool = False, typed: Sequence[str] = ()) -> tuple[str, str] | None:
    """Return what is wrong with the message of a refusal, (kind, detail): it must be one line.

    Args:
        outcome: how the command ended.
        lists: whether the message may be a list of mistakes, one line each, that all start with the same file.
        typed: long words of the command line, which a message may repeat.
    """
    first, *more = outcome.message.splitlines() or [""]
    if any(trace in outcome.stderr for trace in TRACES):
        return "traceback", last_line(outcome.stderr)
    if not first:
        return "message", f"none; last line: {last_line(outcome.stderr)}"
    start = first.partition(":")[0]
    if more and not (lists and all(line.startswith((" ", start)) for line in more)):
        return "message", f"{1 + len(more)} lines: {first[:100]} ... {more[-1][:200]}"
    for word in typed:
        first = first.replace(word, "...")
    if max(map(len, (first, *more))) > LONGEST:
        return "message", f"{len(outcome.message)} characters: {first[:200]}"
    return None


def last_line(text: str) -> str:
    return (text.replace("\r", "\n").strip().splitlines() or ["nothing"])[-1][:300]


def contents(folder: Path, *, except_for: Path | None = None) -> dict[str, str]:
    """Return the hash of every file and link below a folder, by relative name; folders end in a slash."""
    found = {}
    for root, folders, files in os.walk(folder):
        place = Path(root)
        folders[:] = [name for name in folders if place / name != except_for]
        for name in folders:
            found[f"{(place / name).relative_to(folder)}/"] = ""
        for name in files:
            path = place / name
            found[str(path.relative_to(folder))] = (
                str(path.readlink()) if path.is_symlink() else sha256(path.read_bytes()).hexdigest()
            )
    return found


def differences(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """Return the names whose content differs."""
    return [name for name in sorted({**before, **after}) if before.get(name) != after.get(name)]


def is_temporary(name: str) -> bool:
    """Return whether a name, or a folder in it, is one that a writer gives to unfinished files and locks."""
    return any(re.search(r"^\.[^.]|\.tmp|\.lock$", part) for part in name.strip("/").split("/"))


@dataclass
class Attack:
    """What a test attacks with: the runner, its material and random numbers; collects the results of its family.

    Attributes:
        size: factor of the numbers of random cases.
        properties: the test's `user_properties`, which receive the counts.
    """

    runner: Runner
    material: Any
    random: random.Random
    size: float
    properties: list[tuple[str, object]]
    results: list[Result] = field(default_factory=list)
    cpu_before: float = 0.0

    def count(self, number: int) -> int:
        """Return a number of random cases, scaled by the size of the attack."""
        return max(1, round(number * self.size))

    def run(self, cases: Iterable[Case]) -> None:
        """Run cases and collect their results."""
        self.results += self.runner.run(cases)

    def each(self, work: Callable[[Any], None], jobs: Iterable[Any]) -> None:
        """Call a function that runs commands for each of some jobs, LANES at a time."""
        with ThreadPoolExecutor(LANES) as lanes:
            list(lanes.map(work, jobs))

    def add(self, name: str, kind: str, detail: str, *, argv: Sequence[object], folder: Path) -> None:
        """Collect the result of a case that ran several commands."""
        self.results.append(Result(Case(name, argv), kind, detail, folder))

    def conclude(self) -> None:
        """Record the counts for the table; fail if a case is a violation."""
        counts = Counter(result.kind for result in self.results)
        counts["seconds"] = round(self.runner.cpu - self.cpu_before)
        self.properties.append(("attack", dict(counts)))
        violations = [result for result in self.results if result.is_violation]
        if violations:
            pytest.fail("\n".join([f"{len(violations)} violations", *map(str, violations)]), pytrace=False)
