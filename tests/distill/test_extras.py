"""Optional packages: a missing one is named together with the extra that installs it."""

import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from helpers.places import REPOSITORY, SAMPLE

import distill
from distill.cli.main import main
from distill.data.annotation import read_mat
from distill.errors import UserError
from distill.extras import EXTRAS, extras_named, install_line


def hide(monkeypatch: pytest.MonkeyPatch, *packages: str) -> None:
    """Let imports of packages fail as if they were not installed."""
    for loaded in list(sys.modules):
        if loaded.split(".")[0] in packages:
            monkeypatch.delitem(sys.modules, loaded)
    for package in packages:
        monkeypatch.setitem(sys.modules, package, None)


def test_every_optional_package_is_in_the_extra_that_is_named() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    for package, extra in EXTRAS.items():
        name = package.lower().replace("_", "-")
        assert any(each.startswith(name) for each in project["optional-dependencies"][extra]), package
        assert not any(each.startswith(package + ">") for each in project["dependencies"]), package


def test_missing_package_is_one_sentence_and_other_modules_raise() -> None:
    with (
        pytest.raises(UserError, match=r"accelerate: not installed.*pip install 'saldistill\[train\]'"),
        extras_named(),
    ):
        raise ModuleNotFoundError("No module named 'accelerate.utils'", name="accelerate.utils")
    with pytest.raises(ModuleNotFoundError), extras_named():
        raise ModuleNotFoundError("No module named 'mine'", name="mine")


def test_command_without_its_extra_exits_with_two(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for loaded in [
        name for name in sys.modules if name.startswith(("distill.training.train", "distill.training.setup"))
    ]:
        monkeypatch.delitem(sys.modules, loaded)
    hide(monkeypatch, "accelerate")
    assert main(["train", "@teacher/demo", f"out={tmp_path / 'run'}"]) == 2
    assert capsys.readouterr().err.count(install_line("accelerate")) == 1
    with pytest.raises(UserError, match="accelerate: not installed"):
        distill.train("@teacher/demo", {"out": str(tmp_path / "run")})


def test_prediction_without_the_exporter_runs_in_pytorch(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setenv("SALDISTILL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("distill.inference.runtime.MIN_FRAMES", 2)
    monkeypatch.setattr("distill.inference.runtime.is_installed", lambda package: False)
    with caplog.at_level("INFO", logger="distill"):
        maps = distill.load("stream-nano", device="cpu").predict(np.zeros((2, 90, 160, 3), np.uint8))
    assert maps.shape[0] == 2
    assert install_line("onnxscript") in caplog.text


def test_matlab_file_without_h5py_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "a.mat", "w", userblock_size=512) as file:
        file["map"] = np.zeros((4, 4))
    with (tmp_path / "a.mat").open("r+b") as raw:
        raw.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM")
    hide(monkeypatch, "h5py")
    with pytest.raises(UserError, match=r"saldistill\[hdf5\]"):
        read_mat(tmp_path / "a.mat", "map")


def test_sample_is_small() -> None:
    assert sum(path.stat().st_size for path in SAMPLE.rglob("*") if path.is_file()) < 10 * 2**20
