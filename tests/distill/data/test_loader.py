"""The loader's processes: what they must not do with what they inherit."""

import gc
import os
from pathlib import Path

import pytest
import torch
from torch.utils.data import Dataset

from distill.data.loader import make_loader
from distill.errors import UserError


class Trap:
    """Part of a cycle; says where it was collected."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.itself = folder, self

    def __del__(self) -> None:
        (self.folder / f"collected by {os.getpid()}").touch()


class Collecting(Dataset[int]):
    """Numbers; each is preceded by a collection of garbage."""

    def __getitem__(self, index: int) -> int:
        gc.collect()
        return index


@pytest.mark.skipif(torch.multiprocessing.get_start_method() != "fork", reason="workers inherit nothing here")
def test_workers_do_not_collect_what_they_inherit(tmp_path):
    """A decoder that was garbage before the fork would wait, in the worker, for threads that are not there."""
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
    """Every third sample is a user's mistake, every fourth ours."""

    def __getitem__(self, index: int) -> int:
        if index % 3 == 2:
            raise UserError(f"sample {index} cannot be read")
        if index % 4 == 3:
            raise KeyError(f"sample {index}")
        return index


@pytest.mark.parametrize("workers", [0, 1])
def test_a_mistake_comes_after_the_batches_before_it(workers):
    loader = iter(make_loader(Failing(), [[0, 1], [4, 5], [6]], workers=workers))
    assert next(loader).tolist() == [0, 1]
    with pytest.raises(UserError, match="sample 5 cannot be read"):
        next(loader)


def test_our_own_error_keeps_its_traceback():
    with pytest.raises(KeyError, match="sample 3"):
        list(make_loader(Failing(), [[3]], workers=1))


def test_batches_may_be_a_generator_that_is_gone_through_once():
    batches = ([number, number + 1] for number in (0, 3))
    loader = make_loader(Collecting(), batches, workers=1)
    assert [batch.tolist() for batch in loader] == [[0, 1], [3, 4]]
    assert list(loader) == []
