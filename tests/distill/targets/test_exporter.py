from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.stores import TinyTeacher, build_small
from PIL import Image

from distill.data.map_files import find_maps, frames_of, read_maps
from distill.data.video.open import open_size
from distill.errors import UserError
from distill.saliency import peak_map
from distill.targets.exporter import export_maps


def listed(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_png_export_scales_the_maximum_to_255(tmp_path, videos):
    store = build_small(tmp_path / "store", videos, codec="exact")
    summary = str(export_maps(store, tmp_path / "maps", progress=False))
    assert "23 maps of 2 videos" in summary
    assert listed(tmp_path / "maps") == [f"{v.name}/{frame + 1:04d}.png" for v in videos for frame in v.frames]
    with Image.open(tmp_path / "maps" / "one" / "0006.png") as picture:
        pixels = np.asarray(picture)
    assert (pixels.dtype, pixels.shape, pixels.max()) == (np.uint8, (12, 16), 255)
    np.testing.assert_allclose(pixels / 255, peak_map(store.read("one", 5)), atol=0.5 / 255 + 1e-6)
    with pytest.raises(UserError, match="already exists"):
        export_maps(store, tmp_path / "maps")


@pytest.mark.parametrize(("form", "levels"), [("video", 1023), ("video8", 255)])
def test_video_export_is_min_max_normalised_within_half_a_level(tmp_path, videos, form, levels):
    store = build_small(tmp_path / "store", videos, codec="exact", views=("plain", "flipped"))
    summary = str(export_maps(store, tmp_path / "maps", form=form, view="flipped", progress=False))
    assert listed(tmp_path / "maps") == ["one.mp4", "two.mp4"]
    for video in videos:
        place = find_maps(tmp_path / "maps")[video.name]
        assert list(frames_of(place)) == list(video.frames)
        assert open_size(place)[1:] == (30.0, (12, 16))
        for frame, found in zip(video.frames, read_maps(place, video.frames), strict=True):
            values = peak_map(store.read(video.name, frame, "flipped"))
            stretched = (values - values.min()) / (1 - values.min())
            assert (found.min(), found.max()) == pytest.approx((0, levels), abs=0.02)
            np.testing.assert_allclose(found / levels, stretched, atol=0.52 / levels)
    correlation = float(summary.split("at least ")[1].split(")")[0])
    assert 0.999 < correlation <= 1


def test_video_export_without_the_first_frames_raises_and_png_works(tmp_path, videos):
    store = build_small(tmp_path / "store", [replace(videos[0], frames=range(2, 6)), videos[1]])
    with pytest.raises(UserError, match="lacks some of one; export PNG files"):
        export_maps(store, tmp_path / "maps", form="video", progress=False)
    assert not (tmp_path / "maps").exists()
    export_maps(store, tmp_path / "maps", progress=False)
    assert listed(tmp_path / "maps" / "one") == ["0003.png", "0004.png", "0005.png", "0006.png"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"form": "gif"}, "expected one of png, video, video8, got 'gif'"), ({"view": "flipped"}, "no flipped view")],
)
def test_export_with_invalid_settings_raises_and_writes_nothing(tmp_path, videos, settings, message):
    store = build_small(tmp_path / "store", videos)
    with pytest.raises(UserError, match=message):
        export_maps(store, tmp_path / "maps", **settings)
    assert not (tmp_path / "maps").exists()


def test_export_of_an_incomplete_store_raises_and_writes_nothing(tmp_path, videos):
    model = TinyTeacher()
    model.interrupt_at = 3
    with pytest.raises(KeyboardInterrupt):
        build_small(tmp_path / "store", videos, model)
    with pytest.raises(UserError, match="incomplete"):
        export_maps(tmp_path / "store", tmp_path / "maps")
    assert not (tmp_path / "maps").exists()
