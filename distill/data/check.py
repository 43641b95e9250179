"""Report on a data set's folder: content, missing and broken files, and what would be used.

saldistill data check ROOT
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distill.data.clips import Video
from distill.data.pictures import conversion_remarks
from distill.data.remote_data import data_root
from distill.data.sets.dataset import DataSetScan, holds_frames, inspect_videos
from distill.data.sets.find import DATASETS, get_dataset, recognise, recognise_any, root_of
from distill.data.sets.folder import FOLDER
from distill.data.still_check import check_stills
from distill.data.still_truth import StillTruth
from distill.data.text import plural
from distill.data.truth import MapsTruth, PointsTruth
from distill.data.truth_check import TruthCheck, inspect_truth
from distill.data.video.names import is_image
from distill.data.video.probe_cache import Inspection, inspect_all
from distill.data.video.still_probe import StillProbe
from distill.errors import UserError

MAX_LISTED = 50
"""Maximum number of videos that are listed one per line by default."""

MAX_COUNTED = 12
"""Maximum number of sizes that are listed."""

SHORT = 16
"""Clip length of most papers; shorter videos are counted."""


@dataclass
class Report:
    """The content of a folder.

    Attributes:
        root: the folder.
        scan: its videos, layout and splits.
        thorough: whether every frame and image was decoded.
        truths: name -> result of inspecting the ground truth of each labelled video.
        problems: messages on everything else that is missing, wrong or unusual.
    """

    root: Path
    scan: DataSetScan
    thorough: bool = False
    truths: dict[str, TruthCheck] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def require_usable(self) -> None:
        """Raise a UserError if no video can be used."""
        if not self.scan.videos:
            broken = f"; {plural(len(self.scan.broken), 'video')} broken" if self.scan.broken else ""
            raise UserError(f"{self.root}: no usable video of {self.scan.dataset.name}{broken}")

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, with every video."""
        scan = self.scan
        videos = {
            video.name: {
                "path": str(video.path),
                "frames": video.num_frames,
                "size": list(video.size),
                "fps": video.fps,
                "fixated_frames": None if video.truth is None else self.labelled([video]),
            }
            for video in scan.videos
        }
        return {
            "root": str(self.root),
            "dataset": scan.dataset.name,
            "layout": scan.layout.title,
            "thorough": self.thorough,
            "videos": videos,
            "splits": {split: list(names) for split, names in scan.layout.members.items()},
            "broken": {str(name): str(error) for name, error in scan.broken.items()},
            "problems": list(self.problems),
        }

    def table(self, *, every_video: bool = False) -> str:
        """Return the report as text: summary, splits, videos, then everything missing or broken.

        Args:
            every_video: list every video, however many there are.
        """
        dataset = self.scan.dataset
        lines = [f"{self.root}: {dataset.name} ({dataset.title}), {self.scan.layout.title}", ""]
        lines += [f"  {what:<18}{value}" for what, value in self._summary()]
        lines += ["", *self._splits()]
        if self.scan.videos and (every_video or len(self.scan.videos) <= MAX_LISTED):
            lines += ["", *self._videos()]
        lines += _section("Broken, left out", list(self.scan.broken.values()))
        lines += _section("Missing, wrong or unusual", self.problems)
        if not self.scan.broken and not self.problems:
            lines += ["", "Nothing is missing or broken."]
        return "\n".join(lines)

    def labelled(self, videos: Sequence[Video]) -> int:
        """Return the number of frames with fixations in some videos."""
        return sum(self.truths[video.name].labelled for video in videos if video.truth is not None)

    def _summary(self) -> Iterator[tuple[str, str]]:
        videos = self.scan.videos
        with_truth = sum(video.truth is not None for video in videos)
        yield (
            f"{self.scan.dataset.unit}s",
            f"{len(videos)} usable ({with_truth} with ground truth), {len(self.scan.broken)} broken",
        )
        yield "frames", f"{sum(v.num_frames for v in videos)} ({self.labelled(videos)} with fixations)"
        yield "sizes", _counted(f"{video.size[1]}x{video.size[0]}" for video in videos) or "-"
        if rates := _counted(f"{video.fps:.5g}" for video in videos if not is_image(video.path)):
            yield "frame rates", rates
        forms = sum((truth.forms for truth in self.truths.values()), Counter[str]())
        for number, (form, count) in enumerate(sorted(forms.items())):
            yield "" if number else "ground truth", f"{count} {form}"
        if stills := sum(is_image(video.path) for video in videos):
            yield "still", f"{plural(stills, 'image')}; each is a video of one frame, repeated to a clip's length"
        if short := sum(video.num_frames < SHORT and not is_image(video.path) for video in videos):
            yield "short", f"{plural(short, 'video')} with fewer than {SHORT} frames; the first frame is repeated"
        yield "inspected", "every frame and image" if self.thorough else "file headers and ends (--thorough: all)"

    def _splits(self) -> Iterator[str]:
        """Yield a table of what training and evaluation would use."""
        layout, by_name = self.scan.layout, {video.name: video for video in self.scan.videos}
        yield _row("split", "published", "found", "usable", "labelled", "frames", "fixated")
        for split, names in layout.members.items():
            usable = [by_name[name] for name in names if name in by_name]
            labelled = [video for video in usable if video.truth is not None]
            frames = sum(video.num_frames for video in labelled)
            published = layout.published.get(split, "-")
            yield _row(split, published, len(names), len(usable), len(labelled), frames, self.labelled(labelled))
        yield "  Ground-truth losses and scores use the fixated frames of labelled videos; teachers need no labels."

    def _videos(self) -> Iterator[str]:
        width = max(len("video"), *(len(video.name) for video in self.scan.videos))
        yield f"  {'video':<{width}}  {'frames':>7}  {'size':>10}  {'fps':>6}  fixated frames"
        for video in self.scan.videos:
            size = f"{video.size[1]}x{video.size[0]}"
            truth = f"{self.labelled([video])}" if video.truth is not None else "unlabelled"
            yield f"  {video.name:<{width}}  {video.num_frames:>7}  {size:>10}  {video.fps:>6.5g}  {truth}"


def _row(split: str, *values: object) -> str:
    return f"  {split:<12}" + "".join(f"{value!s:>11}" for value in values)


def _counted(values: Iterator[str]) -> str:
    """Return the values with their numbers, the most frequent first; empty for no value."""
    counts = Counter(values).most_common()
    shown = [f"{value} ({count})" for value, count in counts[:MAX_COUNTED]]
    more = len(counts) - len(shown)
    return ", ".join(shown + [f"{more} more"] * (more > 0))


def _section(title: str, messages: Sequence[str]) -> list[str]:
    return ["", f"{title} ({len(messages)}):", *(f"  {message}" for message in messages)] if messages else []


def check(root: str | Path, dataset: str | None = None, *, thorough: bool = False, progress: bool = True) -> Report:
    """Inspect a folder: every video's packets and end, every ground truth file's header and end.

    Unchanged files that were inspected before are not inspected again.

    Args:
        root: the folder.
        dataset: name of the data set; None detects it from the layout.
        thorough: decode every frame and every image.
        progress: show progress bars.

    Raises:
        UserError: if there is no such folder or data set.
    """
    chosen = None if dataset is None else get_dataset(dataset)
    root = data_root(root) if chosen is None else root_of(chosen, root)
    selected = chosen or recognise_any(root)
    scan = selected.scan(root, progress=progress)
    report = Report(root, scan, thorough, problems=list(scan.layout.remarks))
    if dataset is None and selected is FOLDER:
        report.problems += _hints(root)
        if scan.broken and holds_frames(root):
            report.problems.append(
                f"{root}: its images are read as one video; --dataset images reads separate ones"
            )
    _check_videos(report, progress=progress)
    _check_truths(report, progress=progress)
    withheld = set(scan.layout.members.get(selected.withheld, ()))
    unlabelled = [video.name for video in scan.videos if video.truth is None and video.name not in withheld]
    if unlabelled and report.truths:
        report.problems.append(
            f"no ground truth for {plural(len(unlabelled), selected.unit)}: {', '.join(unlabelled)}"
        )
    return report


def _check_videos(report: Report, *, progress: bool) -> None:
    """Inspect the usable videos again, including changed images, and add remarks on them."""
    scan = report.scan
    videos = [video for video in scan.videos if video not in scan.layout.generated]
    probes = inspect_videos(
        [video.path for video in videos],
        progress="inspecting videos" if progress else None,
        thorough=report.thorough,
        check_changes=True,
    )
    conversions: defaultdict[Path, dict[str, str]] = defaultdict(dict)
    for video, probe in zip(videos, probes, strict=True):
        if isinstance(probe, UserError):
            scan.exclude(video, probe)
            continue
        report.problems += [f"{video.path}: {remark}" for remark in probe.remarks]
        if isinstance(probe, StillProbe):
            conversions[video.path.parent][video.path.name] = probe.conversion
    for folder, of_images in conversions.items():
        report.problems += [f"{folder}: {remark}" for remark in conversion_remarks(of_images, "8-bit RGB")]


def _check_truths(report: Report, *, progress: bool) -> None:
    """Inspect the ground truth of the usable videos."""

    def inspect(video: Video) -> Inspection:
        assert isinstance(video.truth, MapsTruth | PointsTruth)
        return inspect_truth(video.truth.files, video.num_frames, thorough=report.thorough)

    labelled = [video for video in report.scan.videos if isinstance(video.truth, MapsTruth | PointsTruth)]
    with ThreadPoolExecutor() as threads:  # lists files: hides the latency of network file systems
        inspections = list(threads.map(inspect, labelled))
    results = inspect_all(inspections, progress="inspecting ground truth" if progress else None)
    for video, result in zip(labelled, results, strict=True):
        if isinstance(result, UserError):
            report.scan.exclude(video, result)
        else:
            report.truths[video.name] = result
            report.problems += result.problems
    stills = {video.name: video.truth for video in report.scan.videos if isinstance(video.truth, StillTruth)}
    checks, problems = check_stills(stills, thorough=report.thorough, progress=progress)
    report.truths |= checks
    report.problems += problems
    for video in report.scan.layout.generated:
        if video.truth is not None:
            report.truths[video.name] = TruthCheck(sum(video.truth.has(frame) for frame in range(video.num_frames)))


def _hints(root: Path) -> Iterator[str]:
    """Yield hints for a plain folder that may be part of a data set."""
    for dataset in DATASETS.values():
        if dataset.resembles(root):
            yield f"{root}: has parts of {dataset.name}, which requires {dataset.expected}; used as a plain folder"
    parent = root.resolve().parent
    if (dataset_above := recognise(parent)) is not None:
        yield f"{root}: the parent folder is {dataset_above.name}; did you mean {parent}?"
