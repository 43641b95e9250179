"""Probe a video file without decoding it: number of frames, timestamps, orientation, truncation.

All packets are listed, which takes a few milliseconds, and compared with the header. Only the last group of
pictures is decoded, because truncated files lack their end. PyAV is used because it fails where other decoders wait
for missing frames. It can still hang, so `probe` runs it in a guarded subprocess. A file that makes PyAV hang
or crash is broken; a file that makes decord hang or crash is read by PyAV.
"""

import base64
import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Self

import av
import numpy as np
from pydantic import PlainValidator

from distill.data.remote_data import local
from distill.data.text import named_frames
from distill.data.video.colour import HDR_TRANSFERS
from distill.data.video.decoding import Decoded, damage_remarks, damaged_frames, decode_rest
from distill.data.video.decord_reader import decord_agrees
from distill.data.video.guard import heartbeat
from distill.data.video.probe_cache import Inspection, inspect_all
from distill.errors import UserError
from distill.limits import MAX_JSON_BYTES, MAX_PICTURE_PIXELS, check_limit
from distill.validation import parse_json

TOLERANCE = 0.01
"""Fraction of the frames in the header (but at least 2 frames) that may be missing, because headers are often
inexact. The frames that decode are used."""

NOT_VIDEOS = re.compile("tty|image2|.*_pipe")
"""FFmpeg's demuxers for text files and single images."""

TRUNCATED_RATES = {14: 14.985, 23: 23.976, 29: 29.97, 47: 47.952, 59: 59.94, 119: 119.88}
"""Frame rates that no camera has, and the rates they were probably rounded down from."""


def _packed(values: np.ndarray | None) -> str | None:
    """Encode increasing integers as compressed differences."""
    if values is None:
        return None
    return base64.b64encode(zlib.compress(np.diff(values, prepend=0).astype("<i8").tobytes())).decode()


def _unpacked(text: str | None) -> np.ndarray | None:
    if text is None:
        return None
    content = zlib.decompressobj().decompress(base64.b64decode(text), MAX_JSON_BYTES)
    return np.cumsum(np.frombuffer(content, dtype="<i8"))


@dataclass(frozen=True, eq=False)
class Probe:
    """Properties of a video file.

    Attributes:
        num_frames: number of decodable frames.
        fps: frame rate; 30 if the file has none.
        size: (height, width) in pixels as displayed, i.e. after rotation.
        turn: counter-clockwise quarter turns, 0 to 3, from the stored to the displayed picture, e.g. of a phone.
        stamps: increasing presentation timestamps of the frames in units of the stream; None if frames have no
            unique timestamps and can only be counted.
        keys: timestamps of the key frames.
        regular: header, packets, the decoded end and decord agree, so decord can read the file.
        remarks: messages on harmless irregularities.
        damaged: frames that the decoder has to fill in, known after a thorough inspection.
    """

    num_frames: int
    fps: float
    size: tuple[int, int]
    turn: int
    stamps: Annotated[np.ndarray | None, PlainValidator(_unpacked)]
    keys: Annotated[np.ndarray, PlainValidator(_unpacked)]
    regular: bool
    remarks: tuple[str, ...] = ()
    damaged: tuple[int, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a JSON value."""
        arrays = {"stamps": _packed(self.stamps), "keys": _packed(self.keys)}
        lists = {name: list(getattr(self, name)) for name in ("size", "remarks", "damaged")}
        return {**asdict(self), **arrays, **lists}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        """Return the Probe with the fields that `to_dict` returned."""
        return parse_json(json.dumps(fields), cls, "cached properties of a video")


def probe(path: str | Path) -> Probe:
    """Return the properties of a video file; cached until the file changes.

    Raises:
        UserError: if the file is missing, empty, truncated, damaged or not a video, or if its decoder hangs.
    """
    if not Path(path).is_file():
        raise UserError(f"{path}: no such file; expected a video")
    (result,) = inspect_all([inspect_video(Path(path))])
    if isinstance(result, UserError):
        raise result
    assert isinstance(result, Probe)
    return result


def inspect_video(path: Path, *, thorough: bool = False) -> Inspection:
    """Return the inspection of an existing video file; its result is a Probe.

    Args:
        path: the file.
        thorough: decode every frame.
    """
    calls = [(examine, (str(path), decord, thorough)) for decord in (True, False)]
    return Inspection("video", path, state_of(path), calls, read=Probe.from_dict, thorough=thorough)


def state_of(path: Path) -> list[int]:
    """Return the size and change times of a file, which differ after any change."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def examine(path: str, decord: bool = True, thorough: bool = False) -> dict[str, Any]:
    """Examine a video file in this process; see `probe`.

    Args:
        path: the file.
        decord: check whether decord agrees; otherwise the file is not `regular`.
        thorough: decode every frame.

    Returns:
        A `Probe.to_dict`.

    Raises:
        UserError: if the file is empty, not a video, truncated or damaged.
    """
    if (here := str(local(Path(path)))) != path:  # fetched from an address
        try:
            return examine(here, decord, thorough)
        except UserError as error:
            raise UserError(str(error).replace(here, path)) from error
    if Path(path).stat().st_size == 0:
        raise UserError(f"{path}: the file is empty; expected a video")
    try:
        with av.open(path) as container:
            fields = _examine(path, container, thorough)
    except av.error.FFmpegError as error:
        raise UserError(
            f"{path}: cannot be decoded as a video ({error.strerror}); it may be cut off, damaged or not a video"
        ) from error
    if fields["regular"]:
        fields["regular"] = decord and decord_agrees(
            path, fields["num_frames"], fields["size"], every_frame=thorough
        )
    return Probe(**fields).to_dict()


def _examine(path: str, container: av.container.InputContainer, thorough: bool) -> dict[str, Any]:
    """Return the fields of a Probe, with `regular` before the check of decord."""
    if not container.streams.video or any(map(NOT_VIDEOS.fullmatch, container.format.name.split(","))):
        raise UserError(f"{path}: no video stream in this file ({container.format.long_name}); expected a video")
    stream = container.streams.video[0]
    stamps, key_stamps, ends, hidden = [], [], [], 0
    for packet in container.demux(stream):
        heartbeat()
        hidden += packet.is_discard  # trimmed by an editor: in the file, but not displayed
        if packet.size and not packet.is_corrupt and not packet.is_discard:
            stamps.append(packet.pts)
            ends.append(packet.dts if packet.pts is None else packet.pts)
            if packet.is_keyframe:
                key_stamps.append(packet.pts)
    if not stamps:
        raise UserError(f"{path}: no complete frame in this file; it is cut off or damaged")
    check_limit(stream.width * stream.height, MAX_PICTURE_PIXELS, f"{path}: pixels of a frame")
    last = max((end for end in ends if end is not None), default=0)
    expected, present = _expected_frames(path, container, stream, len(stamps) + hidden, last)
    times = keys = None
    reordered = container.format.name == "avi" and stream.codec_context.has_b_frames  # AVI stores no display times
    if key_stamps and None not in stamps and len(set(stamps)) == len(stamps) and not reordered:
        times, keys = np.array(sorted(stamps)), np.array(sorted(key_stamps))
        num_frames = _decodable(path, container, stream, times, keys)
    else:
        num_frames = len(_decode_all(path).stamps)
    remarks = [*_missing(path, expected, present), *_missing(path, len(stamps), num_frames)]
    damaged: tuple[int, ...] = ()
    if thorough:
        decoded = _decode_all(path, detect=True)
        _require_all(path, decoded, times, num_frames)
        damaged = damaged_frames(decoded, times, keys)
        remarks += damage_remarks(decoded, damaged)
    turn = _turn(path)
    size = (stream.codec_context.height, stream.codec_context.width)
    fps, doubts = _rate(stream, times)
    return {
        "num_frames": num_frames,
        "fps": fps,
        "size": size[::-1] if turn % 2 else size,
        "turn": turn,
        "stamps": times,
        "keys": np.zeros(0, dtype=np.int64) if keys is None else keys,
        "regular": times is not None
        and stream.frames == len(stamps) == num_frames
        and int(stream.codec_context.color_trc) not in HDR_TRANSFERS,  # decord does not convert it
        "remarks": (*remarks, *doubts),
        "damaged": damaged,
    }


def _expected_frames(
    path: str, container: av.container.InputContainer, stream: av.VideoStream, packets: int, last: int
) -> tuple[int, int]:
    """Return the number of frames in the header and in the file; (0, 0) if the header has no number.

    AVI counts slots, which may repeat the previous frame, so the last timestamp is used. Containers without a
    number (MKV) are checked by duration, with tolerance for a long last frame and for longer audio.
    """
    if stream.frames:
        return stream.frames, max(packets, last + 1) if container.format.name == "avi" else packets
    if not stream.time_base:
        return 0, 0
    present = float(last * stream.time_base) - (container.start_time or 0) / av.time_base
    if stream.duration:
        expected = float(stream.duration * stream.time_base)
    else:
        expected = (container.duration or 0) / av.time_base
    sound = not stream.duration and any(other.type == "audio" for other in container.streams)
    if expected - present > max(0.5, (0.5 if sound else 0.02) * expected):
        raise UserError(
            f"{path}: the file is cut off: expected {expected:.1f} s by its header, found {present:.1f} s; copy or "
            "download it again"
        )
    return 0, 0


def _missing(path: str, expected: int, present: int) -> Iterator[str]:
    """Yield a remark if a few frames are missing.

    Raises:
        UserError: if more are missing than TOLERANCE.
    """
    missing = expected - present
    if missing > max(2, TOLERANCE * expected):
        raise UserError(
            f"{path}: the file is cut off or damaged: expected {expected} frames, but {present} can be decoded; "
            "copy or download it again"
        )
    if missing > 0:
        yield f"expected {expected} frames, but {present} can be decoded and are used"


def _rate(stream: av.VideoStream, stamps: np.ndarray | None) -> tuple[float, list[str]]:
    """Return the frame rate and remarks on it; timestamps take precedence over the header."""
    rate = stream.average_rate or stream.guessed_rate
    fps = float(rate) if rate else 30.0
    seconds = 0.0 if stamps is None or not stream.time_base else float((stamps[-1] - stamps[0]) * stream.time_base)
    if seconds and stamps is not None and abs(fps * seconds - (len(stamps) - 1)) > max(1.5, 0.005 * len(stamps)):
        timed = (len(stamps) - 1) / seconds
        return timed, [f"{fps:.6g} fps in the header, but {timed:.6g} fps by its timestamps, which is used"]
    if fps in TRUNCATED_RATES:
        return fps, [f"{fps:g} fps is probably {TRUNCATED_RATES[int(fps)]:g} fps, rounded down by another tool"]
    return fps, []


def _decodable(
    path: str, container: av.container.InputContainer, stream: av.VideoStream, stamps: np.ndarray, keys: np.ndarray
) -> int:
    """Return the number of frames before the first one of the last group of pictures that does not decode."""
    last_key = int(keys[-1])
    container.seek(last_key, stream=stream)
    decoded = set(decode_rest(container, stream).stamps)
    if last_key not in decoded:  # the container cannot seek to it
        decoded = set(_decode_all(path).stamps)
    for index in range(int(np.searchsorted(stamps, last_key)), len(stamps)):
        if int(stamps[index]) not in decoded:
            return index
    return len(stamps)


def _require_all(path: str, decoded: Decoded, stamps: np.ndarray | None, num_frames: int) -> None:
    """Raise a UserError if one of the frames has not decoded."""
    if stamps is not None:
        decodable = set(decoded.stamps)
        if missing := [index for index in range(num_frames) if int(stamps[index]) not in decodable]:
            raise UserError(
                f"{path}: {named_frames(missing)} cannot be decoded; the file is damaged, copy or download it again"
            )


def _turn(path: str) -> int:
    """Return the `turn` of a Probe; FFmpeg attaches the container's display matrix to each frame."""
    with av.open(path) as container:
        frames = _decoded(container, container.streams.video[0])
        degrees = next((frame.rotation for frame in frames), 0)
    return degrees // 90 % 4 if degrees % 90 == 0 else 0


def _decode_all(path: str, *, detect: bool = False) -> Decoded:
    """Decode a whole file; see `decode_rest`."""
    with av.open(path) as container:
        return decode_rest(container, container.streams.video[0], detect=detect)


def _decoded(container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[av.VideoFrame]:
    """Yield the frames that decode from the current position; broken packets are skipped."""
    for packet in container.demux(stream):
        heartbeat()
        try:
            frames = packet.decode()
        except av.error.FFmpegError:
            continue
        yield from frames
