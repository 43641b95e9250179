import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from helpers.places import REPOSITORY

from distill.data.video import guard, known

torch.set_num_threads(1)  # models this small are slower on more, and pinned losses want one order of sums


@pytest.fixture
def sample() -> Path:
    """DHF1K videos 002 (with gaze) and 068 (without)."""
    return REPOSITORY / "tests" / "data" / "dhf1k"


@pytest.fixture
def shared() -> Path:
    """Data that cannot be part of the project; tests on it skip where it is absent."""
    folder = REPOSITORY.parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"no folder {folder.name}/ beside the repository: its data cannot be shipped")
    return folder


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep what tests learn about their files out of the user's cache folder; started commands inherit it."""
    os.environ["SALDISTILL_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many calls behind the guard each look at files has made; none for what is remembered."""
    counts = []

    def counting(calls: Any, **arguments: Any) -> Any:
        counts.append(len(calls))
        return guard.guarded(calls, **arguments)

    monkeypatch.setattr(known, "guarded", counting)
    return counts


@pytest.fixture(autouse=True)
def fresh_process() -> Iterator[None]:
    """Give every test the state of a new process: accelerate keeps device and precision for a process's life."""
    torch.manual_seed(0)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
