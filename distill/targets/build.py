"""Compute a teacher's maps once and write them to a target store, in any number of processes.

    saldistill cache build CONFIG

Every map is computed in the batch that the store's plan assigns it to, so that it depends neither on the process
that computed it nor on interruptions.
"""

import functools
import logging
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import numpy as np
import torch

from distill.data.clips import Video
from distill.data.progress import ProgressBar
from distill.errors import UserError
from distill.inference.runtime import Running, run_in
from distill.inference.settings import InferenceSettings
from distill.inference.sliding_window import slide
from distill.models.loaded import LoadedModel
from distill.models.protocols import SaliencyModel
from distill.remote import is_address
from distill.targets.codec import DEFAULT_CODEC
from distill.targets.fingerprint import fingerprint
from distill.targets.plan import Plan, StoreBatch
from distill.targets.store import TargetStore, writable_folder
from distill.targets.transfer import push_store

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StoreBuild:
    """A target store to fill, and what fills it.

    Attributes:
        store: the store, which may already have maps.
        model: the teacher.
        settings: its inference settings, with a stride.
        videos: name -> video, for the videos of the store's plan.
        run: returns the teacher in its runtime; may export it at the first call.
    """

    store: TargetStore
    model: LoadedModel
    settings: InferenceSettings
    videos: Mapping[str, Video]
    run: Callable[[], Running]


class Engine(Protocol):
    """What fills target stores in place of this process, e.g. the workers of a Ray cluster."""

    def device(self, name: str) -> torch.device:
        """Return the device that teachers run on, for the device of a config."""

    def fill(self, build: StoreBuild, *, progress: bool) -> None:
        """Compute the missing maps of a store, with the bytes that this process would write."""


def build(
    model: LoadedModel,
    videos: Sequence[Video],
    path: str | Path,
    settings: InferenceSettings = InferenceSettings(),
    *,
    codec: str = DEFAULT_CODEC,
    views: Sequence[str] = ("plain",),
    batches_per_shard: int = 64,
    progress: bool = True,
    engine: Engine | None = None,
) -> TargetStore:
    """Return the target store of a teacher's maps, built here or resumed after an interruption.

    Several processes can build one store at once; each takes shards that no other process is writing.

    Args:
        model: the teacher; its network is moved to the device of the settings.
        videos: videos with distinct names; maps are computed for `video.frames`.
        path: folder of the store; with an engine also an address.
        settings: inference settings of the teacher; `batch_size` maps are computed and committed at a time. The
            store's notes name the runtime that it was started in; its fingerprint does not depend on it.
        codec: name in `CODECS`.
        views: "plain", "flipped" (the map of the mirrored video), or both.
        batches_per_shard: batches per shard.
        progress: show a progress bar.
        engine: what computes the maps; defaults to this process.

    Returns:
        The store: complete, unless other processes are still writing their shards.

    Raises:
        UserError: the folder is not empty, or holds a store of another teacher, other videos or settings; no space
            is left; the teacher returns NaN.
        KeyboardInterrupt: on Ctrl-C; committed maps are kept.
    """
    path = str(path) if engine is not None and is_address(path) else writable_folder(path)
    started = _start(model, videos, path, settings, codec=codec, views=views, batches_per_shard=batches_per_shard)
    store = started.store
    if store.complete:
        log.info("%s: already complete, %d maps", store.path, store.plan.num_records)
    elif engine is not None:
        engine.fill(started, progress=progress)
    else:
        fill_with_progress(store, started.run(), started.videos, progress=progress)
    return store


def _start(
    model: LoadedModel,
    videos: Sequence[Video],
    path: Path | str,
    settings: InferenceSettings,
    *,
    codec: str,
    views: Sequence[str],
    batches_per_shard: int,
) -> StoreBuild:
    """Open or create the store that `build` fills, see there."""
    settings = settings.for_model(model)
    if settings.first_frames != "repeat":
        raise UserError(f"first_frames: a target store supports only 'repeat', got {settings.first_frames!r}")
    assert settings.stride is not None
    by_name = {video.name: video for video in videos}
    if len(by_name) < len(videos):
        raise UserError("videos: expected distinct names, because a target store looks maps up by name; rename one")

    @functools.cache
    def run() -> Running:
        frames = len(views) * sum(len(video.frames) for video in videos)  # of all processes, which then agree
        return run_in(model, settings, frames=frames, example=videos[0].path if videos else None)

    store = _open_or_create(
        path,
        fingerprint=fingerprint(model, settings.stride, videos, precision=settings.precision),
        notes={
            "teacher": model.reference,
            "runtime": None if TargetStore.exists(path) else run().runtime,
            "videos": {video.name: {"dataset": video.dataset, "path": str(video.path)} for video in videos},
        },
        videos={video.name: video.frames for video in videos},
        map_size=tuple(model.network.map_size),
        views=views,
        codec=codec,
        batch_size=settings.batch_size,
        batches_per_shard=batches_per_shard,
    )
    return StoreBuild(store, model, settings, by_name, run)


@contextmanager
def progress_of(store: TargetStore, *, shown: bool) -> Iterator[ProgressBar]:
    """Yield a bar over a store's maps; log at the end what is left, also after Ctrl-C."""
    bar = ProgressBar(
        f"caching {store.name}",
        "map",
        total=store.plan.num_records,
        initial=store.count_committed(),
        shown=shown,
    )
    try:
        with bar:
            yield bar
            bar.n = store.count_committed()
    except KeyboardInterrupt:
        log.warning("%s: interrupted; committed maps are kept, and the same command resumes", store.path)
        raise
    if not store.complete:
        log.info("%s: other processes are still writing the rest", store.path)


def fill_with_progress(
    store: TargetStore, running: Running, videos: Mapping[str, Video], *, progress: bool
) -> None:
    """Compute the missing maps, see `fill`, with a progress bar that includes those of other processes."""
    if running.settings.device is not None:
        running.network.to(running.settings.device)
    shard = None
    with (
        progress_of(store, shown=progress) as bar,
        closing(fill(store, running.network, videos, running.settings)) as filled,
    ):
        for batch in filled:
            if batch.shard != shard:
                shard, bar.n = batch.shard, store.count_committed()
            bar.update(len(batch.frames))


def fill(
    store: TargetStore,
    network: SaliencyModel,
    videos: Mapping[str, Video],
    settings: InferenceSettings,
    *,
    shards: Iterable[Sequence[StoreBatch]] | None = None,
) -> Generator[StoreBatch, None, None]:
    """Compute and commit the missing batches that no other process is writing.

    Each batch is written while the next one is computed.

    Args:
        store: an incomplete store; it is closed at the end.
        network: the teacher's network.
        videos: name -> video, for the videos of the store's plan.
        settings: inference settings of the teacher.
        shards: missing batches of claimed shards; defaults to all that can be claimed.

    Yields:
        Each batch, once its maps are computed and the previous batch is committed.

    Raises:
        UserError: no space is left, or a map contains NaN.
    """
    with closing(store), ThreadPoolExecutor(1) as pool:
        committed: Future[None] | None = None
        for batches in store.missing() if shards is None else shards:
            for batch, maps in teacher_maps(network, videos, batches, settings):
                if committed is not None:
                    committed.result()
                committed = pool.submit(store.commit, batch, maps)
                yield batch
        if committed is not None:
            committed.result()


def teacher_maps(
    network: SaliencyModel, videos: Mapping[str, Video], batches: Sequence[StoreBatch], settings: InferenceSettings
) -> Iterator[tuple[StoreBatch, np.ndarray]]:
    """Yield batches in order with their maps (n, h, w), one sliding-window pass per video and view."""
    for (name, view), group in groupby(batches, key=lambda batch: (batch.video, batch.view)):
        run = list(group)
        frames = [frame for batch in run for frame in batch.frames]
        passes = slide(network, videos[name], frames, settings, flipped=view == "flipped")
        for batch, (computed, maps) in zip(run, passes, strict=True):
            assert tuple(computed) == batch.frames, "the sliding window has the batches of the plan"
            yield batch, maps.numpy()


def _open_or_create(path: Path | str, **arguments: Any) -> TargetStore:
    """Open the store that was created with these arguments, or create it.

    Raises:
        UserError: a store with other arguments exists; the error names the differences.
    """
    if not TargetStore.exists(path):
        if isinstance(path, Path):
            try:
                return TargetStore.create(path, **arguments)
            except UserError:
                if not TargetStore.exists(path):  # otherwise another process has just created it
                    raise
        else:
            with TemporaryDirectory() as folder:
                TargetStore.create(Path(folder) / "store", **arguments)
                push_store(Path(folder) / "store", path, partial=True, progress=False)
    store = TargetStore.open(path)
    remedy = "choose another folder, or remove this one to rebuild it"
    store.require(arguments["fingerprint"], remedy)
    found = _plan_differences(store, arguments)
    if found:
        raise UserError(f"{path}: the target store does not match: {'; '.join(found)}; {remedy}")
    return store


def _plan_differences(store: TargetStore, arguments: Mapping[str, Any]) -> list[str]:
    """Return how the codec and plan of a store differ from the arguments of `TargetStore.create`, one text each."""
    names = ("views", "batch_size", "batches_per_shard")
    plan, wanted = store.plan, Plan(arguments["videos"], **{name: arguments[name] for name in names})
    found = [
        f"{name} was {old!r} and is now {new!r}"
        for name, old, new in [
            ("codec", store.codec, arguments["codec"]),
            *((name, getattr(plan, name), getattr(wanted, name)) for name in names),
        ]
        if old != new
    ]
    if list(plan.videos.items()) != list(wanted.videos.items()):
        changed = sorted(plan.videos.keys() ^ wanted.videos.keys()) or [
            name for name in plan.videos if plan.videos[name] != wanted.videos[name]
        ]
        found.append(
            f"the videos or their frames differ, e.g. {', '.join(changed[:3])}"
            if changed
            else "the videos are in another order"
        )
    return found
