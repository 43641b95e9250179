from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.fake_hub import FakeHub, running_hub
from helpers.hub_models import NAME, files_of, write_run

from distill.release.hub_folder import write_hub_folder


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a repository with a small streaming student."""
    folder = tmp_path_factory.mktemp("hub")
    write_run(folder / "run")
    (folder / "upload").mkdir()
    write_hub_folder(folder / "run", NAME, folder / "upload")
    return files_of(folder / "upload")


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, bytes]) -> Iterator[FakeHub]:
    """A fake hub with the repository NAME, and an empty cache."""
    with running_hub(tmp_path, monkeypatch) as server:
        server.add(NAME, dict(files))
        yield server
