"""Images of any mode as frames, ground truth and external maps, and images that are damaged or too large."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.data_files import SIZE, frame_folder, picture_files
from helpers.picture_files import write_png
from PIL import Image

from distill.data.annotation import read_picture
from distill.data.check import check
from distill.data.pictures import read_image, to_rgb
from distill.data.video.open import open_video
from distill.errors import UserError
from distill.limits import MAX_PICTURE_PIXELS

RAMP = np.linspace(0, 1, SIZE[0] * SIZE[1]).reshape(SIZE)
GREY8, GREY16 = np.rint(RAMP * 255).astype(np.uint8), np.rint(RAMP * 65535).astype(np.uint16)


def coloured(values: np.ndarray) -> np.ndarray:
    """Return (H, W, 3) of different channels."""
    return np.stack([values, values[::-1], values[:, ::-1]], axis=2)


def opaque(values: np.ndarray) -> np.ndarray:
    """Append a channel of alpha that varies."""
    alpha = np.roll(GREY8 if values.dtype == np.uint8 else GREY16, 999)
    return np.concatenate([values.reshape(*SIZE, -1), alpha[..., None]], axis=2)


def saved(mode: str | None = None, suffix: str = ".tif") -> Callable[[Path, np.ndarray], Path]:
    """Return a function that writes values with Pillow, after a conversion to `mode`."""

    def save(path: Path, values: np.ndarray) -> Path:
        image = Image.fromarray(values)
        (image.convert(mode) if mode else image).save(path.with_suffix(suffix))
        return path.with_suffix(suffix).rename(path)  # the suffix does not matter

    return save


KINDS = {
    "8-bit grey": (write_png, GREY8, 1),
    "16-bit grey": (write_png, GREY16, 1),
    "16-bit grey TIFF": (saved(), GREY16, 1),
    "16-bit big-endian TIFF": (saved(), GREY16.astype(">u2"), 1),
    "32-bit TIFF": (saved(), GREY16.astype(np.int32), 1),
    "float TIFF": (saved(), RAMP.astype(np.float32), 1),
    "grey and alpha": (write_png, opaque(GREY8), 1),
    "16-bit grey and alpha": (write_png, opaque(GREY16), 1),
    "palette": (saved("P", ".png"), GREY8, 1),
    "8-bit RGB": (write_png, coloured(GREY8), 3),
    "16-bit RGB": (write_png, coloured(GREY16), 3),
    "RGBA": (write_png, opaque(coloured(GREY8)), 3),
    "16-bit RGBA": (write_png, opaque(coloured(GREY16)), 3),
    "CMYK": (saved("CMYK"), coloured(GREY8), 3),
    "palette of colours": (saved("P", ".gif"), GREY8, 1),
}
"""Kinds of images of the same ramp: writer, values and colours."""


def expected(channels: int) -> np.ndarray:
    return coloured(GREY8) if channels == 3 else np.repeat(GREY8[..., None], 3, axis=2)


@pytest.mark.parametrize("kind", KINDS)
def test_frame_of_any_kind_is_read_by_its_range_of_values(tmp_path: Path, kind: str) -> None:
    write, values, channels = KINDS[kind]
    write(tmp_path / "0001.png", values)
    (frame,) = open_video(tmp_path).read([0])
    assert np.abs(frame.astype(int) - expected(channels)).max() <= 1
    (small,) = open_video(tmp_path).read([0], (18, 32))
    write_png(tmp_path / "0001.png", expected(channels))
    (same,) = open_video(tmp_path).read([0], (18, 32))
    assert np.abs(small.astype(int) - same).max() <= 1


@pytest.mark.parametrize("kind", KINDS)
def test_map_of_any_kind_is_the_same_map(tmp_path: Path, kind: str) -> None:
    write, values, channels = KINDS[kind]
    grey = read_picture(write(tmp_path / "0001.png", values))
    assert grey.dtype == np.float32
    assert grey.shape == SIZE
    top = 65535 if grey.max() > 255 else 255
    assert np.abs(grey / top - expected(channels).mean(axis=2) / 255).max() < 1.5 / 255
    assert np.corrcoef(grey.ravel(), expected(channels).mean(axis=2).ravel())[0, 1] > 0.9999


def test_grey_levels_of_16_bits_are_exact(tmp_path: Path) -> None:
    assert (read_picture(write_png(tmp_path / "a.png", GREY16)) == GREY16).all()
    assert (read_picture(write_png(tmp_path / "a.png", GREY8)) == GREY8).all()
    floats = read_picture(saved()(tmp_path / "a.png", RAMP.astype(np.float32)))
    assert floats == pytest.approx(RAMP * 65535, abs=0.01)


def test_one_bit_is_black_and_white(tmp_path: Path) -> None:
    Image.fromarray(RAMP > 0.5).save(tmp_path / "0001.png")
    assert np.unique(open_video(tmp_path).read([0])).tolist() == [0, 255]
    assert np.unique(read_picture(tmp_path / "0001.png")).tolist() == [0, 255]


@pytest.mark.parametrize("values", [RAMP * 2, RAMP - 0.5, np.where(RAMP > 0.5, np.nan, RAMP), RAMP + np.inf])
def test_floating_point_image_out_of_range_is_refused(tmp_path: Path, values: np.ndarray) -> None:
    saved()(tmp_path / "0001.png", values.astype(np.float32))
    for read in (lambda: open_video(tmp_path).read([0]), lambda: read_picture(tmp_path / "0001.png")):
        with pytest.raises(
            UserError, match=r"0001\.png: has pixels from .*; expected 0 to 1 in an image of floating"
        ):
            read()


def test_integers_of_more_than_16_bits_are_refused(tmp_path: Path) -> None:
    saved()(tmp_path / "a.tif", GREY16.astype(np.int32) * 2)
    with pytest.raises(UserError, match=r"a\.tif: has pixels from 0 to 131070; expected 0 to 65535"):
        to_rgb(read_image(tmp_path / "a.tif"), tmp_path / "a.tif")


def test_tiff_frames_are_a_video(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        Image.new("L", (8, 6), number).save(tmp_path / f"{number}.tiff")
    assert open_video(tmp_path).read([0, 1, 2])[:, 0, 0, 0].tolist() == [1, 2, 3]


# ---------------------------------------------------------------- what data check reports


def test_check_names_converted_images(tmp_path: Path) -> None:
    images = frame_folder(tmp_path / "annotation/0001/images")
    picture_files(tmp_path / "annotation/0001")
    report = check(tmp_path, progress=False)
    assert not [text for text in report.problems if "converted" in text]
    for number in range(1, 6):
        write_png(images / f"{number:04d}.png", GREY16)
    write_png(images / "0006.png", opaque(coloured(GREY8)))
    write_png(tmp_path / "annotation/0001/maps/0002.png", GREY16)
    Image.fromarray(GREY8).convert("P").save(tmp_path / "annotation/0001/fixation/0003.png")
    for thorough in (False, True):
        problems = [
            text.replace(f"{tmp_path}/annotation/0001/", "") for text in check(tmp_path, thorough=thorough).problems
        ]
        assert [text for text in problems if "converted" in text] == [
            "images: 5 images converted to 8-bit RGB (16 bits): 0001.png, 0002.png, 0003.png, ...",
            "images: 1 image converted to 8-bit RGB (RGBA, alpha is ignored): 0006.png",
            "maps: 1 image converted to grey levels (16 bits): 0002.png",
            "fixation: 1 image converted to grey levels (palette): 0003.png",
        ]


def test_thorough_check_finds_floating_point_frames_out_of_range(tmp_path: Path) -> None:
    images = frame_folder(tmp_path / "video")
    saved()(images / "0004.png", (2 * RAMP).astype(np.float32))
    assert check(tmp_path, progress=False).scan.videos
    (why,) = check(tmp_path, thorough=True, progress=False).scan.broken.values()
    assert "0004.png: has pixels from 0 to 2; expected 0 to 1" in why


# ---------------------------------------------------------------- damaged and too large


@pytest.mark.parametrize("size", [(60000, 60000), (12000, 12000), (4609, 8192)])
def test_image_with_too_many_pixels_is_refused_by_its_header(tmp_path: Path, size: tuple[int, int]) -> None:
    path = write_png(tmp_path / "0001.png", np.zeros((2, 2), dtype=np.uint8), size)
    for read in (read_picture, read_image, lambda path: open_video(path.parent)):
        with pytest.raises(UserError, match=rf"0001\.png: pixels: .*over the limit of {MAX_PICTURE_PIXELS:,}"):
            read(path)
    (why,) = check(tmp_path, progress=False).scan.broken.values()
    assert "over the limit" in why


def test_what_is_not_a_file_is_refused_at_once(tmp_path: Path) -> None:
    images = frame_folder(tmp_path / "frames")
    for number, make in enumerate((os.mkfifo, os.mkdir, lambda path: path.symlink_to("0003.png")), 1):
        (images / f"{number:04d}.png").unlink()
        make(images / f"{number:04d}.png")
    started = time.monotonic()
    (why,) = check(tmp_path, progress=False).scan.broken.values()
    assert "3 of 6 frames are broken: 0001.png: cannot be read as an image (it is not a file)" in why
    assert "0002.png: cannot be read as an image (it is not a file)" in why
    assert "0003.png: cannot be read as an image (Too many levels of symbolic links)" in why
    assert time.monotonic() - started < 30


def test_postscript_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "0001.png").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"
    )
    with pytest.raises(UserError, match=r"0001\.png: cannot be read as an image \(not an image file\)"):
        read_image(tmp_path / "0001.png")
