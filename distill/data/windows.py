"""The sliding window over a video: which of its frames form the clip that predicts a frame."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from distill.stride import offsets


@dataclass(frozen=True)
class ClipFrames:
    """One clip of the sliding window: its T source frames, and the index of the requested frame's map among N."""

    frames: tuple[int, ...]
    target: int


def window_of(
    frame: int,
    num_frames: int,
    target_frames: Sequence[int],
    *,
    length: int,
    stride: float = 1,
    first_frames: str = "repeat",
) -> ClipFrames:
    """Return the clip that predicts a frame; it does not depend on the other requested frames.

    A model with one map per clip gets the clip whose target is the frame. For a model with N evenly spaced maps the
    video is divided into blocks of N target frames from frame 0 on, so that N frames cost one forward pass. With
    unevenly spaced maps each frame is the last target of its own clip.

    Outside the video the first or last frame is repeated. With `flip`, a clip that would begin before the video
    runs backwards from the following frames to its last target, as in the published inference of TASED-Net (Min and
    Corso, ICCV 2019).

    Args:
        frame: the requested frame, 0-based.
        num_frames: number of frames of the video.
        target_frames: the model's `target_frames`.
        length: T, frames of a clip.
        stride: average distance of a clip's frames in the video, in frames (`InferenceSettings.step`).
        first_frames: name in FIRST_FRAMES.
    """
    N = len(target_frames)
    places = offsets(length, stride)  # of the clip's frames, relative to its last one
    gaps = {places[after] - places[before] for before, after in pairwise(target_frames)}
    if N > 1 and len(gaps) == 1 and min(gaps) > 0:
        gap = gaps.pop()
        block, target = divmod(frame // gap, N)
        last = frame % gap + gap * N * block - places[target_frames[0]]
    else:
        target = N - 1
        last = frame - places[target_frames[target]]
    if last + places[0] < 0 and first_frames == "flip":
        target = N - 1
        sources = [frame + places[target_frames[target]] - place for place in places]
    else:
        sources = [last + place for place in places]
    return ClipFrames(tuple(min(max(each, 0), num_frames - 1) for each in sources), target)
