"""Anybody's published maps as teacher targets.

    saldistill cache import DIR -o STORE

A folder of PNG files a video, `<video>/0001.png` for its first frame, becomes a store like any other. 8 bits say
little of the dark parts: what is stored as 0 can be anything up to half a grey level, and is taken for that, so
that its logarithm is finite.
"""

from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from distill.errors import UserError
from distill.files import atomic_folder, refuse_existing
from distill.targets.fingerprint import hash_of_files
from distill.targets.store import TargetStore


def import_maps(
    folder: str | Path,
    out: str | Path,
    *,
    codec: str = "log8",
    map_size: tuple[int, int] | None = None,
    batch_size: int = 8,
    batches_per_shard: int = 64,
    progress: bool = True,
) -> TargetStore:
    """Make a store of maps that somebody published as PNG files by frame.

    Args:
        folder: with one folder a video, whose PNG files are named by frame, counted from 1; 8 or 16 bits, grey
            (of colour pictures the luminance is taken).
        out: the store to make.
        codec: a name in `CODECS`.
        map_size: (h, w) to store at; the first map's own when None. Larger maps are averaged over areas.
        batch_size: as in `TargetStore.create`.
        batches_per_shard: as in `TargetStore.create`.
        progress: show a bar.

    Returns:
        The store, complete. A black map counts as uniform. Nothing appears under `out` before all maps are read,
        so that a repaired folder can be imported with the same call.

    Raises:
        UserError: no maps, names that are no numbers, pictures that cannot be read, or a store that exists.
    """
    folder, out = Path(folder), Path(out)
    refuse_existing(out, "a store")
    files = _find(folder)
    if map_size is None:
        h, w = _read(next(iter(next(iter(files.values())).values())), None).shape
        map_size = (h, w)
    fingerprint = {
        "teacher": {
            "name": "imported",
            "weights": hash_of_files([file for maps in files.values() for file in maps.values()]),
        }
    }
    if out.is_dir():
        out.rmdir()  # an empty one; the finished store takes its place
    with atomic_folder(out) as temporary:
        store = TargetStore.create(
            temporary,
            fingerprint=fingerprint,
            videos={video: list(maps) for video, maps in files.items()},
            map_size=map_size,
            codec=codec,
            batch_size=batch_size,
            batches_per_shard=batches_per_shard,
            notes={"imported": str(folder)},
        )
        with store, tqdm(total=store.plan.num_records, unit="map", desc="importing", disable=not progress) as bar:
            for batch in (batch for batches in store.missing() for batch in batches):
                maps = np.stack([_read(files[batch.video][frame], map_size) for frame in batch.frames])
                store.commit(batch, maps)
                bar.update(len(maps))
    return TargetStore.open(out)


def _find(folder: Path) -> dict[str, dict[int, Path]]:
    """Return video -> frame (from 0) -> file, in order."""
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder of maps")
    files: dict[str, dict[int, Path]] = {}
    for file in sorted(folder.rglob("*.png")):
        relative = file.relative_to(folder)
        if any(part.startswith(".") for part in relative.parts) or len(relative.parts) == 1:
            continue
        if not file.stem.isdecimal() or int(file.stem) < 1:
            raise UserError(f"{file}: expected a map's name to be its frame, counted from 1, such as 0001.png")
        maps = files.setdefault(relative.parent.as_posix(), {})
        frame = int(file.stem) - 1
        if frame in maps:
            raise UserError(f"{file}: {maps[frame].name} is the same frame; remove one of the two")
        maps[frame] = file
    if not files:
        raise UserError(f"{folder}: found no maps; expected a folder a video with 0001.png, 0002.png and so on")
    return {video: dict(sorted(maps.items())) for video, maps in files.items()}


def _read(path: Path, size: tuple[int, int] | None) -> np.ndarray:
    """Return one picture's map as log-saliency (h, w), float32."""
    try:
        with Image.open(path) as picture:
            deep = picture.mode.startswith("I") or picture.mode == "F"
            grey = picture.convert("F" if deep else "L").convert("F")
            if size is not None and grey.size != size[::-1]:
                grey = grey.resize(size[::-1], Image.Resampling.BILINEAR)
            values = np.asarray(grey, dtype=np.float32)
    except (OSError, ValueError, SyntaxError) as error:
        raise UserError(f"{path}: not a picture that can be read ({error})") from error
    return np.log(np.maximum(values, 0.5))
