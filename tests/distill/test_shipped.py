"""Paths that begin with `@`: what they name, and where they are accepted."""

from pathlib import Path

import pytest
from helpers.places import REPOSITORY, SAMPLE

from distill import shipped
from distill.cli.main import parse
from distill.data.sets.find import find_videos
from distill.data.video.open import open_video
from distill.errors import UserError
from distill.shipped import config_names, shipped_argument, shipped_name, shipped_path
from distill.training.config import load_config


def test_names_are_files_of_the_checkout() -> None:
    assert shipped_path("@teacher/demo") == REPOSITORY / "configs" / "teacher" / "demo.yaml"
    assert shipped_path("@teacher/demo.yaml") == shipped_path("@teacher/demo")
    assert shipped_path("@sample") == SAMPLE
    assert shipped_path("@sample/video/068.AVI") == SAMPLE / "video" / "068.AVI"


def test_other_paths_are_returned_as_they_are() -> None:
    for path in ("runs/demo", "./@sample", "a@b.mp4", ""):
        assert shipped_path(path) == Path(path)
    for argument in ("runs/demo", "out=@x", "key=a@b", "a/b:@c", "me@home", "-o"):
        assert shipped_argument(argument) == argument


@pytest.mark.parametrize("argument", ["@sample", "dhf1k:@sample/video", "@teacher/demo", "runs/demo", "a@b", ""])
def test_name_of_a_resolved_argument_is_the_argument(argument: str) -> None:
    assert shipped_name(shipped_argument(argument)) == argument


def test_path_that_begins_like_the_sample_is_not_in_it() -> None:
    assert shipped_name(f"{SAMPLE}2") == f"{SAMPLE}2"


@pytest.mark.parametrize(
    "name", ["@", "@none", "@teacher", "@sample/none", "@sample/../golden", "@/etc/passwd", "@../README"]
)
def test_unknown_and_hostile_names_are_one_sentence(name: str) -> None:
    with pytest.raises(UserError) as caught:
        shipped_path(name)
    assert "\n" not in str(caught.value)


def test_folder_of_an_installed_wheel_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shipped" / "configs" / "mine").mkdir(parents=True)
    (tmp_path / "shipped" / "configs" / "mine" / "one.yaml").touch()
    monkeypatch.setattr(shipped, "__file__", str(tmp_path / "shipped.py"))
    assert config_names() == ["@mine/one"]


def test_every_config_of_the_checkout_has_a_name() -> None:
    assert len(config_names()) == len(list((REPOSITORY / "configs").rglob("*.yaml")))
    assert {"@teacher/demo", "@distill/demo", "@student/finetune_own_gaze"} <= set(config_names())


def test_names_work_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = load_config("@teacher/demo")
    assert config.data.train[0].root == "@sample"  # saved as written, so that a run repeats on another machine
    assert [video.name for video in find_videos("dhf1k", "@sample")] == ["002", "068"]
    assert open_video("@sample/video/068.AVI").num_frames == 540
    arguments = parse(["evaluate", "stream-small", "dhf1k:@sample"])
    assert arguments.data == f"dhf1k:{SAMPLE}"
