"""The record that describes a data set, and the scan of its folder that all data sets share."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from distill.data.clips import Video
from distill.data.still_truth import StillTruth
from distill.data.truth import FileTruth, MapsTruth, PointsTruth
from distill.data.truth_check import inspect_truth
from distill.data.video.folder_probe import FolderProbe, inspect_folder, listing_of
from distill.data.video.names import IMAGE_SUFFIXES, VIDEO_SUFFIXES, describe, is_image, natural, number_in
from distill.data.video.probe import Probe, inspect_video
from distill.data.video.probe_cache import PROBE_CACHE, Inspection, inspect_all
from distill.data.video.still_probe import StillProbe, inspect_still
from distill.errors import UserError
from distill.paths import path_inside

VideoProbe = Probe | FolderProbe | StillProbe


@dataclass
class Layout:
    """The files of a data set in a folder.

    Attributes:
        title: description of the layout, e.g. `videos in video/`.
        media: name -> file, folder of frames or still image of each video.
        members: split -> names of its videos in `media`.
        published: split -> expected number of videos, if known.
        truth_of: maps a video's name and probe to its ground truth. May raise UserError: the video is then broken.
        missing: (split, name, message) of each video that the data set lists but that does not exist.
        generated: videos without files, which are not inspected.
        remarks: messages on what is missing or unexpected.
    """

    title: str
    media: Mapping[str, Path] = field(default_factory=dict)
    members: Mapping[str, Sequence[str]] = field(default_factory=dict)
    published: Mapping[str, int] = field(default_factory=dict)
    truth_of: Callable[[str, VideoProbe], FileTruth | StillTruth | None] = lambda name, probe: None
    missing: Sequence[tuple[str, str, str]] = ()
    generated: Sequence[Video] = ()
    remarks: Sequence[str] = ()


@dataclass
class DataSetScan:
    """Result of scanning the folder of a data set.

    Attributes:
        dataset: the data set.
        layout: the layout found.
        videos: usable videos, in natural order.
        broken: name -> error message of each broken video.
        left_out: names of videos without ground truth that were left out of a labelled split.
        damaged: name -> number of damaged frames of each usable video, if it was inspected thoroughly.
    """

    dataset: "DataSet"
    layout: Layout
    videos: list[Video] = field(default_factory=list)
    broken: dict[str, str] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    damaged: dict[str, int] = field(default_factory=dict)

    def exclude(self, video: Video, error: UserError) -> None:
        """Move a video from `videos` to `broken`."""
        self.broken[video.name] = str(error)
        self.videos.remove(video)

    def count_splits(self) -> str:
        """Return the number of videos per split, for messages."""
        return ", ".join(f"{len(names)} in {split}" for split, names in self.layout.members.items())


@dataclass(frozen=True)
class DataSet:
    """A data set that configs and the command line select by name.

    Attributes:
        name: the name.
        title: full name.
        expected: required files and folders, for messages.
        splits: names of the splits; None as a split means all videos.
        find: returns the layout of a root folder; without media if the folder does not have this layout.
        recognise: whether a folder has this layout, which is checked to find the data set of a folder; None if the
            layout is too general to recognise it.
        resembles: whether a folder has parts of the layout, for a hint.
        labelled: splits that leave out videos without ground truth, unless they are selected by name.
        withheld: split whose ground truth is not published.
        recording: returns the recording that the video of a name was cut from.
        needs_root: False if there are no files.
        unit: what its videos are called in messages.
        at_address: whether its root may be an address such as s3://bucket/folder; see `remote_data`.
    """

    name: str
    title: str
    expected: str
    splits: Sequence[str]
    find: Callable[[Path], Layout]
    recognise: Callable[[Path], bool] | None = None
    resembles: Callable[[Path], bool] = lambda root: False
    labelled: Sequence[str] = ()
    withheld: str = ""
    recording: Callable[[str], str] = lambda name: name
    needs_root: bool = True
    unit: str = "video"
    at_address: bool = False

    def scan(
        self,
        root: Path,
        *,
        split: str | None = None,
        names: Sequence[str] | None = None,
        progress: bool = False,
    ) -> DataSetScan:
        """Find and inspect the videos in a folder.

        Args:
            root: folder of the data set; ignored if it has no files.
            split: one of `splits`; None selects all videos.
            names: only these videos (see `same_name`), with or without ground truth; None selects all.
            progress: show progress bars.

        Raises:
            UserError: if there is no such split or the folder does not have this layout.
        """
        if split is not None and split not in self.splits:
            raise UserError(f"{self.name}: no split '{split}'; expected one of {', '.join(self.splits)}")
        layout = self.find(root)
        if not layout.media and not layout.generated:
            raise self._wrong_root(root)
        if split is not None and split not in layout.members:
            raise UserError(
                f"{root}: no split '{split}' in this layout ({layout.title}); expected one of "
                f"{', '.join(layout.members)}"
            )
        scan = DataSetScan(self, layout)

        members = None if split is None else set(layout.members[split])
        exact = frozenset(map(str, names or ()))

        def selected(name: str) -> bool:
            in_split = members is None or name in members
            return in_split and (names is None or name in exact or any(same_name(name, wanted) for wanted in names))

        scan.videos += [video for video in layout.generated if selected(video.name)]
        media = {name: layout.media[name] for name in sorted(layout.media, key=natural) if selected(name)}
        _inspect_media(
            scan, root, media, keep_unlabelled=split not in self.labelled or names is not None, progress=progress
        )
        if names is None:
            scan.broken.update(
                {name: message for part, name, message in layout.missing if split in (None, "all", part)}
            )
        return scan

    def _wrong_root(self, root: Path) -> UserError:
        """Return the error for a folder without this layout, naming a neighbouring folder that has it."""
        if not root.exists():
            return UserError(
                f"{root}: no such folder; expected the root folder of {self.name}, with {self.expected}"
            )
        if not root.is_dir():
            return UserError(f"{root}: is a file; expected the root folder of {self.name}, with {self.expected}")
        recognise = self.recognise or (lambda folder: False)
        near = [p for p in [root.resolve().parent, *sorted(root.iterdir())] if p.is_dir() and recognise(p)]
        hint = f"; did you mean {near[0]}?" if near else ""
        return UserError(f"{root}: expected {self.name}, with {self.expected}; found {describe(root)}{hint}")


def _inspect_media(
    scan: DataSetScan, root: Path, media: dict[str, Path], *, keep_unlabelled: bool, progress: bool
) -> None:
    """Inspect videos and their lists of points; add them to the usable, broken or left-out videos of a scan.

    Unreadable lists of points are found here, because they would stop a run hours later.
    """
    dataset = scan.dataset
    for name, path in list(media.items()):
        try:
            path_inside(path.parent, name, f"a video in {root}")  # results are written under the same name
        except UserError as error:
            scan.broken[name] = str(error)
            del media[name]
    probes = inspect_videos(list(media.values()), progress=f"reading {dataset.name}" if progress else None)
    listed: list[tuple[Video, PointsTruth]] = []
    for (name, path), probe in zip(media.items(), probes, strict=True):
        try:
            if isinstance(probe, UserError):
                raise probe
            truth = scan.layout.truth_of(name, probe)
        except UserError as error:
            scan.broken[name] = str(error)
            continue
        if truth is None and not keep_unlabelled:
            scan.left_out.append(name)
            continue
        frames, recording = range(probe.num_frames), dataset.recording(name)
        video = Video(name, path, probe.num_frames, probe.fps, probe.size, frames, truth, dataset.name, recording)
        scan.videos.append(video)
        if probe.damaged:
            scan.damaged[name] = len(probe.damaged)
        points = truth.listed if isinstance(truth, MapsTruth) else truth
        if isinstance(points, PointsTruth):
            listed.append((video, points))
    inspections = [inspect_truth(points.files, video.num_frames) for video, points in listed]
    results = inspect_all(inspections, progress="reading fixations" if progress else None)
    for (video, _), result in zip(listed, results, strict=True):
        if isinstance(result, UserError):
            scan.exclude(video, result)


def inspect_videos(
    paths: Sequence[Path], *, progress: str | None = None, thorough: bool = False, check_changes: bool = False
) -> list[VideoProbe | UserError]:
    """Inspect videos, which are files, folders of frames or still images; see `inspect_all`.

    Args:
        paths: existing files and folders.
        progress: label of a progress bar; None shows none.
        thorough: decode every frame.
        check_changes: inspect folders again in which an image has changed; this lists all files.

    Returns:
        The properties of each video, or a UserError if it is broken.
    """
    inspections = [_inspection_of(path)(path, thorough=thorough) for path in paths]
    folders = [inspection for inspection in inspections if inspection.kind == "frames"]
    for inspection in folders:
        if isinstance(PROBE_CACHE.get(inspection), UserError):
            PROBE_CACHE.discard(inspection)  # a repaired image does not change its folder
    if check_changes:
        with ThreadPoolExecutor() as threads:  # hides the latency of network file systems
            listings = threads.map(lambda inspection: listing_of([inspection.path]), folders)
        for inspection, listing in zip(folders, listings, strict=True):
            cached = PROBE_CACHE.get(inspection)
            if cached is not None and cached.listing != listing:
                PROBE_CACHE.discard(inspection)
    return inspect_all(inspections, progress=progress)


def _inspection_of(path: Path) -> Callable[..., Inspection]:
    return inspect_folder if path.is_dir() else inspect_still if is_image(path) else inspect_video


def same_name(name: str, wanted: str) -> bool:
    """Return whether a requested name, file name or number (`2` for `002`) refers to the video `name`."""
    wanted = str(wanted)
    if Path(wanted).suffix.lower() in (*VIDEO_SUFFIXES, *IMAGE_SUFFIXES):
        wanted = wanted[: -len(Path(wanted).suffix)]
    return name == wanted or (number_in(name) is not None and number_in(name) == number_in(wanted))


def files_named(folder: Path, suffixes: Iterable[str]) -> list[Path]:
    """Return the files of a folder with one of the suffixes, in natural order, without hidden files."""
    if not folder.is_dir():
        return []
    files = [p for p in folder.iterdir() if p.suffix.lower() in suffixes and p.name[0] != "." and p.is_file()]
    return sorted(files, key=lambda p: natural(p.name))


def holds_frames(folder: Path) -> bool:
    """Return whether a folder contains an image."""
    if not folder.is_dir():
        return False
    with os.scandir(folder) as entries:
        return any(entry.name.lower().endswith(IMAGE_SUFFIXES) and entry.name[0] != "." for entry in entries)
