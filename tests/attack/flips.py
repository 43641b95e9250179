"""One flipped bit in every file that a command writes: the next command notices it, or its result is the same."""

import json
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from attack.damage import flip_bit
from attack.documents import JSON_TEXTS
from attack.harness import Case, Check, Outcome, Runner, anything, contents
from attack.material import Material
from attack.weights import same_maps, split

STEPS = 12


def tensors(run: Path) -> dict[str, bytes]:
    """Return the tensor bytes of the best weights and of the newest checkpoint of a run."""
    newest = max((run / "checkpoints").glob("step-*"))
    files = {"best": run / "best.safetensors", **{path.name: path for path in newest.glob("*.safetensors")}}
    return {newest.name: b"", **{name: split(path.read_bytes())[1] for name, path in files.items()}}


def log_lines(run: Path) -> list[Any]:
    """Return the losses of the log."""
    lines = []
    for line in (run / "log.jsonl").read_bytes().splitlines():
        try:
            value = json.loads(line)
            lines.append([value.get(key) for key in ("kind", "step", "loss")])
        except (ValueError, AttributeError):
            continue
    return lines


def interrupted_run(material: Material, runner: Runner, folder: Path) -> Path:
    """Train until the fourth step is saved, and interrupt the run."""
    running = runner.start(train_command(material), folder, seconds=300)
    while not list((folder / "out" / "checkpoints").glob("step-00000[46]")) and not running.waiting.done():
        time.sleep(0.01)
    running.kill(signal.SIGINT)
    outcome = running.wait()
    assert outcome.code == 130, f"interrupted, but it ended with {outcome.code}: {outcome.stderr}"
    return folder / "out"


def train_command(material: Material, *more: str) -> tuple[object, ...]:
    steps = (f"training.steps={STEPS}", "training.checkpoint_every=2", "training.validate_every=4")
    return ("train", material.train, "out=out", *steps, "resume=auto", *more)


def flipped(source: Path, target: str, name: str, chance: random.Random) -> Callable[[Path], None]:
    """Return a function that copies a file or folder and flips one bit of the file `name` in it."""
    seed = chance.random()

    def prepare(folder: Path) -> None:
        if source.is_dir():
            shutil.copytree(source, folder / target)
            path = folder / target / name
        else:
            path = Path(shutil.copy(source, folder / target))
        path.write_bytes(flip_bit(path.read_bytes(), random.Random(seed)))

    return prepare


def same_run(expected: dict[str, bytes], lines: list[Any], damaged: str) -> Check:
    """Return a check that a resumed run has the weights and, but for a line, the log of an undisturbed one."""

    def check(outcome: Outcome, folder: Path) -> str | None:
        found = tensors(folder / "out")
        if wrong := [name for name in expected if found.get(name) != expected[name]]:
            return f"after a flip in {damaged}, resuming gives other values in {', '.join(wrong)}"
        missing = [line for line in lines if line not in log_lines(folder / "out")]
        return f"the log lost {len(missing)} lines, e.g. {missing[0]}" if len(missing) > 1 else None

    return check


def files_of(folder: Path) -> list[str]:
    """Return the files of a folder, by relative name."""
    return sorted(
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.stat().st_size
    )


def of_runs(material: Material, runner: Runner, chance: random.Random, number: int) -> Iterator[Case]:
    """Yield flips in the files of an interrupted run that is resumed."""
    run = interrupted_run(material, runner, runner.new_folder())
    reference = runner.new_folder()
    shutil.copytree(run, reference / "out")
    runner.command(*train_command(material), folder=reference)
    expected, lines = tensors(reference / "out"), log_lines(reference / "out")
    for name in files_of(run):
        for _ in range(number):
            yield Case(
                f"flip in {name}: train, resume=auto",
                train_command(material),
                flipped(run, "out", name, chance),
                same_run(expected, lines, name),
                lists=name == "config.yaml",  # a damaged key is an unknown one and a missing one
            )
    for name, content in torn_logs((run / "log.jsonl").read_bytes()).items():
        yield Case(
            f"log.jsonl with {name}: train, resume=auto",
            train_command(material),
            replaced(run, "log.jsonl", content),
            same_run(expected, lines, "log.jsonl"),
        )
    state = next((run / "checkpoints").glob("step-00000[4-9]/state.json")).relative_to(run)
    for name, content in JSON_TEXTS.items():
        yield Case(
            f"state.json, {name}: train, resume=auto",
            train_command(material),
            replaced(run, str(state), content),
            same_run(expected, lines, "state.json"),
        )


def replaced(source: Path, name: str, content: bytes) -> Callable[[Path], None]:
    """Return a function that copies a run and replaces a file of it."""

    def prepare(folder: Path) -> None:
        shutil.copytree(source, folder / "out")
        (folder / "out" / name).write_bytes(content)

    return prepare


def torn_logs(log: bytes) -> dict[str, bytes]:
    """Return logs in which a crash, a power cut or an editor damaged one line."""
    lines = log.splitlines(keepends=True)
    return {
        "torn line": b"".join([lines[0], lines[1][:20], b"\n", *lines[2:]]),
        "torn end": log[:-7],
        "bytes that are no UTF-8": b"".join([lines[0], b'{"kind": "\xff\xfe"}\n', *lines[1:]]),
        "zeros": b"".join([lines[0], bytes(300), b"\n", *lines[1:]]),
        "a number": b"".join([lines[0], b"3\n", *lines[1:]]),
        "null": b"".join([lines[0], b"null\n", *lines[1:]]),
        "an empty mapping": b"".join([lines[0], b"{}\n", *lines[1:]]),
        "a deep line": b"".join([lines[0], b"[" * 200_000, b"\n", *lines[1:]]),
    }


def of_results(material: Material, runner: Runner, chance: random.Random, number: int) -> Iterator[Case]:
    """Yield flips in weights, target stores and exported models that are used."""
    folder = runner.new_folder()
    for name, model in (("best", material.student), ("model", material.model), ("onnx", material.onnx)):
        runner.command("predict", model, material.frames, "--maps", name, folder=folder)
    runner.command(material.onnx, material.frames, "--maps", "edge", folder=folder, program="edge")
    runner.command("cache", "export", material.store, "-o", "store", folder=folder)
    maps = {path.name: contents(path) for path in folder.iterdir()}
    predict = ("predict", "in", material.frames, "--maps", "maps")
    for _ in range(3 * number):
        for what, source, target, name in (
            ("best", material.student, "in", "best.safetensors"),
            ("model", material.model, "in.safetensors", ""),
            ("onnx", material.onnx, "in.onnx", ""),
        ):
            prepare = flipped(source, target, name, chance)
            argv = (predict[0], target, *predict[2:])
            yield Case(f"flip in {name or target}: predict", argv, prepare, same_maps(maps[what]))
        prepare = flipped(material.onnx, "in.onnx", "", chance)
        argv = ("in.onnx", material.frames, "--maps", "maps")
        yield Case("flip in in.onnx: edge.py", argv, prepare, same_maps(maps["edge"]), program="edge")
    for name in files_of(material.store):
        for _ in range(3 * number):
            prepare = flipped(material.store, "in", name, chance)
            argv = ("cache", "export", "in", "-o", "out")
            yield Case(f"flip in {name}: cache export", argv, prepare, same_maps(maps["store"], "out"))
            yield Case(
                f"flip in {name}: cache verify", ("cache", "verify", "in"), prepare, anything, refusals=(1, 2)
            )


def cases(material: Material, runner: Runner, chance: random.Random, number: int) -> Iterator[Case]:
    """Yield flips in every file."""
    yield from of_runs(material, runner, chance, number)
    yield from of_results(material, runner, chance, number)
