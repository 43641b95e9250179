"""Crop a video to another aspect ratio with a virtual camera that follows what people look at.

    saldistill reframe VIDEO 9:16 -o OUT.mp4

The video is read twice: for its maps, of which only the distribution along the camera's axis is kept in memory, and
then for the pictures.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distill.data.progress import ProgressBar
from distill.data.video.canvas import Canvas
from distill.data.video.frames import KeepingReader, open_frames
from distill.data.video.names import is_image
from distill.data.video.writer import Timing, VideoWriter
from distill.errors import UserError
from distill.inference.crop_path import CameraSettings, crop_path
from distill.inference.crop_plane import crop_plane
from distill.inference.crop_window import CropWindow, largest_window, marginals
from distill.inference.settings import InferenceSettings
from distill.inference.sliding_window import slide
from distill.models.edge import CutReader
from distill.models.protocols import SaliencyModel
from distill.saliency import density

STILL = 1e-3
"""Movement in pixels per frame below which the camera stands still."""


@dataclass(frozen=True)
class CropPlan:
    """Where a video is cropped.

    Attributes:
        source: the video.
        window: the window.
        starts: (T,) start of the window in each frame, relative to the frame's side.
        marginal: (T, n) predicted distribution of probability along the window's axis.
        cuts: 0-based frames that start a new shot.
    """

    source: Path
    window: CropWindow
    starts: np.ndarray
    marginal: np.ndarray
    cuts: Sequence[int]


def plan_crop(
    network: SaliencyModel,
    source: str | Path,
    aspect: float,
    settings: InferenceSettings = InferenceSettings(),
    camera: CameraSettings = CameraSettings(),
    *,
    progress: bool = True,
) -> CropPlan:
    """Predict the maps of a video and return where the camera crops it.

    Args:
        network: the network; it is moved to the device of the settings.
        source: a video file or a folder of frames.
        aspect: width / height of the crop.
        settings: how the network runs.
        camera: limits and costs of the camera.
        progress: show a progress bar.

    Raises:
        UserError: the source cannot be read, is a still image, or is too small.
    """
    source = Path(source)
    if is_image(source) and source.is_file():
        raise UserError(f"{source}: is a still image; expected a video")
    if settings.device is not None:
        network.to(settings.device)
    frames = open_frames(source)
    window = largest_window(frames.size, aspect)
    reader = CutReader(KeepingReader(frames, keep=False))
    parts = []
    with ProgressBar(f"predicting {source.name}", "frame", total=frames.num_frames, shown=progress) as bar:
        for batch, log_saliency in slide(network, reader, range(frames.num_frames), settings):
            parts.append(marginals(density(log_saliency).numpy(), window.axis))
            bar.update(len(batch))
    marginal = np.concatenate(parts)
    starts = crop_path(marginal, window.length, frames.fps, reader.cuts, camera)
    return CropPlan(source, window, _sharp_where_still(starts, window), marginal, tuple(reader.cuts))


@dataclass(frozen=True)
class Reframed:
    """Result of `write_crop`: the file, its (height, width), number of frames and duration in seconds."""

    out: Path
    size: tuple[int, int]
    frames: int
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {**asdict(self), "out": str(self.out)}

    def __str__(self) -> str:
        rate = self.frames / max(self.seconds, 1e-9)
        height, width = self.size
        return f"{self.out}: {width}x{height}, {self.frames} frames in {self.seconds:.1f} s ({rate:.1f} per second)"


def write_crop(
    plan: CropPlan, out: str | Path, *, sound: bool = True, overwrite: bool = False, progress: bool = True
) -> Reframed:
    """Write the cropped video, with the timestamps, colours and sound of its source, to a path that is claimed.

    Args:
        plan: where to crop.
        out: an .mp4, .mov or .mkv file.
        sound: copy the sound.
        overwrite: replace an existing file.
        progress: show a progress bar.

    Raises:
        UserError: the output is the source, or cannot hold the sound.
    """
    out, started = Path(out), time.perf_counter()
    if out.resolve() == plan.source.resolve():
        raise UserError(f"{out}: is the input video; choose another name for the result")
    frames, window = open_frames(plan.source), plan.window
    with (
        VideoWriter(
            out,
            window.size,
            frames.fps,
            timing=Timing.of_file(plan.source, frames.stamps),
            sound=plan.source if sound and plan.source.is_file() else None,
            overwrite=overwrite,
        ) as writer,
        ProgressBar(f"cropping {out.name}", "frame", total=frames.num_frames, shown=progress, result=False) as bar,
    ):
        for number, start in enumerate(plan.starts):
            canvas = Canvas.of_frame(frames.frame(number), frames.turn)
            writer.write_canvas(crop_canvas(canvas, window, start))
            bar.update()
    return Reframed(out, window.size, frames.num_frames, time.perf_counter() - started)


def crop_canvas(canvas: Canvas, window: CropWindow, start: float) -> Canvas:
    """Return the part of a YUV canvas inside a window that starts at `start`, relative to the frame's side."""
    pixels = start * window.frame[window.axis]
    scales = (1, 2, 2)  # of the planes Y, U and V
    planes = []
    for plane, scale in zip(canvas.planes, scales, strict=True):
        height, width = (side // scale for side in window.size)
        across = plane[:, :width] if window.axis == 0 else plane[:height]  # an even part of an odd side
        length = (height, width)[window.axis]
        at = min(pixels / scale, across.shape[window.axis] - length)
        planes.append(crop_plane(across, at, length, window.axis))
    return canvas.with_planes(tuple(planes), window.size)


def _sharp_where_still(starts: np.ndarray, window: CropWindow) -> np.ndarray:
    """Return a path that stands at even pixels where it stands still, where interpolation would blur the picture.

    Between these places the shift, which is at most one pixel, changes evenly.
    """
    side, numbers = window.frame[window.axis], np.arange(len(starts))
    pixels = starts * side
    steps = np.abs(np.diff(pixels, prepend=pixels[:1], append=pixels[-1:]))
    still = (steps[:-1] < STILL) & (steps[1:] < STILL)
    if not still.any():
        return starts
    last = (side - window.size[window.axis]) // 2 * 2
    shift = np.clip(2 * np.round(pixels[still] / 2), 0, last) - pixels[still]
    moved = pixels + np.interp(numbers, numbers[still], shift)
    return np.clip(moved / side, 0.0, 1.0 - window.length)
