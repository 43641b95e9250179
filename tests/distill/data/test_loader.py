"""Worker processes of the loader: inherited garbage, errors and generators of batches."""

import gc
import os
from pathlib import Path

import pytest
import torch
from torch.utils.data import Dataset

from distill.data.loader import make_loader
from distill.errors import UserError


class Trap:
    """A reference cycle that records which process collected it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.itself = folder, self

    def __del__(self) -> None:
        (self.folder / f"collected by {os.getpid()}").touch()


class Collecting(Dataset[int]):
    """Return indices after running the garbage collector."""

    def __getitem__(self, index: int) -> int:
        gc.collect()
        return index


@pytest.mark.skipif(torch.multiprocessing.get_start_method() != "fork", reason="needs forked workers")
def test_workers_do_not_collect_inherited_garbage(tmp_path):
    """The destructor of an inherited decoder would wait for threads that do not exist in the worker."""
    gc.collect()
    gc.disable()
    try:
        Trap(tmp_path)
        batches = list(make_loader(Collecting(), [[1, 2], [3]], workers=2))
        assert [batch.tolist() for batch in batches] == [[1, 2], [3]]
        assert list(tmp_path.iterdir()) == []
        gc.collect()
        assert [path.name for path in tmp_path.iterdir()] == [f"collected by {os.getpid()}"]
        assert gc.get_freeze_count() == 0
    finally:
        gc.enable()


class Failing(Dataset[int]):
    """Raise a UserError for every third sample and a KeyError for every fourth."""

    def __getitem__(self, index: int) -> int:
        if index % 3 == 2:
            raise UserError(f"sample {index} cannot be read")
        if index % 4 == 3:
            raise KeyError(f"sample {index}")
        return index


@pytest.mark.parametrize("workers", [0, 1])
def test_user_error_is_raised_after_the_batches_before_it(workers):
    loader = iter(make_loader(Failing(), [[0, 1], [4, 5], [6]], workers=workers))
    assert next(loader).tolist() == [0, 1]
    with pytest.raises(UserError, match="sample 5 cannot be read"):
        next(loader)


def test_unexpected_error_of_a_worker_is_raised():
    with pytest.raises(KeyError, match="sample 3"):
        list(make_loader(Failing(), [[3]], workers=1))


def test_generator_of_batches_is_iterated_once():
    batches = ([number, number + 1] for number in (0, 3))
    loader = make_loader(Collecting(), batches, workers=1)
    assert [batch.tolist() for batch in loader] == [[0, 1], [3, 4]]
    assert list(loader) == []
