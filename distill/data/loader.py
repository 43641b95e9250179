"""The loader: explicit lists of sample numbers become batches, in any number of processes."""

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
    """What a worker hands over instead of a sample when a user's file is bad: the sentence, without a traceback."""

    message: str


class Loader(DataLoader[Any]):
    """A DataLoader that raises a worker's UserError in the main process as the one sentence it is."""

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        gc.freeze()  # a forked worker must not collect what it inherits: a decoder would wait for its threads
        try:
            batches = super().__iter__()  # the workers start here
        finally:
            gc.unfreeze()
        for batch in batches:
            if isinstance(batch, Failure):
                raise UserError(batch.message)
            yield batch


class _Guarded(Dataset[Any]):
    """Samples of a data set, a user's mistake returned as a Failure when a worker process asks."""

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
    """Stack samples into a batch; the first Failure among them stands for the batch."""
    failure = next((sample for sample in samples if isinstance(sample, Failure)), None)
    return failure or default_collate(samples)


def _start_worker(_worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the main process's to handle
    sys.excepthook = _report
    torch.set_num_threads(1)


def _report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print an uncaught exception of a worker, unless it only says that the main process has gone."""
    if not issubclass(kind, EOFError | ConnectionError):
        sys.__excepthook__(kind, error, trace)


def make_loader(dataset: Dataset[Any], batches: Iterable[list[int]], *, workers: int) -> Loader:
    """Load batches of samples in the order given.

    The batches are the same for any number of workers. Workers live as long as the loader and prepare two batches
    each ahead.

    Args:
        dataset: anything with `dataset[i]`.
        batches: a list of sample numbers for each batch; a generator can be gone through once.
        workers: processes that decode; 0 decodes in this one.

    Raises:
        UserError: while iterating, if a video or its ground truth cannot be read.
        RuntimeError: while iterating, if anything else fails; it names the video.
    """
    return Loader(
        _Guarded(dataset),
        batch_sampler=batches,  # torch takes any iterable of lists
        num_workers=workers,
        collate_fn=collate,
        worker_init_fn=_start_worker,
        persistent_workers=workers > 0,
        prefetch_factor=2 if workers else None,
        pin_memory=torch.cuda.is_available(),
    )
