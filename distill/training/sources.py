"""Find the videos of a config's data section, or of the DATA argument of a command."""

import hashlib
import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from distill.data.clip_dataset import ClipSource
from distill.data.clips import Video
from distill.data.sets.find import DATASETS, find_videos
from distill.data.text import plural
from distill.errors import UserError
from distill.targets.store import first_few
from distill.training.config import DataSection, ScoredSource, SourceSection, load_config
from distill.training.teacher_section import TeacherSection

log = logging.getLogger(__name__)


def videos_of_argument(
    data: str,
    *,
    split: str | None = None,
    videos: list[str] | None = None,
    frames: tuple[int, int] | None = None,
) -> list[Video]:
    """Return the videos of DATA: `dhf1k:ROOT`, or a config for its test videos.

    Raises:
        UserError: DATA is neither, or is a config that has no test videos or is combined with a selection.
    """
    if Path(data).suffix in (".yaml", ".yml"):
        if split or videos or frames:
            raise UserError(
                f"{data}: a config selects its own videos and frames; remove the options that select a split, "
                "videos or frames"
            )
        test = load_config(data).data.test
        if not test:
            raise UserError(f"{data}: data.test is empty; give the data as DATASET:ROOT")
        return scored_videos(test)
    dataset, colon, root = data.partition(":")
    if not colon:
        raise UserError(
            f"{data}: expected DATA to be a CONFIG.yaml or DATASET:ROOT, such as dhf1k:{data}; "
            f"the data sets are {', '.join(DATASETS)}"
        )
    return find_videos(dataset, root, split=split, videos=videos, frames=frames, progress=True)


def videos_of_source(source: SourceSection) -> list[Video]:
    """Return the videos of a source.

    Raises:
        UserError: the selection is empty.
    """
    root = source.root or source.dataset  # generated videos have no folder
    videos = find_videos(
        source.dataset, root, split=source.split, videos=source.videos, frames=source.frames, progress=True
    )
    if source.share is None:
        return videos
    chosen = share_of(videos, source.share, seed=source.share_seed)
    if not chosen:
        raise UserError(f"{root}: share {list(source.share)} of {len(videos)} videos selects none; widen it")
    return chosen


def share_of(videos: list[Video], share: tuple[float, float], *, seed: int) -> list[Video]:
    """Return the videos of a share of the recordings, in their original order.

    Recordings are ordered by a hash of the seed and their name, and a share is rounded to whole recordings so that
    adjacent shares are disjoint and together complete.
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
    """Return the training videos with their number of clips per epoch."""
    return [
        ClipSource(
            [replace(video, source=number) for video in videos_of_source(source)],
            source.clips_per_video,
            source.ratio,
        )
        for number, source in enumerate(data.train)
    ]


def taught_sources(
    sources: Sequence[ClipSource], data: DataSection, teacher: TeacherSection
) -> dict[int, ClipSource]:
    """Return the training sources that a teacher teaches, by their number."""
    return {number: sources[number] for number in sorted(data.numbers_of(teacher.sources))}


def training_videos(sources: Iterable[ClipSource]) -> list[Video]:
    """Return each training video once, with the union of its training frames, for a teacher to label.

    Raises:
        UserError: two videos have the same name.
    """
    videos: dict[str, Video] = {}
    for source in sources:
        for video in source.videos:
            other = videos.setdefault(video.name, video)
            if other.path != video.path:
                raise UserError(
                    f"data.train: two videos are called '{video.name}' ({other.path} and {video.path}); a target "
                    "store identifies videos by name, so rename one or train on them in separate runs"
                )
            frames = sorted({*other.frames, *video.frames})
            videos[video.name] = replace(video, frames=tuple(frames))
    return list(videos.values())


def scored_videos(sources: list[ScoredSource]) -> list[Video]:
    """Return the videos to validate or test on, with every n-th of their frames.

    Raises:
        UserError: a video has no ground truth.
    """
    videos = [
        replace(video, frames=video.frames[:: source.every])
        for source in sources
        for video in videos_of_source(source)
    ]
    for video in videos:
        if video.truth is None:
            raise UserError(f"{video.path}: the video has no ground truth to score against; leave it out")
    return videos


def warn_of_trained_frames(sources: Iterable[ClipSource], scored: Sequence[Video], where: str) -> None:
    """Log a warning if frames to score are also trained on, which makes their scores too high.

    Args:
        sources: training videos.
        scored: videos to validate or test on.
        where: what trains on them, for the message.
    """
    trained: dict[Path, set[int]] = {}
    for video in (video for source in sources for video in source.videos):
        trained.setdefault(video.path.resolve(), set()).update(video.frames)
    seen = [video.name for video in scored if not trained.get(video.path.resolve(), set()).isdisjoint(video.frames)]
    if seen:
        log.warning(
            "%s: trains on frames of %d of the %s to score (%s), whose scores will be too high; choose other "
            "videos, frames or shares",
            where,
            len(seen),
            plural(len(scored), "video"),
            first_few(seen),
        )
