import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from helpers.places import REPOSITORY

from distill.data.video import guard, probe_cache

torch.set_num_threads(1)  # fastest for small models, and pinned losses need one order of summation


@pytest.fixture
def sample() -> Path:
    """DHF1K videos 002 (with ground truth) and 068 (without)."""
    return REPOSITORY / "tests" / "data" / "dhf1k"


@pytest.fixture
def shared() -> Path:
    """Data that cannot be distributed with the project; tests that use it are skipped without it."""
    folder = REPOSITORY.parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"no folder {folder.name}/ next to the repository with data that cannot be distributed")
    return folder


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep inspections of test files out of the user's cache folder, in subprocesses too."""
    os.environ["SALDISTILL_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def guarded_calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of guarded calls that each inspection makes; nothing is added for cached results."""
    counts = []

    def counting(calls: Any, **arguments: Any) -> Any:
        counts.append(len(calls))
        return guard.guarded(calls, **arguments)

    monkeypatch.setattr(probe_cache, "guarded", counting)
    return counts


@pytest.fixture
def empty_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder and an empty cache in this process, for one test."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("SALDISTILL_CACHE", str(folder))
    monkeypatch.setattr(probe_cache.PROBE_CACHE, "_folders", {})
    return folder / "known"


@pytest.fixture(scope="session")
def graphs_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("graphs")


@pytest.fixture
def graphs(graphs_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cached graphs of the tests with this fixture, which export each network once; other tests have none."""
    monkeypatch.setenv("SALDISTILL_CACHE", str(graphs_folder))
    return graphs_folder / "graphs"


@pytest.fixture(autouse=True)
def fresh_process() -> Iterator[None]:
    """Reset the state that accelerate keeps per process, such as device and precision."""
    torch.manual_seed(0)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
