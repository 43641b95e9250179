"""The Python interface: `import distill` is light, its examples run, and it is what the documentation lists."""

import doctest
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.places import REPOSITORY

import distill
from distill import api
from distill.errors import UserError

FUNCTIONS = [name for name in distill.__all__ if inspect.isfunction(getattr(distill, name))]


def test_import_loads_nothing() -> None:
    program = "import sys, distill; print([m for m in ('torch', 'numpy', 'pydantic') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_public_names_exist_and_unknown_ones_do_not() -> None:
    assert dir(distill) == sorted(distill.__all__)
    for name in distill.__all__:
        assert getattr(distill, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        distill.nothing  # noqa: B018


def test_every_function_documents_its_arguments_and_errors() -> None:
    for name in FUNCTIONS:
        function = getattr(distill, name)
        text = inspect.getdoc(function) or ""
        for argument in inspect.signature(function).parameters:
            assert f"{argument}: " in text, (name, argument)
        assert "Returns:" in text or text.startswith("Return"), name
        assert "Raises:" in text or name == "list_models", name


@pytest.mark.parametrize("name", ["list_models", "load", "predict", "evaluate", "train", "push"])
def test_examples_of_docstrings_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    finder = doctest.DocTestFinder(recurse=False)
    (example,) = finder.find(getattr(api, name), name, module=api, globs={"distill": distill, "np": np})
    failures = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example)
    assert failures.attempted > 0
    assert failures.failed == 0


def test_overrides_are_values_of_the_config(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"training\.steps: "):
        distill.train("@teacher/demo", {"out": str(tmp_path / "run"), "training.steps": "many"})


def test_build_targets_and_export(tmp_path: Path) -> None:
    overrides = {
        "out": str(tmp_path / "run"),
        "teacher.model": "teacher/salfom:micro",
        "teacher.store": str(tmp_path / "store"),
        "teacher.views": ["plain"],
        "data.train": [{"dataset": "dhf1k", "root": "@sample", "videos": ["068"], "frames": [1, 4]}],
    }
    assert distill.build_targets("@distill/demo", overrides) == [tmp_path / "store"]
    report = distill.export("stream-nano", tmp_path / "nano.onnx", on="@sample/video/068.AVI")
    assert (tmp_path / "nano.onnx").is_file()
    assert report.path == tmp_path / "nano.onnx"


def test_type_markers_are_part_of_every_package() -> None:
    for package in ("distill", "teacher", "student"):
        assert (Path(importlib.import_module(package).__path__[0]) / "py.typed").is_file()
