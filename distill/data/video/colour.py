"""Colours of decoded frames: which are HDR, their conversion to SDR, and the luma and chroma of RGB colours."""

from dataclasses import dataclass

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc

HDR_TRANSFERS = {int(ColorTrc.SMPTE2084): "PQ", int(ColorTrc.ARIB_STD_B67): "HLG"}
"""Transfer characteristics of HDR video (ITU-R BT.2100) and their names."""

LUMA = {1: (0.2126, 0.0722), 4: (0.30, 0.11), 7: (0.212, 0.087), 9: (0.2627, 0.0593), 10: (0.2627, 0.0593)}
"""Number of a matrix (ITU-T H.273, Table 4) -> weights of red and blue in luma; all others are BT.601's."""

BT601 = (0.299, 0.114)


@dataclass(frozen=True)
class Colour:
    """How numbers in a frame stand for colours, as numbered in ITU-T H.273.

    Attributes:
        matrix: matrix coefficients: 1 for BT.709, 5 for BT.601, 2 if the file does not say.
        full_range: luma and chroma span 0 to 255 instead of 16 to 235 and 16 to 240.
        primaries: colour primaries.
        transfer: transfer characteristics.
    """

    matrix: int = 2
    full_range: bool = False
    primaries: int = 2
    transfer: int = 2

    @classmethod
    def of(cls, frame: av.VideoFrame) -> "Colour":
        """Return the colour of a decoded frame."""
        return cls(
            matrix=int(frame.colorspace),
            full_range=frame.color_range == ColorRange.JPEG,
            primaries=int(frame.color_primaries),
            transfer=int(frame.color_trc),
        )

    def from_rgb(self, colours: np.ndarray) -> np.ndarray:
        """Return RGB colours (n, 3) in [0, 255] as luma and chroma (n, 3) float64 on the scale of 8 bits."""
        red, blue = LUMA.get(self.matrix, BT601)
        r, g, b = (colours / 255.0).T
        y = red * r + (1 - red - blue) * g + blue * b
        u, v = (b - y) / (2 * (1 - blue)), (r - y) / (2 * (1 - red))
        luma, chroma = (255.0, 255.0) if self.full_range else (219.0, 224.0)
        start = 0.0 if self.full_range else 16.0
        return np.stack([start + luma * y, 128 + chroma * u, 128 + chroma * v], axis=1)


BT709 = Colour(matrix=1, primaries=1, transfer=1)
"""Colour of the videos that are written from RGB frames, and of converted HDR."""


def is_hdr(frame: av.VideoFrame) -> bool:
    """Return whether a frame is HDR: PQ or HLG."""
    return int(frame.color_trc) in HDR_TRANSFERS


def to_sdr(frame: av.VideoFrame) -> av.VideoFrame:
    """Return an HDR frame in BT.709, 8 bits, 4:2:0.

    FFmpeg maps the reference white of HDR (203 cd/m2) to white and clips brighter highlights.
    """
    return frame.reformat(
        format="yuv420p",
        dst_color_trc=ColorTrc.BT709,
        dst_color_primaries=ColorPrimaries.BT709,
        dst_colorspace=Colorspace.ITU709,
        dst_color_range=ColorRange.MPEG,
    )
