"""Read image files of any kind: the door for images, and the one conversion to 8-bit RGB and to grey levels.

Pillow clips 16-bit and floating-point pixels when it converts them, so both conversions go by range of values: 16
bits are divided by 257, and floating-point pixels run from 0 (black) to 1 (white).
"""

import os
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from distill.data.text import plural
from distill.errors import UserError, reading
from distill.limits import MAX_PICTURE_PIXELS, check_limit
from distill.paths import require_file

FORMATS = ("PNG", "JPEG", "BMP", "DIB", "GIF", "TIFF", "WEBP", "PPM")
"""Pillow's decoders in use, whatever a file's suffix; others run programs (EPS) or are not image formats."""

TRAILERS = {"PNG": b"IEND\xaeB`\x82", "JPEG": b"\xff\xd9"}
"""Last bytes of a complete file."""

WHITE = 65535
"""White in 16 bits."""

MAX_NAMED = 3
"""Number of images that a message names."""

EIGHT_BITS = ("L", "RGB")
"""Pillow's modes that need no conversion."""

TURNED_BY_EXIF = ("JPEG", "MPO", "WEBP")
"""Formats whose pixels are displayed as their EXIF orientation says; Pillow itself turns those of TIFF."""

ORIENTATION = 0x0112
"""EXIF tag of the orientation."""

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""How the stored pixels become the displayed picture, by EXIF orientation; 1 leaves them as they are."""

SIDEWAYS = (5, 6, 7, 8)
"""Orientations that swap height and width."""


def read_image(path: Path) -> Image.Image:
    """Read an image file, upright: turned by its EXIF orientation, as viewers do.

    Raises:
        UserError: if it cannot be opened or decoded, or has more than MAX_PICTURE_PIXELS.
    """
    with _opened(path) as (image, _):
        orientation = _orientation(image)
        with reading(path, "an image"):
            image.load()
            return image.transpose(TURNS[orientation]) if orientation in TURNS else image


def picture_size(path: Path) -> tuple[int, int]:
    """Return the (height, width) of the upright image in a file without decoding it; errors as `read_image`."""
    with _opened(path) as (image, _):
        return _upright_size(image)


def check_picture(path: Path, *, thorough: bool = False) -> tuple[tuple[int, int], int, str]:
    """Return the (height, width), channels and `conversion_of` an image, and check that the file is complete.

    Raises:
        UserError: as `read_image`, or if it is truncated; `thorough` decodes it.
    """
    with _opened(path) as (image, file):
        size, channels, conversion = _upright_size(image), len(image.getbands()), conversion_of(image)
        complete = _is_complete(file, image.format)
    if thorough or not complete:  # valid files may have data after the trailer, so decoding decides
        _deep_levels(read_image(path), path)
    return size, channels, conversion


def _upright_size(image: Image.Image) -> tuple[int, int]:
    """Return the (height, width) of an image as displayed."""
    return image.size if _orientation(image) in SIDEWAYS else image.size[::-1]


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1 if there is none, or if it is damaged, which viewers ignore."""
    if image.format not in TURNED_BY_EXIF:
        return 1
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Corrupt EXIF data")
            found = image.getexif().get(ORIENTATION, 1)
    except Exception:  # Pillow's errors for damaged metadata have many types
        return 1
    return found if found in TURNS else 1


def conversion_of(image: Image.Image) -> str:
    """Return what `to_rgb` has to convert in an image that is not decoded yet; empty for 8-bit grey and RGB."""
    if ";16" in _raw_mode(image):
        return "16 bits"
    kinds = {"1": "1 bit", "P": "palette", "I": "32 bits", "F": "floating point"}
    if image.mode in EIGHT_BITS:
        return ""
    return kinds.get(image.mode, f"{image.mode}, alpha is ignored" if "A" in image.getbands() else image.mode)


def conversion_remarks(conversions: Mapping[str, str], target: str) -> list[str]:
    """Return a message per kind of conversion, with the number of images and the first names.

    Args:
        conversions: `conversion_of` each image by its file name.
        target: what the images are converted to.
    """
    kinds: defaultdict[str, list[str]] = defaultdict(list)
    for name, conversion in conversions.items():
        if conversion:
            kinds[conversion].append(name)
    return [
        f"{plural(len(names), 'image')} converted to {target} ({kind}): {', '.join(names[:MAX_NAMED])}"
        + ", ..." * (len(names) > MAX_NAMED)
        for kind, names in kinds.items()
    ]


def to_rgb(image: Image.Image, path: Path) -> Image.Image:
    """Convert an image of any mode to 8-bit RGB, without alpha; see the module.

    Args:
        image: the decoded image.
        path: its file, for messages.

    Raises:
        UserError: if its values are out of range, or Pillow cannot convert its colours.
    """
    levels = _deep_levels(image, path)
    with reading(path, "an image"):
        if levels is not None:
            image = Image.fromarray(np.rint(levels / np.float32(WHITE / 255)).astype(np.uint8))
        return image.convert("RGB")


def to_grey(image: Image.Image, path: Path) -> np.ndarray:
    """Return the grey levels (height, width) float32 of an image of any mode: the mean of its colours, no alpha.

    Args:
        image: the decoded image.
        path: its file, for messages.

    Returns:
        Levels up to 255 for 8 bits, and up to 65535 for 16 bits, as in the file; floating-point pixels count as 16
        bits.

    Raises:
        UserError: as `to_rgb`.
    """
    levels = _deep_levels(image, path)
    if levels is not None:
        return levels
    with reading(path, "an image"):
        if image.mode not in ("L", "LA", "RGB", "RGBA"):
            image = image.convert("RGB")
        values = np.asarray(image, dtype=np.float32)
    if values.ndim == 3:
        values = values[..., : 1 if values.shape[2] == 2 else 3].mean(axis=2)
    return values


def _deep_levels(image: Image.Image, path: Path) -> np.ndarray | None:
    """Return the levels (height, width) float32, 0 to 65535, of an image of more than 8 bits; None for others."""
    if image.mode not in ("I", "F") and not image.mode.startswith("I;16"):
        return None
    top = 1 if image.mode == "F" else WHITE
    with reading(path, "an image"):
        values = np.asarray(image)
        low, high = float(values.min()), float(values.max())
    if not 0 <= low <= high <= top:  # NaN is not either
        raise UserError(
            f"{path}: has pixels from {low:g} to {high:g}; expected 0 to {top} in an image of "
            f"{'floating-point numbers' if image.mode == 'F' else 'integers'}; convert it to 8 or 16 bits"
        )
    return values.astype(np.float32) * np.float32(WHITE / top)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Image.Image, BinaryIO]]:
    """Yield an image of which only the header has been read, and its file.

    Raises:
        UserError: see `read_image`.
    """
    require_file(path, "an image")
    with reading(path, "an image"):
        file = path.open("rb")
    with file:
        with reading(path, "an image"):
            try:
                with warnings.catch_warnings():  # of Pillow's bound, which is higher than ours, and of metadata
                    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                    warnings.filterwarnings("ignore", "Corrupt EXIF data")
                    image = Image.open(file, formats=FORMATS)
            except Image.DecompressionBombError as error:
                raise UserError(
                    f"{path}: pixels: over the limit of {MAX_PICTURE_PIXELS:,} (set in distill/limits.py)"
                ) from error
            except UnidentifiedImageError as error:
                what = "not an image file" if path.stat().st_size else "the file is empty"
                raise UserError(f"{path}: cannot be read as an image ({what}); it may be damaged") from error
        check_limit(image.width * image.height, MAX_PICTURE_PIXELS, f"{path}: pixels")
        if "I;12" in _raw_mode(image):  # Pillow reads them as dark 16-bit pixels
            raise UserError(f"{path}: has 12 bits per pixel; expected 8 or 16; convert it")
        yield image, file


def _raw_mode(image: Image.Image) -> str:
    """Return Pillow's modes of the pixels in the file, e.g. `RGB;16B`, of an image that is not decoded yet."""
    return " ".join([image.mode, *(str(tile[3]) for tile in getattr(image, "tile", []))])


def _is_complete(file: BinaryIO, kind: str | None) -> bool:
    """Return whether a file ends with its format's trailer."""
    length = file.seek(0, os.SEEK_END)
    file.seek(max(0, length - 32))
    return kind not in TRAILERS or TRAILERS[kind] in file.read()
