"""The benchmark of the target store: its tables and how they depend on each other."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.places import REPOSITORY

from distill.benchmark import rows as rows_module
from distill.benchmark import target_tables
from distill.benchmark import targets as module
from distill.benchmark.process import memory_growth
from distill.benchmark.rows import Tables
from distill.benchmark.targets import benchmark_targets, make_large_store, open_store
from distill.cli.main import main
from distill.data import clip_reader
from distill.errors import UserError
from distill.targets.codec import CODECS
from distill.targets.store import TargetStore
from distill.training.config import RunConfig, save_config


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A fast benchmark in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "DEFAULT_TEACHER", "teacher/salfom:micro")
    monkeypatch.setattr(module, "STUDENT", "student/thtdnet:micro")
    monkeypatch.setattr(module, "SHAPE", (24, 36, 64))
    monkeypatch.setattr(module, "BATCHES", 2)
    monkeypatch.setattr(module, "CLIPS", 1)
    monkeypatch.setattr(module, "LARGE_VIDEOS", 3)
    monkeypatch.setattr(rows_module, "ROUND_SECONDS", 0.001)
    return tmp_path


def test_targets_command_prints_and_saves_three_tables(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frames = clip_reader.FRAME_CACHE
    assert main(["benchmark", "--of", "cache", "--rounds", "1", "--device", "cpu", "-o", "cache.json"]) == 0
    saved = json.loads((small / "cache.json").read_text())
    assert [path.name for path in small.iterdir()] == ["cache.json"]  # stores and videos are gone
    assert clip_reader.FRAME_CACHE is frames
    assert list(saved) == ["codecs", "times", "DHF1K", "collections"]

    codecs = {row["codec"]: row for row in saved["codecs"]["rows"]}
    assert list(codecs) == list(CODECS)
    assert 0 <= codecs["exact"]["kl"] < codecs["log8"]["kl"] < 1e-4
    assert codecs["half"]["bytes_a_pixel"] < codecs["log8"]["bytes_a_pixel"] < codecs["exact"]["bytes_a_pixel"]

    times = {(row["part"], row["what"]): row for row in saved["times"]["rows"]}
    assert [part for part, _ in times] == ["writing"] * 2 + ["reading"] * 5 + ["training", "opening"]
    for part, first in [("writing", target_tables.TEACHER), ("reading", target_tables.LOADER)]:
        for key in times:
            if key[0] == part:
                expected = times[key]["milliseconds"] / times[first]["milliseconds"]
                assert times[key]["ratio"] == pytest.approx(expected)
    assert all(row["milliseconds"] > 0 for row in times.values())
    assert saved["times"]["setting"]["teacher"] == "teacher/salfom:micro"

    step, taught = (times[key]["milliseconds"] for key in (target_tables.STEP, target_tables.TEACHER))
    for row in saved["DHF1K"]["rows"]:
        assert row["cached_hours"] == pytest.approx(step * 346_140 / 3.6e6)
        assert row["online_hours"] == pytest.approx((step + taught) * 346_140 / 3.6e6)
        assert row["both_views_gib"] == 2 * row["disk_gib"]
    printed = capsys.readouterr().out
    assert "computed from the times above, not measured: 346,140 training frames" in printed
    assert "teacher and store" in printed


def test_targets_config_sets_teacher_and_batch_size(small: Path) -> None:
    source = {"dataset": "synthetic", "videos": ["blob0"]}
    config = RunConfig.model_validate(
        {
            "out": "run",
            "model": {"name": "student/thtdnet", "variant": "micro"},
            "data": {"train": [source]},
            "teacher": {"model": "student/thtdnet:micro", "store": "store", "batch_size": 3, "codec": "exact"},
            "losses": [{"name": "kldiv", "against": "teacher"}],
            "training": {"steps": 1, "batch_size": 2},
        }
    )
    save_config(config, small / "run.yaml")
    tables = benchmark_targets("run.yaml", rounds=1, batch_size=8, device="cpu", progress=False)
    setting = tables["times"].setting
    assert (setting["teacher"], setting["batch_size"], setting["codec"]) == ("student/thtdnet:micro", 3, "exact")
    assert not (small / "store").exists()
    short = config.model_copy(update={"teacher": config.teacher.model_copy(update={"batch_size": 40})})
    save_config(short, small / "short.yaml")
    with pytest.raises(UserError, match="48 frames are fewer than two batches of 40"):
        benchmark_targets("short.yaml", device="cpu", progress=False)
    with pytest.raises(UserError, match="has no teacher"):
        benchmark_targets(REPOSITORY / "configs" / "teacher" / "demo.yaml", device="cpu")


@pytest.mark.parametrize("words", [["a", "b"], ["--batch-size", "1,2"], ["--precision", "fp32,bf16"]])
def test_targets_command_with_several_values_is_rejected(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["benchmark", "--of", "cache", *words]) == 2
    assert "name at most one teacher or config, batch size and precision" in capsys.readouterr().err


def test_collection_table_by_hand() -> None:
    times = {target_tables.TEACHER_AND_STORE: 3600.0}
    first, *others = target_tables.collection_table(times, 2**20, {"codec": "log8"})
    assert first["disk_gib"] == pytest.approx(346_140 / 1024)
    assert first["hours"] == pytest.approx(346_140 / 1000)
    gigabytes = 346_140 * 2**20 / 1e9
    assert (first["keep_usd"], first["pull_usd"]) == pytest.approx((0.023 * gigabytes, 0.09 * gigabytes))
    assert first["pull_hours"] == pytest.approx(gigabytes * 8 / 3600)
    assert [row["maps"] for row in others] == [2_462_450, 73_873_500]


def test_dhf1k_table_by_hand() -> None:
    """Maps of 36 KB, 36 ms for the teacher, 18 ms for a step."""
    times = {target_tables.TEACHER: 36.0, target_tables.TEACHER_AND_STORE: 36.0, target_tables.STEP: 18.0}
    times[target_tables.loader_and_store("log8")] = 54.0
    (row,) = target_tables.dhf1k_table(times, {"log8": 36_000.0}, 2, {})
    assert row["disk_gib"] == pytest.approx(346_140 * 36_000 / 2**30)
    assert row["caching_hours"] == pytest.approx(3.4614)
    assert row["cached_hours"] == pytest.approx(3.4614 / 2)
    assert row["online_hours"] == pytest.approx(3.4614 / 2 + 2 * 3.4614)
    assert row["workers"] == pytest.approx(3)


def test_kl_by_hand() -> None:
    true, stored = (torch.tensor([[[0.75, 0.25]]]).log(), torch.tensor([[[0.5, 0.5]]]).log())
    expected = 0.75 * np.log(1.5) + 0.25 * np.log(0.5)
    assert target_tables.kl(true, stored).tolist() == pytest.approx([expected])
    assert target_tables.kl(true + 3, stored - 2).tolist() == pytest.approx([expected])
    flat = 3 ** (1 / 4) / (1 + 3 ** (1 / 4))
    expected = flat * np.log(2 * flat) + (1 - flat) * np.log(2 - 2 * flat)
    assert target_tables.kl(true, stored, 4).tolist() == pytest.approx([expected])


def test_open_store_of_350_000_maps_takes_less_than_100_mib(tmp_path: Path) -> None:
    path = make_large_store(tmp_path / "large")
    store = TargetStore.open(path)
    assert store.complete
    assert open_store(path) == 350_000
    assert store.damage() == []
    # a part of its 16 bytes per map may lie in memory that the imports have freed
    assert 350_000 * 8 / 1e6 < memory_growth(partial, open_store, path) < 100 * 2**20 / 1e6


def test_tables_print_titles_and_save_one_file(tmp_path: Path) -> None:
    table = rows_module.Table([{"a": 1}], "a", {"rounds": 3}, ["a note"], {"a": "head"})
    tables = Tables(one=table, two=table)
    assert str(tables).splitlines() == ["one", "head", "1   ", "a note", "", "two", "head", "1   ", "a note"]
    tables.save(tmp_path / "tables.json")
    assert json.loads((tmp_path / "tables.json").read_text())["two"] == {
        "setting": {"rounds": 3},
        "rows": [{"a": 1}],
    }
