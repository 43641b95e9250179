"""Finding videos: from the name and folder of a data set to the videos that can be used, and those that cannot."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from distill.data.clips import Video
from distill.data.sets import dhf1k, folder, hollywood2, ntire, synthetic, ucf_sports
from distill.data.sets.scan import Scan, same_name
from distill.data.text import plural
from distill.errors import UserError

log = logging.getLogger(__name__)

NAMED = 20
"""Videos left out that are named before a run."""


def find_videos(
    dataset: str,
    root: str | Path,
    *,
    split: str | None = None,
    videos: Sequence[str] | None = None,
    frames: tuple[int, int] | None = None,
    progress: bool = False,
) -> list[Video]:
    """Find the videos of a data set on the disk and say (as a log line) which layout was found.

    Args:
        dataset: one of DATASETS.
        root: the data set's folder.
        split: one of its splits; everything when None.
        videos: only the videos of these names; all when None.
        frames: first and last target frame, 1-based and inclusive; a last frame past a video's end is its end.
        progress: show a bar.

    Returns:
        At least one video, in natural order. Broken videos, and those of a split with ground truth that have none,
        are left out with a warning, unless they were named.

    Raises:
        UserError: if there is no such data set, split, folder or video, a named video is broken, or none is left.
    """
    if dataset not in DATASETS:
        raise UserError(f"there is no data set '{dataset}'; there are {', '.join(DATASETS)}")
    if videos is not None and not videos:
        raise UserError(f"{root}: the list of videos is empty; name some, or leave it out to use all")
    found = DATASETS[dataset](Path(root), split=split, names=videos, progress=progress)
    where = f"{root} ({dataset}, split {split})" if split else f"{root} ({dataset})"
    if videos is not None:
        _refuse_missing(found, videos, where)
    if found.broken:
        why = list(found.broken.values())
        if len(why) > NAMED:
            why[NAMED:] = [f"and {len(why) - NAMED} more: see saldistill data check"]
        log.warning("%s: %s left out:\n  %s", where, plural(len(found.broken), "broken video"), "\n  ".join(why))
    if found.left_out:
        names = ", ".join(found.left_out[:NAMED]) + ", ..." * (len(found.left_out) > NAMED)
        log.warning("%s: %s without ground truth left out: %s", where, plural(len(found.left_out), "video"), names)
    if not found.videos:
        raise UserError(f"{where}: no video can be used; {_why_none(found)}")
    labelled = sum(video.truth is not None for video in found.videos)
    log.info("%s: %s; %d videos, %d with ground truth", where, found.layout, len(found.videos), labelled)
    return [_cut(video, frames) for video in found.videos] if frames else found.videos


def _refuse_missing(found: Scan, names: Sequence[str], where: str) -> None:
    there = [video.name for video in found.videos]
    for wanted in names:
        if any(same_name(name, wanted) for name in there):
            continue
        for name, why in found.broken.items():
            if same_name(name, wanted):
                raise UserError(why)
        counts = ", ".join(f"{count} in {split}" for split, count in found.splits.items())
        raise UserError(f"{where}: there is no video '{wanted}' ({found.layout}: {counts})")


def _why_none(found: Scan) -> str:
    if found.broken:
        return f"{len(found.broken)} are broken, the first: {next(iter(found.broken.values()))}"
    if found.left_out:
        return f"{len(found.left_out)} have no ground truth (use them unlabelled with split 'all', or by name)"
    return f"found {found.layout}: " + ", ".join(f"{count} in {split}" for split, count in found.splits.items())


def _cut(video: Video, frames: tuple[int, int]) -> Video:
    first, last = frames
    if not 1 <= first <= last:
        raise UserError(f"frames [{first}, {last}]: expected the first and last frame, counted from 1")
    if first > video.num_frames:
        raise UserError(f"frames [{first}, {last}]: video {video.name} ends at frame {video.num_frames}")
    return replace(video, frames=range(first - 1, min(last, video.num_frames)))


DATASETS: dict[str, Callable[..., Scan]] = {
    "dhf1k": dhf1k.scan,
    "hollywood2": hollywood2.scan,
    "ucf_sports": ucf_sports.scan,
    "ntire": ntire.scan,
    "folder": folder.scan,
    "synthetic": synthetic.scan,
}
"""Functions (root, *, split, names, progress) -> Scan; what a config's `dataset:` may be."""
