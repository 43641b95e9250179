"""Prediction of still images: one, and a folder of separate ones."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.model_cases import loaded
from helpers.still_files import STILLS, picture, still_set
from PIL import Image
from torch import Tensor, nn

from distill.cli.main import main
from distill.data.check import check
from distill.data.sets.find import find_videos
from distill.data.sets.images import find_images
from distill.errors import UserError
from distill.evaluation.references import score
from distill.inference.folders import RECORD, predict_folder
from distill.inference.overlay import overlay
from distill.inference.predict import predict


class Brightness(nn.Module):
    """A network whose map is the brightness of the clip's last frame."""

    num_frames, size, target_frames, map_size = 4, (12, 16), (3,), (12, 16)

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, clip: Tensor) -> Tensor:
        assert bool((clip == clip[:, :, :1]).all())  # a still is repeated
        return (self.scale * clip[:, :, -1].float().mean(1) / 255 + 1e-3).log()[:, None]


@pytest.fixture(autouse=True)
def cache(empty_cache: Path) -> Path:
    return empty_cache


@pytest.fixture
def stills(tmp_path: Path) -> Path:
    """Return a folder with images of different sizes, two in a subfolder, and a file that is not an image."""
    for name, size in STILLS.items():
        picture(tmp_path / "photos" / f"{name}.png", size)
    picture(tmp_path / "photos/more/1.JPG", (40, 30), format="JPEG")
    picture(tmp_path / "photos/more/2.png", (30, 40))
    (tmp_path / "photos/notes.txt").write_text("no image")
    picture(tmp_path / "photos/.hidden.png", (9, 9))
    return tmp_path / "photos"


NAMES = ("a", "b", "c", "more/1", "more/2")


def tree(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".JPEG"])
def test_prediction_of_an_image_is_a_picture_and_one_map(stills: Path, tmp_path: Path, suffix: str) -> None:
    out, maps = tmp_path / f"out{suffix}", tmp_path / "maps"
    done = predict(loaded(Brightness()), stills / "b.png", out=out, maps=maps, progress=False)
    assert done.frames == 1
    assert tree(maps) == ["0001.png"]
    with Image.open(maps / "0001.png") as image:
        levels = np.asarray(image)
    assert levels.shape == STILLS["b"]
    assert levels.max() == 255
    with Image.open(stills / "b.png") as image:
        expected = overlay(np.asarray(image), levels / np.float32(255))
    with Image.open(out) as image:
        drawn = np.asarray(image).astype(int)
    assert np.abs(drawn - expected).mean() < (2 if suffix == ".png" else 6)
    with pytest.raises(UserError, match=r"out\..*: the overlay picture already exists; .*--overwrite"):
        predict(loaded(Brightness()), stills / "b.png", out=out, progress=False)


@pytest.mark.parametrize("out", ["out.mp4", "out", "out.webp"])
def test_overlay_of_an_image_is_no_video(stills: Path, tmp_path: Path, out: str) -> None:
    with pytest.raises(UserError, match=r"unsupported picture format; expected a name ending in \.png, \.jpg"):
        predict(loaded(Brightness()), stills / "a.png", out=tmp_path / out, progress=False)
    assert tree(tmp_path) == [f"photos/{name}" for name in tree(stills)]


def test_overlay_is_neither_the_input_nor_a_folder(stills: Path) -> None:
    with pytest.raises(UserError, match="is the input image; choose another name"):
        predict(loaded(Brightness()), stills / "a.png", out=stills / "a.png", overwrite=True, progress=False)
    with pytest.raises(UserError, match=r"is a folder; expected the name of a file, e\.g\. .*overlay\.png"):
        predict(loaded(Brightness()), stills / "a.png", out=stills, progress=False)


def test_images_of_a_folder_are_found_by_name(stills: Path) -> None:
    picture(stills / "a.jpg", (9, 9))
    assert find_images(stills) == {
        "a": stills / "a.jpg",
        "a.png": stills / "a.png",
        "b": stills / "b.png",
        "c": stills / "c.png",
        "more/1": stills / "more/1.JPG",
        "more/2": stills / "more/2.png",
    }
    assert [video.name for video in find_videos("images", stills)] == ["a", "a.png", "b", "c", "more/1", "more/2"]
    (video,) = find_videos("images", stills / "b.png")
    assert (video.name, video.size, video.truth) == ("b", STILLS["b"], None)
    (stills.parent / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty: expected images .* in this folder; found nothing"):
        find_videos("images", stills.parent / "empty")
    with pytest.raises(UserError, match="nowhere: no such file or folder; expected images"):
        find_videos("images", stills / "nowhere")


def test_folder_of_stills_equals_prediction_of_each(
    stills: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, results = Brightness(), {"out": tmp_path / "out", "maps": tmp_path / "maps"}
    done = predict_folder(loaded(model), stills, stills=True, progress=False, **results)
    assert sorted(done.made) == sorted(NAMES)
    assert str(done).startswith("5 images processed (")
    assert tree(tmp_path / "out") == sorted([RECORD, *(f"{name}.png" for name in NAMES)])
    assert tree(tmp_path / "maps") == sorted([RECORD, *(f"{name}/0001.png" for name in NAMES)])
    predict(loaded(model), stills / "more/1.JPG", out=tmp_path / "one.png", progress=False)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "out/more/1.png").read_bytes()
    caplog.set_level(logging.INFO, logger="distill")
    again = predict_folder(loaded(model), stills, stills=True, progress=False, **results)
    assert (len(again.skipped), again.made) == (5, [])
    assert not caplog.messages  # thousands of images would log as many lines


def test_image_that_cannot_be_read_does_not_stop_the_others(stills: Path, tmp_path: Path) -> None:
    (stills / "b.png").write_bytes(b"damaged")
    with pytest.raises(
        UserError, match=r"1 of 5 images could not be predicted: b; first error: .*b\.png: cannot be"
    ):
        predict_folder(loaded(Brightness()), stills, stills=True, out=tmp_path / "out", progress=False)
    assert len(tree(tmp_path / "out")) == 5


def test_folder_of_images_of_several_sizes_is_no_video(stills: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"all frames must have the same size; .*saldistill predict --stills"):
        predict(loaded(Brightness()), stills / "more", maps=tmp_path / "maps", progress=False)
    problems = check(stills / "more", progress=False).problems
    assert problems == [f"{stills}/more: its images are read as one video; --dataset images reads separate ones"]


def test_maps_of_stills_are_scored_as_a_folder_of_maps(tmp_path: Path) -> None:
    still_set(tmp_path / "set")
    predict_folder(loaded(Brightness()), tmp_path / "set/images", stills=True, maps=tmp_path / "m", progress=False)
    videos = find_videos("stills", tmp_path / "set")
    (one, _), (other, _) = (
        score(source, videos, metrics=["nss", "cc"], progress=False) for source in (tmp_path / "m", "centre-prior")
    )
    assert [row.video for row in one.rows] == [row.video for row in other.rows] == ["a", "b", "c"]


def test_predict_command_takes_images(
    stills: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = "student/stream:micro"
    assert main(["predict", model, "photos/a.png"]) == 0
    assert main(["predict", model, "photos", "--stills"]) == 0
    assert (tmp_path / "a-saliency.png").is_file()
    assert len(tree(tmp_path / "photos-saliency")) == 6
    for arguments, message in (
        (["photos/a.png", "--stills"], "photos/a.png: --stills expects a folder of images"),
        (["photos", "--stills", "--overwrite"], "--overwrite does not apply to a folder of videos or stills"),
        (
            ["photos", "--stills", "-o", "out.png"],
            "out.png: expected the name of a folder, since photos is a folder of",
        ),
        (["photos", "--stills", "-o", "photos/out"], "is inside the folder of images"),
        (["photos/nothing.png", "-o", "out.png"], "photos/nothing.png: no such video file, image or folder"),
    ):
        assert main(["predict", model, *arguments]) == 2
        assert message in capsys.readouterr().err
