"""`saldistill data check ROOT`: what a folder holds, what is missing or broken, and what would be used."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from distill.data import DATASETS, dhf1k, folder, hollywood2, ntire, shots, ucf_sports
from distill.data.clips import Video
from distill.data.scan import Scan
from distill.data.video import describe
from distill.errors import UserError


@dataclass
class Report:
    """What a folder holds.

    Attributes:
        root: the folder.
        scan: its videos, broken ones, layout and splits.
        labelled: for each video, how many of its frames have fixations.
        complaints: everything that is missing or wrong in the ground truth, one sentence each.
    """

    root: Path
    scan: Scan
    labelled: dict[str, int] = field(default_factory=dict)
    complaints: list[str] = field(default_factory=list)

    def table(self) -> str:
        """Return the report as text: the whole, a line a video, then everything that is missing or broken."""
        videos = self.scan.videos
        lines = [f"{self.root}: {self.scan.dataset}, {self.scan.layout}", ""]
        lines += [f"  {what:<22}{value}" for what, value in self._whole(videos)]
        width = max(len(video.name) for video in videos)
        head = f"  {'video':<{width}}  {'frames':>7}  {'size':>10}  {'rate':>6}  frames with fixations"
        lines += ["", head]
        for video in videos:
            size = f"{video.size[1]}x{video.size[0]}"
            truth = f"{self.labelled[video.name]}" if video.truth is not None else "unlabelled"
            lines.append(f"  {video.name:<{width}}  {video.num_frames:>7}  {size:>10}  {video.fps:>6.4g}  {truth}")
        if self.scan.broken:
            lines += ["", f"Broken, left out ({len(self.scan.broken)}):"]
            lines += [f"  {why}" for why in self.scan.broken.values()]
        if self.complaints:
            lines += ["", f"Missing or wrong in the ground truth ({len(self.complaints)}):"]
            lines += [f"  {complaint}" for complaint in self.complaints]
        if not self.scan.broken and not self.complaints:
            lines += ["", "Nothing is missing or broken."]
        return "\n".join(lines)

    def _whole(self, videos: list[Video]) -> list[tuple[str, str]]:
        labelled = [video for video in videos if video.truth is not None]
        sizes = Counter(f"{video.size[1]}x{video.size[0]}" for video in videos)
        rates = Counter(f"{video.fps:.4g}" for video in videos)
        return [
            ("videos", f"{len(videos)} ({len(labelled)} with ground truth, {len(videos) - len(labelled)} without)"),
            ("frames", f"{sum(v.num_frames for v in videos)} ({sum(self.labelled.values())} with fixations)"),
            ("sizes", ", ".join(f"{size} ({count})" for size, count in sizes.most_common())),
            ("frames a second", ", ".join(f"{rate} ({count})" for rate, count in rates.most_common())),
            ("splits (on the disk)", ", ".join(f"{name} {count}" for name, count in self.scan.splits.items())),
        ]


def check(root: str | Path, dataset: str | None = None, *, progress: bool = True) -> Report:
    """Examine a folder: every video's packets and end, every ground truth file's presence.

    Args:
        root: the folder.
        dataset: which data set it is; recognised when None.
        progress: show bars.

    Raises:
        UserError: if there is no such folder or data set, or nothing usable is there.
    """
    root = Path(root)
    if dataset is not None and dataset not in DATASETS:
        raise UserError(f"there is no data set '{dataset}'; there are {', '.join(DATASETS)}")
    scan = DATASETS[dataset or recognise(root)](root, progress=progress)
    if not scan.videos:
        reasons = "; ".join(scan.broken.values()) or f"found {describe(root)}"
        raise UserError(f"{root}: nothing usable is here as {scan.dataset} ({scan.layout}): {reasons}")
    report = Report(root, scan)
    bar = tqdm(scan.videos, desc="checking ground truth", unit="video", disable=not progress, leave=False)
    for video in bar:
        if video.truth is None:
            continue
        try:
            report.labelled[video.name] = sum(video.truth.has(frame) for frame in range(video.num_frames))
            report.complaints += video.truth.complaints(video.num_frames)
        except UserError as error:
            report.labelled[video.name] = 0
            report.complaints.append(str(error))
    missing = [video.name for video in scan.videos if video.truth is None]
    if missing and report.labelled:
        report.complaints.append(f"no ground truth for {len(missing)} videos: {', '.join(missing)}")
    return report


def recognise(root: Path) -> str:
    """Return the name of the data set whose layout a folder has; a plain folder when it has videos of no layout.

    Raises:
        UserError: if there is neither a layout nor a video.
    """
    if root.is_dir() and ntire.fits(root):
        return "ntire"
    for name, shot in (("hollywood2", hollywood2.SHOT), ("ucf_sports", ucf_sports.SHOT)):
        if root.is_dir() and shots.find(root, shot):
            return name
    if root.is_dir() and dhf1k.find(root)[1]:
        return "dhf1k"
    if root.exists() and folder.find(root):
        return "folder"
    if not root.exists():
        raise UserError(f"{root}: there is no such folder; expected the root of a data set, or videos")
    raise UserError(
        f"{root}: no data set is recognised here; expected {dhf1k.EXPECTED} (dhf1k), {hollywood2.EXPECTED} "
        f"(hollywood2), {ucf_sports.EXPECTED} (ucf_sports), {ntire.EXPECTED} (ntire), or any "
        f"videos or folders of frames; found {describe(root)}"
    )
