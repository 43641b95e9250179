"""CONTRIBUTING.md's recipes, followed to the letter in a copy of the repository."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.places import REPOSITORY

TEXT = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8").split("## Recipes\n")[1]
RECIPES = dict(re.findall(r"^### (.*?)\n(.*?)(?=^### |\Z)", TEXT, flags=re.MULTILINE | re.DOTALL))
STEP = re.compile(r"(Write|Append to) `([\w/.]+)`:\n\n```python\n(.*?)^```", flags=re.MULTILINE | re.DOTALL)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the code, which a recipe may change, with links to the rest."""
    for name in ("distill", "teacher", "student", "scripts", "docs"):
        shutil.copytree(REPOSITORY / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPOSITORY / "README.md", tmp_path)
    for name in ("configs", "tests"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    return tmp_path


def run(command: list[str], folder: Path) -> str:
    """Run a command of a recipe on the code in a folder; return what it printed."""
    programs = {
        "saldistill": ["-m", "distill.cli.main"],
        "python": [],
        "pytest": ["-m", "pytest", "-q", "-p", "no:cacheprovider"],
    }
    program, *words = command
    words = [sys.executable, *programs[program], *words] if program in programs else command
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{folder}{os.pathsep}{folder / 'tests'}"}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout


def test_there_is_a_recipe_for_every_kind_of_part() -> None:
    assert set(RECIPES) == {f"Add a {part}" for part in ("model", "loss", "metric", "codec", "data set")}


@pytest.mark.parametrize("title", RECIPES)
def test_recipe_followed_to_the_letter_works(title: str, copy: Path) -> None:
    text = RECIPES[title]
    steps = STEP.findall(text)
    assert steps
    for verb, name, code in steps:
        file = copy / name
        assert file.exists() == (verb == "Append to")
        with file.open("a", encoding="utf-8") as opened:
            opened.write(f"\n\n{code}" if verb == "Append to" else code)
    for block in re.findall(r"^```sh\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            run(shlex.split(line), copy)
    if "generate_docs" in text:
        added = re.search(r'^(?:LOSSES|METRICS|CODECS)\["(\w+)"\]', text, flags=re.MULTILINE)
        assert added
        assert any(f"`{added[1]}`" in page.read_text(encoding="utf-8") for page in (copy / "docs").rglob("*.md"))
