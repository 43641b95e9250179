"""Pool of worker processes with one thread each, for work on arrays."""

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing import forkserver
from typing import Any, TypeVar

import torch

from distill.data.video.guard import ONE_THREAD

T = TypeVar("T")


@contextmanager
def worker_pool(workers: int, imports: Sequence[str]) -> Iterator[Executor]:
    """Yield an executor: one thread of this process, or several processes with one thread each.

    The processes are forked from a server that has imported what they need and nothing else: a fork of this process
    would inherit locks held by threads of a decoder or a network. As always with `multiprocessing`, a script with
    several workers must do its work under `if __name__ == "__main__":`, since they import it.

    Args:
        workers: number of workers; 1 for a thread.
        imports: modules that the server imports, once.
    """
    if workers == 1:
        with ThreadPoolExecutor(1) as thread:
            yield thread
        return
    context: Any = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(imports))
    before = {name: os.environ.get(name) for name in ONE_THREAD}
    os.environ.update(ONE_THREAD)  # for the server, which reads it when it imports NumPy
    try:
        forkserver.ensure_running()
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def run_ahead(pool: Executor, calls: Iterable[Callable[[], T]], ahead: int) -> Iterator[T]:
    """Yield the results of calls in order; at most `ahead` calls are submitted before their results are taken."""
    pending: deque[Future[T]] = deque()
    for call in calls:
        pending.append(pool.submit(call))
        if len(pending) > ahead:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process handles Ctrl-C
    torch.set_num_threads(1)
