"""What a video file holds, found without decoding it: how many frames, when, and whether its end is there.

Every packet of the file is listed (no pixel is decoded, a few milliseconds for a clip of this field) and compared
with what the header promises; then the last group of pictures alone is decoded, because a cut file lies at its end.
PyAV does this, since it fails where other decoders wait for frames that never come.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import av
import numpy as np

from distill.errors import UserError

log = logging.getLogger(__name__)

FORGIVEN = 0.01
"""Share of the promised frames (and 2 frames at least) that may be missing at the end: headers are often off by
one, and the frames that do decode are used. More than this is a cut or damaged file."""

NOT_VIDEOS = {"tty", "image2"}
"""FFmpeg's readers that turn a text file or a single picture into a "video"."""


@dataclass(frozen=True, eq=False)
class Probe:
    """What a video file holds.

    Attributes:
        num_frames: frames that can be decoded, in the order they are shown.
        fps: frames a second; 30 where the file does not say.
        size: (height, width) in pixels, as shown: after the turn.
        turn: quarter turns, counter-clockwise, from the stored picture to the one to show, 0 ... 3; phones store
            upright videos lying on their side, and say so.
        stamps: presentation times of the frames, increasing, in the stream's unit; None where the file does not
            give each frame its own, so that frames can only be counted from the start.
        keys: those of the stamps at which decoding can start.
        regular: header, packets and the decoded end agree, so that any reader can be trusted with the file.
    """

    num_frames: int
    fps: float
    size: tuple[int, int]
    turn: int
    stamps: np.ndarray | None
    keys: np.ndarray
    regular: bool


def probe(path: str | Path) -> Probe:
    """Find out what a video file holds; remembered in this process until the file changes.

    Raises:
        UserError: if the file is missing, no video, empty, cut off or damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: there is no such file; expected a video")
    status = path.stat()
    return _probe(str(path), status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=4096)
def _probe(path: str, _changed: int, size: int) -> Probe:
    if size == 0:
        raise UserError(f"{path}: the file is empty; expected a video")
    try:
        with av.open(path) as container:
            return _examine(path, container)
    except av.error.FFmpegError as error:
        raise UserError(
            f"{path}: cannot be decoded as a video ({error.strerror}); it may be cut off, damaged, or no video"
        ) from error


def _examine(path: str, container: av.container.InputContainer) -> Probe:
    if not container.streams.video or set(container.format.name.split(",")) & NOT_VIDEOS:
        raise UserError(f"{path}: there is no video in this file ({container.format.long_name})")
    stream = container.streams.video[0]
    stamps, key_stamps, ends, hidden = [], [], [], 0
    for packet in container.demux(stream):
        hidden += packet.is_discard  # what an editor cut away is in the file, and is not shown
        if packet.size and not packet.is_corrupt and not packet.is_discard:
            stamps.append(packet.pts)
            ends.append(packet.dts if packet.pts is None else packet.pts)
            if packet.is_keyframe:
                key_stamps.append(packet.pts)
    if not stamps:
        raise UserError(f"{path}: there is not one whole frame in this file; it is cut off or damaged")
    last = max((end for end in ends if end is not None), default=0)
    _refuse_cut(path, container, stream, len(stamps) + hidden, last)
    known = keys = None
    reordered = container.format.name == "avi" and stream.codec_context.has_b_frames  # AVI gives no time of display
    if key_stamps and None not in stamps and len(set(stamps)) == len(stamps) and not reordered:
        known, keys = np.array(sorted(stamps)), np.array(sorted(key_stamps))
        num_frames = _whole_until(path, container, stream, known, keys)
    else:
        num_frames = len(_decode_all(path))
    _refuse_missing(path, len(stamps), num_frames)
    rate = stream.average_rate or stream.guessed_rate
    turn = _turn(path)
    size = (stream.codec_context.height, stream.codec_context.width)
    return Probe(
        num_frames=num_frames,
        fps=float(rate) if rate else 30.0,
        size=size[::-1] if turn % 2 else size,
        turn=turn,
        stamps=known,
        keys=np.zeros(0, dtype=np.int64) if keys is None else keys,
        regular=known is not None and stream.frames == len(stamps) == num_frames,
    )


def _refuse_cut(
    path: str, container: av.container.InputContainer, stream: av.VideoStream, packets: int, last: int
) -> None:
    """Compare the packets with the header: with its number of frames and with its duration.

    An AVI counts places, and a place may only repeat the frame before it: its last time says how many there are. A
    container without a number (MKV) is judged by its duration, with room for a last frame that stays and for sound
    that goes on.
    """
    if stream.frames:
        _refuse_missing(path, stream.frames, max(packets, last + 1) if container.format.name == "avi" else packets)
        return
    if not stream.time_base:
        return
    there = float(last * stream.time_base) - (container.start_time or 0) / av.time_base
    if stream.duration:
        promised = float(stream.duration * stream.time_base)
    else:
        promised = (container.duration or 0) / av.time_base
    sound = not stream.duration and any(other.type == "audio" for other in container.streams)
    if promised - there > max(0.5, (0.5 if sound else 0.02) * promised):
        raise UserError(
            f"{path}: the file is cut off: its header promises {promised:.1f} s and {there:.1f} s are there; copy "
            "or download it again"
        )


def _refuse_missing(path: str, promised: int, there: int) -> None:
    missing = promised - there
    if missing > max(2, FORGIVEN * promised):
        raise UserError(
            f"{path}: the file is cut off or damaged: it should have {promised} frames and {there} can be "
            "decoded; copy or download it again"
        )
    if missing > 0:
        log.info("%s: it should have %d frames, %d can be decoded and are used", path, promised, there)


def _whole_until(
    path: str, container: av.container.InputContainer, stream: av.VideoStream, stamps: np.ndarray, keys: np.ndarray
) -> int:
    """Return the number of frames before the first of the last group of pictures that does not decode."""
    last_key = int(keys[-1])
    container.seek(last_key, stream=stream)
    decoded = set(_decode(container, stream))
    if last_key not in decoded:  # the container cannot seek to it: from the start then
        decoded = set(_decode_all(path))
    for index in range(int(np.searchsorted(stamps, last_key)), len(stamps)):
        if int(stamps[index]) not in decoded:
            return index
    return len(stamps)


def _turn(path: str) -> int:
    """Return the quarter turns that the first frame asks for; FFmpeg hands each frame the container's matrix."""
    with av.open(path) as container:
        frames = _decoded(container, container.streams.video[0])
        degrees = next((frame.rotation for frame in frames), 0)
    return degrees // 90 % 4 if degrees % 90 == 0 else 0


def _decode_all(path: str) -> list[int | None]:
    with av.open(path) as container:
        return _decode(container, container.streams.video[0])


def _decode(container: av.container.InputContainer, stream: av.VideoStream) -> list[int | None]:
    """Return the times of the frames that decode from here to the end."""
    return [frame.pts for frame in _decoded(container, stream)]


def _decoded(container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[av.VideoFrame]:
    """Give the frames that decode from here to the end; broken packets are passed over."""
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except av.error.FFmpegError:
            continue
        yield from frames
