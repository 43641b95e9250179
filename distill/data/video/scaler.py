"""Scale decoded frames to RGB with FFmpeg's filter `scale`, which gives the same pixels as decord."""

from functools import lru_cache
from itertools import pairwise
from typing import Any

import av
import numpy as np

from distill.data.video.colour import is_hdr, to_sdr

Size = tuple[int, int]


class Scaler:
    """Scaler of the frames of one video.

    PyAV's own `VideoFrame.reformat` places the chroma of 4:2:0 video differently, so that pixels differ by up to
    17. The filters of the last few formats and sizes are kept.
    """

    def __init__(self) -> None:
        self._filter = lru_cache(maxsize=4)(_filter)

    def __call__(self, frame: av.VideoFrame, size: Size) -> np.ndarray:
        """Return a frame as (H, W, 3) uint8 RGB of `size`, bicubic and antialiased; not rotated.

        HDR is converted to BT.709 first (`colour.to_sdr`). Alpha is ignored.
        """
        if is_hdr(frame):
            frame = to_sdr(frame)
        colours = int(frame.colorspace), int(frame.color_range)
        _, source, sink = self._filter((frame.width, frame.height), frame.format.name, colours, size)
        source.push(frame)
        scaled: np.ndarray = sink.pull().to_ndarray()
        return scaled


def _filter(source: Size, layout: str, colours: tuple[int, int], size: Size) -> tuple[Any, ...]:
    """Return a filter from frames of (width, height), format and (matrix, range) to RGB (H, W), and its two ends.

    The ends do not keep the filter alive.
    """
    graph = av.filter.Graph()
    chain = [
        graph.add(
            "buffer",
            f"video_size={source[0]}x{source[1]}:pix_fmt={layout}:time_base=1/30:colorspace={colours[0]}:"
            f"range={colours[1]}",
        ),
        graph.add("scale", f"{size[1]}:{size[0]}:flags=bicubic:threads=1"),
        graph.add("format", "rgb24"),
        graph.add("buffersink"),
    ]
    for before, after in pairwise(chain):
        before.link_to(after)
    graph.configure()
    return graph, chain[0], chain[-1]
