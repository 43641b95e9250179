"""Anybody's published maps as teacher targets; several teachers' maps averaged into one.

    saldistill cache import DIR [DIR ...] -o STORE [--mean linear|log]

A source is a folder of maps (distill/map_files.py: pictures by frame, or videos) or another store, whose plain view
is read. Grey levels say little of the dark parts: what is stored as 0 can be anything up to half a level, and is
taken for that, so that its logarithm is finite.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from distill.data.map_files import files_of, find_maps, frames_of, read_maps
from distill.errors import UserError
from distill.files import atomic_folder, refuse_existing
from distill.saliency import log_density, peak_map
from distill.targets.fingerprint import hash_of_files
from distill.targets.plan import Batch
from distill.targets.store import TargetStore, some

MEANS = ("linear", "log")
"""The first averages densities: what one source sees stays. The second their logarithms: what one misses fades."""


class Folder:
    """A source: a folder of maps.

    Attributes:
        path: the folder.
        frames: video -> its frames, 0-based and ascending.

    Raises:
        UserError: there is no such folder, there are no maps in it, or their names are no frames.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._places = find_maps(path)
        if not self._places:
            raise UserError(
                f"{path}: found no maps; expected a folder a video with 0001.png, 0002.png and so on, counted from "
                "1, or a video of maps a video"
            )
        self.frames = {video: frames_of(place) for video, place in self._places.items()}

    def files(self) -> list[Path]:
        """Return all files that it is made of, in a fixed order."""
        return [file for place in self._places.values() for file in files_of(place)]

    def read(self, video: str, frames: Sequence[int], size: tuple[int, int] | None) -> Iterator[np.ndarray]:
        """Yield log-saliency (h, w) float32, finite, of frames of a video, resized; at its own size when None.

        A black map is uniform.
        """
        for levels in read_maps(self._places[video], frames):
            yield np.log(np.maximum(_resized(levels, size), np.float32(0.5)))


class Stored:
    """A source: another store, of which the plain view is read. As `Folder` otherwise.

    Raises:
        UserError: it is not complete, or damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._store = TargetStore.open(path)
        if not self._store.complete:
            raise UserError(f"{path}: the store is not complete; go on with `saldistill cache build` first")
        self.frames = self._store.plan.videos

    def files(self) -> list[Path]:
        """See `Folder`."""
        return sorted(file for file in self.path.rglob("*") if file.is_file())

    def read(self, video: str, frames: Sequence[int], size: tuple[int, int] | None) -> Iterator[np.ndarray]:
        """See `Folder`."""
        for frame in frames:
            log_map = self._store.read(video, frame)
            if size not in (None, log_map.shape):
                log_map = np.log(_resized(peak_map(log_map), size))
            yield log_map


Source = Folder | Stored


def import_maps(
    sources: Sequence[str | Path],
    out: str | Path,
    *,
    mean: str = "linear",
    codec: str = "log8",
    map_size: tuple[int, int] | None = None,
    batch_size: int = 8,
    batches_per_shard: int = 64,
    progress: bool = True,
) -> TargetStore:
    """Make a store of maps that somebody published, or of the mean of several sources' maps.

    Args:
        sources: folders of maps, or stores. Of several, the maps of a frame are made densities and averaged.
        out: the store to make.
        mean: of several sources: of the densities (linear), or of their logarithms (log).
        codec: a name in `CODECS`.
        map_size: (h, w) to store at; that of the first source's first map when None. Larger maps are averaged over
            areas, smaller ones interpolated.
        batch_size: as in `TargetStore.create`.
        batches_per_shard: as in `TargetStore.create`.
        progress: show a bar.

    Returns:
        The store, complete. Nothing appears under `out` before all maps are read, so that repaired sources can be
        imported with the same call.

    Raises:
        UserError: no maps, names that are no numbers, frames that only some of the sources have, maps that cannot
            be read, or a store that exists.
    """
    out = Path(out)
    refuse_existing(out, "a store")
    opened = open_sources(sources)
    frames = opened[0].frames
    if map_size is None:
        video = next(iter(frames))
        h, w = next(opened[0].read(video, frames[video][:1], None)).shape
        map_size = (h, w)
    if out.is_dir():
        out.rmdir()  # an empty one; the finished store takes its place
    with atomic_folder(out) as temporary:
        store = TargetStore.create(
            temporary,
            fingerprint=fingerprint_of(opened, mean),
            videos=frames,
            map_size=map_size,
            codec=codec,
            batch_size=batch_size,
            batches_per_shard=batches_per_shard,
            notes={"imported": [str(source) for source in sources], "mean": mean},
        )
        with store, tqdm(total=store.plan.num_records, unit="map", desc="importing", disable=not progress) as bar:
            for batches in store.missing():
                for batch, maps in mean_maps(opened, mean, batches, map_size):
                    store.commit(batch, maps)
                    bar.update(len(maps))
    return TargetStore.open(out)


def open_sources(paths: Sequence[str | Path]) -> list[Source]:
    """Open the sources of an import, and check that all have maps of the same frames.

    Raises:
        UserError: one cannot be used, or has other videos or frames than the first; it names them.
    """
    if not paths:
        raise UserError("name at least one folder of maps to import")
    opened: list[Source] = [
        Stored(path) if (path / "store.json").exists() else Folder(path) for path in map(Path, paths)
    ]
    first = opened[0]
    for other in opened[1:]:
        for a, b in ((first, other), (other, first)):
            if only := [video for video in a.frames if video not in b.frames]:
                raise UserError(
                    f"{b.path}: has no maps of {some(only)}, and {a.path} has; all sources must have the same "
                    "frames to be averaged"
                )
            for video, frames in a.frames.items():
                if only_frames := sorted(set(frames) - set(b.frames[video])):
                    raise UserError(
                        f"{b.path}: has no map of {video}, frame {some([frame + 1 for frame in only_frames])}, and "
                        f"{a.path} has; all sources must have the same frames to be averaged"
                    )
    return opened


def fingerprint_of(sources: Sequence[Source], mean: str) -> dict[str, Any]:
    """Say what imported maps were made from: the content of all files, and how several sources were averaged."""
    files = [file for source in sources for file in source.files()]
    made: dict[str, Any] = {"name": "imported", "weights": hash_of_files(files)}
    if len(sources) > 1:
        made["variant"] = f"{mean} mean of {len(sources)}"
    return {"teacher": made}


def mean_maps(
    sources: Sequence[Source], mean: str, batches: Sequence[Batch], size: tuple[int, int]
) -> Iterator[tuple[Batch, np.ndarray]]:
    """Read batches in their order; yield each with its maps (n, h, w), log-saliency, the mean of all sources."""
    for video, group in groupby(batches, key=lambda batch: batch.video):
        run = list(group)
        frames = [frame for batch in run for frame in batch.frames]
        maps = zip(*(source.read(video, frames, size) for source in sources), strict=True)
        for batch in run:
            yield batch, np.stack([mean_of(next(maps), mean) for _ in batch.frames])


def mean_of(maps: Sequence[np.ndarray], mean: str) -> np.ndarray:
    """Average log-saliency maps (h, w) of one frame, each made a density first; a single one stays as it is.

    Returns:
        Log-saliency (h, w) float32: "linear" is the logarithm of the densities' mean; "log" the mean of their
        logarithms, which is the normalised geometric mean up to a constant.

    Raises:
        UserError: there is no such mean.
    """
    if mean not in MEANS:
        raise UserError(f"mean: expected one of {', '.join(MEANS)}, got {mean!r}")
    if len(maps) == 1:
        return maps[0]
    logs = log_density(torch.from_numpy(np.stack(maps)))  # (n, h, w)
    averaged: np.ndarray = (
        logs.mean(dim=0) if mean == "log" else logs.logsumexp(dim=0) - np.log(len(maps))
    ).numpy()
    return averaged


def _resized(values: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
    """Resize one map (h, w), non-negative: antialiased bilinear."""
    if size in (None, values.shape):
        return values
    assert size is not None
    return np.asarray(Image.fromarray(values).resize(size[::-1], Image.Resampling.BILINEAR))
