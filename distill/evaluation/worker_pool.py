"""Several processes for work on arrays: what `evaluate` scores frames with."""

import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing import forkserver
from typing import Any

import torch

from distill.data.video.guard import ONE_THREAD


@contextmanager
def worker_pool(workers: int, imports: Sequence[str]) -> Iterator[Executor]:
    """Yield who works beside this thread: another thread, or several processes with one thread each.

    The processes are copies of a server that has imported what they need and nothing else: a copy of this process
    would have locks that a decoder's or a network's threads hold at that moment. As always with `multiprocessing`,
    a script that asks for several must do its work under `if __name__ == "__main__":`, since they import it.

    Args:
        workers: how many.
        imports: modules that the server imports, once.
    """
    if workers == 1:
        with ThreadPoolExecutor(1) as thread:
            yield thread
        return
    context: Any = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(imports))
    with _environment(ONE_THREAD):  # NumPy reads it when it is imported
        forkserver.ensure_running()
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Set variables of the environment for processes that start within the block."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _start() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the main process's to handle
    torch.set_num_threads(1)
