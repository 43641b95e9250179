"""Outputs of every verb: claimed at the start, never replaced, and without leftovers of killed runs."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.bars import closed_bars
from helpers.places import REPOSITORY
from helpers.writer_process import ARGUMENTS, fill

from distill.claims import lock
from distill.cli.main import main
from distill.data.video.writer import VideoWriter
from distill.models.registry import create_model
from distill.models.weight_files import save_model
from distill.targets.exporter import export_maps
from distill.targets.store import TargetStore

MODEL = "student/thtdnet:micro"
COMMANDS = {
    "predict": (f"predict {MODEL} video.mp4 --device cpu -o {{out}}", "out.mp4"),
    "predict to maps": (f"predict {MODEL} video.mp4 --device cpu --maps {{out}}", "out"),
    "cache export": ("cache export store -o {out}", "out"),
    "cache export of videos": ("cache export store --as video8 -o {out}", "out"),
    "data import": ("data import videos fixations.csv -o {out}", "out"),
    "cache import": ("cache import store maps -o {out}", "out"),
    "models --convert": (f"models {MODEL} --convert plain.safetensors {{out}}", "out.safetensors"),
    "models --to-published": ("models teacher/salfom:micro --to-published teacher.safetensors {out}", "out.pth"),
    "evaluate": ("evaluate centre-prior synthetic: --split validation --every 24 --workers 1 -o {out}", "out"),
    "benchmark": ("benchmark --of metrics --rounds 1 -o {out}", "out.json"),
    "export": (f"export {MODEL} -o {{out}}", "out.onnx"),
    "quantize": ("quantize small.onnx --to fp16 --on long.mp4 --rounds 1 --max-loss 0.9 -o {out}", "out.onnx"),
}
"""Verb -> its command line, and the name of its output."""

SLOW = ("benchmark", "export", "quantize")
CASES = [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in COMMANDS]


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the inputs of the commands."""
    folder = tmp_path_factory.mktemp("material")
    random = np.random.default_rng(0)
    for name, frames in (("video.mp4", 6), ("long.mp4", 64)):
        with VideoWriter(folder / name, (36, 48), 25.0) as writer:
            writer.write(random.integers(0, 256, (frames, 36, 48, 3), dtype=np.uint8))
    (folder / "videos").mkdir()
    (folder / "videos" / "a.mp4").write_bytes((folder / "video.mp4").read_bytes())
    (folder / "fixations.csv").write_text("video,x,y,frame\na,10,10,1\n")
    with TargetStore.create(folder / "store", **{**ARGUMENTS, "videos": {"a": range(10), "b": range(6)}}) as store:
        fill(store)
    export_maps(folder / "store", folder / "maps", progress=False)
    save_model(create_model("teacher/salfom:micro"), folder / "teacher.safetensors")
    return folder


@pytest.fixture
def place(material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to a folder that links to the inputs, and return a folder for the output."""
    for path in material.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "outputs"


def command(name: str, place: Path) -> tuple[list[str], Path]:
    """Return the command line of a case, after making inputs that take long, and its output."""
    line, output = COMMANDS[name]
    if name == "quantize" and not Path("small.onnx").exists():
        assert main(["export", MODEL, "-o", "small.onnx"]) == 0
    if name == "models --convert" and not Path("plain.safetensors").exists():
        from safetensors.torch import save_file

        save_file(create_model(MODEL).network.state_dict(), "plain.safetensors")
    return line.format(out=place / output).split(), place / output


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())


@pytest.mark.parametrize("name", CASES)
def test_output_claimed_by_another_process_is_refused(
    name: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line, output = command(name, place)
    claimed = output / "report.html" if name == "evaluate" else output
    with lock(claimed):
        assert main(line) == 2
        assert f"{claimed}: another process is writing " in capsys.readouterr().err
        assert files(place) == [
            path.relative_to(place).as_posix() for path in [claimed.parent / f".{claimed.name}.lock"]
        ]
    assert not place.exists()


def foreign(output: Path) -> Callable[[], None]:
    """Return a function that makes a file or folder of somebody else under the name of an output."""

    def appear() -> None:
        if output.suffix:
            output.parent.mkdir(parents=True, exist_ok=True)
            output.write_bytes(b"theirs")
        else:
            output.mkdir(parents=True, exist_ok=True)
            for name in ("theirs", "scores.json", "report.html"):  # the last two: of `evaluate`
                (output / name).write_bytes(b"theirs")

    return appear


@pytest.mark.parametrize("name", CASES)
def test_output_that_appears_in_the_meantime_is_not_replaced(
    name: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line, output = command(name, place)
    appear, flush = foreign(output), os.fsync

    def fsync(file: int) -> None:
        if not output.is_file() and not (output / "theirs").exists():
            appear()
        flush(file)

    monkeypatch.setattr(os, "fsync", fsync)
    assert main(line) == 2
    assert "was created by another process in the meantime" in capsys.readouterr().err
    there = [output] if output.is_file() else [output / name for name in ("theirs", "scores.json", "report.html")]
    assert [path.read_bytes() for path in there] == [b"theirs"] * len(there)
    assert not [name for name in files(place) if "/." in f"/{name}"]
    assert main(line) == 2
    assert "already exists" in capsys.readouterr().err


@pytest.mark.parametrize("name", CASES)
def test_leftovers_of_a_killed_run_are_removed_by_the_next(name: str, place: Path) -> None:
    line, output = command(name, place)
    killed(line, place)
    assert [name for name in files(place) if ".tmp" in name], "the killed run left nothing to remove"
    assert main(line) == 0
    assert output.exists()
    assert not [name for name in files(place) if "/." in f"/{name}"]


def test_leftovers_of_a_killed_run_that_replaces_maps_are_removed(place: Path) -> None:
    line = f"predict {MODEL} video.mp4 --device cpu --maps {place}/maps -o {place}/out.mp4".split()
    assert main(line) == 0
    before = files(place)
    killed([*line, "--overwrite"], place)
    assert len([name for name in files(place) if ".tmp" in name]) == 1 + 6  # the overlay, and the maps in a folder
    assert main([*line, "--overwrite"]) == 0
    assert files(place) == before


@pytest.mark.parametrize("name", ["predict", "cache export", "cache import", "evaluate"])
def test_progress_bar_ends_at_its_total(name: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bars = closed_bars(monkeypatch)
    line, _ = command(name, place)
    assert main(line) == 0
    assert bars
    assert [n for n, _ in bars] == [total for _, total in bars]


def killed(line: list[str], place: Path) -> None:
    """Run a command in a process that dies just before its output in a folder gets its name."""
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "tests/helpers/killed_command.py"), str(place), *line],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
        timeout=300,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (
            "predict stream-nano video.mp4 -o s3://bucket/out.mp4",
            "s3://bucket/out.mp4: results are written to files",
        ),
        ("train @teacher/demo out=s3://bucket/run", "out: expected a folder, got the address s3://bucket/run"),
        (
            "cache import s3://bucket/targets -o store",
            "s3://bucket/targets: expected a folder, got an address; pull it",
        ),
    ],
)
def test_address_in_place_of_a_folder_is_one_sentence_and_makes_none(
    line: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        code: object = main(line.split())
    except SystemExit as ended:  # of argparse
        code = ended.code
    assert code == 2
    assert sentence in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
