import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState

torch.set_num_threads(1)  # models this small are slower on more, and pinned losses want one order of sums

REPOSITORY = Path(__file__).parent.parent


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


@pytest.fixture(autouse=True)
def fresh_process() -> Iterator[None]:
    """Give every test the state of a new process: accelerate keeps device and precision for a process's life."""
    torch.manual_seed(0)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
