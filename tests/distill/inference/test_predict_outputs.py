"""Maps in every form, the table and the plot."""

import csv
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from helpers.model_cases import loaded
from helpers.models import Brightness
from helpers.video_files import encode, moving_square, real_file
from PIL import Image

from distill.cli.main import main
from distill.data.map_files import read_maps
from distill.data.video.open import open_video
from distill.errors import UserError
from distill.inference.outputs import OutputSettings
from distill.inference.overlay import STYLES, DrawSettings, overlay, resize_map
from distill.inference.predict import predict
from distill.inference.sliding_window import slide
from distill.saliency import peak_map

SIZE = (48, 80)


@pytest.fixture(autouse=True)
def cache(empty_cache: Path) -> Path:
    return empty_cache


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return real_file(tmp_path / "a.mp4", size=SIZE)


def expected_maps(video: Path) -> list[np.ndarray]:
    return [
        peak_map(each) for _, maps in slide(Brightness(), open_video(video), range(12)) for each in maps.numpy()
    ]


@pytest.mark.parametrize(("form", "top"), [("png", 255), ("png16", 65535)])
def test_maps_as_pictures_have_the_size_of_the_video(tmp_path: Path, video: Path, form: str, top: int) -> None:
    predict(
        loaded(Brightness()), video, maps=tmp_path / "maps", outputs=OutputSettings(map_form=form), progress=False
    )
    for number, saliency in enumerate(expected_maps(video)):
        with Image.open(tmp_path / "maps" / f"{number + 1:04d}.png") as image:
            assert image.mode == {255: "L", 65535: "I;16"}[top]
            np.testing.assert_allclose(np.asarray(image), top * resize_map(saliency, SIZE), atol=0.51)


def test_maps_as_arrays_are_the_models_own(tmp_path: Path, video: Path) -> None:
    predict(
        loaded(Brightness()), video, maps=tmp_path / "maps", outputs=OutputSettings(map_form="npy"), progress=False
    )
    for number, saliency in enumerate(expected_maps(video)):
        found = np.load(tmp_path / "maps" / f"{number + 1:04d}.npy")
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, saliency)


@pytest.mark.parametrize("size", [(48, 80), (33, 51)])
def test_maps_as_video_are_read_like_a_folder_of_maps(tmp_path: Path, size: tuple[int, int]) -> None:
    video = real_file(tmp_path / "a.mkv", size=size, codec="ffv1", pix_fmt="yuv444p")
    predict(
        loaded(Brightness()),
        video,
        maps=tmp_path / "m.mp4",
        outputs=OutputSettings(map_form="video"),
        progress=False,
    )
    found = list(read_maps(tmp_path / "m.mp4", range(12)))
    for levels, saliency in zip(found, expected_maps(video), strict=True):
        shown = resize_map(saliency, size)
        np.testing.assert_allclose(levels[: size[0], : size[1]], 1023 * shown, atol=1.01)


def test_table_has_the_square_and_the_cut(tmp_path: Path) -> None:
    dark, bright = np.full((*SIZE, 3), 20, np.uint8), np.full((*SIZE, 3), 120, np.uint8)
    images = []
    for number in range(20):
        image = (dark if number < 12 else bright).copy()
        image[10:20, 60:70] = 255
        images.append(image)
    video = encode(tmp_path / "a.mp4", images, codec="libx264", rate=25)
    done = predict(loaded(Brightness()), video, csv=tmp_path / "t.csv", progress=False)
    with (tmp_path / "t.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(done.rows) == 20
    assert [int(row["frame"]) for row in rows] == list(range(1, 21))
    assert [float(row["seconds"]) for row in rows] == pytest.approx(np.arange(20) / 25, abs=1e-5)
    assert 60 <= float(rows[5]["peak_x"]) <= 70
    assert 10 <= float(rows[5]["peak_y"]) <= 20
    assert float(rows[5]["share_1_3"]) == max(
        float(rows[5][f"share_{r}_{c}"]) for r in (1, 2, 3) for c in (1, 2, 3)
    )
    assert sum(float(rows[5][f"share_{r}_{c}"]) for r in (1, 2, 3) for c in (1, 2, 3)) == pytest.approx(1, abs=1e-4)
    assert [int(row["cut"]) for row in rows] == [0] * 12 + [1] + [0] * 7


def test_plot_is_a_picture_with_three_curves(
    tmp_path: Path, video: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    model = "student/stream:micro"
    assert main(["predict", model, "a.mp4", "--plot", "p.svg", "--device", "cpu"]) == 0
    root = ET.parse(tmp_path / "p.svg").getroot()
    assert len([each for each in root if each.tag.endswith("polyline")]) == 3
    assert "12 frames" in capsys.readouterr().out
    assert main(["predict", model, "a.mp4", "--plot", "p.svg", "--device", "cpu"]) == 2
    assert "p.svg: the plot already exists" in capsys.readouterr().err


def test_folder_of_videos_gets_tables_and_map_videos(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "videos").mkdir()
    for name in ("one", "two"):
        real_file(tmp_path / "videos" / f"{name}.mp4", frames=3)
    command = ["predict", "student/stream:micro", "videos", "--maps", "m", "--maps-as", "video", "--csv", "t"]
    assert main([*command, "--device", "cpu"]) == 0
    for name in ("one", "two"):
        assert len((tmp_path / "t" / f"{name}.csv").read_text().splitlines()) == 4
        assert len(list(read_maps(tmp_path / "m" / f"{name}.mp4", range(3)))) == 3
    assert main([*command, "--device", "cpu"]) == 0
    assert "2 skipped" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--maps m.mp4 --maps-as png16 --csv m.mp4", "m.mp4: expected the name of a table, ending in .csv"),
        ("--maps m --maps-as video", "m: expected the name of a video of maps, ending in .mp4 or .mkv"),
        ("--maps o.mp4 -o o.mp4", "o.mp4: is the overlay too"),
        ("--maps m --csv m/t.csv", "is inside m, the folder for maps"),
        ("--csv t.txt", "t.txt: expected the name of a table"),
        ("--plot p.png", "p.png: expected the name of a picture, ending in .svg"),
        ("-o o.mp4 --colours no-such-map", "colours: no colour map is called 'no-such-map'; expected e.g. inferno"),
    ],
)
def test_outputs_with_invalid_names_are_one_sentence(
    tmp_path: Path,
    video: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: str,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["predict", "student/stream:micro", "a.mp4", *arguments.split()]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


@pytest.mark.parametrize("colours", ["inferno", "viridis", "turbo", "grey"])
@pytest.mark.parametrize("style", STYLES)
def test_overlay_in_every_style_and_colour(style: str, colours: str) -> None:
    frame = moving_square(2, SIZE)
    saliency = np.zeros((12, 20), np.float32)
    saliency[3:8, 8:14] = 1
    drawn = overlay(frame, saliency, DrawSettings(style=style, colours=colours))
    assert drawn.dtype == np.uint8
    assert drawn.shape == (48, 160 if style == "side-by-side" else 80, 3)
    assert np.array_equal(drawn[:, :10], frame[:, :10])  # far from the map's bright part


@pytest.mark.parametrize("settings", [{"style": "dots"}, {"opacity": 1.5}, {"colours": "nope"}])
def test_draw_settings_with_invalid_values_are_refused(settings: dict) -> None:
    with pytest.raises(UserError, match=next(iter(settings))):
        DrawSettings(**settings)


def test_overlay_with_opacity_zero_is_the_picture() -> None:
    frame = moving_square(2, SIZE)
    assert np.array_equal(overlay(frame, np.ones((6, 10), np.float32), DrawSettings(opacity=0.0)), frame)
