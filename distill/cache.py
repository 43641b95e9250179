"""The cache of teacher maps: computing them once, looking at them, checking them, handing them on.

    saldistill cache build CONFIG          saldistill cache verify STORE [--teacher MODEL]
    saldistill cache info STORE            saldistill cache export STORE -o DIR

Every map is computed in the batch that the store's plan puts it in, so that it does not depend on who computed it,
or on how often the work was interrupted.
"""

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from tqdm import tqdm

from distill.data.clips import ClipSpec, Video
from distill.errors import UserError
from distill.files import atomic_folder, refuse_existing
from distill.models import check_precision
from distill.saliency import peak_map
from distill.sliding import slide
from distill.targets.codec import CODECS
from distill.targets.fingerprint import fingerprint
from distill.targets.importer import import_maps
from distill.targets.plan import Batch
from distill.targets.store import TargetStore

__all__ = ["VerifyReport", "build", "export_png", "fingerprint", "import_maps", "info", "verify"]

log = logging.getLogger(__name__)


def build(
    model: Any,
    videos: Sequence[Video],
    path: str | Path,
    *,
    codec: str = "log8",
    views: Sequence[str] = ("plain",),
    stride: int = 1,
    batch_size: int = 8,
    batches_per_shard: int = 64,
    device: str | torch.device | None = None,
    precision: str = "fp32",
    progress: bool = True,
) -> TargetStore:
    """Compute a teacher's maps of the videos' frames in use, and store them; go on where an earlier call stopped.

    Several processes may call this for one store at once; each takes shards that no other is writing.

    Args:
        model: the teacher, from `distill.models`.
        videos: of different names; the maps of `video.frames` are made.
        path: the store's folder.
        codec: how maps are stored, a name in `CODECS`.
        views: "plain", "flipped" (the map of the mirrored video), or both.
        stride: frames of the video from one frame of the teacher's clip to the next.
        batch_size: maps computed at once, and committed at once.
        batches_per_shard: batches in a file of the store.
        device: where to compute; where the model lies when None.
        precision: "fp32", "bf16" or "fp16".
        progress: show a bar with the rate and the time left.

    Returns:
        The store: complete, unless other processes are still writing their shards.

    Raises:
        UserError: the folder holds something else, a store of another teacher, other videos or settings; no space
            is left; the teacher's maps are not numbers.
        KeyboardInterrupt: on Ctrl-C, after saying how to go on; what is committed stays.
    """
    check_precision(precision)
    by_name = {video.name: video for video in videos}
    if len(by_name) < len(videos):
        raise UserError("two videos have one name; a store tells videos apart by name, so rename one")
    store = _open_or_create(
        Path(path),
        fingerprint=fingerprint(model, ClipSpec.of(model, stride), videos, precision=precision),
        notes={
            "teacher": getattr(model, "reference", None),
            "videos": {video.name: {"dataset": video.dataset, "path": str(video.path)} for video in videos},
        },
        videos={video.name: video.frames for video in videos},
        map_size=tuple(model.map_size),
        views=views,
        codec=codec,
        batch_size=batch_size,
        batches_per_shard=batches_per_shard,
    )
    if store.complete:
        log.info("%s: all %d maps are there already", store.path, store.plan.num_records)
        return store
    if isinstance(model, nn.Module) and device is not None:
        model.to(device)
    bar = tqdm(
        total=store.plan.num_records,
        initial=store.count_committed(),
        unit="map",
        desc=f"caching {store.path.name}",
        disable=not progress,
    )
    settings = {"stride": stride, "batch_size": batch_size, "device": device, "precision": precision}
    with closing(store), bar, ThreadPoolExecutor(1) as pool:  # maps are encoded and written while the next are made
        committed: Future[None] | None = None
        try:
            for batches in store.missing():
                for batch, maps in _maps(model, by_name, batches, settings):
                    if committed is not None:
                        committed.result()
                    committed = pool.submit(store.commit, batch, maps)
                    bar.update(len(maps))
            if committed is not None:
                committed.result()
        except KeyboardInterrupt:
            log.warning("%s: stopped; the maps committed so far are kept, and the same command goes on", store.path)
            raise
    if not store.complete:
        log.info("%s: other processes are still writing the rest", store.path)
    return store


def _open_or_create(path: Path, **arguments: Any) -> TargetStore:
    """Open the store that these arguments make, or make it.

    Raises:
        UserError: there is a store that other arguments made; it says what differs.
    """
    if not (path / "store.json").exists():
        try:
            return TargetStore.create(path, **arguments)
        except UserError:
            if not (path / "store.json").exists():  # another process was faster
                raise
    store = TargetStore.open(path)
    remedy = "choose another folder, or remove this one to build it anew"
    store.require(arguments["fingerprint"], remedy)
    planned = {
        "codec": store.codec,
        "views": list(store.plan.views),
        "batch_size": store.plan.batch_size,
        "batches_per_shard": store.plan.batches_per_shard,
    }
    found = [
        f"{key} was {value!r} and is now {wanted!r}"
        for key, value in planned.items()
        if value != (wanted := list(arguments[key]) if key == "views" else arguments[key])
    ]
    videos = arguments["videos"]
    if {name: list(frames) for name, frames in store.plan.videos.items()} != {
        name: list(frames) for name, frames in videos.items()
    }:
        names = sorted(store.plan.videos.keys() ^ videos.keys()) or [
            name for name, frames in videos.items() if list(frames) != list(store.plan.videos[name])
        ]
        found.append(f"the videos or their frames are others, {', '.join(names[:3]) or 'in another order'} for one")
    if found:
        raise UserError(f"{path}: the store does not fit: {'; '.join(found)}; {remedy}")
    return store


def _maps(
    model: Any, videos: dict[str, Video], batches: Sequence[Batch], settings: dict[str, Any]
) -> Iterator[tuple[Batch, np.ndarray]]:
    """Compute batches in their order, those of one video and view in one pass of the sliding window."""
    for (name, view), group in groupby(batches, key=lambda batch: (batch.video, batch.view)):
        run = list(group)
        frames = [frame for batch in run for frame in batch.frames]
        passes = slide(model, videos[name], frames, flipped=view == "flipped", **settings)
        for batch, (asked, maps) in zip(run, passes, strict=True):
            assert tuple(asked) == batch.frames, "the sliding window cuts batches as the plan does"
            yield batch, maps.numpy()


def info(store: TargetStore | str | Path) -> str:
    """Say in words whose maps a store holds, of what, how they are stored, and how much of it is there."""
    store = _opened(store)
    plan, made = store.plan, store.fingerprint
    count, size = store.count_committed(), store.size_on_disk()
    h, w = store.map_size
    teacher, seen = made.get("teacher", {}), made.get("input")
    called = ":".join(str(teacher[key]) for key in ("name", "variant") if teacher.get(key))
    frames = sum(len(each) for each in plan.videos.values())
    lines = [
        f"store      {store.path}",
        f"teacher    {called or 'unknown'}, weights {str(teacher.get('weights'))[:12]}",
    ]
    if seen:
        shown = "x".join(str(side) for side in seen["size"])
        lines.append(
            f"input      {seen['num_frames']} frames of {shown}, stride {seen['stride']}, {seen['precision']}"
        )
    lines += [
        f"videos     {len(plan.videos)}, {frames} frames; views: {', '.join(plan.views)}",
        f"maps       {count} of {plan.num_records}, {h}x{w}",
        f"codec      {store.codec}: {CODECS[store.codec].summary}",
        f"disk       {size / 2**20:.1f} MiB, {size / max(count, 1) / (h * w):.3f} bytes a pixel",
        f"shards     {len(store.sealed_shards())} of {plan.num_shards} full",
    ]
    if count < plan.num_records:
        lines.append(f"missing    {plan.num_records - count} maps: `saldistill cache build` goes on")
    return "\n".join(lines)


@dataclass(frozen=True)
class VerifyReport:
    """What `verify` found: damaged files in words, and how far stored maps are from recomputed ones."""

    damage: list[str]
    maps: int
    kl_mean: float
    """Nats, of the stored against the recomputed density."""
    kl_max: float
    cc_min: float
    max_error: float
    """The largest difference of two maps that have their maximum at 1."""
    tolerance: float
    """What the codec lets `kl_max` be."""

    @property
    def ok(self) -> bool:
        """Whether every checksum holds and every recomputed map agrees."""
        return not self.damage and self.kl_max <= self.tolerance

    def __str__(self) -> str:
        lines = [f"damaged: {each}" for each in self.damage] or ["every checksum holds"]
        if self.maps:
            agree = "they agree" if self.kl_max <= self.tolerance else "THEY DO NOT AGREE"
            lines.append(
                f"{self.maps} maps computed anew: KL {self.kl_mean:.1e} nats (at most {self.kl_max:.1e}, allowed "
                f"{self.tolerance:.0e}), CC at least {self.cc_min:.6f}, error at most {self.max_error:.4f}: {agree}"
            )
        return "\n".join(lines)


def verify(
    store: TargetStore | str | Path,
    model: Any,
    videos: Sequence[Video],
    *,
    sample: int = 32,
    seed: int = 0,
    device: str | torch.device | None = None,
) -> VerifyReport:
    """Check every checksum of a store, and compute a random sample of its maps anew.

    Whole batches are drawn and computed, as they were when the store was made.

    Args:
        store: a store or its folder, complete or not.
        model: the teacher it was made with.
        videos: the videos it was made from, or some of them.
        sample: about how many maps to compute anew; 0 checks the checksums alone.
        seed: of the choice.
        device: where to compute; where the model lies when None.

    Raises:
        UserError: the store was made from something else, or none of the videos is in it.
    """
    store = _opened(store)
    damage = store.damage()
    errors: list[tuple[float, float, float]] = []
    if sample:
        seen = store.fingerprint.get("input")
        if seen is None:
            raise UserError(f"{store.path}: its maps were imported; there is no teacher to compute them anew")
        spec, precision = ClipSpec.of(model, seen["stride"]), seen["precision"]
        store.require(fingerprint(model, spec, videos, precision=precision), "verify it with what it was made from")
        if isinstance(model, nn.Module) and device is not None:
            model.to(device)
        settings = {
            "stride": spec.stride,
            "batch_size": store.plan.batch_size,
            "device": device,
            "precision": precision,
        }
        by_name = {video.name: video for video in videos}
        batches = _sample(store, by_name, -(-sample // store.plan.batch_size), seed)
        for batch, maps in _maps(model, by_name, batches, settings):
            for frame, true in zip(batch.frames, maps, strict=True):
                try:
                    stored = store.read(batch.video, frame, batch.view)
                except UserError as error:
                    damage.append(str(error))
                    continue
                errors.append(_compare(true, stored))
    store.close()
    return VerifyReport(
        damage=damage,
        maps=len(errors),
        kl_mean=float(np.mean([kl for kl, _, _ in errors])) if errors else 0.0,
        kl_max=max((kl for kl, _, _ in errors), default=0.0),
        cc_min=min((cc for _, cc, _ in errors), default=1.0),
        max_error=max((error for _, _, error in errors), default=0.0),
        tolerance=CODECS[store.codec].tolerance,
    )


def _sample(store: TargetStore, videos: dict[str, Video], count: int, seed: int) -> list[Batch]:
    """Return up to `count` random batches that are committed, of these videos, in the plan's order."""
    chosen: list[Batch] = []
    for index in np.random.default_rng(seed).permutation(len(store.plan)):
        batch = store.plan[int(index)]
        try:
            there = batch.video in videos and store.has(batch.video, batch.frames[-1], batch.view)
        except UserError:  # a damaged index, which is reported already
            continue
        if there:
            chosen.append(batch)
        if len(chosen) == count:
            break
    return sorted(chosen, key=lambda batch: batch.index)


def _compare(true: np.ndarray, stored: np.ndarray) -> tuple[float, float, float]:
    """Return KL in nats, CC, and the largest difference of the peak maps, of two log-saliency maps (h, w)."""
    p, q = (np.exp(each.astype(np.float64) - each.max()) for each in (true, stored))
    peak_error = float(np.abs(p - q).max())
    p, q = p / p.sum(), q / q.sum()
    positive = p > 0
    kl = float((p[positive] * np.log(p[positive] / q[positive])).sum())
    a, b = p - p.mean(), q - q.mean()
    spread = np.sqrt((a**2).sum() * (b**2).sum())
    cc = float((a * b).sum() / spread) if spread > 0 else float(np.array_equal(p, q))
    return max(kl, 0.0), cc, peak_error


def export_png(
    store: TargetStore | str | Path, out: str | Path, *, view: str = "plain", progress: bool = True
) -> str:
    """Write a store's maps as 8-bit grey PNG files, `<video>/0001.png` for the first frame, each maximum 255.

    Nothing appears under `out` before all is done.

    Returns:
        One line that says what was written.

    Raises:
        UserError: `out` exists, or the store is incomplete, damaged, or without that view.
    """
    store, out = _opened(store), Path(out)
    refuse_existing(out, "the folder of maps")
    if view not in store.plan.views:
        raise UserError(f"{store.path}: it has no {view} view; it has {', '.join(store.plan.views)}")
    if not store.complete:
        raise UserError(f"{store.path}: the store is not complete; go on with `saldistill cache build` first")
    if out.is_dir():
        out.rmdir()  # an empty one; the finished folder takes its place
    total = sum(len(frames) for frames in store.plan.videos.values())
    with atomic_folder(out) as folder, tqdm(total=total, unit="map", disable=not progress) as bar:
        for video, frames in store.plan.videos.items():
            (folder / video).mkdir(parents=True, exist_ok=True)
            for frame in frames:
                grey = np.rint(255 * peak_map(store.read(video, frame, view))).astype(np.uint8)
                Image.fromarray(grey).save(folder / video / f"{frame + 1:04d}.png")
                bar.update()
    store.close()
    return f"{total} maps of {len(store.plan.videos)} videos: {out}"


def _opened(store: TargetStore | str | Path) -> TargetStore:
    return store if isinstance(store, TargetStore) else TargetStore.open(store)
