"""`saldistill configs`: the list, and copies that can be edited and run."""

from pathlib import Path

import pytest

from distill.cli.main import main
from distill.shipped import config_names, shipped_path
from distill.training.config import load_config


def test_list_has_every_config_with_a_summary(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["configs", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == config_names()
    assert all(len(line.split()) > 3 for line in lines)


def test_copy_is_the_same_config_and_replaces_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = tmp_path / "mine.yaml"
    assert main(["configs", "copy", "@teacher/demo", "-o", str(copy)]) == 0
    assert copy.read_text() == shipped_path("@teacher/demo").read_text()
    assert load_config(copy) == load_config("@teacher/demo")
    assert main(["configs", "copy", "@teacher/demo", "-o", str(copy)]) == 2
    assert main(["configs", "copy", "@sample/video/068.AVI", "-o", str(tmp_path / "b.yaml")]) == 2
    assert main(["configs", "copy", "@teacher/demo", "-o", str(tmp_path / "b.txt")]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]
    assert capsys.readouterr().err.count("\n") == 3
