"""Export a target store's maps as PNG files, or as the videos of the AIM 2024 and NTIRE 2026 challenges.

    saldistill cache export STORE -o DIR [--as png|video|video8]

Every exported map is read back and compared with the store, and the correlation is reported.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from distill.claims import claim
from distill.data.map_files import read_maps, write_map_video
from distill.data.progress import ProgressBar
from distill.data.video.image_folder import FOLDER_FPS
from distill.data.video.open import open_size
from distill.errors import UserError
from distill.files import atomic_folder
from distill.paths import path_inside
from distill.saliency import peak_map
from distill.targets.store import TargetStore, as_store, first_few
from distill.targets.verify import correlation

FORMS = {
    "png": "DIR/VIDEO/0001.png and so on, 8 bits, each map's maximum 255",
    "video": "DIR/VIDEO.mp4, one frame per map, 10 bits, each map scaled to 0 to 1023",
    "video8": "the same with 8 bits, scaled to 0 to 255",
}
"""Export formats and their descriptions."""


@dataclass(frozen=True)
class ExportedMaps:
    """Result of `export_maps`: the folder, what it contains, and the CC of each map with that of the store."""

    out: Path
    maps: int
    videos: int
    mean_cc: float
    min_cc: float

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {**asdict(self), "out": str(self.out)}

    def __str__(self) -> str:
        return (
            f"{self.out}: {self.maps} maps of {self.videos} videos; mean CC with the target store "
            f"{self.mean_cc:.6f} (at least {self.min_cc:.6f})"
        )


def export_maps(
    store: TargetStore | str | Path,
    out: str | Path,
    *,
    form: str = "png",
    view: str = "plain",
    progress: bool = True,
) -> ExportedMaps:
    """Write a store's maps as 8-bit PNG files, or as lossless grey H.264 videos with 10 or 8 bits.

    PNG maps are divided by their maximum. Video maps are min-max normalised, as in the challenges; a video has one
    map per frame, starting with the first frame, and the frame rate of the original video if that can still be
    opened (otherwise 30 fps). Nothing is written to `out` before all maps are exported.

    Returns:
        The number of maps and their CC with those of the store.

    Raises:
        UserError: `out` exists or is being written by another process, `form` is unknown, the store is incomplete,
            damaged, or lacks that view, or videos are requested and the store does not cover every frame.
    """
    store, out = as_store(store), Path(out)
    if form not in FORMS:
        raise UserError(f"form: expected one of {', '.join(FORMS)}, got {form!r}")
    if view not in store.plan.views:
        raise UserError(f"{store.path}: no {view} view; the target store has {', '.join(store.plan.views)}")
    store.require_complete()
    if form != "png":
        _require_all_frames(store)
    total = sum(len(frames) for frames in store.plan.videos.values())
    correlations = []
    with (
        claim(out, "the folder of maps"),
        atomic_folder(out) as folder,
        ProgressBar(f"exporting {store.name}", "map", total=total, shown=progress, result=False) as bar,
    ):
        for video, frames in store.plan.videos.items():
            target = path_inside(folder, video, store.path, suffix="" if form == "png" else ".mp4")
            target.parent.mkdir(parents=True, exist_ok=True)
            if form == "png":
                _write_pngs(store, video, view, target)
            else:
                bits = 8 if form == "video8" else 10
                write_map_video(target, _min_max_maps(store, video, view), fps=_fps(store, video), bits=bits)
            for frame, levels in zip(frames, read_maps(target, frames), strict=True):
                correlations.append(correlation(levels, peak_map(store.read(video, frame, view))))
                bar.update()
    store.close()
    return ExportedMaps(out, total, len(store.plan.videos), float(np.mean(correlations)), float(min(correlations)))


def _write_pngs(store: TargetStore, video: str, view: str, folder: Path) -> None:
    folder.mkdir()
    for frame in store.plan.videos[video]:
        grey = np.rint(255 * peak_map(store.read(video, frame, view))).astype(np.uint8)
        Image.fromarray(grey).save(folder / f"{frame + 1:04d}.png")


def _min_max_maps(store: TargetStore, video: str, view: str) -> Iterator[np.ndarray]:
    """Yield the maps (h, w) of a video, min-max normalised; a constant map is all ones."""
    for frame in store.plan.videos[video]:
        values = peak_map(store.read(video, frame, view))
        lowest = values.min()
        yield (values - lowest) / (1 - lowest) if lowest < 1 else values


def _require_all_frames(store: TargetStore) -> None:
    """Raise a UserError if a video has a frame without a map, up to the last frame with one."""
    partial = [video for video, frames in store.plan.videos.items() if len(frames) != frames[-1] + 1]
    if partial:
        raise UserError(
            f"{store.path}: a map video needs a map of every frame, and the target store lacks some of "
            f"{first_few(partial)}; export PNG files, or cache all frames"
        )


def _fps(store: TargetStore, video: str) -> float:
    """Return the frame rate of the original video if it can still be opened."""
    note = store.notes.get("videos", {}).get(video)
    try:
        return open_size(note["path"])[1] if note else FOLDER_FPS
    except UserError:
        return FOLDER_FPS
