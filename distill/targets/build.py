"""The cache of teacher maps: computing them once, in any number of processes, and saying what there is.

    saldistill cache build CONFIG
    saldistill cache info STORE

Every map is computed in the batch that the store's plan puts it in, so that it does not depend on who computed it,
or on how often the work was interrupted.
"""

import logging
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from distill.data.clips import ClipSpec, Video
from distill.errors import UserError
from distill.inference.settings import InferenceSettings
from distill.inference.sliding_window import slide
from distill.models.loaded import LoadedModel
from distill.models.protocols import SaliencyModel
from distill.targets.fingerprint import fingerprint
from distill.targets.plan import StoreBatch
from distill.targets.store import TargetStore

log = logging.getLogger(__name__)


def build(
    model: LoadedModel,
    videos: Sequence[Video],
    path: str | Path,
    settings: InferenceSettings = InferenceSettings(),
    *,
    codec: str = "log8",
    views: Sequence[str] = ("plain",),
    batches_per_shard: int = 64,
    progress: bool = True,
) -> TargetStore:
    """Compute a teacher's maps of the videos' frames in use, and store them; go on where an earlier call stopped.

    Several processes may call this for one store at once; each takes shards that no other is writing.

    Args:
        model: the teacher; its network is moved to the device of the settings.
        videos: of different names; the maps of `video.frames` are made.
        path: the store's folder.
        settings: how the teacher runs; a batch is computed and committed at once.
        codec: how maps are stored, a name in `CODECS`.
        views: "plain", "flipped" (the map of the mirrored video), or both.
        batches_per_shard: batches in a file of the store.
        progress: show a bar with the rate and the time left.

    Returns:
        The store: complete, unless other processes are still writing their shards.

    Raises:
        UserError: the folder holds something else, a store of another teacher, other videos or settings; no space
            is left; the teacher's maps are not numbers.
        KeyboardInterrupt: on Ctrl-C, after saying how to go on; what is committed stays.
    """
    settings = settings.for_model(model)
    if settings.first_frames != "repeat":
        raise UserError(f"first_frames: a target store takes 'repeat' only, got {settings.first_frames!r}")
    assert settings.stride is not None
    by_name = {video.name: video for video in videos}
    if len(by_name) < len(videos):
        raise UserError("two videos have one name; a store tells videos apart by name, so rename one")
    store = _open_or_create(
        Path(path),
        fingerprint=fingerprint(
            model, ClipSpec.of(model.network, settings.stride), videos, precision=settings.precision
        ),
        notes={
            "teacher": model.reference,
            "videos": {video.name: {"dataset": video.dataset, "path": str(video.path)} for video in videos},
        },
        videos={video.name: video.frames for video in videos},
        map_size=tuple(model.network.map_size),
        views=views,
        codec=codec,
        batch_size=settings.batch_size,
        batches_per_shard=batches_per_shard,
    )
    if store.complete:
        log.info("%s: all %d maps are there already", store.path, store.plan.num_records)
        return store
    if settings.device is not None:
        model.network.to(settings.device)
    bar = tqdm(
        total=store.plan.num_records,
        initial=store.count_committed(),
        unit="map",
        desc=f"caching {store.path.name}",
        disable=not progress,
    )
    shard = None
    try:
        with bar, closing(fill(store, model.network, by_name, settings)) as filled:
            for batch in filled:
                if batch.shard != shard:  # what other processes have done meanwhile counts too
                    shard, bar.n = batch.shard, store.count_committed()
                bar.update(len(batch.frames))
    except KeyboardInterrupt:
        log.warning("%s: stopped; the maps committed so far are kept, and the same command goes on", store.path)
        raise
    if not store.complete:
        log.info("%s: other processes are still writing the rest", store.path)
    return store


def fill(
    store: TargetStore, network: SaliencyModel, videos: Mapping[str, Video], settings: InferenceSettings
) -> Generator[StoreBatch, None, None]:
    """Compute and commit what a store lacks and nobody else is writing; maps are written while the next are made.

    Args:
        store: an unfinished store; it is closed at the end.
        network: the teacher's network.
        videos: those of the store's plan, by name.
        settings: how it runs.

    Yields:
        Each batch when its maps are computed; the one before it is committed then.

    Raises:
        UserError: no space is left, or the teacher's maps are not numbers.
    """
    with closing(store), ThreadPoolExecutor(1) as pool:
        committed: Future[None] | None = None
        for batches in store.missing():
            for batch, maps in teacher_maps(network, videos, batches, settings):
                if committed is not None:
                    committed.result()
                committed = pool.submit(store.commit, batch, maps)
                yield batch
        if committed is not None:
            committed.result()


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


def teacher_maps(
    network: SaliencyModel,
    videos: Mapping[str, Video],
    batches: Sequence[StoreBatch],
    settings: InferenceSettings,
) -> Iterator[tuple[StoreBatch, np.ndarray]]:
    """Compute batches in their order, those of one video and view in one pass of the sliding window."""
    for (name, view), group in groupby(batches, key=lambda batch: (batch.video, batch.view)):
        run = list(group)
        frames = [frame for batch in run for frame in batch.frames]
        passes = slide(network, videos[name], frames, settings, flipped=view == "flipped")
        for batch, (asked, maps) in zip(run, passes, strict=True):
            assert tuple(asked) == batch.frames, "the sliding window cuts batches as the plan does"
            yield batch, maps.numpy()
