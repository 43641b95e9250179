from pathlib import Path

import pytest
from helpers.writer_process import ARGUMENTS, fill

from distill.data.clips import Video
from distill.data.sets import synthetic
from distill.targets.store import TargetStore


@pytest.fixture
def store(tmp_path) -> TargetStore:
    return TargetStore.create(tmp_path / "store", **ARGUMENTS)


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Path:
    """Return a complete store, written without interruption; copy it before changing it."""
    path = tmp_path_factory.mktemp("finished") / "store"
    with TargetStore.create(path, **ARGUMENTS) as store:
        fill(store)
    return path


@pytest.fixture
def videos() -> list[Video]:
    return [synthetic.video("one", 1, (14, 36, 64)), synthetic.video("two", 2, (9, 36, 64))]
