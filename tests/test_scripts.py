import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SHELL = [
    "scripts/demo",
    "scripts/test",
    "scripts/check",
    "scripts/slurm_cache",
    "scripts/build_browser_page",
    "scripts/venv.sh",
    ".ci/run",
]
TOOLS = ["experiment.py", "soak.py"]  # scripts of their own, not a verb's door
DOORS = sorted(path.name for path in (ROOT / "scripts").glob("*.py") if path.name not in TOOLS)


def tracked_files() -> list[Path]:
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listing.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listing.stdout.split("\0") if name and (ROOT / name).is_file()]


@pytest.mark.parametrize("name", SHELL)
def test_shell_scripts_are_clean(name: str) -> None:
    subprocess.run(["bash", "-n", str(ROOT / name)], check=True)
    first = (ROOT / name).read_text().splitlines()[0]
    if name.endswith(".sh"):
        assert first.startswith("# ")  # sourced, not run
    else:
        assert first == "#!/usr/bin/env bash"
        assert os.access(ROOT / name, os.X_OK)


@pytest.mark.parametrize("name", DOORS)
def test_doors_open_from_any_folder_without_an_installation(name: str, tmp_path: Path) -> None:
    # scripts/distill.py would hide the package `distill`, if a door did not put the repository's root first
    done = subprocess.run(
        [sys.executable, "-S", str(ROOT / "scripts" / name), "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: saldistill ")


def test_there_is_a_door_for_every_long_job() -> None:
    assert DOORS == [
        "benchmark.py",
        "cache_targets.py",
        "distill.py",
        "evaluate.py",
        "export_onnx.py",
        "predict.py",
        "train_teacher.py",
    ]


@pytest.mark.parametrize(("version", "found"), [("3, 10", False), ("3, 11", True), ("3, 13", True)])
def test_only_a_new_enough_python_makes_the_environment(tmp_path: Path, version: str, found: bool) -> None:
    """A copy of the scripts in a folder of its own, with an interpreter that claims a version and only says so."""
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "venv.sh").write_text((ROOT / "scripts" / "venv.sh").read_text())
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_text("")
    fake = tmp_path / "python"
    fake.write_text(
        "#!/bin/sh\n"
        'case "$1" in\n'
        f'  -c) exec "{sys.executable}" -c "import sys; sys.version_info = ({version}); exec(sys.argv[1])" "$2";;\n'
        '  --version) echo "a Python";;\n'
        '  -m) echo "asked for $*"; exit 3;;\n'
        "esac\n"
    )
    fake.chmod(0o755)
    done = subprocess.run(
        ["bash", "-c", f". '{tmp_path}/scripts/venv.sh'"],
        env={**os.environ, "PYTHON": str(fake)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert ("asked for -m venv" in done.stdout) is found
    assert ("is not a Python of version 3.11 or newer" in done.stderr) is not found


def test_the_environment_is_installed_once_for_each_state_of_the_requirements(tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "venv.sh").write_text((ROOT / "scripts" / "venv.sh").read_text())
    (tmp_path / "constraints.txt").write_text("a==1\n")
    (tmp_path / "pyproject.toml").write_text("")
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\n[ "$1" = -m ] && echo "asked for $*"\nexit 0\n')
    python.chmod(0o755)

    def source() -> str:
        command = ["bash", "-c", f". '{tmp_path}/scripts/venv.sh'; echo at $PWD"]
        return subprocess.run(command, cwd="/", capture_output=True, text=True, check=True).stdout

    first, second = source(), source()
    assert "asked for -m pip install" in first
    assert "-c constraints.txt -e .[dev,tracking,imagenet,opencv]" in first
    assert "asked for" not in second
    assert f"at {tmp_path}" in second
    (tmp_path / "constraints.txt").write_text("a==2\n")
    assert "asked for -m pip install" in source()


def test_constraints_are_exact_and_hold_no_address() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert len(lines) > 20
    for line in lines:
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.!+]*", line), line


def test_constraints_hold_everything_that_the_project_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = {
        re.split(r"[<>=!~;\[ ]", requirement)[0].lower().replace("_", "-")
        for asked in (
            project["dependencies"],
            *(extras[name] for name in ("dev", "tracking", "imagenet", "opencv")),
        )
        for requirement in asked
    }
    held = {
        line.split("==")[0].lower().replace("_", "-") for line in (ROOT / "constraints.txt").read_text().split()
    }
    assert wanted <= held


def test_no_tracked_file_names_somebodys_machine() -> None:
    slash = "/"
    needles = [
        slash + slash.join(parts) + slash for parts in (["work"], ["root"], ["tmp", "build"], ["opt", "pypi"])
    ]
    offenders = []
    for path in tracked_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        offenders += [f"{path.relative_to(ROOT)}: {needle}" for needle in needles if needle in text]
        offenders += [f"{path.relative_to(ROOT)}: a home folder" for _ in re.findall(r"/home/(?!USER)\w+/", text)]
    assert offenders == []
