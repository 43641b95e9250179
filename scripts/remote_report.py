"""Faults and epochs of target stores on object storage: how often each fault was injected and what came of it.

    python scripts/remote_report.py faults -o faults.json [--seeds 10]
    python scripts/remote_report.py epochs -o epochs.json [--rounds 5] [--rate 8]

Needs a clone of the repository with its `dev` extra: the S3 endpoint is moto's server on the loopback, behind a
proxy that injects faults and sends at --rate megabytes per second, which all connections share.

`faults` pushes, pulls and reads a store of 42 shards while a third of the requests for shards fail at random. A
result is right if every byte is. `replaced` changes a shard after the push; it must never be read.

`epochs` times, in each round one after the other, an epoch with a local store, with a remote store and an empty
cache, with a remote store and a warm cache, and plain downloads of all shards, eight at once. An epoch loads all
clips in one worker, as training does, and runs a student forward and backward, unless --load-only.
"""

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
sys.path.insert(
    0, str(Path(__file__).resolve().parent.parent)
)  # before scripts/, whose distill.py hides the package

from helpers.object_storage import BUCKET, Storage, object_storage

from distill import remote
from distill.data.clip_dataset import ClipDataset, ClipSource
from distill.data.clips import ClipSpec
from distill.data.loader import make_loader
from distill.data.sets.find import find_videos
from distill.errors import UserError
from distill.files import write_json
from distill.models.registry import create_model
from distill.saliency import normalise_density, resize_density
from distill.targets.store import TargetStore
from distill.targets.transfer import pull_store, push_store
from distill.training.losses import LOSSES
from distill.training.read_ahead import read_ahead
from distill.training.teachers import CachedTeacher

ROOT = Path(__file__).resolve().parent.parent

ADDRESS = Storage.address("targets")

BATCH = 4


def make_store(path: Path, videos: list[Any]) -> TargetStore:
    """Write a store of maps as large as SalFoM's, whose records have about the bytes of a real teacher's."""
    noise = np.random.default_rng(0)
    rows, columns = np.mgrid[:224, :224] / 224
    names = {video.name: video.frames for video in videos}
    store = TargetStore.create(path, fingerprint={}, videos=names, map_size=(224, 224), batches_per_shard=4)
    with store:
        for batches in store.missing():
            for batch in batches:
                centres = noise.random((len(batch.frames), 2, 1, 1))
                maps = -20 * ((rows - centres[:, 0]) ** 2 + (columns - centres[:, 1]) ** 2)
                store.commit(batch, (maps + noise.normal(0, 0.01, maps.shape)).astype(np.float32))
    return TargetStore.open(path)


def content(path: Path) -> dict[str, bytes]:
    """Return the files of a folder."""
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def same_maps(one: TargetStore, other: TargetStore) -> bool:
    """Return whether two stores have the same maps, reading every eighth."""
    frames = [(name, frame) for name, each in one.plan.videos.items() for frame in each[::8]]
    return all(np.array_equal(one.read(*key), other.read(*key)) for key in frames)


def third(seed: int, fault: str, method: str) -> Callable[[str, str], str]:
    """Return a `Storage.fault` that hits a third of the requests for shards."""
    draw = random.Random(seed)
    return lambda found, path: (
        fault if found == method and path.endswith(".shard") and draw.random() < 1 / 3 else ""
    )


def faults(storage: Storage, store: TargetStore, folder: Path, seeds: int) -> list[dict[str, Any]]:
    """Return a row per fault and operation: times injected, runs, right results, and messages."""
    expected = content(Path(store.path))
    rows = []
    operations = [("push", fault) for fault in ("drop", "503")]
    operations += [(name, fault) for name in ("pull", "read") for fault in ("drop", "503", "cut", "shorten")]
    operations += [(name, "replaced") for name in ("pull", "read")]
    for operation, fault in operations:
        row: dict[str, Any] = {"operation": operation, "fault": fault, "injected": 0, "runs": seeds}
        row |= {"right": 0, "refused": 0, "messages": []}
        for seed in range(seeds):
            shutil.rmtree(folder / "cache", ignore_errors=True)
            shutil.rmtree(folder / "copy", ignore_errors=True)
            storage.empty()
            if operation != "push":
                push_store(store.path, ADDRESS, progress=False)
            if fault == "replaced":
                name = f"targets/shards/{seed % store.plan.num_shards:05d}.shard"
                storage.put(name, storage.get(name)[::-1])
                storage.faults[fault] += 1
            else:
                storage.fault = third(seed, fault, "PUT" if operation == "push" else "GET")
            try:
                if operation == "push":
                    push_store(store.path, ADDRESS, progress=False)
                    storage.fault = lambda method, path: ""
                    right = all(storage.get(f"targets/{name}") == each for name, each in expected.items())
                elif operation == "pull":
                    pull_store(ADDRESS, folder / "copy", progress=False)
                    right = content(folder / "copy") == expected
                else:
                    right = same_maps(TargetStore.open(ADDRESS), store)
                row["right"] += right
            except UserError as error:
                row["refused"] += 1
                row["messages"] = [str(error)]
            row["injected"] += storage.faults[fault]
        rows.append(row)
        print(json.dumps(row), flush=True)
    return rows


def epoch(store: str | Path, videos: list[Any], student: Any, clips: int, *, load_only: bool) -> float:
    """Return the seconds of an epoch."""
    spec = ClipSpec.of(student)
    started = time.perf_counter()
    teacher = CachedTeacher(TargetStore.open(store), spec)
    data = ClipDataset([ClipSource(videos, clips)], spec, seed=0, flip=False, extras=[teacher.reader])
    numbers = [list(range(first, first + BATCH)) for first in range(0, len(data) - BATCH + 1, BATCH)]
    for batch in make_loader(data, read_ahead(numbers, data, [teacher]), workers=1):
        if load_only:
            continue
        target = normalise_density(resize_density(batch["teacher_map"].exp(), spec.map_size))
        LOSSES["kldiv"](student(batch["clip"]), target).mean().backward()
        student.zero_grad()
    return time.perf_counter() - started


def download(storage: Storage, shards: int) -> float:
    """Return the seconds in which the endpoint sends all shards."""

    def fetch(number: int) -> None:
        with urlopen(f"{storage.url}/{BUCKET}/targets/shards/{number:05d}.shard") as answer:
            answer.read()

    started = time.perf_counter()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(fetch, range(shards)))
    return time.perf_counter() - started


def epochs(
    storage: Storage, store: TargetStore, folder: Path, videos: list[Any], options: argparse.Namespace
) -> dict[str, Any]:
    """Return seconds of the epochs of each round, their medians, and medians of their ratios."""
    student = create_model("student/stream", variant="nano").network.train()
    push_store(store.path, ADDRESS, progress=False)
    storage.rate = options.rate * 1e6

    def once(address: str | Path, clips: int = options.clips) -> float:
        return epoch(address, videos, student, clips, load_only=options.load_only)

    rows: list[dict[str, float]] = []
    once(store.path, 4)
    for number in range(options.rounds):
        row = {"local": once(store.path)}
        shutil.rmtree(folder / "cache", ignore_errors=True)
        row["cold"] = once(ADDRESS)
        cached = [path.stat().st_size for path in (folder / "cache/remote").rglob("*.shard")]
        row["warm"] = once(ADDRESS)
        row["bytes"] = download(storage, store.plan.num_shards) * sum(cached) / store.size_on_disk()
        rows.append(row)
        print(f"round {number + 1}: {json.dumps({key: round(value, 2) for key, value in row.items()})}", flush=True)

    def median(value: Callable[[dict[str, float]], float]) -> float:
        return float(np.median([value(row) for row in rows]))

    return {
        **{f"{key}_seconds": median(lambda row, key=key: row[key]) for key in ("local", "warm", "cold", "bytes")},
        "warm_to_local": median(lambda row: row["warm"] / row["local"]),
        "cold_to_local": median(lambda row: row["cold"] / row["local"]),
        "cold_to_longer_of_bytes_and_local": median(lambda row: row["cold"] / max(row["bytes"], row["local"])),
        "fetched_mb": sum(cached) / 1e6,
        "fetched_shards": len(cached),
        "setting": vars(options) | {"out": str(options.out)},
        "rounds": rows,
    }


def main() -> None:
    """Make the store and the endpoint, measure, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("faults", "epochs"))
    parser.add_argument("-o", "--out", required=True, type=Path)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rate", type=float, default=8.0, help="MB per second of the endpoint")
    parser.add_argument("--clips", type=int, default=100, help="clips per video and epoch")
    parser.add_argument("--load-only", action="store_true", help="run no student")
    options = parser.parse_args()
    torch.set_num_threads(1)
    videos = find_videos("dhf1k", ROOT / "tests/data/dhf1k")
    with (
        tempfile.TemporaryDirectory() as name,
        pytest.MonkeyPatch.context() as patch,
        object_storage(patch) as storage,
    ):
        folder = Path(name)
        os.environ["SALDISTILL_CACHE"] = str(folder / "cache")
        store = make_store(folder / "store", videos)
        if options.part == "faults":
            remote.FIRST_WAIT = 0.01
            write_json(
                options.out,
                {"shards": store.plan.num_shards, "rows": faults(storage, store, folder, options.seeds)},
            )
        else:
            result = epochs(storage, store, folder, videos, options)
            write_json(options.out, result)
            print(json.dumps({key: value for key, value in result.items() if key != "rounds"}, indent=1))


if __name__ == "__main__":
    main()
