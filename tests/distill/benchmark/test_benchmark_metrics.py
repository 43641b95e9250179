"""The benchmark of metrics: its rows and ratios, and its limit to one core."""

import json
import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distill.benchmark import metrics as module
from distill.benchmark.metrics import ONE_THREAD, benchmark_metrics, make_frames
from distill.benchmark.process import run_fresh
from distill.cli.main import main
from distill.errors import UserError
from distill.evaluation.metrics import METRICS, auc_judd

SMALL: dict[str, Any] = {"frames": 2, "size": (18, 32), "predictions": ((18, 32), (9, 16)), "fixations": 12}


def test_make_frames_is_deterministic_and_like_real_data() -> None:
    maps, truth = make_frames(3, (90, 160), 50)
    again, _ = make_frames(3, (90, 160), 50)
    assert all((one == other).all() for one, other in zip(maps, again, strict=True))
    assert {kind for metric in METRICS.values() for kind in metric.truth} == truth.keys()
    assert all(counts.sum() == 50 for counts in truth["fixations"])
    assert all(density.sum() == pytest.approx(1, abs=1e-5) for density in truth["density"])
    assert all(values.shape == (90, 160) and values.dtype == np.float32 and values.max() == 1 for values in maps)
    good = [auc_judd(*each) for each in zip(maps, truth["fixations"], strict=True)]
    assert 0.7 < np.mean(good) < 0.98


def test_metrics_rows_and_ratios(monkeypatch: pytest.MonkeyPatch) -> None:
    """Case n takes n seconds, so that the ratios are known."""
    seconds = iter(range(1, 1000))
    monkeypatch.setattr(module, "interleave", lambda calls, rounds, progress: [[next(seconds)] for _ in calls])
    rows, ratios = module._measure(1, *SMALL.values(), False)
    assert [(row["metrics"], row["path"]) for row in rows[:8]] == [
        ("AUC-J", "textbook loop"),
        ("AUC-J", "one by one"),
        ("AUC-J", "batched"),
        ("AUC-J + NSS + CC + SIM + KL", "one by one"),
        ("AUC-J + NSS + CC + SIM + KL", "batched"),
        ("sAUC", "one by one"),
        ("sAUC", "batched"),
        ("all eight", "batched"),
    ]
    assert [row["prediction"] for row in rows] == ["18x32"] * 8 + ["9x16"] * 8
    assert [row["milliseconds"] for row in rows] == [500.0 * count for count in range(1, 17)]  # two frames
    assert [row["speed"] for row in rows[:8]] == [None, 1 / 2, 1 / 3, None, 4 / 5, None, 6 / 7, None]
    assert ratios["18x32"] == {
        "textbook_over_auc_judd": 1 / 2,
        "one_by_one_over_batched": 4 / 5,
        "shuffled_over_the_rest": 7 / 5,
    }
    assert all(row["memory_mb"] > 0 for row in rows)


def test_metrics_cases_call_metrics_of_row(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    for name, metric in METRICS.items():
        spy = replace(metric, function=lambda *args, name=name, **options: called.append(name) or 0.0)
        monkeypatch.setitem(METRICS, name, spy)
    monkeypatch.setattr(module, "score_frames", lambda metrics, *args, **options: called.extend(metrics))
    maps, truth = make_frames(1, (18, 32), 12)
    seen = {}
    for case in module._cases(maps, truth):
        called.clear()
        case.run()
        seen[case.metrics, case.path] = called.copy()
    five = ["auc_judd", "nss", "cc", "sim", "kldiv"]
    assert seen["AUC-J", "textbook loop"] == []
    assert seen["AUC-J", "one by one"] == seen["AUC-J", "batched"] == ["auc_judd"]
    assert seen["AUC-J + NSS + CC + SIM + KL", "one by one"] == five
    assert seen["AUC-J + NSS + CC + SIM + KL", "batched"] == five
    assert seen["sAUC", "one by one"] == seen["sAUC", "batched"] == ["auc_shuffled"]
    assert seen["all eight", "batched"] == list(METRICS)


def test_metrics_memory_is_peak_of_call() -> None:
    assert module._memory(lambda: (np.ones(10**6).sum(), np.ones(2 * 10**6).sum())) == pytest.approx(16, abs=0.1)


def test_metrics_run_in_process_with_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    found = run_fresh(os.getenv, "OMP_NUM_THREADS", env=ONE_THREAD)
    assert found == "1"
    assert os.environ["OMP_NUM_THREADS"] == "8"
    asked: list[Any] = []
    monkeypatch.setattr(module, "run_fresh", lambda *call, env: asked.append((call, env)) or ([], {}))
    benchmark_metrics(3, **SMALL, progress=False)
    assert asked == [((module._measure, 3, *SMALL.values(), False), ONE_THREAD)]


def test_metrics_command_prints_and_writes_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "benchmark_metrics", partial(benchmark_metrics, **SMALL, progress=False))
    assert main(["benchmark", "--of", "metrics", "--rounds", "1", "--json", str(tmp_path / "m.json")]) == 0
    printed = capsys.readouterr().out
    saved = json.loads((tmp_path / "m.json").read_text())
    assert len(saved["rows"]) == 16
    assert saved["setting"]["threads"] == 1
    assert saved["setting"]["ratios"].keys() == {"18x32", "9x16"}
    assert "one thread" in printed
    assert "18x32: AUC-J" in printed


@pytest.mark.parametrize("words", [["student/thtdnet:micro"], ["--threads", "2"]])
def test_metrics_command_with_model_or_threads_is_rejected(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["benchmark", *words, "--of", "metrics"]) == 2
    assert "leave out MODEL and --threads" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", [{"rounds": 0}, {"frames": 0}, {"size": (0, 4)}, {"predictions": ()}])
def test_metrics_number_below_one_is_rejected(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="must be at least 1"):
        benchmark_metrics(**{**SMALL, **wrong}, progress=False)
