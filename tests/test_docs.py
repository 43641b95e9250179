"""README.md and docs/: every command parses, every example loads, every link leads somewhere, and pages run.

Commands in blocks fenced as `sh` run in a fresh clone: the slow test runs them in the order of the page, with few
steps and small networks. Blocks fenced as `console` need data, hardware or time that the tests do not have.
"""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from helpers.places import REPOSITORY
from helpers.pretrained_models import make_pretrained, placeholder

from distill.cli.main import main, parse
from distill.data.video.writer import VideoWriter
from distill.experiment import Experiment
from distill.models import pretrained
from distill.training.config import DataSection, LossSection, RunConfig

PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
FOLDERS = ("configs/", "tests/", "scripts/")


def blocks(page: Path, *languages: str) -> list[str]:
    """Return the contents of a page's fenced blocks in the given languages."""
    fenced = re.findall(r"^```(\w+)\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return [content for language, content in fenced if language in languages]


def commands(page: Path, *languages: str) -> Iterator[list[str]]:
    """Yield the words of every command of a page."""
    for block in blocks(page, *languages):
        for line in block.replace("\\\n", " ").splitlines():
            if words := [word for word in shlex.split(line, comments=True) if word != "&"]:
                yield words


COMMANDS = [
    pytest.param(words, id=f"{page.stem}-{' '.join(words)[:60]}")
    for page in PAGES
    for words in commands(page, "sh", "console")
]


@pytest.mark.parametrize("words", COMMANDS)
def test_command_parses_and_names_files_that_exist(words: list[str]) -> None:
    if words[0] == "saldistill":
        parse(words[1:])
    for word in words:
        if (word.startswith(FOLDERS) or ("/" in word and word.endswith(".py"))) and "mine" not in word:
            assert (REPOSITORY / word).exists(), word


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_yaml_examples_are_valid_configs(page: Path) -> None:
    for block in blocks(page, "yaml"):
        example = yaml.safe_load(block)
        if "arms" in example:
            Experiment.model_validate({"out": "runs/x", **example})
            continue
        assert example.keys() <= {"data", "teacher", "teachers", "team", "losses"}
        if {"teacher", "teachers"} & example.keys():  # such an example has all that refers to each other
            rest = {"out": "runs/x", "model": {"name": "student/stream"}, "training": {"steps": 1}}
            RunConfig.model_validate({**rest, **example})
        for loss in example.get("losses", []):
            LossSection.model_validate(loss)
        if "data" in example:
            DataSection.model_validate(example["data"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_relative_links_lead_to_files(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def test_readme_is_short_and_its_picture_small() -> None:
    assert len((REPOSITORY / "README.md").read_text(encoding="utf-8").splitlines()) <= 150
    assert (REPOSITORY / "docs" / "images" / "demo.webp").stat().st_size < 2**20


def test_generated_blocks_are_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "scripts" / "generate_docs.py"), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


SMALL = {
    "train": ["model.variant=micro", "training.steps=2", "data.workers=0", "data.validation.0.every=30"],
    "fine-tune": ["training.steps=2", "training.batch_size=2", "training.validate_every=2", "data.workers=0"],
    "build": ["data.train.0.frames=[1,40]", "data.train.1.frames=[361,400]", "data.train.2.frames=[1,40]"],
}


def small(words: list[str]) -> list[str]:
    """Return a command with settings that make it take seconds."""
    verb = words[1]
    if verb == "cache" and words[2] == "build":
        return [*words, *SMALL["build"]]
    if verb == "train" and "finetune_own_gaze" in words[2]:
        return [*words, *SMALL["fine-tune"]]
    if verb in ("train", "distill"):
        extra = SMALL["train"] + (SMALL["build"] if "distill/" in words[2] else [])
        return [*words[:3], *extra, *[word for word in words[3:] if "training.steps" not in word]]
    if verb == "evaluate" and "--every" not in words:
        return [*words, "--every", "30"]
    return words


DEMO = [
    "saldistill train configs/teacher/demo.yaml",
    "saldistill cache build configs/distill/demo.yaml",
    "saldistill distill configs/distill/demo.yaml",
]


@pytest.fixture(scope="module")
def pretrained_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the pretrained models; if none is shipped yet, of untrained ones of a small size."""
    if {"stream-small", "stream-nano"} <= pretrained.pretrained_models().keys():
        return pretrained.pretrained_folder()
    model, folder = placeholder("small", size=(64, 96), num_frames=2), tmp_path_factory.mktemp("pretrained")
    return make_pretrained(folder, {"stream-small": model, "stream-nano": model}, onnx_too=True)


@pytest.fixture
def clone(tmp_path: Path, pretrained_files: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: links to a clone, and the user's videos with a table of fixations."""
    for name in ("configs", "tests"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    (tmp_path / "student").mkdir()
    for path in (REPOSITORY / "student").iterdir():
        (tmp_path / "student" / path.name).symlink_to(pretrained_files if path.name == "pretrained" else path)
    monkeypatch.setattr(pretrained, "pretrained_folder", lambda: pretrained_files)
    rows = ["video,observer,x,y,start,duration"]
    random = np.random.default_rng(0)
    (tmp_path / "my_videos").mkdir()
    for name in ("one", "two", "three", "four", "five"):
        with VideoWriter(tmp_path / "my_videos" / f"{name}.mp4", (64, 96), 25.0) as writer:
            writer.write(random.integers(0, 256, (60, 64, 96, 3), dtype=np.uint8))
        rows += [
            f"{name},p{o},{x},{y},{o / 10},2" for o, (x, y) in enumerate(random.integers((90, 60), size=(4, 2)))
        ]
    (tmp_path / "fixations.csv").write_text("\n".join(rows))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "sh")], ids=lambda page: page.stem)
def test_commands_of_a_page_run_in_order(page: Path, clone: Path) -> None:
    for words in commands(page, "sh"):
        for each in [line.split() for line in DEMO] if words[1:] == ["demo"] else [words]:
            if each[0] == "saldistill":
                assert main(small(each)[1:]) == 0, each
            else:
                assert each[0] == "python"
                environment = {**os.environ, "OMP_NUM_THREADS": "1"}
                subprocess.run([sys.executable, *each[1:]], check=True, env=environment, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize(
    "page", [page for page in PAGES if "import distill\n" in page.read_text()], ids=lambda p: p.stem
)
def test_python_examples_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = placeholder()
    folder = make_pretrained(tmp_path / "pretrained", {"stream-small": model})
    monkeypatch.setattr(pretrained, "pretrained_folder", lambda: folder)
    monkeypatch.chdir(tmp_path)
    with VideoWriter(tmp_path / "video.mp4", (64, 96), 25.0) as writer:
        writer.write(np.zeros((3, 64, 96, 3), np.uint8))
    for block in blocks(page, "python"):
        names: dict[str, object] = {}
        exec(block, names)
        assert np.shape(names["maps"]) == (3, 16, 24)
