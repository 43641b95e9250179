"""A store as large as DHF1K's: 350,000 maps of 8x8, and the work of opening it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from distill.targets.codec import CODECS
from distill.targets.shard import batch_bytes, batch_entries, end_bytes, header_bytes
from distill.targets.store import TargetStore

VIDEOS, FRAMES = 700, 500
"""Videos, and frames of each."""

MAPS = VIDEOS * FRAMES


def open_large(path: str) -> Callable[[], object]:
    """Return the work of opening a store and checking the index of every shard."""

    def work() -> int:
        with TargetStore.open(path) as store:
            return store.count_committed()

    return work


def make_large(path: Path) -> Path:
    """Write a complete store of 350,000 maps of 8x8, a few of them over and over, without waiting for the disk."""
    names = {f"{number:04d}": range(FRAMES) for number in range(VIDEOS)}
    store = TargetStore.create(path, fingerprint={}, videos=names, map_size=(8, 8))
    random = np.random.default_rng(0)
    records = [CODECS[store.codec].encode(random.normal(size=(8, 8))) for _ in range(store.plan.batch_size)]
    (path / "shards").mkdir()
    for shard in range(store.plan.num_shards):
        batches = store.plan.batches_of(shard)
        content = [header_bytes(shard, len(batches), store.plan.records_of(batches), store.digest)]
        entries, position = [], len(content[0])
        for index in batches:
            held = records[: len(store.plan[index].frames)]
            entries.append(batch_entries(position, held))
            content.append(batch_bytes(index, held))
            position += len(content[-1])
        content.append(end_bytes(np.concatenate(entries), position))
        (path / "shards" / f"{shard:05d}.shard").write_bytes(b"".join(content))
    return path
