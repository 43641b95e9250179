"""`saldistill data check ROOT`: what a folder holds, what is missing or broken, and what would be used."""

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from distill.data.clips import Video
from distill.data.sets import dhf1k, folder, hollywood2, ntire, shots, ucf_sports
from distill.data.sets.find import DATASETS
from distill.data.sets.scan import Scan, look_at
from distill.data.text import plural
from distill.data.truth import MapsTruth, PointsTruth
from distill.data.truth_check import TruthCheck, truth_question
from distill.data.video.known import learn
from distill.data.video.names import describe
from distill.errors import UserError

LISTED = 50
"""Videos up to which each has a line of its own."""

SHORT = 16
"""Frames of a clip in most papers of the field; shorter videos are counted."""


@dataclass
class Report:
    """What a folder holds.

    Attributes:
        root: the folder.
        scan: its videos, broken ones, layout and splits.
        thorough: whether everything was decoded.
        truths: for each video with ground truth, what was found there.
        complaints: everything else that is missing, wrong or odd, one sentence each.
    """

    root: Path
    scan: Scan
    thorough: bool = False
    truths: dict[str, TruthCheck] = field(default_factory=dict)
    complaints: list[str] = field(default_factory=list)

    def require_usable(self) -> None:
        """Say if there is nothing to work with.

        Raises:
            UserError: if no video can be used.
        """
        if not self.scan.videos:
            broken = f"; {plural(len(self.scan.broken), 'video')} broken" if self.scan.broken else ""
            raise UserError(f"{self.root}: nothing usable is here as {self.scan.dataset}{broken}")

    def table(self, *, every_video: bool = False) -> str:
        """Return the report as text: the whole, the splits, the videos, then everything missing or broken.

        Args:
            every_video: a line a video however many there are.
        """
        lines = [f"{self.root}: {self.scan.dataset}, {self.scan.layout}", ""]
        lines += [f"  {what:<18}{value}" for what, value in self._whole()]
        lines += ["", *self._splits()]
        if self.scan.videos and (every_video or len(self.scan.videos) <= LISTED):
            lines += ["", *self._videos()]
        lines += _section("Broken, left out", list(self.scan.broken.values()))
        lines += _section("Missing, wrong or odd", self.complaints)
        if not self.scan.broken and not self.complaints:
            lines += ["", "Nothing is missing or broken."]
        return "\n".join(lines)

    def labelled(self, videos: Sequence[Video]) -> int:
        """Return how many frames of some videos have fixations."""
        return sum(self.truths[video.name].labelled for video in videos if video.truth is not None)

    def _whole(self) -> Iterator[tuple[str, str]]:
        videos = self.scan.videos
        known = sum(video.truth is not None for video in videos)
        yield "videos", f"{len(videos)} usable ({known} with ground truth), {len(self.scan.broken)} broken"
        yield "frames", f"{sum(v.num_frames for v in videos)} ({self.labelled(videos)} with fixations)"
        yield "sizes", _counted(f"{video.size[1]}x{video.size[0]}" for video in videos)
        yield "frames a second", _counted(f"{video.fps:.5g}" for video in videos)
        forms = sum((truth.forms for truth in self.truths.values()), Counter[str]())
        for number, (form, count) in enumerate(sorted(forms.items())):
            yield "" if number else "ground truth", f"{count} {form}"
        if short := sum(video.num_frames < SHORT for video in videos):
            yield "short", f"{plural(short, 'video')} of fewer than {SHORT} frames; their first one is repeated"
        yield "looked at", "every frame and picture" if self.thorough else "heads and ends (--thorough: everything)"

    def _splits(self) -> Iterator[str]:
        """Say what training and evaluation would use."""
        by_name = {video.name: video for video in self.scan.videos}
        yield _row("split", "published", "here", "usable", "labelled", "frames", "fixated")
        for split, count in self.scan.splits.items():
            usable = [by_name[name] for name in self.scan.members.get(split, ()) if name in by_name]
            labelled = [video for video in usable if video.truth is not None]
            frames = sum(video.num_frames for video in labelled)
            published = self.scan.published.get(split, "-")
            yield _row(split, published, count, len(usable), len(labelled), frames, self.labelled(labelled))
        yield "  Training on gaze and scoring use the fixated frames of labelled videos; a teacher labels any."

    def _videos(self) -> Iterator[str]:
        width = max(len("video"), *(len(video.name) for video in self.scan.videos))
        yield f"  {'video':<{width}}  {'frames':>7}  {'size':>10}  {'rate':>6}  fixated frames"
        for video in self.scan.videos:
            size = f"{video.size[1]}x{video.size[0]}"
            truth = f"{self.labelled([video])}" if video.truth is not None else "unlabelled"
            yield f"  {video.name:<{width}}  {video.num_frames:>7}  {size:>10}  {video.fps:>6.5g}  {truth}"


def _row(split: str, *values: object) -> str:
    return f"  {split:<12}" + "".join(f"{value!s:>11}" for value in values)


def _counted(values: Iterator[str]) -> str:
    return ", ".join(f"{value} ({count})" for value, count in Counter(values).most_common()) or "-"


def _section(title: str, sentences: Sequence[str]) -> list[str]:
    return ["", f"{title} ({len(sentences)}):", *(f"  {sentence}" for sentence in sentences)] if sentences else []


def check(root: str | Path, dataset: str | None = None, *, thorough: bool = False, progress: bool = True) -> Report:
    """Examine a folder: every video's packets and end, every ground truth file's head and end.

    What was examined before and has not changed since is not examined again.

    Args:
        root: the folder.
        dataset: which data set it is; recognised when None.
        thorough: decode every frame and every picture.
        progress: show bars.

    Raises:
        UserError: if there is no such folder or data set.
    """
    root = Path(root)
    if dataset is not None and dataset not in DATASETS:
        raise UserError(f"there is no data set '{dataset}'; there are {', '.join(DATASETS)}")
    scan = DATASETS[dataset or recognise(root)](root, progress=progress)
    report = Report(root, scan, thorough, complaints=list(scan.remarks))
    if dataset is None and scan.dataset == "folder":
        report.complaints += _hints(root)
    _look_closely(report, progress=progress)
    _look_at_truths(report, progress=progress)
    withheld = set(scan.members.get(scan.withheld, ()))
    blind = [video.name for video in scan.videos if video.truth is None and video.name not in withheld]
    if blind and report.truths:
        report.complaints.append(f"no ground truth for {plural(len(blind), 'video')}: {', '.join(blind)}")
    return report


def _look_closely(report: Report, *, progress: bool) -> None:
    """Examine the videos that can be used once more, as closely as a report asks; note what is odd about them."""
    scan = report.scan
    videos = [video for video in scan.videos if video.path.exists()]  # generated ones have no file
    bar = "looking at every frame" if progress else None
    found = look_at([video.path for video in videos], progress=bar, thorough=report.thorough, anew=True)
    for video, seen in zip(videos, found, strict=True):
        if isinstance(seen, UserError):
            scan.broken[video.name] = str(seen)
            scan.videos.remove(video)
        else:
            report.complaints += [f"{video.path}: {remark}" for remark in seen.remarks]


def _look_at_truths(report: Report, *, progress: bool) -> None:
    """Examine the ground truth of all videos that can be used."""
    labelled = [video for video in report.scan.videos if isinstance(video.truth, MapsTruth | PointsTruth)]
    with ThreadPoolExecutor() as threads:  # going through the files' times: a disk far away answers several at once
        questions = list(
            threads.map(
                lambda video: truth_question(video.truth, video.num_frames, thorough=report.thorough), labelled
            )
        )
    answers = learn(questions, progress="looking at ground truth" if progress else None)
    for video, answer in zip(labelled, answers, strict=True):
        if isinstance(answer, UserError):
            report.scan.broken[video.name] = str(answer)
            report.scan.videos.remove(video)
        else:
            report.truths[video.name] = answer
            report.complaints += answer.complaints
    for video in report.scan.videos:  # generated ground truth has no files
        if video.truth is not None and video.name not in report.truths:
            report.truths[video.name] = TruthCheck(sum(video.truth.has(frame) for frame in range(video.num_frames)))


def recognise(root: Path) -> str:
    """Return the name of the data set whose layout a folder has; a plain folder when it has videos of no layout.

    Raises:
        UserError: if there is neither a layout nor a video.
    """
    if found := _layout(root):
        return found
    if root.exists() and folder.find(root):
        return "folder"
    if not root.exists():
        raise UserError(f"{root}: there is no such folder; expected the root of a data set, or videos")
    raise UserError(
        f"{root}: no data set is recognised here; expected {dhf1k.EXPECTED} (dhf1k), {hollywood2.EXPECTED} "
        f"(hollywood2), {ucf_sports.EXPECTED} (ucf_sports), {ntire.EXPECTED} (ntire), or any "
        f"videos or folders of frames; found {describe(root)}"
    )


def _hints(root: Path) -> Iterator[str]:
    """Say if a folder that is no data set was perhaps meant to be one."""
    if ntire.has_fixations(root):
        yield f"{root}: fixations as in ntire, which needs {ntire.EXPECTED}; without these it is a plain folder"
    if (above := _layout(root.resolve().parent)) is not None:
        yield f"{root}: the folder above is {above}; did you mean {root.resolve().parent}?"


def _layout(root: Path) -> str | None:
    """Return the data set with a layout of its own that a folder holds; None where it is none of them."""
    if not root.is_dir():
        return None
    if ntire.fits(root):
        return "ntire"
    for name, shot in (("hollywood2", hollywood2.SHOT), ("ucf_sports", ucf_sports.SHOT)):
        if shots.find(root, shot):
            return name
    return "dhf1k" if dhf1k.find(root)[1] else None
