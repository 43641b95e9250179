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


def real_file(
    path: Path,
    *,
    frames: int = 12,
    size: tuple[int, int] = (48, 80),
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    rate: int = 25,
    stamps: Sequence[int] | None = None,
    tags: dict[str, int] | None = None,
    options: dict[str, str] | None = None,
    sound: str | None = None,
) -> Path:
    """Encode a video of a bright square that moves over a gradient, as cameras and editors write it.

    Args:
        path: the file; its suffix is the container.
        frames: number of frames.
        size: (height, width).
        codec: encoder of the video.
        pix_fmt: pixel format of the video.
        rate: frame rate.
        stamps: presentation time of each frame in thousandths of a second; by default even.
        tags: colour properties of the codec context and the frames, such as color_range.
        options: options of the encoder.
        sound: encoder of a tone that is as long as the video; None for no sound.
    """
    unit = Fraction(1, rate) if stamps is None else Fraction(1, 1000)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=options or {})
        stream.height, stream.width, stream.pix_fmt = *size, pix_fmt
        stream.codec_context.time_base = unit
        for name, value in (tags or {}).items():
            setattr(stream.codec_context, name, value)
        audio = container.add_stream(sound, rate=48000, layout="mono") if sound else None
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(moving_square(number, size), format="rgb24")
            frame = frame.reformat(format=pix_fmt, dst_color_range=(tags or {}).get("color_range"))
            for name, value in (tags or {}).items():
                setattr(frame, name, value)
            frame.pts = number if stamps is None else stamps[number]
            frame.time_base = unit
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if audio is not None:
            samples = round(48000 * frames / rate)
            tone = np.sin(np.arange(samples) * 2 * np.pi * 440 / 48000).astype(np.float32)[None]
            note = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
            note.sample_rate, note.pts, note.time_base = 48000, 0, Fraction(1, 48000)
            resampler = av.AudioResampler(
                format=audio.format, layout="mono", rate=48000, frame_size=audio.codec_context.frame_size or 1024
            )
            for part in (*resampler.resample(note), *resampler.resample(None)):
                container.mux(audio.encode(part))
            container.mux(audio.encode(None))
    return path


def moving_square(number: int, size: tuple[int, int]) -> np.ndarray:
    """Return a frame (H, W, 3): a white square that moves to the right over a gradient of colours."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    image = np.stack([columns * 150 // size[1], rows * 150 // size[0], np.full(size, 60)], axis=-1).astype(np.uint8)
    side = max(4, size[0] // 4)
    left = (3 * number) % max(1, size[1] - side)
    image[side : 2 * side, left : left + side] = 255
    return image


def turn_upright(path: Path, matrix: Sequence[int]) -> Path:
    """Write the display matrix (a, b, c, d, x, y) into an MP4 in place, as a phone does."""
    content = bytearray(path.read_bytes())
    a, b, c, d, x, y = (value << 16 for value in matrix)
    struct.pack_into(">9i", content, content.find(b"tkhd") + 44, a, b, 0, c, d, 0, x, y, 1 << 30)
    path.write_bytes(content)
    return path
