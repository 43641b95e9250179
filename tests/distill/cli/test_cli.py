import errno
import os
import signal
import subprocess
import sys
import threading
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.places import REPOSITORY, SAMPLE
from PIL import Image
from safetensors.torch import load_file

from distill.cli import main
from distill.cli.verb import Group, Verb
from distill.errors import RunError, Terminated, UserError
from distill.models.registry import create_model
from distill.models.weight_files import save_model

TEACHER = REPOSITORY / "configs" / "teacher" / "demo.yaml"
GROUPS = [command.name for command in main.COMMANDS if isinstance(command, Group)]
VERBS = [
    name
    for command in main.COMMANDS
    for name in (
        [command.name] if isinstance(command, Verb) else [f"{command.name} {verb.name}" for verb in command.verbs]
    )
]

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


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False)


def is_one_message(text: str) -> bool:
    return text.startswith("saldistill: ") and text.count("\n") == 1 and "Traceback" not in text


# ---------------------------------------------------------------------------------------------------- help


@pytest.mark.parametrize("verb", ["", *GROUPS, *VERBS])
def test_help_of_every_verb_has_usage_and_examples(run: Run, verb: str) -> None:
    code, out, err = run(*verb.split(), "--help")
    assert (code, err) == (0, "")
    assert f"usage: saldistill {verb}".strip() in out
    assert ("examples:\n  saldistill " if verb else "exit codes") in out


def test_help_lists_verbs_in_workflow_order(run: Run) -> None:
    order = ["demo", "data", "models", "train", "cache", "distill", "evaluate", "predict", "export", "benchmark"]
    out = run("--help")[1]
    places = [out.index(f"\n    {name} ") for name in order]
    assert places == sorted(places)


def test_help_shows_defaults_that_mean_something(run: Run) -> None:
    out = " ".join(run("evaluate", "--help")[1].split())
    assert "seed of all random draws (default: 0)" in out
    assert "score every Nth frame (default: 1)" in out
    assert "(default: None)" not in out
    assert "(default: False)" not in out
    assert "(default: 0.01)" in run("quantize", "--help")[1]


def examples() -> list[str]:
    """Every example in the help of every verb."""
    found = []
    for verb in VERBS:
        with redirect_stdout(StringIO()) as printed, pytest.raises(SystemExit):
            main.parse([*verb.split(), "--help"])
        found += [line.strip() for line in printed.getvalue().split("examples:\n")[1].splitlines() if line.strip()]
    return found


@pytest.mark.parametrize("example", examples())
def test_examples_parse_and_name_existing_files(example: str) -> None:
    command, *words = example.split()
    assert command == "saldistill"
    assert isinstance(main.parse(words).verb, Verb)
    for word in words:
        if word.startswith(("configs/", "tests/")):
            assert (REPOSITORY / word).exists()


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["models", "--help"], ["train"]])
def test_help_imports_nothing_heavy(words: list[str]) -> None:
    slow = ["torch", "numpy", "pydantic", "yaml", "matplotlib", "tqdm", "dataclasses", "inspect", "hashlib"]
    slow += ["importlib.metadata"] if words == ["--help"] else []
    done = run_python(
        "import sys; from distill.cli.main import main\n"
        f"try: main({words})\n"
        "except SystemExit: pass\n"
        f"print([m for m in {slow} if m in sys.modules])"
    )
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("words", [["models"], ["models", "stream-small"], ["models", "teacher/salfom", "--json"]])
def test_listing_models_imports_no_network(words: list[str]) -> None:
    done = run_python(
        f"import sys; from distill.cli.main import main; assert main({words}) == 0\n"
        "print([m for m in ('torch', 'numpy', 'timm', 'onnx', 'safetensors', 'yaml') if m in sys.modules])"
    )
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


# ----------------------------------------------------------------------------------------------- exit codes


def replace_models(monkeypatch: pytest.MonkeyPatch, work: Callable[[Namespace], None]) -> None:
    def add_arguments(parser: ArgumentParser) -> None:
        parser.add_argument("name", nargs="?")

    monkeypatch.setattr(main, "COMMANDS", (Verb("models", "", "", (), add_arguments, work),))


def raise_in_models(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def work(arguments: Namespace) -> None:
        raise error

    replace_models(monkeypatch, work)


def test_verb_that_returns_exits_with_0(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_models(monkeypatch, lambda arguments: print(arguments.name))
    assert run("models", "teacher/salfom") == (0, "teacher/salfom\n", "")


def wrapped(cause: BaseException) -> RuntimeError:
    error = RuntimeError("could not write")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (UserError("file.yaml: is wrong"), 2, "file.yaml: is wrong"),
        (RunError("step 3: the loss is nan"), 1, "step 3"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (Terminated(), 143, "terminated"),
        (OSError(errno.ELOOP, "Too many levels of symbolic links", "loop"), 2, "loop: cannot read"),
        (OSError(errno.ENOSPC, "No space left on device", "out.mp4"), 2, "out.mp4: no space left"),
        (PermissionError(errno.EACCES, "Permission denied", "/etc/passwd"), 2, "/etc/passwd: permission denied"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "long"), 2, "long: cannot read or write this path"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), 2, "no space left"),
        (wrapped(OSError(errno.ENOSPC, "No space left on device")), 2, "no space left"),
    ],
)
def test_expected_error_is_one_message(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, message: str
) -> None:
    raise_in_models(monkeypatch, error)
    found, out, err = run("models")
    assert (found, out) == (code, "")
    assert is_one_message(err)
    assert message in err


def test_sigterm_ends_the_verb_with_143_and_leaves_no_handler(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGTERM)
    replace_models(monkeypatch, lambda arguments: os.kill(os.getpid(), signal.SIGTERM))
    assert run("models") == (143, "", "saldistill: terminated\n")
    assert signal.getsignal(signal.SIGTERM) == before


def test_full_disk_in_a_thread_prints_no_traceback(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def work(arguments: Namespace) -> None:
        error = OSError(errno.ENOSPC, "No space left on device")
        with ThreadPoolExecutor() as pool:  # for the main thread
            future = pool.submit(raise_error, error)
        thread = threading.Thread(target=raise_error, args=(error,))
        thread.start()
        thread.join()
        future.result()

    replace_models(monkeypatch, work)
    code, _, err = run("models")
    assert code == 2
    assert is_one_message(err)


def raise_error(error: BaseException) -> None:
    raise error


def test_long_name_in_a_message_is_cut(run: Run) -> None:
    code, out, err = run("train", TEACHER, f"out={'o' * 5000}", "training.steps=1", "device=cpu")
    assert (code, out) == (2, "")
    assert max(map(len, err.splitlines())) < 1100


@pytest.mark.parametrize(
    "error",
    [
        ValueError("ours"),
        KeyError("x"),
        OSError(errno.EIO, "Input/output error"),
        BrokenPipeError(errno.EPIPE, "a worker's pipe"),
    ],
)
def test_unexpected_error_keeps_its_traceback(run: Run, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    raise_in_models(monkeypatch, error)
    with pytest.raises(type(error)):
        run("models")


def test_unexpected_error_exits_with_1() -> None:
    done = run_python("import distill.cli.main as m, sys; sys.exit(m.run_guarded(lambda: 1 / 0))")
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr


@pytest.mark.parametrize("words", ["models student/thtdnet:micro", "--help"])
def test_closed_stdout_exits_quietly(words: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)  # as `| head` does once it has enough
    command = [sys.executable, "-m", "distill.cli.main", *words.split()]
    done = subprocess.run(command, cwd=REPOSITORY, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert done.stderr == ""
    assert done.returncode == 141 or words == "--help"  # argparse itself may ignore a closed pipe


@pytest.mark.parametrize(
    "words",
    [
        "",
        "dream",
        "cache",
        "cache verify store --sample 0",
        "cache import maps -o store --size 112",
        "cache import maps -o store --codec jpeg",
        "evaluate model",
        "evaluate model data --frames 9-3",
        "evaluate model data --frames 0-3",
        "evaluate model data --metrics nss,psnr",
        "evaluate model data --protocol mit300",
        "evaluate model data --over x",
        "evaluate model data --seed ²",
        "evaluate model data --seed 99999999999999999999",
        "evaluate model data --workers 100000",
        "evaluate model data --batch-size 1000000000",
        "evaluate model data --every 99999999999",
        "evaluate model data --stride 99999",
        "evaluate model data --stride 0.00001fps",
        "evaluate model data --frames 1-99999999999",
        "cache import maps -o store --size 112x9999999",
        "cache import maps -o store --size 90000x90000",
        "benchmark model --threads 100000",
        "benchmark model --rounds 1000000000",
        "benchmark model --batch-size 1,1000000000",
        "benchmark model --shape x=1x1000000000",
        "quantize model --on video --frames 1000000000",
        "quantize model --on video --max-loss nan",
        "quantize model --on video --max-loss 1e-999",
        f"benchmark model --batch-size {'9' * 5000}",
        "evaluate model data --seed -1",
        "evaluate model data --workers 0",
        "export model",
        "predict model video -o x.mp4 --batch-size many",
        "submit model data --to mit300 -o out",
        "quantize model.onnx --on video --to int4",
        "quantize model.onnx --on video --max-loss 1",
        "benchmark model --precision fp32,fp32",
        "benchmark model --shape 1x3",
    ],
)
def test_invalid_command_line_exits_with_2(run: Run, words: str) -> None:
    code, out, err = run(*words.split())
    assert (code, out) == (2, "")
    assert "usage: saldistill" in err


# ------------------------------------------------------------------------------ invalid input, verb by verb


INVALID = [
    ("train missing.yaml", "missing.yaml"),
    ("distill missing.yaml", "missing.yaml"),
    (f"train {TEACHER} training.stepz=3", "stepz"),
    (f"train {TEACHER} training.steps=many", "training.steps"),
    (f"train {TEACHER} device=cuda:99 out=run", "cuda:99"),
    (f"distill {TEACHER}", "no section 'teacher'"),
    (f"cache build {TEACHER}", "teacher"),
    ("cache info missing", "missing"),
    ("cache verify missing", "missing"),
    ("cache export missing -o maps", "missing"),
    ("cache import missing -o store", "missing"),
    ("data check missing", "missing"),
    ("data check .", "no data set found"),
    ("models teacher/nobody", "teacher/salfom"),
    ("models --convert in.pth out.safetensors", "teacher/salfom"),
    ("models teacher/salfom --convert in.pth out.txt", "out.txt"),
    ("models teacher/salfom:micro --convert umt-l16-k40 out.safetensors", "umt-l16-k400"),
    ("models teacher/salfom:micro --convert salfom-dhf1k out.safetensors", "SalFoM_DHF1K.pth"),
    ("models --to-published in.safetensors out.pth", "teacher/salfom"),
    ("models teacher/salfom --to-published in.safetensors out.txt", ".pth or .safetensors"),
    ("models teacher/salfom:micro --to-published in.pth out.pth", "in.pth: no such weight file"),
    ("evaluate centre-prior missing", "DATASET:ROOT"),
    ("evaluate centre-prior nosuch:missing", "nosuch"),
    ("evaluate centre-prior dhf1k:missing", "missing"),
    (f"evaluate nobody dhf1k:{SAMPLE} --videos 002", "nobody"),
    (f"evaluate centre-prior dhf1k:{SAMPLE} --videos 999", "999"),
    (f"evaluate centre-prior {TEACHER} --videos 002", "selects its own videos"),
    ("predict nobody video.mp4 -o out.mp4", "nobody"),
    ("predict student/thtdnet:micro missing.mp4 -o out.mp4", "missing.mp4"),
    ("predict student/thtdnet:micro . -o out.mp4 --device cuda:99", "cuda:99"),
    (f"submit centre-prior {TEACHER} --to dhf1k -o out", "not a config"),
    ("export nobody -o out.onnx", "nobody"),
    ("export student/thtdnet:micro -o out.txt", "out.txt"),
    ("benchmark nobody", "nobody"),
    ("train @teacher/none", "configs list"),
]


@pytest.mark.parametrize(
    ("words", "hint"), INVALID, ids=[words.replace(f"{REPOSITORY}/", "")[:60] for words, _ in INVALID]
)
def test_invalid_input_is_one_message_and_exits_with_2(run: Run, words: str, hint: str) -> None:
    code, out, err = run(*words.split())
    assert (code, out) == (2, "")
    last = err.splitlines(keepends=True)[-1]
    assert is_one_message(last), err
    assert hint in last
    assert "Traceback" not in err


# ------------------------------------------------------------------------------------------------ the verbs


def test_models_lists_variants_with_cost(run: Run) -> None:
    code, out, _ = run("models", "student/thtdnet")
    assert code == 0
    head, *rows = out.splitlines()
    assert head.split()[:2] == ["model", "weights"]
    assert rows[0].startswith("student/thtdnet:base")
    assert len(run("models", "student/thtdnet:micro")[1].splitlines()) == 2


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_survive_the_authors_keys_and_back(run: Run, tmp_path: Path, suffix: str) -> None:
    created = create_model("teacher/salfom:micro", size=[48, 64])
    save_model(created, tmp_path / "best.safetensors")
    model = created.network
    code, out, err = run("models", "teacher/salfom", "--to-published", "best.safetensors", f"published{suffix}")
    assert (code, err) == (0, "")
    assert f"written to published{suffix} with the authors' keys" in out
    read = load_file if suffix == ".safetensors" else torch.load
    published = read(f"published{suffix}")
    assert torch.equal(published["conv_7.weight"], model.decoder.fusion.conv1.weight)
    assert "encoder.head.weight" in published

    code, _, err = run("models", "teacher/salfom:micro", "--convert", f"published{suffix}", "back.safetensors")
    assert (code, err) == (0, "")
    back, own = load_file("back.safetensors"), model.state_dict()
    assert back.keys() == own.keys()
    same = {key for key in back if key != "encoder.position"}  # the converted model has the variant's size
    assert all(torch.equal(back[key], own[key]) for key in same)

    assert run("models", "teacher/salfom", "--to-published", ".", f"again{suffix}")[0] == 0  # a run folder
    again = read(f"again{suffix}")
    assert again.keys() == published.keys()
    assert all(torch.equal(again[key], value) for key, value in published.items())
    code, _, err = run("models", "teacher/salfom:micro", "--to-published", "back.safetensors", f"published{suffix}")
    assert code == 2
    assert "already exists" in err


def test_to_published_without_authors_keys_or_of_another_variant_is_refused(run: Run, tmp_path: Path) -> None:
    for name in ("student/thtdnet:micro", "teacher/salfom:micro-swin"):
        save_model(create_model(name), tmp_path / "model.safetensors")
        code, out, err = run("models", name, "--to-published", "model.safetensors", "out.pth")
        assert (code, out) == (2, "")
        assert is_one_message(err)
        assert name in err
        assert not Path("out.pth").exists()
    code, _, err = run("models", "teacher/salfom:micro", "--to-published", "model.safetensors", "out.pth")
    assert code == 2
    assert "contains teacher/salfom:micro-swin, not teacher/salfom:micro" in err


def test_predict_then_evaluate_writes_overlay_maps_and_scores(run: Run, tmp_path: Path) -> None:
    (tmp_path / "frames").mkdir()
    for index in range(5):  # a moving spot
        picture = np.full((40, 64, 3), 60, dtype=np.uint8)
        picture[10:20, 8 * index : 8 * index + 10] = 250
        Image.fromarray(picture).save(tmp_path / "frames" / f"{index + 1:04d}.png")
    words = ["predict", "student/thtdnet:micro", "frames", "-o", "out.mp4"]
    assert run(*words, "--maps", "maps")[0] == 0
    assert (tmp_path / "out.mp4").stat().st_size > 0
    assert [path.name for path in sorted((tmp_path / "maps").iterdir())] == [f"000{i}.png" for i in range(1, 6)]
    code, _, err = run(*words)
    assert code == 2
    assert "out.mp4" in err

    words = ["evaluate", "centre-prior", "student/thtdnet:micro", f"dhf1k:{SAMPLE}", "--videos", "002"]
    code, out, _ = run(*words, "--frames", "601-640", "--every", "20", "-o", "scores")
    assert code == 0
    assert "NSS" in out
    assert (tmp_path / "scores" / "centre-prior" / "scores.json").exists()
    assert (tmp_path / "scores" / "student_thtdnet:micro" / "scores.csv").exists()


def test_train_then_evaluate_takes_the_run_folder(run: Run) -> None:
    root = f"data.train=[{{dataset: dhf1k, root: {SAMPLE}, videos: ['002']}}]"
    small = ["model.variant=micro", "training.steps=2", "training.batch_size=2", "data.workers=0", "device=cpu"]
    words = ["train", TEACHER, "out=run", root, *small, "data.validation=[]", "data.test=[]"]
    assert run(*words)[0] == 0
    code, out, _ = run("evaluate", "run", f"dhf1k:{SAMPLE}", "--videos", "002", "--frames", "601-601")
    assert code == 0
    assert "1 frame" in out
    code, _, err = run(*words)
    assert code == 2
    assert "resume=auto" in err
