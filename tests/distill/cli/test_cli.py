import errno
import os
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.places import REPOSITORY
from PIL import Image
from safetensors.torch import load_file

from distill.cli import main
from distill.cli.grammar import build_parser
from distill.errors import RunError, UserError
from distill.models.registry import create_model
from distill.models.weight_files import save_model

ROOT = REPOSITORY
SAMPLE = ROOT / "tests" / "data" / "dhf1k"
GROUPS = sorted({verb.split()[0] for verb in main.VERBS})

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command in an empty folder; return (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def call(*words: object) -> tuple[int, str, str]:
        try:
            code = main.main([str(word) for word in words])
        except SystemExit as exit_:
            code = int(exit_.code or 0)
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    """A folder of five small frames with a moving spot."""
    folder = tmp_path / "frames"
    folder.mkdir()
    for index in range(5):
        picture = np.full((40, 64, 3), 60, dtype=np.uint8)
        picture[10:20, 8 * index : 8 * index + 10] = 250
        Image.fromarray(picture).save(folder / f"{index + 1:04d}.png")
    return folder


def one_sentence(text: str) -> bool:
    return text.startswith("saldistill: ") and text.count("\n") == 1 and "Traceback" not in text


# ---------------------------------------------------------------------------------------------------- help


@pytest.mark.parametrize("verb", ["", *GROUPS, *main.VERBS])
def test_every_verb_teaches(run: Run, verb: str) -> None:
    code, out, err = run(*verb.split(), "--help")
    assert code == 0
    assert err == ""
    assert f"usage: saldistill {verb}".strip() in out
    if verb:
        assert "examples:\n  saldistill " in out
    else:
        assert "exit codes" in out
        places = [out.index(f"\n    {name} ") for name in ("demo", "data", "models", "train", "cache", "distill")]
        places += [out.index(f"\n    {name} ") for name in ("evaluate", "predict", "export", "benchmark")]
        assert places == sorted(places)


def examples() -> list[str]:
    """Every example of every verb's help."""
    found = []
    for verb in main.VERBS:
        with redirect_stdout(StringIO()) as printed, pytest.raises(SystemExit):
            build_parser().parse_args([*verb.split(), "--help"])
        found += [line.strip() for line in printed.getvalue().split("examples:\n")[1].splitlines() if line.strip()]
    return found


@pytest.mark.parametrize("example", examples())
def test_examples_parse_and_name_files_that_exist(example: str) -> None:
    command, *words = example.split()
    assert command == "saldistill"
    arguments = build_parser().parse_args(words)
    assert arguments.verb in main.VERBS
    for word in words:
        if word.startswith(("configs/", "tests/")):
            assert (ROOT / word).exists()


def test_the_readme_commands_parse() -> None:
    lines = [line.split("#")[0].split() for line in (ROOT / "README.md").read_text().splitlines()]
    commands = [words[1:] for words in lines if words[:1] == ["saldistill"]]
    assert len(commands) > 10
    for words in commands:
        assert build_parser().parse_args(words).verb in main.VERBS


@pytest.mark.parametrize("words", [["--help"], ["evaluate", "--help"], ["train"], ["--version"]])
def test_help_does_not_wait_for_torch(words: list[str]) -> None:
    code = (
        "import sys; from distill.cli.main import main\n"
        f"try: main({words})\n"
        "except SystemExit: pass\n"
        "print([m for m in ('torch', 'numpy', 'pydantic', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


# ----------------------------------------------------------------------------------------------- exit codes


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def verb(arguments: Namespace) -> None:
        raise error

    monkeypatch.setitem(main.VERBS, "models", verb)


def test_a_verb_that_returns_is_a_success(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(main.VERBS, "models", lambda arguments: print(arguments.name))
    assert run("models", "teacher/salfom") == (0, "teacher/salfom\n", "")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UserError("file.yaml: is wrong"), 2),
        (RunError("step 3: the loss is nan"), 1),
        (KeyboardInterrupt(), 130),
        (OSError(errno.ENOSPC, "No space left on device", "out.mp4"), 2),
        (PermissionError(errno.EACCES, "Permission denied", "/etc/passwd"), 2),
        (RuntimeError("I/O error: No space left on device (os error 28)"), 2),
    ],
)
def test_expected_ends_are_one_sentence(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int
) -> None:
    failing(monkeypatch, error)
    found, out, err = run("models")
    assert found == code
    assert out == ""
    assert one_sentence(err)
    if isinstance(error, OSError):
        assert str(error.filename) in err


def test_a_full_disk_is_found_behind_another_error(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    wrapped = RuntimeError("could not write")
    wrapped.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    failing(monkeypatch, wrapped)
    code, _, err = run("models")
    assert code == 2
    assert "no space left" in err


@pytest.mark.parametrize("error", [ValueError("ours"), KeyError("x"), OSError(errno.EIO, "Input/output error")])
def test_what_nobody_expected_keeps_its_traceback(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    failing(monkeypatch, error)
    with pytest.raises(type(error)):
        run("models")


def test_an_unexpected_exception_ends_the_process_with_1() -> None:
    code = "import distill.cli.main as c, sys; c.VERBS['models'] = lambda a: 1 / 0; sys.exit(c.main(['models']))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["dream"],
        ["cache"],
        ["cache", "verify", "store", "--sample", "0"],
        ["evaluate", "model"],
        ["evaluate", "model", "data", "--frames", "9-3"],
        ["evaluate", "model", "data", "--frames", "0-3"],
        ["export", "model"],
        ["predict", "model", "video", "-o", "x.mp4", "--batch-size", "many"],
    ],
)
def test_a_wrong_command_line_is_2(run: Run, words: list[str]) -> None:
    code, out, err = run(*words)
    assert code == 2
    assert out == ""
    assert "usage: saldistill" in err


# ----------------------------------------------------------------------------- users' mistakes, verb by verb


def mistakes() -> list[tuple[list[str], str]]:
    return [
        (["train", "missing.yaml"], "missing.yaml"),
        (["distill", "missing.yaml"], "missing.yaml"),
        (["train", f"{ROOT}/configs/teacher/demo.yaml", "training.stepz=3"], "stepz"),
        (["train", f"{ROOT}/configs/teacher/demo.yaml", "training.steps=many"], "training.steps"),
        (["train", f"{ROOT}/configs/teacher/demo.yaml", "device=cuda:99", "out=run"], "cuda:99"),
        (["distill", f"{ROOT}/configs/teacher/demo.yaml"], "no section 'teacher'"),
        (["cache", "build", f"{ROOT}/configs/teacher/demo.yaml"], "teacher"),
        (["cache", "info", "missing"], "missing"),
        (["cache", "verify", "missing"], "missing"),
        (["cache", "export", "missing", "-o", "maps"], "missing"),
        (["cache", "import", "missing", "-o", "store"], "missing"),
        (["data", "check", "missing"], "missing"),
        (["data", "check", "."], "no data set is recognised"),
        (["models", "teacher/nobody"], "teacher/salfom"),
        (["models", "--convert", "in.pth", "out.safetensors"], "teacher/salfom"),
        (["models", "teacher/salfom", "--convert", "in.pth", "out.txt"], "out.txt"),
        (["models", "teacher/salfom:micro", "--convert", "umt-l16-k40", "out.safetensors"], "umt-l16-k400"),
        (["models", "teacher/salfom:micro", "--convert", "salfom-dhf1k", "out.safetensors"], "SalFoM_DHF1K.pth"),
        (["models", "--to-published", "in.safetensors", "out.pth"], "teacher/salfom"),
        (["models", "teacher/salfom", "--to-published", "in.safetensors", "out.txt"], ".pth or .safetensors"),
        (["models", "teacher/salfom:micro", "--to-published", "in.pth", "out.pth"], "in.pth: no such weight file"),
        (["evaluate", "centre-prior", "missing"], "DATASET:ROOT"),
        (["evaluate", "centre-prior", "nosuch:missing"], "nosuch"),
        (["evaluate", "centre-prior", "dhf1k:missing"], "missing"),
        (["evaluate", "nobody", f"dhf1k:{SAMPLE}", "--videos", "002"], "nobody"),
        (["evaluate", "centre-prior", f"dhf1k:{SAMPLE}", "--videos", "999"], "999"),
        (["evaluate", "centre-prior", f"{ROOT}/configs/teacher/demo.yaml", "--videos", "002"], "leave the options"),
        (["predict", "nobody", "video.mp4", "-o", "out.mp4"], "nobody"),
        (["predict", "student/thtdnet:micro", "missing.mp4", "-o", "out.mp4"], "missing.mp4"),
        (["predict", "student/thtdnet:micro", f"{SAMPLE}/video/002.AVI"], "-o"),
        (["predict", "student/thtdnet:micro", ".", "-o", "out.mp4", "--device", "cuda:99"], "cuda:99"),
        (["export", "nobody", "-o", "out.onnx"], "nobody"),
        (["export", "student/thtdnet:micro", "-o", "out.txt"], "out.txt"),
        (["benchmark", "nobody"], "nobody"),
        (["demo"], "repository"),
    ]


@pytest.mark.parametrize(
    ("words", "hint"), mistakes(), ids=[" ".join(words).replace(f"{ROOT}/", "")[:60] for words, _ in mistakes()]
)
def test_a_mistake_is_one_sentence_and_2(run: Run, words: list[str], hint: str) -> None:
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    last = err.splitlines(keepends=True)[-1]
    assert one_sentence(last), err
    assert hint in last
    assert "Traceback" not in err


# ---------------------------------------------------------------------------------------- what the verbs do


def test_models_lists_variants_with_their_cost(run: Run) -> None:
    code, out, _ = run("models", "student/thtdnet")
    assert code == 0
    head, *rows = out.splitlines()
    assert head.split()[:2] == ["model", "weights"]
    assert rows[0].startswith("student/thtdnet:base")
    code, out, _ = run("models", "student/thtdnet:micro")
    assert len(out.splitlines()) == 2


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_models_carries_weights_to_the_authors_keys_and_back(run: Run, tmp_path: Path, suffix: str) -> None:
    model = create_model("teacher/salfom:micro", size=[48, 64])
    save_model(model, tmp_path / "best.safetensors")
    code, out, err = run("models", "teacher/salfom", "--to-published", "best.safetensors", f"published{suffix}")
    assert (code, err) == (0, "")
    assert f"written to published{suffix} under the authors' keys" in out
    read = load_file if suffix == ".safetensors" else torch.load
    published = read(f"published{suffix}")
    assert torch.equal(published["conv_7.weight"], model.decoder.fusion.conv1.weight)
    assert "encoder.head.weight" in published
    code, _, err = run("models", "teacher/salfom:micro", "--convert", f"published{suffix}", "back.safetensors")
    assert (code, err) == (0, "")
    assert load_file("back.safetensors").keys() == model.state_dict().keys()
    assert all(
        torch.equal(value, model.state_dict()[key])
        for key, value in load_file("back.safetensors").items()
        if key != "encoder.position"  # the converted model is of the variant's own size
    )
    assert run("models", "teacher/salfom", "--to-published", ".", f"again{suffix}")[0] == 0  # a run folder
    again = read(f"again{suffix}")
    assert again.keys() == published.keys()
    assert all(torch.equal(again[key], value) for key, value in published.items())
    code, _, err = run("models", "teacher/salfom:micro", "--to-published", "back.safetensors", f"published{suffix}")
    assert code == 2
    assert "exists already" in err


def test_models_without_authors_keys(run: Run, tmp_path: Path) -> None:
    for name in ("student/thtdnet:micro", "teacher/salfom:micro-swin"):
        save_model(create_model(name), tmp_path / "model.safetensors")
        code, out, err = run("models", name, "--to-published", "model.safetensors", "out.pth")
        assert (code, out) == (2, "")
        assert one_sentence(err)
        assert name in err
        assert not Path("out.pth").exists()
    code, _, err = run("models", "teacher/salfom:micro", "--to-published", "model.safetensors", "out.pth")
    assert code == 2
    assert "holds teacher/salfom:micro-swin, not teacher/salfom:micro" in err


@pytest.mark.parametrize("words", ["models student/thtdnet", "--help"])
def test_a_reader_who_leaves_ends_it_quietly(words: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)  # as behind `| head` once it has what it wants
    command = [sys.executable, "-m", "distill.cli.main", *words.split()]
    done = subprocess.run(command, cwd=ROOT, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert done.stderr == ""
    assert done.returncode == 141 or words == "--help"  # argparse itself may forgive a closed pipe


def test_another_broken_pipe_keeps_its_traceback(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, BrokenPipeError(errno.EPIPE, "a worker's pipe"))
    with pytest.raises(BrokenPipeError, match="a worker's pipe"):
        run("models")


def test_predict_evaluate_and_export_in_a_row(run: Run, frames: Path, tmp_path: Path) -> None:
    assert run("predict", "student/thtdnet:micro", frames, "-o", "out.mp4", "--maps", "maps")[0] == 0
    assert (tmp_path / "out.mp4").stat().st_size > 0
    assert [path.name for path in sorted((tmp_path / "maps").iterdir())] == [f"000{i}.png" for i in range(1, 6)]

    code, _, err = run("predict", "student/thtdnet:micro", frames, "-o", "out.mp4")
    assert code == 2
    assert "out.mp4" in err

    words = ["evaluate", "centre-prior", "student/thtdnet:micro", f"dhf1k:{SAMPLE}", "--videos", "002"]
    code, out, _ = run(*words, "--frames", "601-640", "--every", "20", "-o", "scores")
    assert code == 0
    assert "NSS" in out
    assert (tmp_path / "scores" / "centre-prior" / "scores.json").exists()
    assert (tmp_path / "scores" / "student_thtdnet:micro" / "scores.csv").exists()


def test_train_writes_a_run_that_every_verb_takes(run: Run, tmp_path: Path) -> None:
    config = ROOT / "configs" / "teacher" / "demo.yaml"
    root = f"data.train=[{{dataset: dhf1k, root: {SAMPLE}, videos: ['002']}}]"
    small = ["model.variant=micro", "training.steps=2", "training.batch_size=2", "data.workers=0", "device=cpu"]
    assert run("train", config, "out=run", root, *small, "data.validation=[]", "data.test=[]")[0] == 0
    code, out, _ = run("evaluate", "run", f"dhf1k:{SAMPLE}", "--videos", "002", "--frames", "601-601")
    assert code == 0
    assert "1 frames" in out
    code, _, err = run("train", config, "out=run", root, *small, "data.validation=[]", "data.test=[]")
    assert code == 2
    assert "resume=auto" in err
