import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from helpers.places import REPOSITORY

SCRIPTS = REPOSITORY / "scripts"
SHELL = [
    *(f"scripts/{name}" for name in ("attack", "demo", "test", "check", "slurm_cache", "gpu_report", "gpu_wheels")),
    ".ci/run",
]
TOOLS = [
    "attention_center_maps.py",
    "calibration_study.py",
    "cli_reference.py",
    "experiment.py",
    "generate_docs.py",
    "hash_training_data.py",
    "readme_picture.py",
    "remote_report.py",
    "ship_pretrained.py",
    "site_hooks.py",
    "soak.py",
    "update_readme_table.py",
]  # scripts with their own work
VERBS = sorted(path.name for path in SCRIPTS.glob("*.py") if path.name not in TOOLS)
EXTRAS = ("dev", "imagenet", "opencv")  # what scripts/venv.sh installs


def run(*command: object, cwd: Path = REPOSITORY, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("name", [*SHELL, "scripts/venv.sh"])
def test_shell_script_is_valid_and_executable(name: str) -> None:
    assert run("bash", "-n", REPOSITORY / name).returncode == 0
    first = (REPOSITORY / name).read_text().splitlines()[0]
    if name.endswith(".sh"):
        assert first.startswith("# ")  # sourced, not run
    else:
        assert first == "#!/usr/bin/env bash"
        assert os.access(REPOSITORY / name, os.X_OK)


def test_long_verbs_have_a_script() -> None:
    names = ["benchmark", "cache_targets", "distill", "evaluate", "export_onnx", "predict", "train_teacher"]
    assert [f"{name}.py" for name in names] == VERBS


@pytest.mark.parametrize("name", VERBS)
def test_script_of_a_verb_follows_the_pattern(name: str) -> None:
    pattern = (SCRIPTS / "train_teacher.py").read_text().split('"""')[2]
    code = (SCRIPTS / name).read_text().split('"""')[2]
    assert re.sub(r"main\(\[.*?, \*sys", 'main(["train", *sys', code) == pattern


@pytest.mark.parametrize("name", ["distill.py", "train_teacher.py"])
def test_script_of_a_verb_runs_from_any_folder_without_installation(name: str, tmp_path: Path) -> None:
    # scripts/distill.py hides the package `distill` unless a script puts the repository first
    done = run(sys.executable, "-S", SCRIPTS / name, "--help", cwd=tmp_path, PYTHONPATH="")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: saldistill ")


# ------------------------------------------------------------------------------------------ the environment


@pytest.mark.parametrize(("version", "accepted"), [("3, 10", False), ("3, 11", True), ("3, 13", True)])
def test_environment_is_created_only_by_a_supported_python(tmp_path: Path, version: str, accepted: bool) -> None:
    """A copy of venv.sh, and an interpreter that claims a version and prints what it is asked to do."""
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "venv.sh").write_text((SCRIPTS / "venv.sh").read_text())
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
    done = run("bash", "-c", f". '{tmp_path}/scripts/venv.sh'", PYTHON=str(fake))
    assert done.returncode == 2
    assert ("asked for -m venv" in done.stdout) is accepted
    assert ("expected Python 3.11 or newer" in done.stderr) is not accepted


def test_environment_is_installed_once_per_state_of_the_requirements(tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "venv.sh").write_text((SCRIPTS / "venv.sh").read_text())
    (tmp_path / "constraints.txt").write_text("a==1\n")
    (tmp_path / "pyproject.toml").write_text("")
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\n[ "$1" = -m ] && echo "asked for $*"\nexit 0\n')
    python.chmod(0o755)

    def source() -> str:
        return run("bash", "-c", f". '{tmp_path}/scripts/venv.sh'; echo at $PWD", cwd=Path("/")).stdout

    log = tmp_path / ".venv" / "install.log"
    first = source()
    assert "Installing the requirements" in first
    assert "asked for" not in first  # pip's output is in the log
    wanted = f"asked for -m pip install --disable-pip-version-check -c constraints.txt -e .[{','.join(EXTRAS)}]"
    assert log.read_text() == f"{wanted}\n"
    log.unlink()
    second = source()
    assert not log.exists()
    assert f"at {tmp_path}" in second
    (tmp_path / "constraints.txt").write_text("a==2\n")
    source()
    assert log.exists()


def test_failed_installation_shows_the_end_of_the_output_of_pip(tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "venv.sh").write_text((SCRIPTS / "venv.sh").read_text())
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_text("")
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\n[ "$1" = -m ] || exit 0\nseq 100\necho "no such package" >&2\nexit 1\n')
    python.chmod(0o755)
    done = run("bash", "-c", f". '{tmp_path}/scripts/venv.sh'; echo at $PWD", cwd=Path("/"))
    assert done.returncode == 1
    assert "no such package" in done.stderr
    assert "Installation failed" in done.stderr
    assert len(done.stderr.splitlines()) < 20
    assert "at " not in done.stdout


def normalised(name: str) -> str:
    return re.split(r"[<>=!~;\[ ]", name)[0].lower().replace("_", "-")


def test_constraints_pin_every_requirement_to_an_exact_version() -> None:
    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert len(pins) > 20
    for pin in pins:  # a name and a version, no address
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.!+]*", pin), pin
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    required = [*project["dependencies"], *(each for name in (*EXTRAS, "docs") for each in extras[name])]
    required += [each for name in extras["all"][0].split("[")[1].strip("]").split(",") for each in extras[name]]
    required = [each for each in required if not each.startswith("saldistill[")]
    assert {normalised(each) for each in required} <= {normalised(pin) for pin in pins}


# ------------------------------------------------------------------------------------------- the repository


def test_no_tracked_file_contains_a_path_of_one_machine() -> None:
    listing = run("git", "ls-files", "--cached", "--others", "--exclude-standard", "-z")
    if listing.returncode:
        pytest.skip("not a git checkout")
    folders = "|".join(["work", "root", "tmp/build", "opt/pypi"])
    pattern = re.compile(rf"/(?:{folders})/|/home/(?!USER)\w+/")
    found = []
    for name in filter(None, listing.stdout.split("\0")):
        path = REPOSITORY / name
        try:
            text = path.read_text(encoding="utf-8") if path.is_file() else ""
        except UnicodeDecodeError:
            continue
        found += [f"{name}: {match[0]}" for match in pattern.finditer(text)]
    assert found == []


SUMMARY = {
    "machine": "x86_64, 2 CPU cores, models on cpu",
    "date": "2026-01-31",
    "duration": "9 min 5 s",
    "columns": ["model", "NSS", "ms per map"],
    "rows": [["centre prior", 2.0, None], ["student", 5.28312, 12.5]],
}


def test_readme_table_is_replaced_by_the_demos(tmp_path: Path) -> None:
    block = "<!-- demo-table:begin -->\n{}\n<!-- demo-table:end -->\nafter\n"
    (tmp_path / "README.md").write_text("before\n" + block.format("old"))
    (tmp_path / "demo.json").write_text(json.dumps(SUMMARY))
    for _ in range(2):  # a second run changes nothing
        done = run(sys.executable, SCRIPTS / "update_readme_table.py", "demo.json", "README.md", cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        assert (tmp_path / "README.md").read_text() == "before\n" + block.format(
            "| model | NSS | ms per map |\n| --- | ---: | ---: |\n| centre prior | 2.000 | - |\n"
            "| student | 5.283 | 12 |\n\n"
            "`saldistill demo`, 9 min 5 s on x86_64, 2 CPU cores, models on cpu, 2026-01-31."
        )


@pytest.mark.parametrize(("readme", "message"), [("no block", "no block between"), (None, "no such file")])
def test_readme_without_block_is_refused(tmp_path: Path, readme: str | None, message: str) -> None:
    (tmp_path / "demo.json").write_text(json.dumps(SUMMARY))
    if readme:
        (tmp_path / "README.md").write_text(readme)
    done = run(sys.executable, SCRIPTS / "update_readme_table.py", "demo.json", cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
