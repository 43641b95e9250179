"""The sliding window: run a model over a video and yield one map per requested frame.

Prediction, target stores and evaluation all use `slide`, so they get the same map for a frame. A clip model
computes each window from its frames. A streaming model continues the states of earlier frames (`streaming.py`).
"""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from distill.data.clips import ClipSpec, Video
from distill.data.fit import content_size, fit_box, fit_of, place, unfit
from distill.data.video.open import open_video
from distill.data.video.protocol import VideoReader
from distill.data.windows import ClipFrames, stream_parents, stream_window, window_of
from distill.errors import UserError
from distill.inference.cuda_graph import Function, graphed
from distill.inference.settings import InferenceSettings
from distill.inference.streaming import CPU_CHUNK, StreamBatch, StreamStates, plan_chunks
from distill.inference.transfer import Sender, ahead, receive
from distill.models.device import PRECISIONS, device_of, memory_needed, moved
from distill.models.protocols import SaliencyModel, is_streaming

Frames = Mapping[int, Tensor]
"""Frame index -> pixels (3, H, W) uint8 on the device."""


@dataclass(frozen=True)
class ClipBatch:
    """The windows of one batch of a clip model."""

    windows: Sequence[ClipFrames]

    @property
    def frames(self) -> list[int]:
        """The frames that the batch uses, ascending."""
        return sorted({frame for window in self.windows for frame in window.frames})


Work = ClipBatch | StreamBatch
"""What one batch of requested frames needs."""


def slide(
    network: SaliencyModel,
    video: Video | VideoReader,
    frames: Sequence[int],
    settings: InferenceSettings = InferenceSettings(),
    *,
    flipped: bool = False,
    whole: bool = True,
) -> Iterator[tuple[list[int], Tensor]]:
    """Predict the maps of the requested frames of a video, one batch at a time.

    A batch is `settings.batch_size` consecutive entries of `frames`, computed in one forward pass, so its maps do
    not depend on other batches. A model with N maps per clip wastes nothing if the batch size is a multiple of N
    times the stride. Each source frame is decoded, resized and sent to the device once, while the previous batch is
    computed; a GPU starts a batch before the maps of the previous one are yielded. For ascending `frames` about
    (T - 1) * stride + batch_size frames are kept in memory.

    A streaming model's window is the `reach` frames that a map depends on. For ascending `frames` every frame of
    the video is encoded at most once, in chunks (`steps`) of up to batch_size frames on a GPU and CPU_CHUNK on a
    CPU; the lengths of the chunks affect the rounding of the maps.

    Frames fill the input as the network's `fit` says (`distill/data/fit.py`); the maps are those of whole frames.

    Args:
        network: a network or an exported model. It runs in evaluation mode; its mode is restored afterwards.
        video: a video to open, or an open reader.
        frames: 0-based frames of the video.
        settings: stride, batch size, device of the clips, precision and first frames. The network is not moved.
        flipped: mirror the frames left to right; the maps stay mirrored (undo with `maps.flip(-1)`).
        whole: bring the maps to whole frames; False yields the network's raw maps of its input, padding included.

    Yields:
        The frames of a batch, and their log-saliency (n, h, w), float32 on the CPU.

    Raises:
        UserError: if a frame does not exist, or a map contains NaN or infinity.
        RunError: a batch does not fit the device's memory.
    """
    step = settings.step(video.fps)
    reader = open_video(video.path) if isinstance(video, Video) else video
    frames = [int(frame) for frame in frames]
    for frame in frames:
        if not 0 <= frame < reader.num_frames:
            raise UserError(f"frame {frame + 1} does not exist: the video has {reader.num_frames} frames")
    device = torch.device(settings.device) if settings.device is not None else device_of(network)
    size = settings.batch_size
    if not is_streaming(network):
        ClipSpec.of(network).check_batch(min(size, len(frames)), "batch size")
    batches = [frames[start : start + size] for start in range(0, len(frames), size)]
    chunk = min(size, CPU_CHUNK) if device.type == "cpu" else size
    work, maps_of = _divide(network, batches, reader.num_frames, step, settings.first_frames, chunk, device)
    fit = fit_of(network)
    box = None if fit == "stretch" or not whole else torch.tensor([fit_box(fit, reader.size, network.size)])

    def start(of_batch: Work, pixels_of_batch: Frames) -> Callable[[], Tensor]:
        with (
            memory_needed(f"batch size {size}", device, "use a smaller batch size or precision bf16"),
            torch.inference_mode(),
            _autocast(device, settings.precision),
        ):
            return receive(maps_of(of_batch, pixels_of_batch))

    with _evaluating(network), closing(_read(reader, work, network, Sender(device), flipped)) as pixels:
        started = map(start, work, pixels)
        for batch, arrived in zip(batches, ahead(started, 1 if device.type == "cuda" else 0), strict=True):
            maps = arrived().clone()  # outside inference mode, so that autograd accepts the maps as targets
            maps = maps if box is None else unfit(maps[None], box)[0]
            peaks = maps.amax(dim=(-2, -1))  # NaN if a map contains NaN
            if not torch.isfinite(peaks).all():
                frame = batch[int(torch.isfinite(peaks).logical_not().nonzero()[0])]
                where = f"{video.name}: " if isinstance(video, Video) else ""
                raise UserError(
                    f"{where}frame {frame + 1}: the model's map contains NaN or infinity; its weights are "
                    "broken or its training diverged"
                )
            yield batch, maps


def _divide(
    network: SaliencyModel,
    batches: Sequence[Sequence[int]],
    num_frames: int,
    step: float,
    first: str,
    chunk: int,
    device: torch.device,
) -> tuple[Sequence[Work], Callable[[Any, Frames], Tensor]]:
    """Return the work of each batch of requested frames, and the function that computes its maps (n, h, w).

    The maps are float32, on the device.
    """
    length, targets = network.num_frames, network.target_frames
    if is_streaming(network):
        length, parents = network.reach, stream_parents(num_frames, step)
        streams = [
            [stream_window(frame, parents, length=length, stride=step, first_frames=first) for frame in batch]
            for batch in batches
        ]
        return plan_chunks(streams, chunk), StreamStates(network, device).maps
    clips = [
        [window_of(frame, num_frames, targets, length=length, stride=step, first_frames=first) for frame in batch]
        for batch in batches
    ]
    run = graphed(lambda clip: (network(clip),), device)
    return [ClipBatch(batch) for batch in clips], partial(_clip_maps, run)


def _read(
    reader: VideoReader,
    work: Sequence[Work],
    network: SaliencyModel,
    sender: Sender,
    flipped: bool,
) -> Generator[Frames, None, None]:
    """Yield the frames that each batch uses; a thread decodes and sends those of the next batch meanwhile."""
    arriving, leaving = _first_and_last_uses([batch.frames for batch in work])
    frames: dict[int, Tensor] = {}
    fit = fit_of(network)
    size = network.size if fit == "stretch" else content_size(fit, reader.size, network.size)

    def arrange(images: Tensor) -> Tensor:
        images = rearrange(images, "n h w c -> n c h w")
        return place(images.flip(-1) if flipped else images, network.size)

    def fetch(index: int) -> Callable[[], Tensor] | None:
        if index == len(work) or not arriving[index]:
            return None
        return sender.send(torch.from_numpy(reader.read(arriving[index], size)), arrange)

    with ThreadPoolExecutor(1) as pool:
        next_frames: Future[Callable[[], Tensor] | None] = pool.submit(fetch, 0)
        for index in range(len(work)):
            arrived = next_frames.result()
            next_frames = pool.submit(fetch, index + 1)
            if arrived is not None:
                frames.update(zip(arriving[index], arrived(), strict=True))
            yield frames
            for frame in leaving[index]:
                del frames[frame]


def _first_and_last_uses(used: Sequence[Sequence[int]]) -> tuple[list[list[int]], list[list[int]]]:
    """Return for each batch the frames that no earlier batch uses, and those that no later one uses."""
    last = {frame: index for index, batch in enumerate(used) for frame in batch}
    first = {frame: index for index, batch in reversed(list(enumerate(used))) for frame in batch}
    arriving, leaving = (
        [[frame for frame in batch if use[frame] == index] for index, batch in enumerate(used)]
        for use in (first, last)
    )
    return arriving, leaving


def _clip_maps(run: Function, batch: ClipBatch, frames: Frames) -> Tensor:
    """Compute the log-saliency (n, h, w) of n windows in one forward pass: float32, on the device."""
    clips: dict[tuple[int, ...], int] = {}  # the distinct clips of the windows -> row in the batch
    for window in batch.windows:
        clips.setdefault(window.frames, len(clips))
    place = {source: row for row, source in enumerate(batch.frames)}
    images = torch.stack([frames[source] for source in batch.frames])  # (U, 3, H, W)
    rows = moved(torch.tensor([[place[source] for source in clip] for clip in clips]), images.device)  # (B, T)
    [maps] = run(rearrange(images[rows], "b t c h w -> b c t h w").contiguous())  # (B, N, h, w)
    chosen = [clips[window.frames] for window in batch.windows], [window.target for window in batch.windows]
    requested: Tensor = maps.float()[tuple(moved(torch.tensor(each), maps.device) for each in chosen)]
    return requested


def _autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    dtype = PRECISIONS[precision]
    return torch.autocast(device.type, dtype) if dtype else nullcontext()


@contextmanager
def _evaluating(network: SaliencyModel) -> Iterator[None]:
    """Put a network into evaluation mode for a block, then restore the mode of each of its modules."""
    training = [part for part in network.modules() if part.training]
    if training:
        network.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True
