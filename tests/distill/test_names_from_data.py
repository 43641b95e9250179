"""Names that come from data and become paths: no writer leaves the folder that it was given."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.model_cases import loaded
from helpers.stores import TinyTeacher
from helpers.writer_process import fill
from PIL import Image

from distill.cli.main import main
from distill.data.clips import Video
from distill.errors import UserError
from distill.evaluation.submission import SUBMISSION_FORMATS, submit
from distill.inference import folders
from distill.inference.folders import predict_folder
from distill.targets import store as store_module
from distill.targets import store_file
from distill.targets.exporter import FORMS, export_maps
from distill.targets.plan import Plan
from distill.targets.store import TargetStore

EVIL = [
    "../x",
    "../../x",
    "{root}/x",
    "a/../../x",
    "..",
    "a/..",
    ".",
    "",
    "a//b",
    "nul\0byte",
    "x" * 300,
    "d/" * 2000 + "d",
    "line\nend",
]
"""Names that leave the folder, or that cannot be the name of a file; {root} is a folder of the test."""


@pytest.fixture(params=EVIL, ids=lambda name: repr(name[:20]))
def name(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(request.param).format(root=tmp_path)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Return a folder that is deep enough for every name that leaves it to stay in the test's own folder."""
    place = tmp_path / "deep" / "er"
    place.mkdir(parents=True)
    return place


def files_outside(tmp_path: Path, *allowed: Path) -> list[Path]:
    everything = [path for path in tmp_path.rglob("*") if not path.is_dir()]
    return [path for path in everything if not any(path.is_relative_to(each) for each in allowed)]


def forged_store(path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write a complete target store with valid checksums and a name that `TargetStore.create` refuses."""
    with monkeypatch.context() as patch:
        for module in (store_module, store_file):
            patch.setattr(module, "check_names", lambda videos, source: None)
        made = TargetStore.create(path, fingerprint={}, videos={"a": range(2), name: range(3)}, map_size=(6, 9))
        with made:
            fill(made)
    return path


def test_target_store_with_such_a_name_is_not_created(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="cannot become a path"):
        TargetStore.create(tmp_path / "store", fingerprint={}, videos={name: range(3)}, map_size=(6, 9))
    assert not (tmp_path / "store").exists()


def test_forged_target_store_is_not_opened(
    tmp_path: Path, place: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    store = forged_store(tmp_path / "store", name, monkeypatch)
    for verb in (["info"], ["verify"], ["export", "-o", str(place / "out")], ["import", "-o", str(place / "out")]):
        assert main(["cache", verb[0], str(store), *verb[1:]]) == 2
        error = capsys.readouterr().err.strip()
        assert "store.json: the name " in error
        assert len(error.splitlines()) == 1
    assert not files_outside(tmp_path, store)


@pytest.mark.parametrize("form", FORMS)
def test_export_of_an_opened_store_stays_in_its_folder(
    tmp_path: Path, place: Path, name: str, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The exporter itself checks too: `TargetStore` could come from another version."""
    path = forged_store(tmp_path / "store", name, monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(store_file, "check_names", lambda videos, source: None)
        store = TargetStore.open(path)
    with pytest.raises(UserError, match="cannot become a path"):
        export_maps(store, place / "out", form=form, progress=False)
    assert not files_outside(tmp_path, path)


@pytest.mark.parametrize("what", ["out", "maps"])
def test_prediction_of_a_folder_stays_in_its_folder(
    tmp_path: Path, place: Path, name: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "videos").mkdir()
    Image.new("RGB", (16, 12)).save(tmp_path / "videos" / "1.png")
    monkeypatch.setattr(folders, "find_media", lambda source: {name: tmp_path / "videos"})
    with pytest.raises(UserError, match=r"cannot become a path|inside those of"):
        predict_folder(loaded(TinyTeacher()), tmp_path / "videos", **{what: place / "out"}, progress=False)
    assert not files_outside(tmp_path, tmp_path / "videos")


@pytest.mark.parametrize("to", SUBMISSION_FORMATS)
def test_submission_stays_in_its_folder(tmp_path: Path, place: Path, name: str, to: str) -> None:
    video = Video(name, tmp_path, 3, 25.0, (12, 16), range(3), None, "made-up")

    def maps(video: Video, frames: range):
        yield from ((frame, np.eye(12, 16)) for frame in frames)

    with pytest.raises(UserError, match=r"cannot become a path|cannot have subfolders"):
        submit(maps, [video], place / "out", to=to, made_by={"model": "made-up"}, progress=False)
    assert not files_outside(tmp_path)


def test_plan_of_endless_frames_is_refused_at_once() -> None:
    endless = {"views": ["plain"], "batch_size": 1, "batches_per_shard": 1, "videos": {"a": {"run": [0, 2**40, 1]}}}
    with pytest.raises(UserError, match=r"maps in the store: .* over the limit"):
        Plan.from_json(json.loads(json.dumps(endless)))
