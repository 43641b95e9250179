"""Verify a target store: every checksum, and a sample of its maps against recomputed ones.

    saldistill cache verify STORE [--teacher MODEL]

Maps are recomputed with the teacher, or read again from their source if they were imported.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distill.data.clips import Video
from distill.data.video.open import open_size
from distill.errors import UserError
from distill.evaluation.metrics import cc
from distill.inference.settings import InferenceSettings
from distill.models.device import resolve_device
from distill.models.loaded import LoadedModel
from distill.models.references import load_model
from distill.targets.build import teacher_maps
from distill.targets.codec import CODECS
from distill.targets.fingerprint import fingerprint
from distill.targets.importer import import_fingerprint, mean_maps, open_sources
from distill.targets.plan import StoreBatch
from distill.targets.store import TargetStore, as_store

Recompute = Callable[[Sequence[StoreBatch]], Iterator[tuple[StoreBatch, np.ndarray]]]
"""Yields each of the given batches with its recomputed maps (n, h, w)."""

REMEDY = "verify it with the teacher and the videos or maps that it was built from"


@dataclass(frozen=True)
class MapErrors:
    """Errors of a stored map against the recomputed one.

    Attributes:
        kl: KL in nats from the stored to the recomputed density.
        cc: linear correlation; 1 if both maps are constant, 0 if one is.
        peak: largest difference of the maps scaled to a maximum of 1.
    """

    kl: float
    cc: float
    peak: float


@dataclass(frozen=True)
class VerifyReport:
    """Result of a verification.

    Attributes:
        damage: descriptions of damaged or incomplete files.
        committed: number of stored maps.
        planned: number of maps in the complete store.
        errors: errors of each recomputed map.
        tolerance: largest KL in nats that the codec may cause.
    """

    damage: list[str]
    committed: int
    planned: int
    errors: list[MapErrors]
    tolerance: float

    @property
    def kl_max(self) -> float:
        """Largest KL of a recomputed map in nats; 0 if there is none."""
        return max((each.kl for each in self.errors), default=0.0)

    @property
    def ok(self) -> bool:
        """Whether nothing is damaged and every recomputed map matches."""
        return not self.damage and self.kl_max <= self.tolerance

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {**asdict(self), "kl_max": self.kl_max, "ok": self.ok}

    def __str__(self) -> str:
        lines = [f"damaged: {each}" for each in self.damage] or ["all checksums match"]
        if self.committed < self.planned:
            lines.append(
                f"incomplete: {self.committed} of {self.planned} maps; resume with `saldistill cache build`"
            )
        if self.errors:
            mean_kl = float(np.mean([each.kl for each in self.errors]))
            lines.append(
                f"{len(self.errors)} maps recomputed: KL {mean_kl:.1e} nats (at most {self.kl_max:.1e}, tolerance "
                f"{self.tolerance:.0e}), CC at least {min(each.cc for each in self.errors):.6f}, error at most "
                f"{max(each.peak for each in self.errors):.4f}: "
                + ("they match" if self.kl_max <= self.tolerance else "THEY DO NOT MATCH")
            )
        return "\n".join(lines)


def verify(
    store: TargetStore | str | Path,
    model: LoadedModel,
    videos: Sequence[Video],
    *,
    sample: int = 32,
    device: str | torch.device | None = None,
) -> VerifyReport:
    """Return the damage of a store and the errors of a random sample of its maps, which are recomputed.

    Whole batches are recomputed, with the batch size of the build.

    Args:
        store: a store or its folder, complete or not.
        model: the teacher of the store.
        videos: all or some of the store's videos.
        sample: smallest number of maps to recompute; 0 only checks the checksums.
        device: device to run on; defaults to the network's.

    Raises:
        UserError: the fingerprint does not match, or the maps were imported.
    """
    store = as_store(store)
    if not sample:
        return _verify(store)
    made_with = store.fingerprint.get("input")
    if made_with is None:
        raise UserError(
            f"{store.path}: the maps were imported, so no teacher can recompute them; use `saldistill cache verify`"
        )
    stride, precision = made_with["stride"], made_with["precision"]
    store.require(fingerprint(model, stride, videos, precision=precision), REMEDY)
    if device is not None:
        model.network.to(device)
    by_name = {video.name: video for video in videos}
    settings = InferenceSettings(stride, store.plan.batch_size, device, precision)
    return _verify(store, partial(teacher_maps, model.network, by_name, settings=settings), list(by_name), sample)


def verify_store(
    path: str | Path, *, teacher: str | None = None, sample: int = 32, device: str = "auto"
) -> VerifyReport:
    """Return the report of verifying a store with the teacher, videos or imported maps that it names.

    Args:
        path: folder of the store.
        teacher: reference of the teacher; defaults to the one that the store names.
        sample: smallest number of maps to recompute, or to read again if they were imported.
        device: device to run on.

    Raises:
        UserError: the teacher, a video or the imported maps were moved or changed.
    """
    store = TargetStore.open(path)
    if not sample:
        return _verify(store)
    if "imported" in store.notes:
        sources, mean = open_sources(store.notes["imported"]), str(store.notes.get("mean"))
        store.require(import_fingerprint(sources, mean), REMEDY)
        recompute = partial(mean_maps, sources, mean, size=store.map_size)
        return _verify(store, recompute, list(store.plan.videos), sample)
    reference = teacher or store.notes.get("teacher")
    if reference is None:
        raise UserError(f"{path}: the target store does not name its teacher; pass it with --teacher MODEL")
    resolved = resolve_device(device)
    return verify(
        store, load_model(reference, device=resolved), list(_stored_videos(store)), sample=sample, device=resolved
    )


def _stored_videos(store: TargetStore) -> Iterator[Video]:
    """Yield the videos of a store from the paths in its notes."""
    for name, frames in store.plan.videos.items():
        note = store.notes.get("videos", {}).get(name)
        if note is None:
            raise UserError(f"{store.path}: the target store does not say where video {name} is; rebuild the store")
        num_frames, fps, size = open_size(note["path"])
        span = range(frames[0], frames[-1] + 1)
        yield Video(name, Path(note["path"]), num_frames, fps, size, span, None, note["dataset"])


def _verify(
    store: TargetStore, recompute: Recompute | None = None, videos: Sequence[str] = (), sample: int = 0
) -> VerifyReport:
    damage = store.damage()
    errors = []
    if recompute is not None:
        for batch, maps in recompute(_sample(store, videos, sample)):
            for frame, true in zip(batch.frames, maps, strict=True):
                try:
                    errors.append(map_errors(true, store.read(batch.video, frame, batch.view)))
                except UserError as error:
                    damage.append(str(error))
    planned = store.plan.num_records
    committed = planned if damage else store.count_committed()
    store.close()
    return VerifyReport(damage, committed, planned, errors, CODECS[store.codec].tolerance)


def _sample(store: TargetStore, videos: Sequence[str], count: int) -> list[StoreBatch]:
    """Return random committed batches of these videos with at least `count` maps, or all if there are fewer."""
    chosen: list[StoreBatch] = []
    for index in np.random.default_rng(0).permutation(len(store.plan)):
        batch = store.plan[int(index)]
        try:
            committed = batch.video in videos and store.has(batch.video, batch.frames[-1], batch.view)
        except UserError:  # a damaged index, already reported
            continue
        if committed:
            chosen.append(batch)
            count -= len(batch.frames)
        if count <= 0:
            break
    return sorted(chosen, key=lambda batch: batch.index)


def map_errors(true: np.ndarray, stored: np.ndarray) -> MapErrors:
    """Return the errors of a stored log-saliency map (h, w) against the true one."""
    p, q = (np.exp(each.astype(np.float64) - each.max()) for each in (true, stored))
    peak, linear = float(np.abs(p - q).max()), correlation(q, p)
    p, q = p / p.sum(), q / q.sum()
    positive = p > 0
    kl = float((p[positive] * np.log(p[positive] / q[positive])).sum())
    return MapErrors(max(kl, 0.0), linear, peak)


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Return the CC of two maps (h, w); 1 if both are constant, 0 if one is."""
    found = cc(one, other)
    return found if np.isfinite(found) else float(np.ptp(one) == np.ptp(other))
