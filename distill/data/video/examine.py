"""What a video file holds, found without decoding it: how many frames, when, and whether its end is there.

Every packet of the file is listed (no pixel is decoded, a few milliseconds for a clip of this field) and compared
with what the header promises; then the last group of pictures alone is decoded, because a cut file lies at its end.
PyAV does this, since it fails where other decoders wait for frames that never come. This may take for ever all the
same, and is therefore called behind a guard: see `distill.data.probe`.
"""

import base64
import re
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import av
import numpy as np

from distill.data.text import named_frames
from distill.data.video.guard import alive
from distill.data.video.load_decord import load_decord
from distill.errors import UserError

FORGIVEN = 0.01
"""Share of the promised frames (and 2 frames at least) that may be missing at the end: headers are often off by
one, and the frames that do decode are used. More than this is a cut or damaged file."""

NOT_VIDEOS = re.compile("tty|image2|.*_pipe")
"""FFmpeg's readers that turn a text file or a single picture into a "video"."""

TRUNCATED = {14: 14.985, 23: 23.976, 29: 29.97, 47: 47.952, 59: 59.94, 119: 119.88}
"""Rates that no camera has, and those that they are when a tool has cut off the decimals."""


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
        regular: header, packets, the decoded end and decord agree, so that decord can be trusted with the file.
        remarks: what is odd about the file and does no harm, a sentence each.
    """

    num_frames: int
    fps: float
    size: tuple[int, int]
    turn: int
    stamps: np.ndarray | None
    keys: np.ndarray
    regular: bool
    remarks: tuple[str, ...] = ()

    def plain(self) -> dict[str, Any]:
        """Return the same as something that JSON can hold."""
        arrays = {"stamps": _packed(self.stamps), "keys": _packed(self.keys)}
        return {**asdict(self), **arrays, "size": list(self.size), "remarks": list(self.remarks)}

    @classmethod
    def of(cls, plain: dict[str, Any]) -> Self:
        """Return the probe that `plain` was made of."""
        arrays = {name: _unpacked(plain[name]) for name in ("stamps", "keys")}
        height, width = plain["size"]
        return cls(**{**plain, **arrays, "size": (height, width), "remarks": tuple(plain["remarks"])})


def _packed(values: np.ndarray | None) -> str | None:
    """Write increasing numbers as text: their steps, of which most are the same."""
    if values is None:
        return None
    return base64.b64encode(zlib.compress(np.diff(values, prepend=0).astype("<i8").tobytes())).decode()


def _unpacked(text: str | None) -> np.ndarray | None:
    if text is None:
        return None
    return np.cumsum(np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype="<i8"))


def examine(path: str, decord: bool = True, thorough: bool = False) -> dict[str, Any]:
    """Find out what a video file holds.

    Args:
        path: the file.
        decord: see whether decord agrees; without, the file is not `regular`.
        thorough: decode every frame.

    Returns:
        A `Probe.plain`.

    Raises:
        UserError: if the file is no video, empty, cut off or damaged.
    """
    if Path(path).stat().st_size == 0:
        raise UserError(f"{path}: the file is empty; expected a video")
    try:
        with av.open(path) as container:
            found = _examine(path, container, thorough)
    except av.error.FFmpegError as error:
        raise UserError(
            f"{path}: cannot be decoded as a video ({error.strerror}); it may be cut off, damaged, or no video"
        ) from error
    if found["regular"]:
        found["regular"] = decord and _decord_agrees(path, found, thorough)
    return Probe(**found).plain()


def _examine(path: str, container: av.container.InputContainer, thorough: bool) -> dict[str, Any]:
    """Return the fields of a Probe, `regular` without decord's word."""
    if not container.streams.video or any(map(NOT_VIDEOS.fullmatch, container.format.name.split(","))):
        raise UserError(f"{path}: there is no video in this file ({container.format.long_name})")
    stream = container.streams.video[0]
    stamps, key_stamps, ends, hidden = [], [], [], 0
    for packet in container.demux(stream):
        alive()
        hidden += packet.is_discard  # what an editor cut away is in the file, and is not shown
        if packet.size and not packet.is_corrupt and not packet.is_discard:
            stamps.append(packet.pts)
            ends.append(packet.dts if packet.pts is None else packet.pts)
            if packet.is_keyframe:
                key_stamps.append(packet.pts)
    if not stamps:
        raise UserError(f"{path}: there is not one whole frame in this file; it is cut off or damaged")
    last = max((end for end in ends if end is not None), default=0)
    promised, there = _promised(path, container, stream, len(stamps) + hidden, last)
    known = keys = None
    reordered = container.format.name == "avi" and stream.codec_context.has_b_frames  # AVI gives no time of display
    if key_stamps and None not in stamps and len(set(stamps)) == len(stamps) and not reordered:
        known, keys = np.array(sorted(stamps)), np.array(sorted(key_stamps))
        num_frames = _whole_until(path, container, stream, known, keys)
    else:
        num_frames = len(_decode_all(path))
    remarks = [*_missing(path, promised, there), *_missing(path, len(stamps), num_frames)]
    if thorough:
        remarks += _damaged(path, known, num_frames)
    turn = _turn(path)
    size = (stream.codec_context.height, stream.codec_context.width)
    fps, doubts = _rate(stream, known)
    return {
        "num_frames": num_frames,
        "fps": fps,
        "size": size[::-1] if turn % 2 else size,
        "turn": turn,
        "stamps": known,
        "keys": np.zeros(0, dtype=np.int64) if keys is None else keys,
        "regular": known is not None and stream.frames == len(stamps) == num_frames,
        "remarks": (*remarks, *doubts),
    }


def _promised(
    path: str, container: av.container.InputContainer, stream: av.VideoStream, packets: int, last: int
) -> tuple[int, int]:
    """Return how many frames the header promises and how many of them are there; (0, 0) where it does not count.

    An AVI counts places, and a place may only repeat the frame before it: its last time says how many there are. A
    container without a number (MKV) is judged by its duration, with room for a last frame that stays and for sound
    that goes on.
    """
    if stream.frames:
        return stream.frames, max(packets, last + 1) if container.format.name == "avi" else packets
    if not stream.time_base:
        return 0, 0
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
    return 0, 0


def _missing(path: str, promised: int, there: int) -> Iterator[str]:
    """Remark on frames that are promised and not there.

    Raises:
        UserError: if they are more than an inexact header explains.
    """
    missing = promised - there
    if missing > max(2, FORGIVEN * promised):
        raise UserError(
            f"{path}: the file is cut off or damaged: it should have {promised} frames and {there} can be "
            "decoded; copy or download it again"
        )
    if missing > 0:
        yield f"it should have {promised} frames; {there} can be decoded and are used"


def _rate(stream: av.VideoStream, stamps: np.ndarray | None) -> tuple[float, list[str]]:
    """Return the frames a second, and doubts about it; the frames' own times are believed, not a header's word."""
    rate = stream.average_rate or stream.guessed_rate
    fps = float(rate) if rate else 30.0
    seconds = 0.0 if stamps is None or not stream.time_base else float((stamps[-1] - stamps[0]) * stream.time_base)
    if seconds and stamps is not None and abs(fps * seconds - (len(stamps) - 1)) > max(1.5, 0.005 * len(stamps)):
        timed = (len(stamps) - 1) / seconds
        return timed, [
            f"its header says {fps:.6g} frames a second, the times of its frames {timed:.6g}, which is used"
        ]
    if fps in TRUNCATED:
        return fps, [f"{fps:g} frames a second are probably {TRUNCATED[int(fps)]:g}, cut off by some tool"]
    return fps, []


def _whole_until(
    path: str, container: av.container.InputContainer, stream: av.VideoStream, stamps: np.ndarray, keys: np.ndarray
) -> int:
    """Return the number of frames before the first of the last group of pictures that does not decode."""
    last_key = int(keys[-1])
    container.seek(last_key, stream=stream)
    decoded = {frame.pts for frame in _decoded(container, stream)}
    if last_key not in decoded:  # the container cannot seek to it: from the start then
        decoded = {time for time, _ in _decode_all(path)}
    for index in range(int(np.searchsorted(stamps, last_key)), len(stamps)):
        if int(stamps[index]) not in decoded:
            return index
    return len(stamps)


def _damaged(path: str, stamps: np.ndarray | None, num_frames: int) -> Iterator[str]:
    """Decode everything, and remark on frames that the decoder had to mend.

    Raises:
        UserError: if a frame does not decode.
    """
    decoded = _decode_all(path)[:num_frames]
    if stamps is not None:
        times = {time for time, _ in decoded}
        if missing := [index for index in range(num_frames) if int(stamps[index]) not in times]:
            raise UserError(
                f"{path}: {named_frames(missing)} cannot be decoded; the file is damaged, copy or download it again"
            )
    if mended := [index for index, (_, corrupt) in enumerate(decoded) if corrupt]:
        yield f"{named_frames(mended)} damaged: the decoder fills in what it cannot read"


def _decord_agrees(path: str, found: dict[str, Any], thorough: bool) -> bool:
    """Whether decord counts the same frames, decodes the first and the last (or all), and shows them upright."""
    decord = load_decord()
    try:
        reader = decord.VideoReader(path, ctx=decord.cpu(0), num_threads=1)
        last = found["num_frames"] - 1
        for index in range(last + 1) if thorough else (0, last):
            alive()
            if reader[index].shape[:2] != found["size"]:
                return False
        return len(reader) == found["num_frames"]
    except Exception:  # decord's errors share no base class of their own
        return False


def _turn(path: str) -> int:
    """Return the quarter turns that the first frame asks for; FFmpeg hands each frame the container's matrix."""
    with av.open(path) as container:
        frames = _decoded(container, container.streams.video[0])
        degrees = next((frame.rotation for frame in frames), 0)
    return degrees // 90 % 4 if degrees % 90 == 0 else 0


def _decode_all(path: str) -> list[tuple[int | None, bool]]:
    """Return, for each frame that decodes, its time and whether the decoder had to mend it."""
    with av.open(path) as container:
        return [(frame.pts, frame.is_corrupt) for frame in _decoded(container, container.streams.video[0])]


def _decoded(container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[av.VideoFrame]:
    """Give the frames that decode from here to the end; broken packets are passed over."""
    for packet in container.demux(stream):
        alive()
        try:
            frames = packet.decode()
        except av.error.FFmpegError:
            continue
        yield from frames
