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
from distill.benchmark.metrics import FIVE, ONE_THREAD, benchmark_metrics, make_frames
from distill.benchmark.process import run_fresh
from distill.cli.main import main
from distill.evaluation.metrics import METRICS, auc_judd

SMALL: dict[str, Any] = {"frames": 2, "size": (18, 32), "predictions": ((18, 32), (9, 16))}

TITLE = "AUC-J + NSS + CC + SIM + KL"

CASES = {
    (title, path): metrics
    for title, metrics in (("AUC-J", ["auc_judd"]), (TITLE, list(FIVE)), ("sAUC", ["auc_shuffled"]))
    for path in ("one by one", "batched")
} | {("all eight", "batched"): list(METRICS)}


def test_make_frames_is_deterministic_and_like_real_data() -> None:
    maps, truth = make_frames(3, (90, 160))
    again, _ = make_frames(3, (90, 160))
    assert all((one == other).all() for one, other in zip(maps, again, strict=True))
    assert {kind for metric in METRICS.values() for kind in metric.truth} == truth.keys()
    assert all(counts.sum() == 150 for counts in truth["fixations"])
    assert all(density.sum() == pytest.approx(1, abs=1e-5) for density in truth["density"])
    assert all(values.shape == (90, 160) and values.dtype == np.float32 and values.max() == 1 for values in maps)
    good = [auc_judd(*each) for each in zip(maps, truth["fixations"], strict=True)]
    assert 0.7 < np.mean(good) < 0.98


def test_metrics_rows_and_ratios(monkeypatch: pytest.MonkeyPatch) -> None:
    """Case n takes n seconds, so that the ratios are known."""
    seconds = iter(range(1, 1000))
    monkeypatch.setattr(module, "interleave", lambda calls, rounds, progress: [[next(seconds)] for _ in calls])
    rows, ratios = module._measure(1, *SMALL.values(), False)
    assert [(row["metrics"], row["path"]) for row in rows] == [*CASES] * 2
    assert [row["prediction"] for row in rows] == ["18x32"] * 7 + ["9x16"] * 7
    assert [row["milliseconds"] for row in rows] == [500.0 * count for count in range(1, 15)]  # two frames
    assert [row["speed"] for row in rows[:7]] == [None, 1 / 2, None, 3 / 4, None, 5 / 6, None]
    assert ratios["18x32"] == {"one_by_one_over_batched": 3 / 4, "shuffled_over_the_rest": 6 / 4}
    assert all(row["memory_mb"] > 0 for row in rows)


def test_metrics_cases_call_metrics_of_row(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    for name, metric in METRICS.items():
        spy = replace(metric, function=lambda *args, name=name, **options: called.append(name) or 0.0)
        monkeypatch.setitem(METRICS, name, spy)
    monkeypatch.setattr(module, "score_frames", lambda metrics, *args, **options: called.extend(metrics))
    seen = {}
    for metrics, path, run in module._cases(*make_frames(1, (18, 32))):
        called.clear()
        run()
        seen[metrics, path] = called.copy()
    assert seen == CASES


def test_metrics_memory_is_peak_of_call() -> None:
    assert module._memory(lambda: (np.ones(10**6).sum(), np.ones(2 * 10**6).sum())) == pytest.approx(16, abs=0.1)


def test_metrics_run_in_process_with_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    assert run_fresh(os.getenv, "OMP_NUM_THREADS", env=ONE_THREAD) == "1"
    assert os.environ["OMP_NUM_THREADS"] == "8"
    asked: list[Any] = []
    monkeypatch.setattr(module, "run_fresh", lambda *call, env: asked.append((call, env)) or ([], {}))
    benchmark_metrics(3, **SMALL, progress=False)
    assert asked == [((module._measure, 3, *SMALL.values(), False), ONE_THREAD)]


def test_metrics_command_prints_and_writes_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "benchmark_metrics", partial(benchmark_metrics, **SMALL, progress=False))
    assert main(["benchmark", "--of", "metrics", "--rounds", "1", "-o", str(tmp_path / "m.json")]) == 0
    printed = capsys.readouterr().out
    saved = json.loads((tmp_path / "m.json").read_text())
    assert len(saved["rows"]) == 14
    assert saved["setting"]["threads"] == 1
    assert saved["setting"]["ratios"].keys() == {"18x32", "9x16"}
    assert "one thread" in printed
    assert "18x32: the five metrics" in printed


@pytest.mark.parametrize("words", [["student/thtdnet:micro"], ["--threads", "2"]])
def test_metrics_command_with_model_or_threads_is_rejected(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["benchmark", *words, "--of", "metrics"]) == 2
    assert "leave out MODEL and --threads" in capsys.readouterr().err
