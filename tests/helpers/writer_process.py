"""Process that writes a small target store and can kill itself at any of its calls to the disk.

    python writer_process.py STORE KILL_AT SHARE [PAUSE]

KILL_AT counts the calls that change the disk (write, fsync, truncate, rename), from 0; a write that is hit writes
SHARE of its bytes first; a negative number disables this. Prints `ready`, waits for a line, then prints the index
of each batch when its commit has returned, and at the end the step of each call: claim, append or seal.
"""

import os
import signal
import sys
import time
import traceback
import zlib
from pathlib import Path

import numpy as np

from distill.targets.store import TargetStore

SIZE = (6, 9)
VIDEOS = {"a": range(10), "b": range(3, 20, 2), "c": [0, 1, 5]}
ARGUMENTS = {
    "fingerprint": {"teacher": {"weights": "0123"}, "videos": {name: {"bytes": 1} for name in VIDEOS}},
    "videos": VIDEOS,
    "views": ("plain", "flipped"),
    "map_size": SIZE,
    "batch_size": 4,
    "batches_per_shard": 3,
}


def log_map(video: str, frame: int, view: str) -> np.ndarray:
    """Return a map (h, w) that is a function of its key."""
    random = np.random.default_rng(zlib.crc32(f"{video} {frame} {view}".encode()))
    return np.cumsum(random.normal(size=SIZE), axis=1).astype(np.float32)


def batch_maps(batch) -> np.ndarray:
    return np.stack([log_map(batch.video, frame, batch.view) for frame in batch.frames])


def fill(store: TargetStore, *, batches: int | None = None, report=lambda index: None) -> int:
    """Commit missing batches, at most `batches`; return how many were committed."""
    done = 0
    for claimed in store.missing():
        for batch in claimed:
            if done == batches:
                return done
            store.commit(batch, batch_maps(batch))
            report(batch.index)
            done += 1
    return done


class Killer:
    """Counts the calls that change the disk and kills this process at one of them."""

    def __init__(self, kill_at: int, share: float) -> None:
        self.kill_at, self.share = kill_at, share
        self.calls: list[str] = []
        for name in ("pwrite", "fsync", "ftruncate", "rename"):
            setattr(os, name, self.wrapped(name, getattr(os, name)))

    def wrapped(self, name, call):
        def counted(*arguments):
            if len(self.calls) == self.kill_at:
                if name == "pwrite":
                    file, content, position = arguments
                    call(file, content[: int(self.share * len(content))], position)
                os.kill(os.getpid(), signal.SIGKILL)
            self.calls.append(purpose())
            return call(*arguments)

        return counted


def purpose() -> str:
    """Return the current step of the writer."""
    names = [frame.name for frame in traceback.extract_stack()]
    return next((name for name in reversed(names) if name in ("claim", "append", "seal")), "start")


def main() -> None:
    path, kill_at, share = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    pause = float(sys.argv[4]) if len(sys.argv) > 4 else 0.0

    def report(index: int) -> None:
        os.write(1, f"{index}\n".encode())
        time.sleep(pause)

    store = TargetStore.open(path)
    os.write(1, b"ready\n")
    sys.stdin.readline()
    killer = Killer(kill_at, share)
    fill(store, report=report)
    os.write(1, f"calls {' '.join(killer.calls)}\n".encode())


if __name__ == "__main__":
    main()
