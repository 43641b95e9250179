"""Target stores whose writer is killed (SIGKILL) at a random call to the disk, also in the middle of a write."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.places import REPOSITORY
from helpers.stores import EVERYTHING, assert_readable, content
from helpers.writer_process import ARGUMENTS, fill

from distill.targets.store import TargetStore

SCRIPT = REPOSITORY / "tests" / "helpers" / "writer_process.py"


def start(store: Path, kill_at: int = -1, share: float = 0.0, pause: float = 0.0) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), str(store), str(kill_at), str(share), str(pause)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout.readline() == "ready\n"
    return process


def end(process: subprocess.Popen) -> tuple[list[int], list[str]]:
    """Let a process finish; return the batches whose commit returned, and the step of each disk call."""
    output = process.communicate("go\n", timeout=60)[0]
    committed, _, calls = output.partition("calls ")
    return [int(line) for line in committed.split()], calls.split()


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[dict[str, bytes], list[str]]:
    """Return the files of a store written without interruption, and the step of each disk call."""
    path = tmp_path_factory.mktemp("straight") / "store"
    TargetStore.create(path, **ARGUMENTS)
    batches, calls = end(start(path))
    assert len(batches) == 14
    return content(path), calls


def killed_store(path: Path, kill_at: int, share: float, purpose: str) -> str:
    """Kill a writer once, check what it left, let another one finish, and return a description."""
    store = TargetStore.create(path, **ARGUMENTS)
    process = start(path, kill_at, share)
    reported, calls = end(process)
    assert process.returncode == -signal.SIGKILL
    assert calls == []
    there = [key for key in EVERYTHING if store.has(*key)]
    promised = [
        (batch.video, frame, batch.view)
        for batch in map(store.plan.__getitem__, reported)
        for frame in batch.frames
    ]
    assert set(promised) <= set(there), "committed maps are lost"
    assert len(there) - len(promised) <= 4, "only the batch being committed may be extra"
    assert_readable(store, there)
    store.close()
    left = ", ".join(sorted(file.name for file in (path / "shards").glob("*")))
    whole = {(video, view, frame) for video, frame, view in there}
    batches = [batch for batch in store.plan if (batch.video, batch.view, batch.frames[0]) in whole]
    with TargetStore.open(path) as again:
        resumed = fill(again)
    assert resumed == len(store.plan) - len(batches), "exactly the missing batches are computed again"
    return (
        f"killed in call {kill_at:2d} ({purpose}) after {share:4.0%}: {len(reported):2d} batches reported, "
        f"{len(batches):2d} there, {resumed:2d} written by the next; files left: {left}"
    )


def moments(count: int, calls: int) -> list[tuple[int, float]]:
    random = np.random.default_rng(20)
    return [(int(random.integers(calls)), float(random.random())) for _ in range(count)]


@pytest.mark.parametrize("number", range(4))
def test_killed_writer_loses_nothing_and_the_next_resumes(tmp_path, finished, number):
    straight, calls = finished
    kill_at, share = moments(4, len(calls))[number]
    print(killed_store(tmp_path / "store", kill_at, share, calls[kill_at]))
    assert content(tmp_path / "store") == straight


@pytest.mark.slow
def test_writer_killed_at_fifty_calls_loses_nothing(tmp_path, finished):
    straight, calls = finished
    assert {calls[kill_at] for kill_at, _ in moments(50, len(calls))} == {"claim", "append", "seal"}
    for kill_at, share in moments(50, len(calls)):
        print(killed_store(tmp_path / "store", kill_at, share, calls[kill_at]))
        assert content(tmp_path / "store") == straight
        shutil.rmtree(tmp_path / "store")


@pytest.mark.slow
def test_two_writers_killed_repeatedly_lose_nothing(tmp_path, finished):
    """Restart two writers on one store, both killed at random, until it is full."""
    straight, _ = finished
    store = TargetStore.create(tmp_path / "store", **ARGUMENTS)
    random = np.random.default_rng(21)
    for _ in range(20):
        pair = [start(store.path, int(random.integers(2, 12)), float(random.random())) for _ in range(2)]
        for process in pair:
            process.stdin.write("go\n")
            process.stdin.flush()
        for process in pair:
            process.communicate(timeout=60)
        assert_readable(store, [key for key in EVERYTHING if store.has(*key)])
        if store.complete:
            break
    end(start(store.path))
    assert content(store.path) == straight
