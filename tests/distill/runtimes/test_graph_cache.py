"""The cache of exported networks: when a file is reused, rebuilt or removed, and that its maps are PyTorch's."""

import os
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from distill.errors import UserError
from distill.models.loaded import LoadedModel
from distill.models.protocols import SaliencyModel, is_streaming
from distill.models.references import load_model
from distill.runtimes import graph_cache
from distill.runtimes.graph_cache import cached_graph, graph_path

MODELS = ("student/stream:micro", "teacher/salfom:micro")


@pytest.fixture
def model() -> LoadedModel:
    return load_model("student/stream:micro")


@pytest.fixture
def exports(graphs: Path, model: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """An empty cache, in which an export copies a file that was exported before; the paths are listed."""
    real, written = cached_graph(model).path, []

    def export(_: LoadedModel, path: Path, **options: Any) -> None:
        time.sleep(0.3)  # long enough for another thread to find the lock taken
        shutil.copy(real, path)
        written.append(path)

    monkeypatch.setenv("SALDISTILL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("distill.runtimes.export.export", export)
    return written


@pytest.mark.parametrize("name", MODELS)
def test_graph_returns_the_log_saliency_of_the_network(graphs: Path, sample: Path, name: str) -> None:
    model = load_model(name)
    graph = cached_graph(model, sample / "video" / "002.AVI")
    assert graph.path.parent == graphs
    assert is_streaming(graph) is is_streaming(model.network)
    length = 20 if is_streaming(model.network) else model.network.num_frames
    clip = torch.randint(0, 256, (2, 3, length, *model.network.size), dtype=torch.uint8)
    with torch.inference_mode():
        assert maps_of(graph, clip) == pytest.approx(maps_of(model.network, clip), abs=1e-4)


def maps_of(network: SaliencyModel, clip: torch.Tensor) -> Any:
    if not is_streaming(network):
        return network(clip).numpy()
    state, maps = network.initial_state(len(clip)), []
    for frame in clip.unbind(2):
        log_saliency, state = network.step(frame, state)
        maps.append(log_saliency)
    return torch.cat(maps, 1).numpy()


def test_values_below_the_floor_of_maps_are_exact(graphs: Path, model: LoadedModel) -> None:
    graph = cached_graph(model)
    graph.edge.session = Constant(-200.0)
    frame = torch.zeros(1, 3, *model.network.size, dtype=torch.uint8)
    maps, _ = graph.step(frame, graph.initial_state())  # type: ignore[operator]
    assert (maps == -200).all()


class Constant:
    """A session whose outputs have one value."""

    def __init__(self, value: float) -> None:
        self.value = value

    def run(self, names: list[str], feed: dict[str, Any]) -> list[Any]:
        return [torch.full((1, 1, 16, 24), self.value).numpy(), *list(feed.values())[1:]]


def test_second_call_reuses_the_file(exports: list[Path], model: LoadedModel) -> None:
    first, second = cached_graph(model).path, cached_graph(load_model("student/stream:micro")).path
    assert exports == [first] == [second] == [graph_path(model)]
    assert [path.name for path in first.parent.iterdir()] == [first.name]


@pytest.mark.parametrize("part", ["weight", "identity", "version", "code"])
def test_path_depends_on_whatever_the_graph_depends_on(
    model: LoadedModel, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = graph_path(model)
    assert graph_path(load_model("student/stream:micro")) == before
    if part == "weight":
        next(iter(model.network.parameters())).data.view(-1)[0] += 1e-3
    if part == "identity":
        model = replace(model, identity={**model.identity, "arguments": {"temperature": 2}})
    if part == "version":
        monkeypatch.setattr(graph_cache, "version", lambda package: "99.0")
    if part == "code":
        monkeypatch.setattr(graph_cache, "_source_hash", lambda network: "other code")
    assert graph_path(model) != before


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b[:-9] + b"!" + b[-8:], lambda b: b""])
def test_damaged_file_is_exported_again(
    exports: list[Path], model: LoadedModel, damage: Callable[[bytes], bytes]
) -> None:
    path = cached_graph(model).path
    good = path.read_bytes()
    path.write_bytes(damage(good))
    cached_graph(model)
    assert path.read_bytes() == good
    assert len(exports) == 2


def test_of_several_processes_one_exports(exports: list[Path], model: LoadedModel) -> None:
    with ThreadPoolExecutor(3) as pool:  # the lock is on the open file, so threads exclude each other as well
        paths = {graph.path for graph in pool.map(cached_graph, [model] * 3)}
    assert [*paths] == exports


def test_graphs_not_used_for_longest_are_removed(
    exports: list[Path], model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = graph_path(model).parent
    folder.mkdir(parents=True)
    for age, name in enumerate(("new", "old", "older")):
        (folder / f"{name}.onnx").write_bytes(bytes(1000))
        os.utime(folder / f"{name}.onnx", (1e9 - age, 1e9 - age))
    (folder / "older.onnx.data").write_bytes(bytes(1000))
    monkeypatch.setattr(graph_cache, "MAX_GRAPHS_BYTES", 0)
    cached_graph(model)
    assert [path.name for path in folder.iterdir()] == [graph_path(model).name]  # the new one, whatever its size

    (folder / "old.onnx").write_bytes(bytes(1000))
    os.utime(folder / "old.onnx", (1e9, 1e9))
    size = graph_path(model).stat().st_size
    graph_path(model).unlink()
    monkeypatch.setattr(graph_cache, "MAX_GRAPHS_BYTES", size + 1000)
    cached_graph(model)
    assert (folder / "old.onnx").exists()


def test_cache_folder_that_cannot_be_written_is_a_user_error(
    exports: list[Path], model: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SALDISTILL_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(UserError, match="the exported network cannot be cached"):
        cached_graph(model)
    assert exports == []


def test_error_of_the_exporter_is_a_user_error(
    exports: list[Path], model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **options: Any) -> None:
        raise RuntimeError("unsupported operator aten::odd\nand a long explanation")

    monkeypatch.setattr("distill.runtimes.export.export", broken)
    with pytest.raises(UserError, match=r"cannot be exported to ONNX: unsupported operator aten::odd$"):
        cached_graph(model)
    assert not graph_path(model).exists()
