"""The stride of a clip: the distance between its frames in the video, in frames or as a frame rate.

    2         every second frame
    30fps     for each tick of a 30 Hz clock, counted back from the clip's last frame, the nearest frame

A rate holds on average: it is not rounded to an integer stride, which would play a 45 fps video a third faster at
30fps than a 60 fps one. Videos slower than the rate repeat some frames; faster ones skip some. Configs, weight
files, target stores and the command line share this format, and `offsets` is the one rule that selects frames.
"""

import math
import re

from distill.errors import UserError, shorten
from distill.limits import MAX_STRIDE, MIN_RATE, check_limit

Stride = int | str
"""A positive integer, or a rate such as "30fps"."""

NUMBER = re.compile(r"0*([1-9][0-9]{0,18})")
RATE = re.compile(r"([0-9]{1,19}(?:\.[0-9]{1,19})?) ?fps")


def read_stride(value: object) -> Stride:
    """Validate a stride and return its canonical form: 2, "30fps", "23.976fps".

    Raises:
        UserError: if the value is neither a positive integer up to MAX_STRIDE nor a rate between MIN_RATE and
            MAX_STRIDE. The caller adds the key.
    """
    if isinstance(value, int | str):
        text = str(value)
        if match := NUMBER.fullmatch(text):
            check_limit(int(match[1]), MAX_STRIDE, "frames")
            return int(match[1])
        if (match := RATE.fullmatch(text)) and float(match[1]) >= MIN_RATE:
            check_limit(float(match[1]), MAX_STRIDE, "frames per second")
            return f"{float(match[1]):g}fps"
    raise UserError(f"expected a positive number of frames, or a rate such as 30fps, got {shorten(repr(value))}")


def step_of(stride: Stride, fps: float) -> float:
    """Return the mean distance between two frames of a clip, in frames of the video.

    Args:
        stride: a value that `read_stride` accepts.
        fps: frame rate of the video; ignored for a stride in frames.

    Returns:
        A positive number, below 1 if the video is slower than the requested rate.

    Raises:
        UserError: if the stride is invalid.
    """
    try:
        stride = read_stride(stride)
    except UserError as error:
        raise UserError(f"stride: {error}") from None
    return float(stride) if isinstance(stride, int) else fps / float(stride.removesuffix("fps"))


def offsets(length: int, step: float) -> tuple[int, ...]:
    """Return the frames of a clip relative to its last frame: non-decreasing, ending in 0.

    Args:
        length: frames per clip.
        step: from `step_of`. Fractional steps select the nearest frame, ties the later one.
    """
    return tuple(math.floor((j - (length - 1)) * step + 0.5) for j in range(length))
