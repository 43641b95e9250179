"""The sliding window: a model over a video, one map for every asked frame.

`slide` is the one sliding window of the project: prediction, the target cache and evaluation all read their maps
from it, so that a map is the same whoever asked for it. A model of clips computes each window anew; a streaming
model (one that has `step`) goes on from the state that an earlier window left, as it does on a device.
"""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import pairwise, takewhile
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distill.data.clips import Video
from distill.data.video.open import open_video
from distill.data.video.protocol import VideoReader
from distill.errors import UserError
from distill.inference.settings import InferenceSettings
from distill.models.device import PRECISIONS, device_of
from distill.models.protocols import SaliencyModel, StreamingModel, is_streaming
from distill.stride import offsets


@dataclass(frozen=True)
class ClipFrames:
    """One clip of the sliding window: its T source frames, and which of its N maps belongs to the asked frame."""

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
    """Return the clip that predicts `frame`: a pure function of the frame, whatever else is asked for.

    A model with one map a clip gets the clip whose target is `frame`. A model with N maps, evenly spaced in the
    video, gets the video cut into blocks of N target frames, counted from frame 0, so that N asked frames cost one
    pass; with unevenly spaced targets each frame is predicted as the clip's last target.
    Frames before the first are the first one, repeated; frames after the last are the last one. With `flip`, a
    clip that would begin before the video is turned round in time instead: it comes to its last target from the
    frames that follow, as TASED-Net's (Min and Corso, ICCV 2019) published inference does.

    Args:
        frame: the asked frame, 0-based.
        num_frames: frames of the video.
        target_frames: which of the clip's frames get a map (`model.target_frames`).
        length: T, frames of a clip.
        stride: frames of the video from one frame of the clip to the next, on the average (`stride.step_of`).
        first_frames: one of FIRST_FRAMES.
    """
    N = len(target_frames)
    places = offsets(length, stride)  # of the clip's frames, from its last one
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
        wanted = [frame + places[target_frames[target]] - place for place in places]
    else:
        wanted = [last + place for place in places]
    return ClipFrames(tuple(min(max(each, 0), num_frames - 1) for each in wanted), target)


def slide(
    network: SaliencyModel,
    video: Video | VideoReader,
    frames: Sequence[int],
    settings: InferenceSettings = InferenceSettings(),
    *,
    flipped: bool = False,
) -> Iterator[tuple[list[int], Tensor]]:
    """Predict the map of every asked frame of one video, a batch at a time.

    Batches are the consecutive slices of `frames` of `batch_size` frames, and the windows of a slice are computed
    in one call of the model, alone: the maps of a slice do not depend on what was asked before or after it. (A
    model with N maps a clip wastes nothing when `batch_size` is a multiple of N times the stride.)
    Each source frame is decoded, resized and sent to the device once, however many windows contain it, and the
    next batch is read while this one is computed. Memory holds the frames still in use: with ascending `frames`,
    about (T - 1) * stride + batch_size of them.

    A streaming model's window is the `reach` frames on which a map depends, and each map costs one step for every
    frame that no window before it had: one where all frames are asked for.

    Args:
        network: a network or an exported model. It runs in evaluation mode and is returned to the mode it was in.
        video: a video, which is opened here, or a reader of one.
        frames: 0-based frames of the video, each at least 0; the first T - 1 are as good as any (`window_of`).
        settings: stride, batch size, device of the clips, precision and first frames. The network is not moved.
        flipped: mirror the input left to right. The maps are those of the mirrored clip, in its coordinates: to
            compare one with the plain view's, mirror it back (`maps.flip(-1)`).

    Yields:
        (frames, maps): the slice of `frames`, and their log-saliency (n, h, w), float32 on the CPU.

    Raises:
        UserError: a frame that the video does not have, or a model whose maps are not numbers.
    """
    step, batch_size = settings.step(video.fps), settings.batch_size
    reader = open_video(video.path) if isinstance(video, Video) else video
    frames = [int(frame) for frame in frames]
    for frame in frames:
        if not 0 <= frame < reader.num_frames:
            raise UserError(f"frame {frame + 1} does not exist: the video has {reader.num_frames} frames")
    device = torch.device(settings.device) if settings.device is not None else device_of(network)
    memory: Memory | None = None
    length, targets = network.num_frames, network.target_frames
    if is_streaming(network):
        memory = Memory(network, math.ceil(step))
        length, targets = network.reach, (network.reach - 1,)
    clip: dict[str, Any] = {"length": length, "stride": step, "first_frames": settings.first_frames}
    windows = [window_of(frame, reader.num_frames, targets, **clip) for frame in frames]
    slices = [slice(start, start + batch_size) for start in range(0, len(frames), batch_size)]
    needs = [sorted({source for window in windows[part] for source in window.frames}) for part in slices]
    last_use = {source: index for index, need in enumerate(needs) for source in need}
    first_use: dict[int, int] = {}
    for index, need in enumerate(needs):
        for source in need:
            first_use.setdefault(source, index)
    arrivals = [[source for source in need if first_use[source] == index] for index, need in enumerate(needs)]

    def read(index: int) -> np.ndarray | None:
        return reader.read(arrivals[index], network.size) if arrivals[index] else None

    ring: dict[int, Tensor] = {}  # frame -> (3, H, W) uint8 on the device
    with ThreadPoolExecutor(1) as pool, _evaluating(network):
        ahead: Future[np.ndarray | None] | None = pool.submit(read, 0) if slices else None
        for index, part in enumerate(slices):
            assert ahead is not None
            fresh = ahead.result()
            ahead = pool.submit(read, index + 1) if index + 1 < len(slices) else None
            if fresh is not None:
                images = torch.from_numpy(fresh).to(device).permute(0, 3, 1, 2)  # (n, 3, H, W)
                ring.update(zip(arrivals[index], images, strict=True))
            with torch.inference_mode(), _autocast(device, settings.precision):
                if memory:
                    maps = memory.maps_of(windows[part], ring, flipped=flipped)
                else:
                    maps = _maps_of(network, windows[part], ring, flipped=flipped)
            maps = maps.clone()  # a normal tensor: what is made in inference mode could not be trained against
            if torch.isnan(maps).any():
                raise UserError(
                    f"the model's maps of frames {frames[part][0] + 1} to {frames[part][-1] + 1} are not numbers "
                    "(NaN): its weights are broken or its training diverged"
                )
            for source in needs[index]:
                if last_use[source] == index:
                    del ring[source]
            yield frames[part], maps


def _maps_of(
    network: SaliencyModel, windows: Sequence[ClipFrames], ring: dict[int, Tensor], *, flipped: bool
) -> Tensor:
    """Compute the log-saliency (n, h, w) of n windows in one call: float32, on the CPU."""
    clips: dict[tuple[int, ...], int] = {}  # the windows' different clips -> their row in the batch
    for window in windows:
        clips.setdefault(window.frames, len(clips))
    sources = sorted({source for clip in clips for source in clip})
    place = {source: row for row, source in enumerate(sources)}
    images = torch.stack([ring[source] for source in sources])  # (U, 3, H, W)
    images = images.flip(-1) if flipped else images
    rows = torch.tensor([[place[source] for source in clip] for clip in clips], device=images.device)
    batch = images[rows].transpose(1, 2).contiguous()  # (B, T, 3, H, W) -> (B, 3, T, H, W)
    maps = network(batch).float()  # (B, N, h, w)
    asked: Tensor = maps[[clips[window.frames] for window in windows], [window.target for window in windows]]
    return asked.cpu()


class Memory:
    """What a streaming model remembers of the windows that it has been through.

    A map depends on the frames of its window alone, so any state that has seen all of them but the last few serves:
    at a stride of 3, for one, that of three frames ago. What is asked for in between changes nothing.

    Args:
        network: the streaming model.
        size: windows remembered, the latest: as many as take turns at the stride.
    """

    def __init__(self, network: StreamingModel, size: int) -> None:
        self.network = network
        self.known: deque[tuple[tuple[int, ...], dict[str, Tensor]]] = deque(maxlen=size)

    def maps_of(self, windows: Sequence[ClipFrames], ring: dict[int, Tensor], *, flipped: bool) -> Tensor:
        """Compute the log-saliency (n, h, w) of n windows, one after the other: float32, on the CPU."""
        maps = []
        for window in windows:
            state, fresh = self.before(window.frames)
            for source in fresh:
                image = ring[source][None]  # (1, 3, H, W)
                map_, state = self.network.step(image.flip(-1) if flipped else image, state)
            self.known.append((window.frames, state))
            maps.append(map_[0, 0].float().cpu())
        return torch.stack(maps)

    def before(self, window: tuple[int, ...]) -> tuple[dict[str, Tensor], tuple[int, ...]]:
        """Return a state, and the frames of a window that are still to be stepped through: the fewest there can be.

        Nothing but copies of the window's first frame came before the window, as far as its map can tell. So a
        state from the beginning needs one step for all the copies that the window itself begins with.
        """
        first = sum(1 for _ in takewhile(lambda frame: frame == window[0], window)) - 1
        best, fresh = self.network.initial_state(), len(window) - first
        for seen, state in self.known:
            for steps in range(1, fresh):
                if seen[steps:] == window[:-steps]:
                    best, fresh = state, steps
                    break
        return best, window[-fresh:]


def _autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    dtype = PRECISIONS[precision]
    return torch.autocast(device.type, dtype) if dtype else nullcontext()


@contextmanager
def _evaluating(network: SaliencyModel) -> Iterator[None]:
    """Put a network into evaluation mode, and back into the mode of each of its parts."""
    training = [part for part in network.modules() if part.training]
    if training:
        network.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True
