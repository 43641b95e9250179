"""From a config's data section, or DATA on the command line, to videos."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from distill.data.clip_dataset import ClipSource
from distill.data.clips import Video
from distill.data.sets.find import DATASETS, find_videos
from distill.errors import UserError
from distill.training.config import (
    DataSection,
    ScoredSource,
    SourceSection,
    load_config,
)


def videos_of_argument(
    data: str,
    *,
    split: str | None = None,
    videos: list[str] | None = None,
    frames: tuple[int, int] | None = None,
) -> list[Video]:
    """Return the videos that DATA means: `dhf1k:ROOT`, or a config, whose test videos are taken.

    Raises:
        UserError: if it is neither, or a config without test videos or with a selection beside it.
    """
    if Path(data).suffix in (".yaml", ".yml"):
        if split or videos or frames:
            raise UserError(
                f"{data}: a config says itself which videos and frames are meant; leave the options out"
            )
        test = load_config(data).data.test
        if not test:
            raise UserError(f"{data}: data.test is empty; name the data as DATASET:ROOT instead")
        return scored_videos(test)
    dataset, colon, root = data.partition(":")
    if not colon:
        raise UserError(
            f"{data}: DATA is a CONFIG.yaml or DATASET:ROOT, such as dhf1k:{data}; "
            f"the data sets are {', '.join(DATASETS)}"
        )
    return find_videos(dataset, root, split=split, videos=videos, frames=frames, progress=True)


def videos_of_source(source: SourceSection) -> list[Video]:
    """Return the videos that a source of the config names."""
    root = source.root or source.dataset  # generated videos have no folder
    videos = find_videos(
        source.dataset, root, split=source.split, videos=source.videos, frames=source.frames, progress=True
    )
    if source.share is None:
        return videos
    shared = share_of(videos, source.share, seed=source.share_seed)
    if not shared:
        raise UserError(
            f"{root}: a share of {list(source.share)} of {len(videos)} videos is none of them; widen it"
        )
    return shared


def share_of(videos: list[Video], share: tuple[float, float], *, seed: int) -> list[Video]:
    """Return the videos between two shares of their recordings, in the order they came in.

    The recordings are ordered by a hash of the seed and their names, and cut at the nearest whole one: shares that
    meet have no recording in common and leave none out.
    """

    def recording(video: Video) -> str:
        return video.recording or video.name

    names = sorted(
        {recording(video) for video in videos}, key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).digest()
    )
    first, last = (round(edge * len(names)) for edge in share)
    chosen = set(names[first:last])
    return [video for video in videos if recording(video) in chosen]


def training_sources(data: DataSection) -> list[ClipSource]:
    """Return the videos to train on, with the clips that an epoch takes from each."""
    return [ClipSource(videos_of_source(source), source.clips_per_video, source.ratio) for source in data.train]


def training_videos(sources: Sequence[ClipSource]) -> list[Video]:
    """Return every video that is trained on, each once with all its training frames: what a teacher labels."""
    videos: dict[str, Video] = {}
    for source in sources:
        for video in source.videos:
            other = videos.setdefault(video.name, video)
            if other.path != video.path:
                raise UserError(
                    f"data.train: two videos are called '{video.name}' ({other.path} and {video.path}); a store of "
                    "targets tells videos apart by name, so rename one or train on them in separate runs"
                )
            frames = sorted({*other.frames, *video.frames})
            videos[video.name] = replace(video, frames=tuple(frames))
    return list(videos.values())


def scored_videos(sources: list[ScoredSource]) -> list[Video]:
    """Return the videos to validate or test on, with every so many of their frames.

    Raises:
        UserError: for a video without ground truth, before anything is computed that could not be scored.
    """
    videos = [
        replace(video, frames=video.frames[:: source.every])
        for source in sources
        for video in videos_of_source(source)
    ]
    for video in videos:
        if video.truth is None:
            raise UserError(
                f"{video.path}: the video has no ground truth to score against; leave it out of the data"
            )
    return videos
