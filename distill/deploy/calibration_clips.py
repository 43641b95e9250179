"""Real frames for quantization: short clips of videos, some for calibration, the others held out for comparison.

Each clip holds consecutive frames, so that a streaming model reaches the states it has in use.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distill.data.clips import Video
from distill.data.fit import read_placed
from distill.data.progress import ProgressBar
from distill.data.sets.find import find_videos
from distill.data.video.names import is_image
from distill.data.video.open import open_size, open_video
from distill.errors import UserError
from distill.evaluation import metrics
from distill.models.loaded import stride_of
from distill.models.onnx import OnnxModel
from distill.stride import offsets, step_of
from distill.training.config import load_config
from distill.training.sources import training_sources, training_videos, videos_of_argument

FRAMES = 256
"""Default number of frames to read."""

MIN_LENGTH = 16
"""Frames per clip for a streaming model; more if a map depends on more."""

HELD_OUT = 4
"""One clip in this many is held out; at least one."""


@dataclass(frozen=True)
class CalibrationClips:
    """Real frames, in clips (L, 3, H, W), uint8 RGB.

    Attributes:
        calibration: clips whose activations set the ranges of INT8.
        held_out: clips on which maps are compared.
        source: where the frames come from, for reports.
    """

    calibration: list[np.ndarray]
    held_out: list[np.ndarray]
    source: str

    @property
    def counts(self) -> tuple[int, int]:
        """Number of frames for calibration, and number of frames held out."""
        return sum(map(len, self.calibration)), sum(map(len, self.held_out))


def read_calibration_clips(
    where: str | Path,
    model: OnnxModel,
    *,
    frames: int = FRAMES,
    split: str | None = None,
    progress: bool = True,
) -> CalibrationClips:
    """Read clips spread over videos, at the model's size, fit and training stride.

    Args:
        where: `DATASET:ROOT`, a CONFIG.yaml (its training videos), a video file, a folder of images, or a folder of
            videos. Still images are used only if there is no video; a clip then repeats one image.
        model: the model to calibrate. In clip mode, a clip is one input.
        frames: total number of frames; fewer if the videos are shorter.
        split: split of the data set.
        progress: show a progress bar.

    Raises:
        UserError: `where` does not exist, or its videos are too short for two clips.
    """
    videos = _videos(where, split)
    length = max(MIN_LENGTH, model.edge.reach) if model.edge.mode == "step" else model.num_frames
    places = list(_places(videos, length, stride_of(model.notes), max(2, -(-frames // length))))
    if len(places) < 2:
        total = sum(len(video.frames) for video in videos)
        raise UserError(
            f"{where}: {total} frames are too few for calibration and comparison; expected one video long enough "
            f"for two clips of {length} frames, or two such videos"
        )
    read = [
        read_placed(open_video(video.path), numbers, model.fit, model.size).contiguous().numpy()
        for video, numbers in ProgressBar("reading calibration frames", "clip", places, shown=progress)
    ]
    held_out = set(range(HELD_OUT - 1, len(read), HELD_OUT)) or {len(read) - 1}
    return CalibrationClips(
        calibration=[clip for index, clip in enumerate(read) if index not in held_out],
        held_out=[clip for index, clip in enumerate(read) if index in held_out],
        source=f"{where}, split {split}" if split else str(where),
    )


def _videos(where: str | Path, split: str | None) -> list[Video]:
    path = Path(where)
    if path.suffix in (".yaml", ".yml"):
        if split:
            raise UserError(f"{where}: a config names its own videos; remove the split")
        return training_videos(training_sources(load_config(path).data))
    if not path.exists():
        if ":" not in str(where):
            raise UserError(f"{where}: no such video or folder; for a data set, add its name, e.g. ntire:{where}")
        return videos_of_argument(str(where), split=split)
    if split:
        raise UserError(f"{where}: a file or folder has no splits; use DATASET:ROOT, or remove the split")
    if path.is_dir():
        return find_videos("folder", path)
    num_frames, fps, size = open_size(path)
    return [Video(path.stem, path, num_frames, fps, size, range(num_frames), None, "folder")]


def _places(
    videos: Sequence[Video], length: int, stride: int | str, asked: int
) -> Iterator[tuple[Video, tuple[int, ...]]]:
    """Yield (video, frames) of each clip: one per video, then a second one per video, and so on."""
    moving = [video for video in videos if not is_image(video.path)]
    videos = moving or videos
    if len(videos) > asked:
        videos = [videos[index] for index in np.linspace(0, len(videos) - 1, asked).round().astype(int)]
    if not moving:
        yield from ((video, (0,) * length) for video in videos)
        return
    rows = [offsets(length, step_of(stride, video.fps)) for video in videos]
    spans = [1 - row[0] for row in rows]
    room = [len(_used(video)) // span for video, span in zip(videos, spans, strict=True)]
    order = sorted((turn, index) for index, most in enumerate(room) for turn in range(most))[:asked]
    counts = Counter(index for _, index in order)
    for turn, index in order:
        used = _used(videos[index])
        part = len(used) / counts[index]  # the clip is in the middle of this part of the video
        last = used[int(part * turn + (part - spans[index]) / 2) + spans[index] - 1]
        yield videos[index], tuple(last + offset for offset in rows[index])


def _used(video: Video) -> range:
    return range(video.frames[0], video.frames[-1] + 1)


def run_calls(edge: Any, clip: np.ndarray) -> Iterator[tuple[dict[str, np.ndarray], np.ndarray]]:
    """Run a model over a clip, starting from the initial state.

    Args:
        edge: a `student.edge.EdgeModel`.
        clip: (L, 3, H, W) uint8 RGB; in clip mode, one input of the model.

    Yields:
        For each call, the inputs of the graph by name, and the maps (1, N, h, w) in [0, 1].
    """
    if edge.mode == "clip":
        batch = np.ascontiguousarray(clip.transpose(1, 0, 2, 3)[None])
        yield {"clip": _typed(edge, batch)}, edge(batch)
        return
    state = edge.initial_state()
    for frame in clip[:, None]:
        maps, after = edge.step(frame, state)
        yield {"frame": _typed(edge, frame), **state}, maps
        state = after


def _typed(edge: Any, images: np.ndarray) -> np.ndarray:
    return images if edge.metadata["input"]["type"] == "uint8" else images.astype(np.float32) / np.float32(255)


def predict_maps(edge: Any, clips: Sequence[np.ndarray]) -> np.ndarray:
    """Return a model's maps of all clips, concatenated: (n, h, w) in [0, 1]."""
    return np.concatenate([maps[0] for clip in clips for _, maps in run_calls(edge, clip)])


def agreement(maps: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return the linear correlation of each map with its reference.

    Args:
        maps: (n, h, w).
        reference: (n, h, w).

    Returns:
        (n,) in [-1, 1]. If either map is constant or NaN: 1 if they are equal, else 0.
    """
    found = np.array([metrics.cc(a, b) for a, b in zip(np.nan_to_num(maps), reference, strict=True)])
    same = np.array([np.allclose(a, b, atol=1e-6) for a, b in zip(maps, reference, strict=True)])
    return np.where(np.isnan(found), same, found)
