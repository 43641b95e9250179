"""docs/how-to/runtimes.md: the commands of each format's section, in the order of the page."""

import re
import shlex
from pathlib import Path

import pytest
from helpers.places import REPOSITORY

from distill.cli.main import main
from distill.deploy.formats.find import FORMATS

PAGE = REPOSITORY / "docs" / "how-to" / "runtimes.md"

SECTIONS = {"openvino": "OpenVINO", "litert": "LiteRT", "executorch": "ExecuTorch", "ncnn": "ncnn", "mnn": "MNN"}
"""Format -> heading of its section."""


def commands(name: str) -> list[list[str]]:
    """Return the words of the `saldistill` commands in a format's section."""
    section = PAGE.read_text().split(f"\n## {SECTIONS[name]}\n")[1].split("\n## ")[0]
    (block,) = re.findall(r"```console\n(.*?)```", section, re.DOTALL)
    return [shlex.split(line, comments=True)[1:] for line in block.splitlines() if line.startswith("saldistill ")]


def test_every_format_has_a_section_with_its_smallest_precision() -> None:
    assert SECTIONS.keys() == FORMATS.keys()
    for name, kind in FORMATS.items():
        words = commands(name)
        assert [line[0] for line in words] == ["export", "export", "conform"]
        assert all(kind.name in line for line in words)
        assert kind.precisions[-1] in words[1]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the tools
@pytest.mark.parametrize("name", FORMATS)
def test_commands_of_the_page_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = FORMATS[name]
    if (package := kind.missing(kind.tools("int8"))) is not None:
        pytest.skip(f"{package} is not installed; scripts/formats makes an environment with all converters")
    monkeypatch.chdir(tmp_path)
    for words in commands(name):
        assert main(words) == 0, words
