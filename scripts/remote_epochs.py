"""Time epochs of a student's training data with a local target store, and with one on S3, warm and cold.

    python scripts/remote_epochs.py -o epochs.json [--rounds 5] [--rate 8]

Needs a clone of the repository with its `dev` extra: the S3 endpoint is moto's server on the loopback, behind a
proxy that sends at --rate megabytes per second, which all connections share. The rate is measured: all shards are
downloaded by plain requests, eight at once. Each round times four epochs one after the other: the local store, the
remote store with a warm and with an empty cache, and the endpoint. An epoch loads all clips in one worker, as
training does, and runs the student forward and backward. `ratio` is relative to the local epoch of the same round,
and `to_bytes` to the time of the bytes.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
sys.path.insert(
    0, str(Path(__file__).resolve().parent.parent)
)  # before scripts/, whose distill.py hides the package

from helpers.object_storage import BUCKET, Storage, object_storage

from distill.data.clip_dataset import ClipDataset, ClipSource
from distill.data.clips import ClipSpec
from distill.data.loader import make_loader
from distill.data.sets.find import find_videos
from distill.files import write_json
from distill.models.registry import create_model
from distill.saliency import normalise_density, resize_density
from distill.targets.store import TargetStore
from distill.targets.transfer import push_store
from distill.training.losses import LOSSES
from distill.training.read_ahead import read_ahead
from distill.training.teachers import CachedTeacher

ROOT = Path(__file__).resolve().parent.parent

BATCH = 4


def make_store(path: Path, videos: list[Any]) -> None:
    """Write a store of maps as large as SalFoM's, whose records have about the bytes of a real teacher's."""
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[:224, :224] / 224
    store = TargetStore.create(
        path,
        fingerprint={},
        videos={video.name: video.frames for video in videos},
        map_size=(224, 224),
        batches_per_shard=4,
    )
    with store:
        for batches in store.missing():
            for batch in batches:
                centres = random.random((len(batch.frames), 2, 1, 1))
                maps = -20 * ((rows - centres[:, 0]) ** 2 + (columns - centres[:, 1]) ** 2)
                store.commit(batch, (maps + random.normal(0, 0.01, maps.shape)).astype(np.float32))


def epoch(store: str | Path, videos: list[Any], student: Any, clips: int) -> float:
    """Return the seconds of an epoch."""
    spec = ClipSpec.of(student)
    started = time.perf_counter()
    teacher = CachedTeacher(TargetStore.open(store), spec)
    data = ClipDataset([ClipSource(videos, clips)], spec, seed=0, flip=False, extras=[teacher.reader])
    numbers = [list(range(first, first + BATCH)) for first in range(0, len(data) - BATCH + 1, BATCH)]
    for batch in make_loader(data, read_ahead(numbers, data, [teacher]), workers=1):
        target = normalise_density(resize_density(batch["teacher_map"].exp(), spec.map_size))
        LOSSES["kldiv"](student(batch["clip"]), target).mean().backward()
        student.zero_grad()
    return time.perf_counter() - started


def download(storage: Storage, shards: int) -> float:
    """Return the seconds in which the endpoint sends all shards."""
    started = time.perf_counter()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: fetch(storage, f"/{BUCKET}/targets/shards/{number:05d}.shard"), range(shards)))
    return time.perf_counter() - started


def fetch(storage: Storage, path: str) -> int:
    """Return the bytes of a plain download through the proxy."""
    from urllib.request import urlopen

    with urlopen(f"{storage.url}{path}") as answer:
        return len(answer.read())


def main() -> None:
    """Run the rounds and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--out", required=True, type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rate", type=float, default=8.0, help="MB per second of the endpoint")
    parser.add_argument("--clips", type=int, default=100, help="clips per video and epoch")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    videos = find_videos("dhf1k", ROOT / "tests/data/dhf1k")
    student = create_model("student/stream", variant="nano").network.train()
    rows: list[dict[str, float]] = []
    with (
        tempfile.TemporaryDirectory() as name,
        pytest.MonkeyPatch.context() as patch,
        object_storage(patch) as storage,
    ):
        folder = Path(name)
        os.environ["SALDISTILL_CACHE"] = str(folder / "cache")
        make_store(folder / "store", videos)
        push_store(folder / "store", Storage.address("targets"), progress=False)
        store = TargetStore.open(folder / "store")
        size = sum(store.files.path(number).stat().st_size for number in range(store.plan.num_shards))
        storage.rate = arguments.rate * 1e6
        epoch(folder / "store", videos, student, 4)
        for number in range(arguments.rounds):
            row = {"local": epoch(folder / "store", videos, student, arguments.clips)}
            shutil.rmtree(folder / "cache", ignore_errors=True)
            storage.requests.clear()
            row["cold"] = epoch(Storage.address("targets"), videos, student, arguments.clips)
            row["shards"] = storage.gets(".shard")
            row["warm"] = epoch(Storage.address("targets"), videos, student, arguments.clips)
            row["bytes"] = download(storage, store.plan.num_shards)
            rows.append(row)
            print(
                f"round {number + 1}: {json.dumps({key: round(value, 2) for key, value in row.items()})}",
                flush=True,
            )
    names = ("local", "warm", "cold", "bytes")
    table: dict[str, Any] = {key: float(np.median([row[key] for row in rows])) for key in names}
    table["warm_ratio"] = float(np.median([row["warm"] / row["local"] for row in rows]))
    table["cold_ratio"] = float(np.median([row["cold"] / row["local"] for row in rows]))
    table["cold_to_bytes"] = float(np.median([row["cold"] / row["bytes"] for row in rows]))
    table |= {"mb": size / 1e6, "shards": store.plan.num_shards, "rounds": rows, "rate_mb": arguments.rate}
    write_json(arguments.out, table)
    print(json.dumps({key: value for key, value in table.items() if key != "rounds"}, indent=1))


if __name__ == "__main__":
    main()
