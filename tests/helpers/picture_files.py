"""Image files that Pillow does not write: PNGs of any depth and colour type, and of any announced size."""

import struct
import zlib
from pathlib import Path

import numpy as np

COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}
"""PNG's colour type for each number of channels: grey, grey and alpha, RGB, RGBA."""


def write_png(path: Path, values: np.ndarray, size: tuple[int, int] | None = None) -> Path:
    """Write values (H, W) or (H, W, channels), uint8 or uint16, as PNG.

    Args:
        path: the file.
        values: the pixels.
        size: (height, width) in the header; None takes that of the values.
    """
    pixels = values.reshape(*values.shape[:2], -1)
    height, width = size or pixels.shape[:2]
    rows = pixels.astype(pixels.dtype.newbyteorder(">"))
    depth, colour = 8 * pixels.dtype.itemsize, COLOUR_TYPES[pixels.shape[2]]
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))),
        (b"IEND", b""),
    )
    content = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    return path
