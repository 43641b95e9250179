"""`--json` of every verb: one JSON document on standard output with the keys of the help, and nothing else."""

import argparse
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers.places import REPOSITORY, SAMPLE
from helpers.writer_process import ARGUMENTS, fill

from distill.benchmark.conform import Conformance
from distill.benchmark.rows import Table
from distill.calibration.calibrate import CalibrationReport
from distill.calibration.cross_validation import Gains
from distill.calibration.numbers import Calibration
from distill.cli import main
from distill.cli.output import print_json
from distill.cli.verb import Verb
from distill.data.video.writer import VideoWriter
from distill.errors import UserError
from distill.models.registry import create_model
from distill.models.weight_files import save_model
from distill.runtimes.export import ExportReport
from distill.runtimes.onnx_check import Check
from distill.targets.store import TargetStore
from distill.targets.transfer import push_store
from distill.targets.verify import verify_store

VERBS: dict[str, Verb] = {}
for command in main.COMMANDS:
    if isinstance(command, Verb):
        VERBS[command.name] = command
    else:
        VERBS |= {f"{command.name} {verb.name}": verb for verb in command.verbs}

WITHOUT_RESULT = {"configs copy", "page", "view"}
"""Verbs that print no result, and therefore have no --json."""

COMMANDS = {
    "demo": "demo --out demo",
    "data check": f"data check {SAMPLE}",
    "data import": "data import videos fixations.csv -o gaze",
    "configs list": "configs list",
    "models": "models",
    "models of one network": "models student/thtdnet:tiny",
    "models --to-published": "models teacher/salfom:micro --to-published teacher.safetensors out.pth",
    "train": f"train {REPOSITORY}/configs/teacher/demo.yaml",
    "distill": f"distill {REPOSITORY}/configs/distill/demo.yaml",
    "cache build": f"cache build {REPOSITORY}/configs/distill/demo.yaml",
    "cache info": "cache info store",
    "cache verify": "cache verify store",
    "cache export": "cache export store -o maps",
    "cache import": "cache import store -o imported",
    "cache push": "cache push store memory://json/pushed",
    "cache pull": "cache pull memory://json/store pulled",
    "evaluate": f"evaluate centre-prior frame-difference dhf1k:{SAMPLE} --videos 002 --frames 601-640 --every 20 "
    "--metrics nss,cc --workers 1",
    "leaderboard": f"leaderboard centre-prior --on dhf1k:{SAMPLE} --every 200 --workers 1 -o board",
    "predict": "predict student/stream:micro video.mp4 --csv video.csv --device cpu",
    "predict a folder": "predict student/stream:micro videos --csv tables --device cpu",
    "reframe": "reframe video.mp4 1:1 -o square.mp4 --model student/stream:micro --device cpu",
    "submit": "submit centre-prior folder:videos --to dhf1k -o ours",
    "push": "push teacher.safetensors me/teacher --dry-run upload --no-onnx",
    "export": "export student/stream:micro -o out.onnx",
    "conform": "conform student.onnx",
    "calibrate": "calibrate student.onnx --on stills:photos",
    "quantize": "quantize student.onnx --on video.mp4",
    "benchmark": "benchmark student.onnx",
}
"""Case, whose name begins with a verb -> its command line."""


def verb_of(case: str) -> str:
    return next(name for name in sorted(VERBS, key=len, reverse=True) if case.startswith(name))


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the inputs of the commands."""
    folder = tmp_path_factory.mktemp("material")
    (folder / "videos").mkdir()
    random = np.random.default_rng(0)
    for path in (folder / "video.mp4", folder / "videos" / "a.mp4"):
        with VideoWriter(path, (36, 64), 25.0) as writer:
            writer.write(random.integers(0, 256, (6, 36, 64, 3), dtype=np.uint8))
    (folder / "fixations.csv").write_text("video,x,y,frame\na,10,10,1\n")
    with TargetStore.create(folder / "store", **{**ARGUMENTS, "videos": {"a": range(10)}}) as store:
        fill(store)
    push_store(folder / "store", "memory://json/store", progress=False)
    save_model(create_model("teacher/salfom:micro"), folder / "teacher.safetensors")
    return folder


@pytest.fixture
def run(
    material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[str], tuple[int, str, str]]:
    """Run a command in a folder with the inputs; work that takes long only returns its record."""
    for path in material.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    table = Table([{"model": "m", "milliseconds": float("nan")}], "model milliseconds", {"threads": 1})
    conformance = Conformance([{"file": "student.onnx", "verdict": "pass"}], "file verdict", {"threads": 1})
    gains = Gains(np.zeros((1, 3)), np.ones((1, 3)), ["a"])  # one recording: its intervals are undefined
    calibration = CalibrationReport(
        Path("student-calibrated.onnx"), Calibration(), gains, "stills:photos", 1, 1, 1, "", 0.0, 1.0
    )
    check = Check(batch=1, max_error=1e-6, cc=1.0)
    report = ExportReport(Path("out.onnx"), 0.1, 18, 9, "00", "frames", (check,), {"mode": "clip"})

    def train(*_: object, **__: object) -> Path:
        print("step 1: validation")  # what the library prints goes to stderr
        summary = {"steps": 1, "seconds": 1.0, "device": "cpu", "best": None, "peak_memory_mib": 1.0}
        Path("run").mkdir()
        Path("run/summary.json").write_text(json.dumps(summary))
        return Path("run")

    def demo(out: str, **_: object) -> Path:
        print("a. Train the teacher.")
        Path(out).mkdir()
        summary = {"machine": "", "date": "", "duration": "", "columns": [], "rows": []}
        (Path(out) / "demo.json").write_text(json.dumps(summary))
        return Path(out) / "report.html"

    fakes: dict[str, Any] = {
        "distill.demo.run_demo": demo,
        "distill.training.train.train": train,
        "distill.training.setup.build_stores": lambda *_, **__: [TargetStore.open("store")],
        "distill.targets.verify.verify_store": lambda path, **_: verify_store(path, sample=0),
        "distill.benchmark.conform.conform": lambda *_, **__: conformance,
        "distill.deploy.export_format.export_model": lambda *_, **__: SimpleNamespace(
            as_dict=report.as_dict, __str__=report.__str__
        ),
        "distill.calibration.calibrate.calibrate": lambda *_, **__: calibration,
        "distill.deploy.quantize.quantize_files": lambda *_, **__: ([], None),
        "distill.benchmark.precisions.compare_precisions": lambda *_, **__: table,
        "distill.benchmark.models.benchmark_models": lambda *_, **__: table,
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(name, fake)

    def call(line: str) -> tuple[int, str, str]:
        capsys.readouterr()
        return main.main(line.split()), *capsys.readouterr()

    return call


def test_every_verb_with_a_result_has_json_and_a_case() -> None:
    assert {name for name, verb in VERBS.items() if not verb.keys} == WITHOUT_RESULT
    assert {verb_of(case) for case in COMMANDS} == VERBS.keys() - WITHOUT_RESULT, "add a case for the new verb"


def constant(text: str) -> None:
    raise ValueError(f"{text} is not JSON")


@pytest.mark.parametrize("case", COMMANDS)
def test_standard_output_is_one_document_with_the_keys_of_the_help(
    case: str, run: Callable[[str], tuple[int, str, str]]
) -> None:
    code, out, err = run(f"{COMMANDS[case]} --json")
    assert code == 0, err
    document = json.loads(out, parse_constant=constant)
    documented = set(re.findall(r"\w+", VERBS[verb_of(case)].keys))
    assert document
    assert document.keys() <= documented
    assert "Traceback" not in err


def test_numbers_are_not_rounded_and_undefined_ones_are_null(run: Callable[[str], tuple[int, str, str]]) -> None:
    (row,) = json.loads(run("benchmark student.onnx --json")[1])["rows"]
    assert row == {"model": "m", "milliseconds": None}
    scores, _ = json.loads(run(f"{COMMANDS['evaluate']} --json")[1])["scores"]
    assert len(str(scores["pooled"]["nss"])) > 10


def test_library_output_goes_to_standard_error(run: Callable[[str], tuple[int, str, str]]) -> None:
    _, out, err = run(f"{COMMANDS['train']} --json")
    assert json.loads(out)["run"] == "run"
    assert "step 1: validation" in err


def test_verdict_of_a_failed_check_is_printed(run: Callable[[str], tuple[int, str, str]], tmp_path: Path) -> None:
    (tmp_path / "store").unlink()
    with TargetStore.create(tmp_path / "store", **{**ARGUMENTS, "videos": {"a": range(10)}}) as store:
        fill(store)
    shard = next((tmp_path / "store").rglob("*.shard"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 255
    shard.write_bytes(content)
    code, out, err = run("cache verify store --json")
    assert (code, json.loads(out)["ok"]) == (1, False)
    assert "the target store is damaged" in err


def test_invalid_input_prints_no_document(run: Callable[[str], tuple[int, str, str]]) -> None:
    stdout = sys.stdout
    code, out, err = run("cache info missing --json")
    assert (code, out) == (2, "")
    assert err.startswith("saldistill: missing")
    assert sys.stdout is stdout


def test_text_is_ascii_and_unknown_values_are_bugs(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = argparse.Namespace(json=True, stdout=sys.stdout)
    print_json(arguments, {"path": Path("vidéo.mp4"), "size": (1, float("inf"))})
    out = capsys.readouterr().out
    assert out.isascii()
    assert json.loads(out) == {"path": "vidéo.mp4", "size": [1, None]}
    with pytest.raises(TypeError, match="UserError is not a JSON value"):
        print_json(arguments, {"error": UserError("x")})
