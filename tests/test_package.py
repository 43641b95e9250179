"""The wheel and the sdist: what they contain, and that everything works from an installed wheel in any folder."""

import os
import signal
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
from helpers.places import REPOSITORY, SAMPLE

import distill

pytestmark = pytest.mark.slow


def run(*command: str | Path, cwd: Path, check: bool = True) -> "subprocess.CompletedProcess[str]":
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "SALDISTILL"))}
    environment |= {"SALDISTILL_CACHE": str(cwd / "cache")}
    done = subprocess.run(
        [*map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 or not check, f"{command}\n{done.stdout}\n{done.stderr}"
    return done


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the sdist, the wheel built from the sdist as `python -m build` does."""
    folder = tmp_path_factory.mktemp("built")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, REPOSITORY, cwd=folder)
    return folder


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` folder of an empty environment with the wheel; its dependencies are those of this environment."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    ours = next(path for path in sys.path if path.endswith("site-packages"))
    (packages / "dependencies.pth").write_text(f"{ours}\n")  # its own .pth files, such as ours, are not read
    return folder / "bin"


def saldistill(
    installed: Path, *arguments: str, cwd: Path, check: bool = True
) -> "subprocess.CompletedProcess[str]":
    return run(installed / "python", "-m", "distill.cli.main", *arguments, cwd=cwd, check=check)


def test_wheel_has_everything_and_nothing_else(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    assert wheel.name == f"saldistill-{distill.__version__}-py3-none-any.whl"
    names = set(zipfile.ZipFile(wheel).namelist())
    configs = {f"distill/shipped/{path.relative_to(REPOSITORY)}" for path in REPOSITORY.glob("configs/**/*.yaml")}
    sample = {f"distill/shipped/sample/{path.relative_to(SAMPLE)}" for path in SAMPLE.rglob("*") if path.is_file()}
    templates = {str(path.relative_to(REPOSITORY)) for path in REPOSITORY.glob("distill/reports/templates/*")}
    students = {
        f"student/pretrained/stream-{size}.{kind}" for size in ("nano", "small") for kind in ("onnx", "safetensors")
    }
    students.add("student/pretrained/training_hashes.json")
    markers = {f"{package}/py.typed" for package in ("distill", "teacher", "student")}
    page = {f"student/browser/{name}" for name in ("index.html", "page.js", "style.css", "package-lock.json")}
    for wanted in (configs, sample, templates, students, markers, page):
        assert wanted <= names, wanted - names
    tops = {name.split("/")[0] for name in names}
    assert tops == {"distill", "teacher", "student", f"saldistill-{distill.__version__}.dist-info"}
    assert not any("node_modules" in name or "__pycache__" in name for name in names)


def test_sdist_has_what_the_tests_need(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = archive.getnames()
    for name in (
        "pyproject.toml",
        "tests/data/dhf1k/video/002.AVI",
        "configs/teacher/demo.yaml",
        "scripts/check",
        "LICENSE",
    ):
        assert f"saldistill-{distill.__version__}/{name}" in names


def test_metadata_is_valid(built: Path) -> None:
    done = run(sys.executable, "-m", "twine", "check", "--strict", *built.iterdir(), cwd=built)
    assert done.stdout.count("PASSED") == 2


def test_installed_command_works_from_any_folder(installed: Path, tmp_path: Path) -> None:
    assert saldistill(installed, "--version", cwd=tmp_path).stdout == f"saldistill {distill.__version__}\n"
    where = run(installed / "python", "-c", "import distill; print(distill.__file__)", cwd=tmp_path).stdout
    assert where.startswith(str(installed.parent))
    assert "@teacher/demo" in saldistill(installed, "configs", "list", cwd=tmp_path).stdout
    saldistill(installed, "predict", "@sample/video/068.AVI", cwd=tmp_path)
    assert (tmp_path / "068-saliency.mp4").is_file()
    on = ("--on", "@sample/video/068.AVI")
    saldistill(installed, "export", "stream-nano", "-o", "nano.onnx", *on, "--kit", cwd=tmp_path)
    assert " pass " in saldistill(installed, "conform", "nano.onnx", "--runtime", "onnx", cwd=tmp_path).stdout
    run(installed / "python", "-m", "student.edge", "nano.onnx", "068-saliency.mp4", "-o", "e.mp4", cwd=tmp_path)
    steps = ("training.steps=1", "training.validate_every=null", "data.validation=[]", "model.variant=micro")
    saldistill(installed, "train", "@teacher/demo", *steps, cwd=tmp_path)
    assert (tmp_path / "runs" / "demo" / "teacher" / "config.yaml").is_file()


def test_only_the_core_predicts_and_evaluates(installed: Path, tmp_path: Path) -> None:
    """Without the packages of all extras, as after `pip install saldistill`."""
    block = (
        "import sys\n"
        "from distill.extras import EXTRAS\n"
        "sys.modules.update(dict.fromkeys([*EXTRAS, 'cv2', 'tensorboard', 'matplotlib']))\n"
        "from distill.cli.main import main\n"
        "sys.exit(main())\n"
    )

    def core(*arguments: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        return run(installed / "python", "-c", block, *arguments, cwd=tmp_path, check=check)

    core("predict", "@sample/video/068.AVI", "--csv", "068.csv")
    core("reframe", "@sample/video/068.AVI", "9:16", "-o", "upright.mp4")
    core("evaluate", "stream-nano", "dhf1k:@sample", "--videos", "002", "--every", "60")
    core("models", "stream-small")
    for verb in (["export", "stream-nano", "-o", "a.onnx"], ["train", "@teacher/demo"]):
        done = core(*verb, check=False)
        assert done.returncode == 2, done.stderr
        assert "pip install 'saldistill[" in done.stderr


def test_first_steps_of_the_demo_run_from_an_installed_wheel(installed: Path, tmp_path: Path) -> None:
    command = [installed / "python", "-u", "-m", "distill.cli.main", "demo"]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as demo:
        assert demo.stdout
        for line in demo.stdout:
            if line.startswith("c. "):
                demo.send_signal(signal.SIGINT)
                break
        rest = demo.stdout.read()
    assert demo.returncode == 128 + signal.SIGINT, rest
    assert (tmp_path / "runs" / "demo" / "teacher" / "best.safetensors").is_file()
