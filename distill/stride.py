"""The stride of a clip: how far apart its frames lie in the video.

    2         every second frame
    30fps     the frames that are on the screen at 30 ticks a second, whatever the video's own rate: for each tick,
              counted back from the clip's last frame, the frame nearest in time

One value, so that a config, a weight file, a store's fingerprint and the command line carry either the same way.
`offsets` is the one rule that training, the sliding window, teachers and stores choose frames by. A rate is kept on
the average rather than rounded to a whole stride, which at 30fps would show a 45 fps video a third faster than a 60
fps one: a slower video repeats a frame now and then, as a player does, and a faster one leaves out some.
"""

import math
import re

from distill.errors import UserError

Stride = int | str
"""A whole number of frames from 1 up, or a rate such as "30fps"."""

RATE = re.compile(r"(\d+(?:\.\d+)?) ?fps")


def read_stride(value: object) -> Stride:
    """Check a stride, and write it in its one form: 2, "30fps", "23.976fps".

    Raises:
        UserError: if it is neither a whole number from 1 up nor a rate above 0; the caller knows which key it was.
    """
    text = str(value)
    if text.isdecimal() and not isinstance(value, float) and int(text) >= 1:
        return int(text)
    match = RATE.fullmatch(text)
    if match and float(match[1]) > 0:
        return f"{float(match[1]):g}fps"
    raise UserError(f"expected a whole number of frames from 1 up, or a rate such as 30fps, got {value!r}")


def step_of(stride: Stride, fps: float) -> float:
    """Return how many frames of a video lie from one frame of a clip to the next, on the average.

    Args:
        stride: what `read_stride` takes.
        fps: frames a second of the video; a stride in frames does not ask for it.

    Returns:
        Above 0, and below 1 where the video is slower than the rate that is asked for.

    Raises:
        UserError: if it is no stride.
    """
    try:
        stride = read_stride(stride)
    except UserError as error:
        raise UserError(f"stride: {error}") from None
    return float(stride) if isinstance(stride, int) else fps / float(stride.removesuffix("fps"))


def offsets(length: int, step: float) -> tuple[int, ...]:
    """Return the places of a clip's frames as seen from its last one: increasing, the last 0.

    Args:
        length: frames of the clip.
        step: from `step_of`; whole steps give evenly spaced frames, others the nearest ones (of two, the later).
    """
    return tuple(math.floor((j - (length - 1)) * step + 0.5) for j in range(length))
