"""Real frames for quantization: short stretches of videos, some to calibrate on, the others to compare on.

A stretch is a row of frames as a camera gives them, so that the state of a streaming model is what it is in use.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from distill.data.clips import Video
from distill.data.sets.find import find_videos
from distill.data.video.open import open_size, open_video
from distill.errors import UserError
from distill.evaluation import metrics
from distill.models.loaded import stride_of
from distill.models.onnx import OnnxModel
from distill.stride import offsets, step_of
from distill.training.config import load_config
from distill.training.sources import training_sources, training_videos, videos_of_argument

FRAMES = 256
"""Frames to read unless asked otherwise."""

SHORTEST = 16
"""Frames of a stretch of a streaming model, or more where a map depends on more."""

HELD_OUT = 4
"""One stretch of so many is held out of the calibration, one at least."""


@dataclass(frozen=True)
class Stretches:
    """Real frames, in stretches (L, 3, H, W), uint8 RGB.

    Attributes:
        calibration: those whose activations set the ranges of INT8.
        held_out: those on which maps are compared.
        shown: what they show, in words.
    """

    calibration: list[np.ndarray]
    held_out: list[np.ndarray]
    shown: str

    @property
    def counts(self) -> tuple[int, int]:
        """Frames to calibrate on, and frames held out."""
        return sum(map(len, self.calibration)), sum(map(len, self.held_out))


def read_stretches(
    where: str | Path,
    model: OnnxModel,
    *,
    frames: int = FRAMES,
    split: str | None = None,
    progress: bool = True,
) -> Stretches:
    """Read frames from all over some videos, at the model's size and its stride in training.

    Args:
        where: `DATASET:ROOT`, a CONFIG.yaml, whose training videos are meant, a video file, a folder of images, or
            a folder of videos.
        model: which they are for; a clip is a stretch of its own.
        frames: how many to read in all, or fewer where the videos have fewer.
        split: of the data set.
        progress: show a bar.

    Raises:
        UserError: nothing of this name, or videos too short for two stretches.
    """
    videos = _videos(where, split)
    step_mode = model.edge.mode == "step"
    length = max(SHORTEST, model.edge.reach) if step_mode else model.num_frames
    asked = max(2, -(-frames // length))
    places = list(_places(videos, length, stride_of(model.notes), asked))
    if len(places) < 2:
        total = sum(len(video.frames) for video in videos)
        raise UserError(
            f"{where}: {total} frames are too few to calibrate on and to compare on: expected a video that is long "
            f"enough for two stretches of {length} frames, or two such videos"
        )
    read = [
        np.ascontiguousarray(open_video(video.path).read(rows, model.size).transpose(0, 3, 1, 2))
        for video, rows in tqdm(places, desc="reading frames", unit="stretch", disable=not progress)
    ]
    held_out = set(range(HELD_OUT - 1, len(read), HELD_OUT)) or {len(read) - 1}
    return Stretches(
        calibration=[stretch for index, stretch in enumerate(read) if index not in held_out],
        held_out=[stretch for index, stretch in enumerate(read) if index in held_out],
        shown=f"{where}, split {split}" if split else str(where),
    )


def _videos(where: str | Path, split: str | None) -> list[Video]:
    path = Path(where)
    if path.suffix in (".yaml", ".yml"):
        if split:
            raise UserError(f"{where}: a config says itself which videos are meant; leave the split out")
        return training_videos(training_sources(load_config(path).data))
    if not path.exists():
        if ":" not in str(where):
            raise UserError(
                f"{where}: no such video or folder; of a data set, give its name too, as in ntire:{where}"
            )
        return videos_of_argument(str(where), split=split)
    if split:
        raise UserError(
            f"{where}: a file or folder has no splits; name a data set as DATASET:ROOT, or leave it out"
        )
    if path.is_dir():
        return find_videos("folder", path)
    num_frames, fps, size = open_size(path)
    return [Video(path.stem, path, num_frames, fps, size, range(num_frames), None, "folder")]


def _places(
    videos: Sequence[Video], length: int, stride: int | str, asked: int
) -> Iterator[tuple[Video, tuple[int, ...]]]:
    """Yield (video, frames) of each stretch: one of each video, then a second of each, and so on."""
    if len(videos) > asked:
        videos = [videos[index] for index in np.linspace(0, len(videos) - 1, asked).round().astype(int)]
    rows = [offsets(length, step_of(stride, video.fps)) for video in videos]
    spans = [1 - row[0] for row in rows]
    room = [len(_used(video)) // span for video, span in zip(videos, spans, strict=True)]
    order = sorted((turn, index) for index, most in enumerate(room) for turn in range(most))[:asked]
    counts = Counter(index for _, index in order)
    for turn, index in order:
        used = _used(videos[index])
        part = len(used) / counts[index]  # of the video, in the middle of which the stretch lies
        last = used[int(part * turn + (part - spans[index]) / 2) + spans[index] - 1]
        yield videos[index], tuple(last + offset for offset in rows[index])


def _used(video: Video) -> range:
    return range(video.frames[0], video.frames[-1] + 1)


def calls(edge: Any, stretch: np.ndarray) -> Iterator[tuple[dict[str, np.ndarray], np.ndarray]]:
    """Run a model over a stretch from its beginning.

    Args:
        edge: a `student.edge.EdgeModel`.
        stretch: (L, 3, H, W) uint8 RGB; of a clip model, one clip.

    Yields:
        (inputs of the graph by their names, maps (1, N, h, w) in [0, 1]), call by call.
    """
    if edge.mode == "clip":
        clip = np.ascontiguousarray(stretch.transpose(1, 0, 2, 3)[None])
        yield {"clip": _typed(edge, clip)}, edge(clip)
        return
    state = edge.initial_state()
    for frame in stretch[:, None]:
        maps, after = edge.step(frame, state)
        yield {"frame": _typed(edge, frame), **state}, maps
        state = after


def _typed(edge: Any, images: np.ndarray) -> np.ndarray:
    return images if edge.metadata["input"]["type"] == "uint8" else images.astype(np.float32) / np.float32(255)


def maps_of(edge: Any, stretches: Sequence[np.ndarray]) -> np.ndarray:
    """Return a model's maps of stretches, one after the other: (n, h, w) in [0, 1]."""
    return np.concatenate([maps[0] for stretch in stretches for _, maps in calls(edge, stretch)])


def agreement(maps: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return the linear correlation of each map with its reference.

    Args:
        maps: (n, h, w).
        reference: (n, h, w).

    Returns:
        (n,) in [-1, 1]. Where one of two maps is constant or not a number: 1 if they are equal, else 0.
    """
    found = np.array([metrics.cc(a, b) for a, b in zip(np.nan_to_num(maps), reference, strict=True)])
    same = np.array([np.allclose(a, b, atol=1e-6) for a, b in zip(maps, reference, strict=True)])
    return np.where(np.isnan(found), same, found)
