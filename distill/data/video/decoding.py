"""Decode a video to its end and count what the decoder reports: frames that do not decode, and errors it conceals.

A decoder fills in what it cannot read from earlier frames, and FFmpeg only logs it. The frames up to the next key
frame then build on a damaged one. Not every codec notices: H.264 and MPEG-4 nearly always do, HEVC sometimes, and
VP9 has no means to.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import av
import numpy as np

from distill.data.text import named_frames, plural
from distill.data.video.guard import heartbeat
from distill.errors import shorten

DETECTION = "crccheck+bitstream+buffer+careful"
"""FFmpeg's `err_detect`: checksums, and violations of the format that no known encoder produces."""


@dataclass
class Decoded:
    """Result of decoding a video, or the end of it.

    Attributes:
        stamps: timestamp of each frame that decodes, in display order.
        damaged: indices in `stamps` of frames that the decoder marked as damaged.
        error_stamps: timestamps of the packets that it reported errors in.
        errors: messages of the decoder.
    """

    stamps: list[int | None] = field(default_factory=list)
    damaged: list[int] = field(default_factory=list)
    error_stamps: set[int | None] = field(default_factory=set)
    errors: list[str] = field(default_factory=list)


def decode_rest(container: av.container.InputContainer, stream: av.VideoStream, *, detect: bool = False) -> Decoded:
    """Decode a video from the current position to its end; packets that do not decode are skipped.

    Args:
        container: the open file.
        stream: its stream of video.
        detect: look for errors that a decoder does not look for by default; only before any frame is decoded.
    """
    if detect:
        stream.codec_context.options = {"err_detect": DETECTION}
    result = Decoded()
    with _captured_errors() as messages:
        for packet in container.demux(stream):
            heartbeat()
            try:
                frames = packet.decode()
            except av.error.FFmpegError:
                frames = []
            if len(messages) > len(result.errors):
                result.errors = [message.strip() for _, _, message in messages]
                result.error_stamps.add(packet.pts)
            for frame in frames:
                if frame.is_corrupt:
                    result.damaged.append(len(result.stamps))
                result.stamps.append(frame.pts)
    return result


def damaged_frames(decoded: Decoded, stamps: np.ndarray | None, keys: np.ndarray | None) -> tuple[int, ...]:
    """Return the 0-based frames of a video that are damaged, or build on a damaged frame.

    Args:
        decoded: the decoded video, or its end.
        stamps: timestamps of all frames, ascending; None counts the frames from the start.
        keys: timestamps of the key frames, ascending.
    """
    if stamps is None or keys is None:
        return tuple(decoded.damaged)
    found = decoded.error_stamps | {decoded.stamps[index] for index in decoded.damaged}
    frames: set[int] = set()
    for stamp in found - {None}:
        assert stamp is not None
        after = np.searchsorted(keys, stamp, side="right")
        end = int(np.searchsorted(stamps, keys[after])) if after < len(keys) else len(stamps)
        frames.update(range(int(np.searchsorted(stamps, stamp)), end))
    return tuple(sorted(frames))


def damage_remarks(decoded: Decoded, frames: Sequence[int]) -> list[str]:
    """Return a message on the damaged frames and the decoder's errors, if there are any."""
    if not frames and not decoded.errors:
        return []
    what = f"{named_frames(frames)} damaged or built on a damaged frame" if frames else "damaged"
    if decoded.errors:
        what += f" ({plural(len(decoded.errors), 'decoder error')}, the first: {shorten(decoded.errors[0])})"
    return [f"{what}; the decoder fills in missing parts"]


@contextmanager
def _captured_errors() -> Iterator[list[Any]]:
    """Yield the list to which the messages of FFmpeg's errors are added, from all threads."""
    level, skips = av.logging.get_level(), av.logging.get_skip_repeated()
    av.logging.set_level(av.logging.ERROR)
    av.logging.set_skip_repeated(False)
    try:
        with av.logging.Capture(local=False) as messages:
            yield messages
    finally:
        av.logging.set_level(level)
        av.logging.set_skip_repeated(skips)
