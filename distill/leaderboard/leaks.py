"""Leak check: whether scored videos are among the data that a model was trained on, directly or through a teacher.

Videos are compared by the content of their files and by near-duplicate pictures (`data/picture_hashes.py`), so that
other names, formats, sizes and cuts do not hide a copy. A video counts as trained on even if the run left out the
frames that are scored.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from distill.data.clips import Video
from distill.data.picture_hashes import HashSet, VideoHashes, hash_videos
from distill.data.text import plural
from distill.errors import UserError
from distill.evaluation.baselines import BASELINES
from distill.evaluation.observers import NAME as OBSERVERS
from distill.leaderboard.training_data import TrainingData, training_data

MAX_NAMED = 3
"""Videos and unknowns that a reason names."""


@dataclass(frozen=True)
class Leaks:
    """Result of the leak check of one model on a list of scored videos.

    Attributes:
        status: "found" if a scored video is among the known training data; else "none" if all training data is
            known, and "unknown" if not.
        videos: names of the scored videos that are in the training data, or share a near-duplicate picture with it.
        reason: one sentence on what was compared, and what is unknown.
    """

    status: Literal["none", "found", "unknown"]
    videos: tuple[str, ...]
    reason: str


def check_leaks(reference: str, videos: Sequence[Video]) -> Leaks:
    """Return which of the scored videos a model was trained on.

    Args:
        reference: what `evaluation.references.score` accepts.
        videos: the scored videos.

    Raises:
        UserError: a scored video cannot be read, or the package imagehash is missing.
    """
    if reference in BASELINES:
        return Leaks("none", (), "the baseline is not trained")
    if reference == OBSERVERS:
        return Leaks(
            "none", (), "nothing is trained, but the maps are fixations of other observers of the same frames"
        )
    data = training_data(reference)
    total = len(data.paths) + data.hashed
    if not total and data.unknown:
        return Leaks("unknown", (), "; ".join(_first(data.unknown)))
    if not total:
        return Leaks("none", (), "the network has random weights")
    known = _known(data)
    found = []
    for video, hashes in zip(videos, _hashed(videos), strict=True):
        if any(each.holds(hashes) for each in known):
            found.append(video.name)
    return _result(sorted(found), len(videos), total, data)


def _known(data: TrainingData) -> list[HashSet]:
    """Return the hashes of the known training data; videos that cannot be read become unknown."""
    results = hash_videos(list(data.paths), progress="hashing training videos")
    broken = [str(each) for each in results if isinstance(each, UserError)]
    if broken:
        data.unknown.append(
            f"{plural(len(broken), 'training video')} cannot be read ({broken[0].partition(';')[0]})"
        )
    return [*data.hashes, HashSet.of([each for each in results if isinstance(each, VideoHashes)])]


def _hashed(videos: Sequence[Video]) -> list[VideoHashes]:
    hashes = []
    for each in hash_videos([video.path for video in videos], progress="hashing scored videos"):
        if isinstance(each, UserError):
            raise each
        hashes.append(each)
    return hashes


def _result(found: list[str], scored: int, total: int, data: TrainingData) -> Leaks:
    """Return the result of a comparison of `scored` videos with `total` training videos."""
    trained = f"the {total:,} videos and images" if total > 1 else "the one video"
    if data.unknown:
        trained += " of the known training data"
    else:
        trained += " that the model, its initial weights and its teachers were trained on"
    status: Literal["none", "found", "unknown"] = "unknown" if data.unknown else "none"
    result = "no scored video is a copy or near-duplicate"
    if found:
        status, result = "found", f"{len(found)} of {plural(scored, 'scored video')} are copies or near-duplicates"
    reason = f"compared with {trained}: {result}"
    clauses = [reason, *_first(data.unknown)]
    if data.imagenet:
        clauses.append("ImageNet, on which a backbone was trained first, is not compared")
    return Leaks(status, tuple(found), "; ".join(clauses))


def _first(clauses: Sequence[str]) -> list[str]:
    """Return the first clauses, and the number of the others."""
    more = len(clauses) - MAX_NAMED
    return [*clauses[:MAX_NAMED], *([f"and {more} more"] if more > 0 else [])]
