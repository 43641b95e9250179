"""Import published saliency maps as teacher targets, or average several teachers' maps.

    saldistill cache import DIR [DIR ...] -o STORE [--mean linear|log]

A source is a folder of maps (distill/data/map_files.py: one image per frame, or videos) or the plain view of
another target store. A grey level of 0 can be any value that was rounded down; it is read as half a level, so that
its logarithm is finite.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from distill.claims import claim
from distill.data.map_files import files_of, find_maps, frames_of, read_maps
from distill.data.progress import ProgressBar
from distill.errors import UserError
from distill.files import atomic_folder
from distill.remote import is_address
from distill.saliency import log_density, peak_map
from distill.targets.codec import DEFAULT_CODEC
from distill.targets.fingerprint import hash_of_files
from distill.targets.plan import StoreBatch
from distill.targets.store import TargetStore, first_few
from distill.targets.writer import DiskFullError

MEANS = ("linear", "log")
"""How maps are averaged: "linear" averages densities, which keeps a region that only one source predicts; "log"
averages log-densities, which suppresses a region that one source misses."""


class FolderSource:
    """Import source: a folder of maps.

    Attributes:
        path: the folder.
        frames: video -> frames, 0-based and ascending.

    Raises:
        UserError: the folder does not exist or has no maps, or a name is not a frame number.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._places = find_maps(path)
        if not self._places:
            raise UserError(
                f"{path}: found no maps; expected one folder per video with 0001.png, 0002.png and so on, counted "
                "from 1, or one map video per video"
            )
        self.frames = {video: frames_of(place) for video, place in self._places.items()}

    def files(self) -> list[Path]:
        """Return all its files in a fixed order."""
        return [file for place in self._places.values() for file in files_of(place)]

    def read(self, video: str, frames: Sequence[int], size: tuple[int, int] | None) -> Iterator[np.ndarray]:
        """Yield the log-saliency of frames of a video, float32 (h, w), finite; uniform for a black map.

        Args:
            video: name of the video.
            frames: 0-based and ascending.
            size: (h, w) to resize to; None keeps the size of the maps.
        """
        for levels in read_maps(self._places[video], frames):
            yield np.log(np.maximum(_resized(levels, size), np.float32(0.5)))


class StoreSource:
    """Import source: the plain view of another target store; members as in `FolderSource`.

    Raises:
        UserError: the store is incomplete or damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._store = TargetStore.open(path)
        self._store.require_complete()
        self.frames = self._store.plan.videos

    def files(self) -> list[Path]:
        """See `FolderSource`."""
        return sorted(file for file in self.path.rglob("*") if file.is_file())

    def read(self, video: str, frames: Sequence[int], size: tuple[int, int] | None) -> Iterator[np.ndarray]:
        """See `FolderSource`."""
        for frame in frames:
            log_map = self._store.read(video, frame)
            if size not in (None, log_map.shape):
                log_map = np.log(_resized(peak_map(log_map), size))
            yield log_map


ImportSource = FolderSource | StoreSource


def import_maps(
    sources: Sequence[str | Path],
    out: str | Path,
    *,
    mean: str = "linear",
    codec: str = DEFAULT_CODEC,
    map_size: tuple[int, int] | None = None,
    progress: bool = True,
) -> TargetStore:
    """Create a target store from published maps, or from the mean of several sources' maps.

    Args:
        sources: folders of maps, or target stores. Maps of several sources are normalised to densities and
            averaged.
        out: folder of the new store.
        mean: name in `MEANS`.
        codec: name in `CODECS`.
        map_size: (h, w) of the stored maps; defaults to the size of the first source's first map. Larger maps are
            averaged over areas, smaller ones interpolated.
        progress: show a progress bar.

    Returns:
        The complete store. Nothing is written to `out` before all maps are read, so that the call can be repeated
        once damaged sources are repaired.

    Raises:
        UserError: a source has no maps, unreadable maps, names that are not frame numbers, or different frames than
            the other sources; `out` exists or is being written by another process; no space is left.
    """
    out = Path(out)
    with claim(out, "a store"):
        try:
            _write_import(sources, out, mean=mean, codec=codec, map_size=map_size, progress=progress)
        except DiskFullError as error:
            raise UserError(
                f"{out}: no space left to write ({error.reason}); nothing of the import is kept: free some space "
                "and run the same command again"
            ) from error
    return TargetStore.open(out)


def _write_import(
    sources: Sequence[str | Path],
    out: Path,
    *,
    mean: str,
    codec: str,
    map_size: tuple[int, int] | None,
    progress: bool,
) -> None:
    """Write the store of an import to a claimed folder; see `import_maps`."""
    opened_sources = open_sources(sources)
    frames = opened_sources[0].frames
    if map_size is None:
        video = next(iter(frames))
        h, w = next(opened_sources[0].read(video, frames[video][:1], None)).shape
        map_size = (h, w)
    with atomic_folder(out) as temporary:
        store = TargetStore.create(
            temporary,
            fingerprint=import_fingerprint(opened_sources, mean),
            videos=frames,
            map_size=map_size,
            codec=codec,
            notes={"imported": [str(source) for source in sources], "mean": mean},
        )
        with (
            store,
            ProgressBar(f"importing {out.name}", "map", total=store.plan.num_records, shown=progress) as bar,
        ):
            for batches in store.missing():
                for batch, maps in mean_maps(opened_sources, mean, batches, map_size):
                    store.commit(batch, maps)
                    bar.update(len(maps))


def open_sources(paths: Sequence[str | Path]) -> list[ImportSource]:
    """Open the sources of an import and check that all have maps of the same frames.

    Raises:
        UserError: a source cannot be used, or has other videos or frames than the first.
    """
    if not paths:
        raise UserError("expected at least one folder of maps to import, got none")
    if addresses := [str(path) for path in paths if is_address(path)]:
        raise UserError(f"{addresses[0]}: expected a folder, got an address; pull it with `saldistill cache pull`")
    sources: list[ImportSource] = [
        StoreSource(path) if (path / "store.json").exists() else FolderSource(path) for path in map(Path, paths)
    ]
    first = sources[0]
    for other in sources[1:]:
        _require_frames_of(first, other)
        _require_frames_of(other, first)
    return sources


def _require_frames_of(a: ImportSource, b: ImportSource) -> None:
    """Raise a UserError if `b` lacks a frame that `a` has."""
    absent = [video for video in a.frames if video not in b.frames]
    what = f"maps of {first_few(absent)}" if absent else ""
    for video, frames in a.frames.items():
        if not what and (lacking := sorted(set(frames) - set(b.frames[video]))):
            what = f"map of {video}, frame {first_few(frame + 1 for frame in lacking)}"
    if what:
        raise UserError(
            f"{b.path}: no {what}, which {a.path} has; sources to be averaged must have maps of the same frames"
        )


def import_fingerprint(sources: Sequence[ImportSource], mean: str) -> dict[str, Any]:
    """Return the fingerprint of imported maps: a hash of all files, and how the sources were averaged."""
    files = [file for source in sources for file in source.files()]
    teacher: dict[str, Any] = {"name": "imported", "weights": hash_of_files(files)}
    if len(sources) > 1:
        teacher["variant"] = f"{mean} mean of {len(sources)}"
    return {"teacher": teacher}


def mean_maps(
    sources: Sequence[ImportSource], mean: str, batches: Sequence[StoreBatch], size: tuple[int, int]
) -> Iterator[tuple[StoreBatch, np.ndarray]]:
    """Yield batches in order, each with the mean maps of all sources, log-saliency (n, h, w)."""
    for video, group in groupby(batches, key=lambda batch: batch.video):
        run = list(group)
        frames = [frame for batch in run for frame in batch.frames]
        maps = zip(*(source.read(video, frames, size) for source in sources), strict=True)
        for batch in run:
            yield batch, np.stack([mean_map(next(maps), mean) for _ in batch.frames])


def mean_map(maps: Sequence[np.ndarray], mean: str) -> np.ndarray:
    """Return the mean of log-saliency maps (h, w) of one frame, each normalised to a density first.

    Returns:
        Log-saliency (h, w) float32: for "linear" the logarithm of the mean density, for "log" the mean of the
        log-densities (the geometric mean up to a constant). A single map is returned unchanged.

    Raises:
        UserError: `mean` is not in `MEANS`.
    """
    if mean not in MEANS:
        raise UserError(f"mean: expected one of {', '.join(MEANS)}, got {mean!r}")
    if len(maps) == 1:
        return maps[0]
    logs = log_density(torch.from_numpy(np.stack(maps)))  # (n, h, w)
    return (logs.mean(dim=0) if mean == "log" else logs.logsumexp(dim=0) - np.log(len(maps))).numpy()


def _resized(values: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
    """Resize one map (h, w), non-negative, with antialiased bilinear interpolation."""
    if size in (None, values.shape):
        return values
    assert size is not None
    return np.asarray(Image.fromarray(values).resize(size[::-1], Image.Resampling.BILINEAR))
