"""The documentation site: it builds without a warning, has every page in its navigation, and needs no network."""

import ast
import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.places import REPOSITORY

import distill

DOCS = REPOSITORY / "docs"


class Loader(yaml.SafeLoader):
    """A YAML loader that reads mkdocs' references to Python objects as None."""


Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: None)
SETTINGS = yaml.load((REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8"), Loader)


def leaves(nav: Any) -> Iterator[str]:
    """Yield the pages of a navigation in order."""
    if isinstance(nav, str):
        yield nav
    else:
        for entry in nav.values() if isinstance(nav, dict) else nav:
            yield from leaves(entry)


def added_pages() -> dict[str, str]:
    """Return PAGES of scripts/site_hooks.py, which is not imported because it needs mkdocs."""
    tree = ast.parse((REPOSITORY / "scripts" / "site_hooks.py").read_text(encoding="utf-8"))
    values = {
        target.id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    return ast.literal_eval(values["PAGES"])


def test_navigation_has_every_page_once_and_no_other() -> None:
    pages = list(leaves(SETTINGS["nav"]))
    written = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    assert sorted(pages) == sorted(written | added_pages().keys())
    assert all((REPOSITORY / source).is_file() for source in added_pages().values())


def test_every_pretrained_model_has_its_card_on_the_site() -> None:
    cards = {path.name for path in (REPOSITORY / "student" / "pretrained").glob("*.md")}
    assert {Path(page).name for page in added_pages() if page.startswith("models/")} == cards


def test_python_api_page_has_every_public_name() -> None:
    page = (DOCS / "reference" / "python-api.md").read_text(encoding="utf-8")
    described = {name.rpartition(".")[2] for name in re.findall(r"^::: (\S+)", page, flags=re.MULTILINE)}
    public = {name for name in distill.__all__ if not name.startswith("__")}
    assert public <= described


@pytest.mark.skipif(
    not (importlib.util.find_spec("material") and importlib.util.find_spec("mkdocstrings")),
    reason="mkdocs-material and mkdocstrings are not installed (pip install -e '.[docs]')",
)
def test_site_builds_strictly_and_loads_nothing_from_the_network(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")],
        cwd=REPOSITORY,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    built = {path.relative_to(tmp_path / "site").as_posix() for path in (tmp_path / "site").rglob("*.html")}
    assert {page.replace(".md", ".html") for page in leaves(SETTINGS["nav"])} <= built
    assert (tmp_path / "site" / "search" / "search_index.json").is_file()
    for name in built:
        html = (tmp_path / "site" / name).read_text(encoding="utf-8")
        assert not re.findall(r"<(?:script|img|iframe|source)[^>]* src=[\"']?(?:https?:)?//[^\s>]+", html), name
        loaded = re.findall(r"<link[^>]*>", html)
        assert not [link for link in loaded if "stylesheet" in link and "//" in link], name
