"""A store's maps for others: pictures by frame, or videos as the AIM 2024 and NTIRE 2026 challenges have them.

    saldistill cache export STORE -o DIR [--as png|video|video8]

What is written is read back and compared with the store: an export says what it lost.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from distill.data.map_files import read_maps, write_map_video
from distill.data.video.image_folder import FOLDER_FPS
from distill.data.video.open import open_size
from distill.errors import UserError
from distill.files import atomic_folder, refuse_existing
from distill.saliency import peak_map
from distill.targets.build import opened
from distill.targets.store import TargetStore, some
from distill.targets.verify import correlation

FORMS = {
    "png": "DIR/VIDEO/0001.png and so on, 8 bits, each map's maximum 255",
    "video": "DIR/VIDEO.mp4, a frame a map, 10 bits, each map from 0 to 1023",
    "video8": "the same in 8 bits, from 0 to 255",
}
"""How maps are written -> in words."""


def export_maps(
    store: TargetStore | str | Path,
    out: str | Path,
    *,
    form: str = "png",
    view: str = "plain",
    progress: bool = True,
) -> str:
    """Write a store's maps as 8-bit PNG files, or as lossless grey H.264 videos of 10 or 8 bits.

    Pictures are divided by their maximum. The maps of videos go from 0 to the most there is, as in the challenges
    (min-max normalised); a video has a map for each frame from the first on, and the rate of the video it is of
    where that is still to be found (else 30 frames a second). Nothing appears under `out` before all is done.

    Returns:
        One line that says what was written, and how far the maps that are read back are from those of the store.

    Raises:
        UserError: `out` exists, there is no such form, the store is incomplete, damaged, or without that view, or a
            video is asked for where frames are missing before the last one.
    """
    store, out = opened(store), Path(out)
    refuse_existing(out, "the folder of maps")
    if form not in FORMS:
        raise UserError(f"form: expected one of {', '.join(FORMS)}, got {form!r}")
    if view not in store.plan.views:
        raise UserError(f"{store.path}: it has no {view} view; it has {', '.join(store.plan.views)}")
    if not store.complete:
        raise UserError(f"{store.path}: the store is not complete; go on with `saldistill cache build` first")
    if form != "png":
        _require_whole_videos(store)
    if out.is_dir():
        out.rmdir()  # an empty one; the finished folder takes its place
    total = sum(len(frames) for frames in store.plan.videos.values())
    correlations = []
    with atomic_folder(out) as folder, tqdm(total=total, unit="map", disable=not progress) as bar:
        for video, frames in store.plan.videos.items():
            place = folder / video if form == "png" else folder / f"{video}.mp4"
            place.parent.mkdir(parents=True, exist_ok=True)
            if form == "png":
                _write_pictures(store, video, view, place)
            else:
                write_map_video(place, _stretched(store, video, view), fps=_fps(store, video), bits=_bits(form))
            for frame, levels in zip(frames, read_maps(place, frames), strict=True):
                correlations.append(correlation(levels, peak_map(store.read(video, frame, view))))
                bar.update()
    store.close()
    return (
        f"{total} maps of {len(store.plan.videos)} videos: {out}; read back, their CC with the store's is "
        f"{np.mean(correlations):.6f} (at least {min(correlations):.6f})"
    )


def _bits(form: str) -> int:
    return 8 if form == "video8" else 10


def _write_pictures(store: TargetStore, video: str, view: str, folder: Path) -> None:
    folder.mkdir()
    for frame in store.plan.videos[video]:
        grey = np.rint(255 * peak_map(store.read(video, frame, view))).astype(np.uint8)
        Image.fromarray(grey).save(folder / f"{frame + 1:04d}.png")


def _stretched(store: TargetStore, video: str, view: str) -> Iterator[np.ndarray]:
    """Yield the maps (h, w) of a video stretched from 0 to 1; a constant one is all ones."""
    for frame in store.plan.videos[video]:
        values = peak_map(store.read(video, frame, view))
        lowest = values.min()
        yield (values - lowest) / (1 - lowest) if lowest < 1 else values


def _require_whole_videos(store: TargetStore) -> None:
    """Refuse videos whose maps do not follow one another from the first frame on."""
    broken = [video for video, frames in store.plan.videos.items() if len(frames) != frames[-1] + 1]
    if broken:
        raise UserError(
            f"{store.path}: a video of maps has one for each frame from the first on, and the store lacks some of "
            f"{some(broken)}; export PNG files, or cache all frames"
        )


def _fps(store: TargetStore, video: str) -> float:
    """Return the frames a second of the video that maps are of, where it can still be found."""
    note = store.notes.get("videos", {}).get(video)
    try:
        return open_size(note["path"])[1] if note else FOLDER_FPS
    except UserError:
        return FOLDER_FPS
