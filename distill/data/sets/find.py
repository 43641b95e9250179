"""The registry of data sets, and selection of the usable videos of a data set.

To add a data set, write a file with a `DataSet` record and add the record to DATASETS.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from distill.data.clips import Video
from distill.data.remote_data import data_root
from distill.data.sets.dataset import DataSet, DataSetScan, same_name
from distill.data.sets.dhf1k import DHF1K
from distill.data.sets.folder import FOLDER
from distill.data.sets.images import IMAGES
from distill.data.sets.ntire import NTIRE
from distill.data.sets.shots import HOLLYWOOD2, UCF_SPORTS
from distill.data.sets.stills import STILLS
from distill.data.sets.synthetic import SYNTHETIC
from distill.data.text import plural
from distill.data.video.names import describe
from distill.errors import UserError
from distill.remote import is_address

log = logging.getLogger(__name__)

DATASETS: dict[str, DataSet] = {
    dataset.name: dataset for dataset in (NTIRE, HOLLYWOOD2, UCF_SPORTS, DHF1K, STILLS, FOLDER, IMAGES, SYNTHETIC)
}
"""All data sets by name, the values of `dataset:` in a config. Detection takes the first that matches."""

MAX_NAMED = 20
"""Maximum number of excluded videos that are named before a run."""


def get_dataset(name: str) -> DataSet:
    """Return a data set.

    Raises:
        UserError: if there is no such data set.
    """
    if name not in DATASETS:
        raise UserError(f"unknown data set '{name}'; expected one of {', '.join(DATASETS)}")
    return DATASETS[name]


def recognise(root: Path) -> DataSet | None:
    """Return the data set whose layout a folder has, or None; a plain folder of videos is not recognised."""
    return next((each for each in DATASETS.values() if each.recognise is not None and each.recognise(root)), None)


def recognise_any(root: Path) -> DataSet:
    """Return the data set whose layout a folder has, or FOLDER if it has any videos.

    Raises:
        UserError: if there is no video.
    """
    if dataset := recognise(root):
        return dataset
    if not root.exists():
        raise UserError(f"{root}: no such folder; expected the root folder of a data set, or videos")
    try:
        FOLDER.find(root)
    except UserError:
        known = ", ".join(f"{each.expected} ({each.name})" for each in DATASETS.values() if each.recognise)
        raise UserError(
            f"{root}: no data set found; expected {known}, or videos or folders of frames; found {describe(root)}"
        ) from None
    return FOLDER


def root_of(dataset: DataSet, root: str | Path) -> Path:
    """Return the folder of a data set; see `data_root`.

    Raises:
        UserError: the data set cannot be at an address, or the address cannot be listed.
    """
    if is_address(root) and not dataset.at_address:
        able = ", ".join(each.name for each in DATASETS.values() if each.at_address)
        raise UserError(
            f"{root}: {dataset.name} must be in a folder; of the data sets, {able} can be at an address: copy it"
        )
    return data_root(root)


def find_videos(
    dataset: str,
    root: str | Path,
    *,
    split: str | None = None,
    videos: Sequence[str] | None = None,
    frames: tuple[int, int] | None = None,
    progress: bool = False,
) -> list[Video]:
    """Return the usable videos of a data set and log which layout was found.

    Args:
        dataset: a key of DATASETS.
        root: folder of the data set.
        split: one of its splits; None selects all videos.
        videos: only the videos with these names; None selects all.
        frames: first and last target frame, 1-based and inclusive; the last one may be past the end of a video.
        progress: show progress bars.

    Returns:
        At least one video, in natural order. Broken videos, and unlabelled ones of a labelled split, are left out
        with a warning unless selected by name.

    Raises:
        UserError: if the data set, split, folder or a video does not exist, a video selected by name is broken, or
            no video is left.
    """
    selected = get_dataset(dataset)
    if videos is not None and not videos:
        raise UserError(f"{root}: videos: the list is empty; name at least one, or leave it out to use all")
    scan = selected.scan(root_of(selected, root), split=split, names=videos, progress=progress)
    where = f"{root} ({dataset}, split {split})" if split else f"{root} ({dataset})"
    if videos is not None:
        _require(scan, videos, where)
    if scan.broken:
        why = list(scan.broken.values())
        if len(why) > MAX_NAMED:
            why[MAX_NAMED:] = [f"and {len(why) - MAX_NAMED} more, see saldistill data check"]
        log.warning(
            "%s: %s left out:\n  %s", where, plural(len(scan.broken), f"broken {selected.unit}"), "\n  ".join(why)
        )
    if scan.damaged:
        damaged = [f"{name} ({plural(count, 'frame')})" for name, count in scan.damaged.items()]
        log.warning(
            "%s: %s with damaged frames in use, which the decoder fills in: %s",
            where,
            plural(len(damaged), "video"),
            ", ".join(damaged[:MAX_NAMED]) + ", ..." * (len(damaged) > MAX_NAMED),
        )
    if scan.left_out:
        names = ", ".join(scan.left_out[:MAX_NAMED]) + ", ..." * (len(scan.left_out) > MAX_NAMED)
        log.warning(
            "%s: %s without ground truth left out: %s", where, plural(len(scan.left_out), selected.unit), names
        )
    if not scan.videos:
        raise UserError(f"{where}: no usable {selected.unit}; {_why_empty(scan)}")
    labelled = sum(video.truth is not None for video in scan.videos)
    count = plural(len(scan.videos), selected.unit)
    log.info("%s: %s; %s, %d with ground truth", where, scan.layout.title, count, labelled)
    return [_select_frames(video, frames) for video in scan.videos] if frames else scan.videos


def _require(scan: DataSetScan, names: Sequence[str], where: str) -> None:
    """Raise a UserError if a video that was selected by name is broken or missing."""
    usable = [video.name for video in scan.videos]
    for wanted in names:
        if any(same_name(name, wanted) for name in usable):
            continue
        for name, why in scan.broken.items():
            if same_name(name, wanted):
                raise UserError(why)
        raise UserError(
            f"{where}: no {scan.dataset.unit} '{wanted}' (found {scan.layout.title}: {scan.count_splits()})"
        )


def _why_empty(scan: DataSetScan) -> str:
    if scan.broken:
        return f"{len(scan.broken)} are broken, the first: {next(iter(scan.broken.values()))}"
    if scan.left_out:
        return f"{len(scan.left_out)} have no ground truth (select them with split 'all' or by name)"
    return f"found {scan.layout.title}: {scan.count_splits()}"


def _select_frames(video: Video, frames: tuple[int, int]) -> Video:
    first, last = frames
    if not 1 <= first <= last:
        raise UserError(f"frames [{first}, {last}]: expected the first and last frame, counted from 1")
    if first > video.num_frames:
        raise UserError(
            f"frames [{first}, {last}]: video {video.name} has {video.num_frames} frames; choose an earlier range"
        )
    return replace(video, frames=range(first - 1, min(last, video.num_frames)))
