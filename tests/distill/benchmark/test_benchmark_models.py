"""The benchmark of models: its numbers, interleaved rounds, and networks and files in one table."""

import json
import time
from pathlib import Path

import pytest
import torch
from helpers.model_cases import loaded
from torch import Tensor, nn

from distill.benchmark import models as module
from distill.benchmark import rows as rows_module
from distill.benchmark.models import benchmark_models
from distill.benchmark.rows import Table
from distill.cli.main import main
from distill.errors import UserError
from distill.models.cost import count_weights, gflops_per_map
from distill.models.registry import create_model
from distill.runtimes.export import export


class Sleeper(nn.Module):
    """A network that takes a known time and logs its calls."""

    num_frames, size, map_size = 2, (8, 8), (8, 8)

    def __init__(self, name: str, seconds: float, log: list[str], maps: int = 1) -> None:
        super().__init__()
        self.name, self.seconds, self.log = name, seconds, log
        self.target_frames = tuple(range(maps))
        self.weight = nn.Parameter(torch.zeros(10))
        self.inference = False

    def forward(self, clip: Tensor) -> Tensor:
        self.log.append(self.name)
        self.inference = torch.is_inference_mode_enabled() and not self.training
        self.shape = tuple(clip.shape)
        time.sleep(self.seconds)
        return torch.zeros(len(clip), len(self.target_frames), 8, 8)


class Small(nn.Module):
    """A network that exports quickly."""

    num_frames, size, map_size, target_frames = 2, (16, 24), (16, 24), (1,)

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv2d(3, 1, 3, padding=1)

    def forward(self, clip: Tensor) -> Tensor:
        return nn.functional.logsigmoid(self.mix(clip[:, :, -1].float() / 255))


@pytest.fixture(autouse=True)
def small_matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MATRIX", {"cpu": 256})


def test_models_times_are_per_map_and_ratios_relative_to_first() -> None:
    log: list[str] = []
    slow, fast = Sleeper("slow", 0.04, log), Sleeper("fast", 0.02, log, maps=2)
    rows = benchmark_models(
        [loaded(slow, "slow"), loaded(fast, "fast")],
        rounds=3,
        batch_size=[2],
        device="cpu",
        memory=False,
        progress=False,
    )
    assert [row["model"] for row in rows] == ["slow", "fast"]
    assert 20 <= rows[0]["milliseconds"] < 36  # 40 ms for 2 clips of one map
    assert 5 <= rows[1]["milliseconds"] < 9  # 20 ms for 2 clips of two maps
    assert rows[0]["ratio"] == 1
    assert rows[1]["ratio"] == pytest.approx(rows[1]["milliseconds"] / rows[0]["milliseconds"])
    assert all(row["p99"] >= row["milliseconds"] and row["weights"] == 10 for row in rows)
    assert rows[0]["maps_per_second"] == pytest.approx(1000 / rows[0]["milliseconds"])
    assert slow.inference
    assert slow.shape == (2, 3, 2, 8, 8)


def test_models_rounds_interleave_and_threads_are_restored() -> None:
    log: list[str] = []
    before = torch.get_num_threads()
    rows = benchmark_models(
        [loaded(Sleeper(name, 0.3, log), name) for name in ("a", "b")],
        rounds=2,
        threads=1,
        device="cpu",
        memory=False,
        progress=False,
    )
    assert log == ["a", "a", "b", "b", "a", "b", "a", "b"]
    assert [row["calls"] for row in rows] == [2, 2]
    assert rows.setting["threads"] == 1
    assert torch.get_num_threads() == before


def test_models_networks_and_files_share_one_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, "ROUND_SECONDS", 0.01)
    small = loaded(Small())
    export(small, tmp_path / "s.onnx")
    monkeypatch.chdir(tmp_path)
    rows = benchmark_models(
        ["teacher/salfom:micro", small, "s.onnx"], rounds=2, device="cpu", memory=False, progress=False
    )
    teacher = create_model("teacher/salfom:micro")
    assert [row["runtime"] for row in rows] == ["PyTorch", "PyTorch", "ONNX Runtime"]
    assert rows[0]["weights"] == count_weights(teacher.network)
    assert rows[0]["gflops"] == pytest.approx(gflops_per_map(teacher))
    assert rows[0]["gmacs"] == pytest.approx(rows[0]["gflops"] / 2)
    assert rows[1]["weights"] == rows[2]["weights"] == 27 + 1
    assert rows[2]["file_mb"] == pytest.approx((tmp_path / "s.onnx").stat().st_size / 1e6)
    lines = str(rows).splitlines()
    assert lines[0].split()[:5] == ["model", "runtime", "mode", "weights", "GMACs/map"]
    assert [line.split()[0] for line in lines[1:4]] == ["teacher/salfom:micro", "Small", "s.onnx"]
    assert "2 rounds" in lines[4]
    assert "product of two 256x256 matrices: fp32" in lines[5]
    assert [(row["precision"], row["batch_size"]) for row in rows] == [("fp32", 1), ("fp32", 1), ("fp32", 1)]
    rows.save(tmp_path / "rows.json")
    assert json.loads((tmp_path / "rows.json").read_text()) == {"setting": rows.setting, "rows": list(rows)}


def test_models_memory_is_measured_in_fresh_process() -> None:
    rows = benchmark_models(["student/thtdnet:micro"], rounds=1, batch_size=[8], device="cpu", progress=False)
    weights = 4e-6 * rows[0]["weights"]
    assert weights < rows[0]["memory_mb"] < 2000


def test_table_prints_none_as_dash() -> None:
    row = {"model": "m", "weights": None, "file_mb": 1.0, "frames": 1234, "rate": 12345.6}
    lines = str(Table([row], " ".join(row), {}, ["a note"])).splitlines()
    assert lines[0].split() == ["model", "weights", "file", "MB", "frames", "rate"]
    assert lines[1].split() == ["m", "-", "1", "1,234", "12,346"]
    assert lines[-1] == "a note"


def test_models_row_for_each_batch_size_and_precision(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(rows_module, "ROUND_SECONDS", 0.01)
    rows = benchmark_models(
        ["teacher/salfom:micro"],
        rounds=2,
        batch_size=[1, 3],
        precision=["fp32", "bf16"],
        device="cpu",
        memory=False,
        progress=False,
    )
    assert [(row["precision"], row["batch_size"]) for row in rows] == [
        ("fp32", 1),
        ("fp32", 3),
        ("bf16", 1),
        ("bf16", 3),
    ]
    rates = rows.setting["matrix_gflops_per_second"]
    assert list(rates) == ["fp32", "bf16"]
    for row in rows:
        reached = row["gflops"] / (row["milliseconds"] / 1000)  # GFLOPs a second
        assert row["gflops_per_second"] == pytest.approx(reached)
        assert row["share"] == pytest.approx(reached / rates[row["precision"]])
    assert rows[0]["ratio"] == 1


def test_models_share_is_relative_to_matrix_product(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, "ROUND_SECONDS", 0.01)
    products: list[tuple[torch.dtype, tuple[int, ...]]] = []

    def slow(a: Tensor, b: Tensor) -> Tensor:
        products.append((a.dtype, tuple(a.shape)))
        assert b.shape == a.shape
        time.sleep(0.02)
        return a

    monkeypatch.setattr(torch, "mm", slow)
    setting = {"rounds": 2, "device": "cpu", "memory": False, "progress": False}
    rows = benchmark_models([loaded(Sleeper("a", 0.001, []), "a")], precision=["fp32", "fp16"], **setting)
    assert set(products) == {(torch.float32, (256, 256)), (torch.float16, (256, 256))}
    expected = 2 * 256**3 / 0.02 / 1e9
    assert all(0.7 * expected < rate <= expected for rate in rows.setting["matrix_gflops_per_second"].values())
    assert rows[0]["share"] is None  # the operations of this network are unknown


def test_models_command_takes_lists_and_writes_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, "ROUND_SECONDS", 0.01)
    monkeypatch.setattr(module, "_cpu_memory", lambda *case: len(case))  # each costs a process
    out = tmp_path / "m.json"
    words = ["benchmark", "student/thtdnet:micro", "--device", "cpu", "--rounds", "1", "--threads", "1"]
    assert main([*words, "--batch-size", "1,2", "--precision", "fp32,bf16", "-o", str(out)]) == 0
    saved = json.loads(out.read_text())
    assert [(row["precision"], row["batch_size"]) for row in saved["rows"]] == [
        (precision, size) for precision in ("fp32", "bf16") for size in (1, 2)
    ]
    assert all(row["memory_mb"] == 4 for row in saved["rows"])
    assert saved["setting"]["threads"] == 1
    for wrong in (["--batch-size", "1,none"], ["--precision", "fp32,int8"]):
        with pytest.raises(SystemExit):
            main([*words, *wrong])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"references": []}, "name at least one model"),
        ({"references": ["student/nothing"]}, "student/nothing"),
        ({"references": ["nowhere.onnx"]}, "nowhere.onnx"),
        ({"batch_size": [2, 0]}, "rounds, batch_size and threads must be at least 1"),
        ({"precision": ["fp32", "int8"]}, "precision: expected one of fp32, bf16, fp16, got 'int8'"),
        ({"rounds": 0}, "rounds, batch_size and threads must be at least 1"),
        ({"runtime": ["onnx", "tensorrt"]}, "runtime: expected pytorch or onnx or both"),
        ({"device": "cuda:99"}, "cuda:99"),
    ],
)
def test_models_invalid_setting_is_rejected(arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        benchmark_models(
            **{"references": ["student/thtdnet:micro"], "progress": False, "device": "cpu", **arguments}
        )


def test_table_shows_nan_as_a_dash_and_saves_null(tmp_path: Path) -> None:
    table = Table([{"a": float("nan"), "b": float("inf")}], "a b", {})
    assert str(table).splitlines()[1].split() == ["-", "-"]
    table.save(tmp_path / "t.json")
    assert json.loads((tmp_path / "t.json").read_text())["rows"] == [{"a": None, "b": None}]
