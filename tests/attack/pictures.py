"""Damaged and unusual pictures as frames, as saliency maps and as ground truth, and .mat files."""

import io
import random
import shutil
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from PIL import Image
from scipy.io import savemat

from attack.damage import damaged
from attack.harness import Case, Check, Outcome, anything, nothing
from attack.material import FRAMES, SIZE, Material, moving_pictures

SAME = 2.0
"""Grey levels by which maps of the same frames in another format may differ on average; of white frames: 6.6."""


def encoded(image: Image.Image, form: str = "png", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def png(width: int, height: int, depth: int, colour: int, rows: bytes) -> bytes:
    """Return a PNG file with a header that Pillow would not write."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", rows), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def deep_png(picture: np.ndarray) -> bytes:
    """Return a picture (H, W, 3) uint8 as a PNG file with 16 bits per channel."""
    rows = (picture.astype(">u2") * 257).reshape(len(picture), -1)
    lines = b"".join(b"\0" + row.tobytes() for row in rows)
    return png(picture.shape[1], picture.shape[0], 16, 2, zlib.compress(lines))


def grey(picture: np.ndarray) -> np.ndarray:
    return picture.mean(axis=2).astype(np.uint8)


FORMATS: dict[str, tuple[str, Any]] = {
    "16-bit grey": (".png", lambda p: encoded(Image.fromarray(grey(p).astype(np.uint16) * 257))),
    "32-bit grey": (".png", lambda p: encoded(Image.fromarray(grey(p).astype(np.float32) / 255), "tiff")),
    "8-bit grey": (".png", lambda p: encoded(Image.fromarray(grey(p)))),
    "grey and alpha": (".png", lambda p: encoded(Image.fromarray(grey(p)).convert("LA"))),
    "16-bit RGB": (".png", deep_png),
    "palette": (".png", lambda p: encoded(Image.fromarray(p).quantize(255))),
    "RGBA": (".png", lambda p: encoded(Image.fromarray(p).convert("RGBA"))),
    "CMYK": (".jpg", lambda p: encoded(Image.fromarray(p).convert("CMYK"), "jpeg", quality=98)),
    "JPEG named PNG": (".png", lambda p: encoded(Image.fromarray(p), "jpeg", quality=98, subsampling=0)),
}
"""Name -> suffix, and a function that encodes a picture (H, W, 3) uint8."""


def read_maps(folder: Path) -> np.ndarray:
    """Return the maps that `predict --maps` wrote, (frames, pixels)."""
    return np.stack([np.asarray(Image.open(path), np.float32).ravel() for path in sorted(folder.glob("*.png"))])


def like(expected: np.ndarray) -> Check:
    """Return a check that predicted maps are those of the same frames as 8-bit files."""

    def check(outcome: Outcome, folder: Path) -> str | None:
        found = read_maps(folder / "maps")
        if found.shape != expected.shape:
            return f"{len(found)} maps of {found.shape[1]} pixels instead of {expected.shape}"
        away = np.abs(found - expected).mean()
        return None if away < SAME else f"maps differ by {away:.1f} grey levels from those of the same 8-bit frames"

    return check


def frames_as(suffix: str, encode: Any) -> Any:
    def prepare(folder: Path) -> None:
        (folder / "in").mkdir()
        for n, picture in enumerate(moving_pictures(), 1):
            (folder / f"in/{n:04d}{suffix}").write_bytes(encode(picture))

    return prepare


def formats(material: Material, runner: Any) -> Iterator[Case]:
    """Yield good frames in unusual formats: their maps must be those of the 8-bit frames."""
    for name, (suffix, encode) in FORMATS.items():
        plain = (lambda p: encoded(Image.fromarray(grey(p)))) if "grey" in name else FORMATS["RGBA"][1]
        folder = runner.new_folder()
        frames_as(".png", plain)(folder)
        runner.command("predict", material.model, "in", "--maps", "maps", folder=folder)
        expected = read_maps(folder / "maps")
        argv = ("predict", material.model, "in", "--maps", "maps")
        yield Case(f"{name} frames, predict", argv, frames_as(suffix, encode), like(expected))


def bombs() -> dict[str, bytes]:
    """Return small files that claim to be huge, or are."""
    side = 12000
    line = zlib.compressobj(9)
    rows = b"".join(line.compress(bytes(1 + side)) for _ in range(side)) + line.flush()
    return {
        "header of 60000 x 60000": png(60000, 60000, 8, 2, zlib.compress(b"")),
        "header of 2147483647 x 1": png(2**31 - 1, 1, 8, 2, zlib.compress(b"")),
        "header of 0 x 0": png(0, 0, 8, 2, zlib.compress(b"")),
        "black, 12000 x 12000": png(side, side, 8, 0, rows),
        "text chunk bomb": png(64, 48, 8, 0, zlib.compress(bytes(65 * 48))).replace(
            b"\x00\x00\x00\x00IEND", b"\x7f\xff\xff\xffIEND"
        ),
    }


def mats(chance: random.Random, number: int) -> Iterator[tuple[str, bytes]]:
    """Yield .mat files, of versions 5 and 7.3, whose variable I is unusual, missing or damaged."""
    values: dict[str, Any] = {
        "empty": np.zeros((0, 0)),
        "0 x 5": np.zeros((0, 5)),
        "text": "fixations",
        "cells": np.array([[1, "a"]], dtype=object),
        "struct": {"a": 1.0},
        "complex": np.ones((48, 64)) * 1j,
        "NaN": np.full((48, 64), np.nan),
        "infinity": np.full((48, 64), np.inf),
        "3-D": np.ones((4, 4, 3)),
        "scalar": 3.0,
    }
    for name, value in values.items():
        buffer = io.BytesIO()
        savemat(buffer, {"I": value})
        yield f"v5, {name}", buffer.getvalue()
    buffer = io.BytesIO()
    savemat(buffer, {"J": np.ones((3, 3))})
    yield "v5, no I", buffer.getvalue()
    buffer = io.BytesIO()
    savemat(buffer, {"I": np.zeros((12000, 12000))}, do_compression=True)
    yield "v5, bomb of 1.2 GB", buffer.getvalue()
    for name, value in {**values, "cells": b"a", "struct": b"b", "bomb of 9 GB": None}.items():
        yield f"v7.3, {name}", hdf5(value)
    buffer = io.BytesIO()
    savemat(buffer, {"I": np.ones(SIZE, np.uint8)})
    for version, content in (("v5", buffer.getvalue()), ("v7.3", hdf5(np.ones(SIZE, np.uint8)))):
        yield from ((f"{version}, {name}", bad) for name, bad in damaged(content, chance, number))


def hdf5(value: Any) -> bytes:
    """Return a MATLAB 7.3 file; without a value, one whose variable would take 9 GB."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", userblock_size=512) as file:
        if value is None:
            file.create_dataset("I", shape=(36000, 32000), dtype="f8", chunks=(1000, 1000), compression="gzip")
        else:
            file["I"] = value if isinstance(value, str | bytes) or np.ndim(value) == 0 else np.asarray(value)
    return b"MATLAB 7.3 MAT-file".ljust(126) + b"IM" + buffer.getvalue()[128:]


def noted(name: str) -> Check:
    """Return a check that damage which does not stop a command is mentioned."""

    def check(outcome: Outcome, folder: Path) -> str | None:
        return None if name in outcome.stdout + outcome.stderr else f"{name} is damaged, and nothing says so"

    return check


def unnoticed_if_readable(content: bytes, name: str) -> Check:
    """Return the check of a picture with random damage, which may be harmless."""
    try:
        Image.open(io.BytesIO(content)).load()
    except Exception:
        return noted(name)
    return anything


def inside(folder: Path, source: Path, **files: bytes) -> None:
    """Copy a folder into a case and replace files in it; `__` in a name stands for a slash."""
    shutil.copytree(source, folder / "in", dirs_exist_ok=True)
    for name, content in files.items():
        (folder / "in" / name).write_bytes(content)


def cases(material: Material, runner: Any, chance: random.Random, number: int) -> Iterator[Case]:
    """Yield pictures and .mat files in every place where they are read."""
    yield from formats(material, runner)
    good = encoded(Image.fromarray(moving_pictures()[3]))
    bad = [*bombs().items(), *damaged(good, chance, number)]
    for name, content in bad:
        files = {"0004.png": content}
        yield Case(
            f"PNG, {name}: a frame, predict",
            ("predict", material.model, "in", "-o", "out.mp4", "--maps", "maps"),
            lambda folder, files=files: inside(folder, material.frames, **files),
            nothing if unnoticed_if_readable(content, "") is not anything else anything,
        )
    for name, content in [*bombs().items(), *damaged(good, chance, number)]:
        check = unnoticed_if_readable(content, "0004.png") if "12000" not in name else anything
        yield Case(
            f"PNG, {name}: a density, evaluate",
            ("evaluate", "centre-prior", "dhf1k:in"),
            lambda folder, c=content: inside(folder, material.dhf1k, **{"annotation/0001/maps/0004.png": c}),
            check,
        )
        verb, *options = chance.choice([("cache", "import"), ("evaluate",)])
        argv = (verb, *options, "in", *(("-o", "out") if verb == "cache" else (f"ntire:{material.ntire}",)))
        yield Case(
            f"PNG, {name}: a saliency map, {' '.join((verb, *options))}",
            argv,
            lambda folder, c=content: inside(folder, material.maps, **{"one/0004.png": c}),
            nothing if check is not anything else anything,
        )
    for name, content in mats(chance, number):
        yield Case(
            f"mat, {name}, evaluate",
            ("evaluate", "centre-prior", "dhf1k:in"),
            lambda folder, c=content: inside(
                folder, material.dhf1k, **{f"annotation/0001/fixation/maps/{FRAMES - 3:04d}.mat": c}
            ),
        )
        if chance.random() < 0.3:
            yield Case(
                f"mat, {name}, data check",
                ("data", "check", "in", "--thorough"),
                lambda folder, c=content: inside(
                    folder, material.dhf1k, **{f"annotation/0001/fixation/maps/{FRAMES - 3:04d}.mat": c}
                ),
            )
