"""The sliding window over a video: which of its frames form the clip that predicts a frame."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, takewhile

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


def stream_parents(num_frames: int, step: float) -> list[int]:
    """Return for every frame of a video the frame whose state a streaming model continues.

    For an integer step s this is max(frame - s, 0). At a fractional step, floor(s) states alternate. Each has the
    time of its last frame, which advances by exactly s, so that the rate holds on average. A frame continues the
    newest state that is at least one step old, and takes the place of the oldest one. If no state is that old, the
    frame continues the oldest one, and no frame continues this frame. `Stream` in student/edge.py follows the same
    rule.

    Args:
        num_frames: number of frames of the video.
        step: average distance of consecutive frames of a state, in frames; below 1 it counts as 1.
    """
    step = max(step, 1.0)
    states = deque((float(-turn), 0) for turn in reversed(range(int(step))))  # (time, frame), ascending
    parents = [0]
    for frame in range(1, num_frames):
        due = list(takewhile(lambda state: state[0] + step <= frame + 0.5, states))  # noqa: B023 - used at once
        time, parent = due[-1] if due else states[0]
        parents.append(parent)
        if due:
            states.popleft()
            states.append((time + step if time + step > frame - 0.5 else float(frame), frame))
    return parents


def stream_window(
    frame: int, parents: Sequence[int], *, length: int, stride: float = 1, first_frames: str = "repeat"
) -> ClipFrames:
    """Return the frames on which a streaming model's map of a frame depends: the frame, its parent, and so on.

    Args:
        frame: the requested frame, 0-based.
        parents: see `stream_parents`.
        length: the model's `reach`.
        stride: average distance of the frames.
        first_frames: name in FIRST_FRAMES; with `flip`, a window that would begin before the video is that of
            `window_of`.
    """
    stride = max(stride, 1.0)
    if first_frames == "flip" and frame + offsets(length, stride)[0] < 0:
        return window_of(frame, len(parents), (length - 1,), length=length, stride=stride, first_frames="flip")
    frames = [frame]
    while len(frames) < length:
        frames.append(parents[frames[-1]])
    return ClipFrames(tuple(reversed(frames)), 0)
