"""Video files for tests, including kinds that the project does not write itself."""

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from distill.data.video.writer import VideoWriter


def write_grey(path: Path, levels: Sequence[int], size: tuple[int, int], fps: float) -> Path:
    """Write a video of uniformly grey frames."""
    grey = np.array(levels, dtype=np.uint8)
    with VideoWriter(path, size, fps) as writer:
        writer.write(np.broadcast_to(grey[:, None, None, None], (len(grey), *size, 3)))
    return path


def encode(
    path: Path,
    images: Sequence[np.ndarray],
    *,
    codec: str,
    rate: Fraction | int,
    options: dict[str, str] | None = None,
) -> Path:
    """Encode images (H, W, 3) with any codec of FFmpeg."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=options or {})
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def set_avi_length(source: Path, target: Path, frames: int) -> Path:
    """Copy an AVI with another number of frames in its header."""
    content = bytearray(source.read_bytes())
    for chunk, field in ((b"avih", 24), (b"strh", 40)):
        struct.pack_into("<I", content, content.find(chunk) + field, frames)
    target.write_bytes(content)
    return target


def cut_away(source: Path, target: Path, frames: int) -> Path:
    """Copy an MP4 as an editor trims it: its first frames are stored before time 0 and are not displayed."""
    with av.open(str(source)) as before, av.open(str(target), "w") as after:
        template = before.streams.video[0]
        stream = after.add_stream_from_template(template)
        for packet in before.demux(video=0):
            if packet.dts is not None:
                earlier = round(frames / template.average_rate / packet.time_base)
                packet.pts -= earlier
                packet.dts -= earlier
                packet.stream = stream
                after.mux(packet)
    return target


def damage_packets(path: Path, packets: Sequence[int], *, seed: int = 0) -> Path:
    """Flip bits in the second half of some packets of a video, in place; headers stay intact."""
    random = np.random.default_rng(seed)
    with av.open(str(path)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    content = bytearray(path.read_bytes())
    for packet in packets:
        position, size = places[packet]
        for offset in random.integers(size // 2, size, 8):
            content[position + int(offset)] ^= 1 << int(random.integers(8))
    path.write_bytes(content)
    return path
