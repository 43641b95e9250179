"""Checking a store of teacher maps: every byte against its checksum, and a sample of the maps against new ones.

    saldistill cache verify STORE [--teacher MODEL]

New ones come from the teacher, or, for a store of imported maps, from where these were imported from.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from distill.data.clips import ClipSpec, Video
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
from distill.targets.store import TargetStore, opened

Recompute = Callable[[Sequence[StoreBatch]], Iterator[tuple[StoreBatch, np.ndarray]]]
"""From batches to each with its maps (n, h, w), made anew."""

REMEDY = "verify it with what it was made from"


@dataclass(frozen=True)
class VerifyReport:
    """What `verify` found: damaged files in words, and how far stored maps are from maps made anew."""

    damage: list[str]
    committed: int
    """Maps that the store holds, ..."""
    planned: int
    """... of so many."""
    maps: int
    """Maps made anew and compared."""
    kl_mean: float
    """Nats, of the stored against the new density."""
    kl_max: float
    cc_min: float
    max_error: float
    """The largest difference of two maps that have their maximum at 1."""
    tolerance: float
    """What the codec lets `kl_max` be."""

    @property
    def ok(self) -> bool:
        """Whether every checksum holds and every map made anew agrees."""
        return not self.damage and self.kl_max <= self.tolerance

    def __str__(self) -> str:
        lines = [f"damaged: {each}" for each in self.damage] or ["every checksum holds"]
        if self.committed < self.planned:
            lines.append(f"{self.committed} of {self.planned} maps are there; `saldistill cache build` goes on")
        if self.maps:
            agree = "they agree" if self.kl_max <= self.tolerance else "THEY DO NOT AGREE"
            lines.append(
                f"{self.maps} maps computed anew: KL {self.kl_mean:.1e} nats (at most {self.kl_max:.1e}, allowed "
                f"{self.tolerance:.0e}), CC at least {self.cc_min:.6f}, error at most {self.max_error:.4f}: {agree}"
            )
        return "\n".join(lines)


def verify(
    store: TargetStore | str | Path,
    model: LoadedModel,
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
        sample: how many maps to compute anew at least; 0 checks the checksums alone.
        seed: of the choice.
        device: where to compute; where the model lies when None.

    Raises:
        UserError: the store was made from something else, or its maps were imported.
    """
    store = opened(store)
    if not sample:
        return _verify(store, None, [], 0, seed)
    seen = store.fingerprint.get("input")
    if seen is None:
        raise UserError(f"{store.path}: its maps were imported; there is no teacher to compute them anew")
    spec, precision = ClipSpec.of(model.network, seen["stride"]), seen["precision"]
    store.require(fingerprint(model, spec, videos, precision=precision), REMEDY)
    if device is not None:
        model.network.to(device)
    by_name = {video.name: video for video in videos}
    settings = InferenceSettings(
        stride=spec.stride, batch_size=store.plan.batch_size, device=device, precision=precision
    )
    return _verify(
        store, lambda batches: teacher_maps(model.network, by_name, batches, settings), list(by_name), sample, seed
    )


def verify_imported(store: TargetStore | str | Path, *, sample: int = 32, seed: int = 0) -> VerifyReport:
    """Check every checksum of a store of imported maps, and read a random sample of them anew where they came from.

    Args:
        store: a store that `import_maps` made, or its folder.
        sample: how many maps to read anew at least; 0 checks the checksums alone.
        seed: of the choice.

    Raises:
        UserError: the maps are no longer where they were imported from, or are others now.
    """
    store = opened(store)
    if not sample:
        return _verify(store, None, [], 0, seed)
    mean, size = store.notes["mean"], store.map_size
    sources = open_sources(store.notes["imported"])
    store.require(import_fingerprint(sources, mean), REMEDY)
    return _verify(
        store, lambda batches: mean_maps(sources, mean, batches, size), list(store.plan.videos), sample, seed
    )


def _verify(
    store: TargetStore, recompute: Recompute | None, videos: Sequence[str], sample: int, seed: int
) -> VerifyReport:
    damage = store.damage()
    errors: list[tuple[float, float, float]] = []
    if recompute is not None:
        batches = _sample(store, videos, sample, seed)
        for batch, maps in recompute(batches):
            for frame, true in zip(batch.frames, maps, strict=True):
                try:
                    errors.append(compare(true, store.read(batch.video, frame, batch.view)))
                except UserError as error:
                    damage.append(str(error))
    committed = store.count_committed() if not damage else store.plan.num_records
    store.close()
    return VerifyReport(
        damage=damage,
        committed=committed,
        planned=store.plan.num_records,
        maps=len(errors),
        kl_mean=float(np.mean([kl for kl, _, _ in errors])) if errors else 0.0,
        kl_max=max((kl for kl, _, _ in errors), default=0.0),
        cc_min=min((linear for _, linear, _ in errors), default=1.0),
        max_error=max((error for _, _, error in errors), default=0.0),
        tolerance=CODECS[store.codec].tolerance,
    )


def _sample(store: TargetStore, videos: Sequence[str], count: int, seed: int) -> list[StoreBatch]:
    """Return random batches of these videos that are committed, of `count` maps at least if there are so many."""
    chosen: list[StoreBatch] = []
    for index in np.random.default_rng(seed).permutation(len(store.plan)):
        batch = store.plan[int(index)]
        try:
            there = batch.video in videos and store.has(batch.video, batch.frames[-1], batch.view)
        except UserError:  # a damaged index, which is reported already
            continue
        if there:
            chosen.append(batch)
            count -= len(batch.frames)
        if count <= 0:
            break
    return sorted(chosen, key=lambda batch: batch.index)


def compare(true: np.ndarray, stored: np.ndarray) -> tuple[float, float, float]:
    """Return KL in nats, CC, and the largest difference of the peak maps, of two log-saliency maps (h, w)."""
    p, q = (np.exp(each.astype(np.float64) - each.max()) for each in (true, stored))
    peak_error = float(np.abs(p - q).max())
    linear = correlation(q, p)
    p, q = p / p.sum(), q / q.sum()
    positive = p > 0
    kl = float((p[positive] * np.log(p[positive] / q[positive])).sum())
    return max(kl, 0.0), linear, peak_error


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Return the CC of two maps (h, w); 1 if both are constant, 0 if one is."""
    found = cc(one, other)
    return found if np.isfinite(found) else float(np.ptp(one) == np.ptp(other))


def verify_store(
    path: str | Path, *, teacher: str | None = None, sample: int = 32, device: str = "auto"
) -> VerifyReport:
    """Check a store's checksums and make a sample anew: with its teacher, or from the maps it was imported from.

    Raises:
        UserError: if the teacher, a video or the imported maps are no longer where they were, or are others.
    """
    store = TargetStore.open(path)
    if "imported" in store.notes:
        return verify_imported(store, sample=sample)
    reference = teacher or store.notes.get("teacher")
    if reference is None:
        raise UserError(f"{path}: the store does not say where its teacher is; name it with --teacher MODEL")
    where = resolve_device(device)
    return verify(
        store, load_model(reference, device=where), list(_stored_videos(store)), sample=sample, device=where
    )


def _stored_videos(store: TargetStore) -> Iterator[Video]:
    """Yield the videos that a store was made from, from where it says they are."""
    for name, frames in store.plan.videos.items():
        note = store.notes["videos"][name]
        num_frames, fps, size = open_size(note["path"])
        span = range(frames[0], frames[-1] + 1)
        yield Video(name, Path(note["path"]), num_frames, fps, size, span, None, note["dataset"])
