"""The planes of a picture as arrays that are drawn on: 8-bit YUV 4:2:0 of a video's frame, or RGB of a still image.

Drawing on the decoded planes keeps colours, range and, where nothing is drawn, every pixel, and costs half of
drawing on RGB.
"""

from dataclasses import dataclass, replace

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace

from distill.data.video.colour import BT709, Colour, is_hdr, to_sdr

DIRECT = ("yuv420p", "yuvj420p", "yuva420p")
"""Pixel formats whose first three planes are used as they are."""


@dataclass(frozen=True)
class Canvas:
    """A picture as planes, which are replaced, never written to.

    Attributes:
        planes: Y (H, W), U and V (H / 2, W / 2), where H and W are even; or R, G and B (H, W); uint8.
        colour: colour of Y, U and V; None for RGB.
        size: (height, width) of the picture; an odd side of a video has one more row or column in its planes.
    """

    planes: tuple[np.ndarray, ...]
    colour: Colour | None
    size: tuple[int, int]

    @classmethod
    def of_rgb(cls, rgb: np.ndarray) -> "Canvas":
        """Return the planes of an RGB picture (H, W, 3) uint8."""
        return cls(tuple(rgb[..., channel] for channel in range(3)), None, rgb.shape[:2])

    @classmethod
    def of_frame(cls, frame: av.VideoFrame, turn: int = 0) -> "Canvas":
        """Return a decoded frame as YUV 4:2:0, upright.

        Frames of other formats are converted at their matrix and range; RGB and HDR to BT.709. Alpha is dropped.

        Args:
            frame: the frame as stored.
            turn: counter-clockwise quarter turns from the stored to the displayed picture.
        """
        if is_hdr(frame):
            frame = to_sdr(frame)
        elif frame.format.is_rgb or frame.format.has_palette:
            frame = frame.reformat(
                format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
            )
            frame.color_primaries, frame.color_trc = BT709.primaries, BT709.transfer
        elif frame.format.name not in DIRECT:
            kept = frame.color_range if frame.color_range == ColorRange.JPEG else ColorRange.MPEG
            frame = frame.reformat(format="yuv420p", src_color_range=kept, dst_color_range=kept)
        height, width = frame.height, frame.width
        shapes = ((height, width), *(((height + 1) // 2, (width + 1) // 2),) * 2)
        planes = [
            np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: shape[0], : shape[1]]
            for plane, shape in zip(frame.planes, shapes, strict=False)
        ]
        even = (
            np.pad(planes[0], ((0, height % 2), (0, width % 2)), mode="edge") if height % 2 or width % 2 else None
        )
        upright = [np.rot90(plane, turn) for plane in (planes[0] if even is None else even, *planes[1:3])]
        return cls(tuple(upright), Colour.of(frame), (width, height) if turn % 2 else (height, width))

    def with_planes(self, planes: tuple[np.ndarray, ...], size: tuple[int, int]) -> "Canvas":
        """Return a canvas of the same colour with other planes."""
        return replace(self, planes=planes, size=size)

    def palette(self, colours: np.ndarray) -> np.ndarray:
        """Return RGB colours (n, 3) in [0, 255] as values of the planes (n, 3)."""
        return colours if self.colour is None else self.colour.from_rgb(colours)

    def rgb(self) -> np.ndarray:
        """Return the picture of an RGB canvas, (H, W, 3) uint8."""
        assert self.colour is None
        return np.stack(self.planes, axis=-1)

    def frame(self) -> av.VideoFrame:
        """Return a YUV canvas as a new frame of FFmpeg."""
        assert self.colour is not None
        height, width = self.planes[0].shape
        frame = av.VideoFrame(width, height, "yuv420p")
        for plane, values in zip(frame.planes, self.planes, strict=True):
            into = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
            into[: values.shape[0], : values.shape[1]] = values
        frame.colorspace, frame.color_primaries = self.colour.matrix, self.colour.primaries
        frame.color_trc = self.colour.transfer
        frame.color_range = ColorRange.JPEG if self.colour.full_range else ColorRange.MPEG
        return frame
