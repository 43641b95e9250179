"""DataLoader over explicit lists of sample indices, with errors reported from any number of worker processes."""

import gc
import signal
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, default_collate, get_worker_info

from distill.errors import UserError


@dataclass(frozen=True)
class Failure:
    """The message of a UserError, sent by a worker in place of a sample."""

    message: str


class Loader(DataLoader[Any]):
    """A DataLoader that raises a worker's UserError in the main process, without the worker's traceback."""

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        # A forked worker must not collect garbage that it inherits: a decoder's destructor waits for its threads.
        gc.freeze()
        try:
            batches = super().__iter__()  # starts the workers
        finally:
            gc.unfreeze()
        for batch in batches:
            if isinstance(batch, Failure):
                raise UserError(batch.message)
            yield batch


class _Guarded(Dataset[Any]):
    """A data set that returns a Failure instead of raising a UserError in a worker process."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Any:
        try:
            return self.dataset[index]
        except UserError as error:
            if get_worker_info() is None:
                raise
            return Failure(str(error))


def collate(samples: list[Any]) -> Any:
    """Stack samples into a batch; return the first Failure among them instead, if any."""
    failure = next((sample for sample in samples if isinstance(sample, Failure)), None)
    return failure or default_collate(samples)


def _start_worker(_worker: int) -> None:
    leave_signals_to_main()
    sys.excepthook = _report
    torch.set_num_threads(1)


def leave_signals_to_main() -> None:
    """Make a worker ignore Ctrl-C and the first SIGTERM, which clusters send to all processes of a job.

    A second SIGTERM ends it: the main process stops stuck workers with it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.signal(number, signal.SIG_DFL))


def _report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print an uncaught exception of a worker, unless it was caused by the end of the main process."""
    if not issubclass(kind, EOFError | ConnectionError):
        sys.__excepthook__(kind, error, trace)


def make_loader(
    dataset: Dataset[Any], batches: Iterable[list[int]], *, workers: int, pin_memory: bool = False
) -> Loader:
    """Return a loader of the given batches, in order and independent of the number of workers.

    Args:
        dataset: a map-style data set.
        batches: lists of sample indices; a generator can be iterated once.
        workers: decoding processes, each of which prefetches two batches; 0 decodes in the main process.
        pin_memory: return batches in pinned memory, from which copies to a GPU do not block.

    Raises:
        UserError: during iteration, if a video or its ground truth cannot be read.
        RuntimeError: during iteration, if anything else fails; names the video.
    """
    return Loader(
        _Guarded(dataset),
        batch_sampler=batches,  # torch takes any iterable of lists
        num_workers=workers,
        collate_fn=collate,
        worker_init_fn=_start_worker,
        persistent_workers=workers > 0,
        prefetch_factor=2 if workers else None,
        pin_memory=pin_memory,
    )
