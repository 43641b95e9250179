"""The commands that write, for kills, races and full disks: their outputs, and what of these is always the same."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from attack.flips import log_lines, tensors, train_command
from attack.harness import contents
from attack.material import Material


@dataclass(frozen=True)
class Work:
    """A command that writes.

    Attributes:
        name: the verb and its kind of output.
        argv: the command; its output is `out` or begins with `out.`.
        other: the same command with another result, for races.
        result: folder of the case -> what must be equal in two runs of the command.
        shared: whether several processes share the work.
    """

    name: str
    argv: tuple[object, ...]
    other: tuple[object, ...]
    result: Callable[[Path], object]
    shared: bool = False


def everything(folder: Path) -> dict[str, str]:
    """Return all outputs, byte by byte."""
    return {name: value for name, value in contents(folder).items() if name.startswith("out")}


def of_run(folder: Path) -> object:
    """Return the weights and losses of a run, and the seed that it says it has."""
    seed = re.search(r"^seed: (\d+)", (folder / "out/config.yaml").read_text(), re.MULTILINE)
    return tensors(folder / "out"), log_lines(folder / "out"), seed and seed[1]


def of_scores(folder: Path) -> object:
    """Return the scores of an evaluation; its report has the time in it."""
    return {name: (folder / "out" / name).read_text() for name in ("scores.json", "scores.csv")}


def of_onnx(folder: Path) -> object:
    """Return the size of an exported file, and whether all of it is there."""
    return sorted(path.name for path in folder.glob("out*"))


def works(material: Material) -> list[Work]:
    """Return all commands."""
    data = f"ntire:{material.ntire}"
    student = "student/stream:micro"
    return [
        Work("train", train_command(material), train_command(material, "seed=1"), of_run),
        Work(
            "predict -o",
            ("predict", material.model, material.mp4, "-o", "out.mp4"),
            ("predict", material.onnx, material.videos / "c.mp4", "-o", "out.mp4"),
            everything,
        ),
        Work(
            "predict --maps",
            ("predict", material.model, material.mp4, "--maps", "out"),
            ("predict", material.model, material.videos / "c.mp4", "--maps", "out"),
            everything,
        ),
        Work(
            "cache export",
            ("cache", "export", material.store, "-o", "out"),
            ("cache", "export", material.store, "-o", "out", "--as", "video"),
            everything,
        ),
        Work(
            "cache import",
            ("cache", "import", material.maps, "-o", "out"),
            ("cache", "import", material.maps, "-o", "out", "--codec", "exact"),
            everything,
        ),
        Work(
            "evaluate -o",
            ("evaluate", "centre-prior", data, "-o", "out"),
            ("evaluate", material.maps, data, "-o", "out"),
            of_scores,
        ),
        Work(
            "models --convert",
            ("models", student, "--convert", material.model, "out.safetensors"),
            ("models", student, "--convert", material.best, "out.safetensors"),
            everything,
        ),
        Work(
            "export",
            ("export", material.model, "-o", "out.onnx"),
            ("export", material.best, "-o", "out.onnx"),
            of_onnx,
        ),
        Work(
            "predict a folder",
            ("predict", material.model, material.videos, "--maps", "out"),
            ("predict", material.model, material.videos, "--maps", "out"),
            everything,
            shared=True,
        ),
        Work(
            "cache build",
            ("cache", "build", material.distill, "teacher.store=out"),
            ("cache", "build", material.distill, "teacher.store=out"),
            everything,
            shared=True,
        ),
        Work(
            "submit",
            ("submit", material.model, data, "--to", "ntire", "--videos", "one,two", "-o", "out"),
            ("submit", material.model, data, "--to", "ntire", "--videos", "one,two", "-o", "out"),
            everything,
            shared=True,
        ),
    ]
