"""The GPU report: from end to end on the CPU, failing and slow parts, tables and comparison, and its wheels."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.places import REPOSITORY

from distill.benchmark import gpu_report, gpu_wheels
from distill.benchmark.gpu_pages import comparison, markdown
from distill.benchmark.gpu_report import PARTS, main, measure_part, report
from distill.benchmark.gpu_rows import RUN_OUT, Case, Plan, Row, attempt, measure_group
from distill.errors import UserError

CPU = torch.device("cpu")


def rows_of(folder: Path, part: str) -> list[Row]:
    path = folder / f"{part}.jsonl"
    measure_part(part, path, Plan(CPU, quick=True))
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize(
    ("part", "what"),
    [
        pytest.param("inference", {"forward", "kernels"}, marks=pytest.mark.slow),
        pytest.param("compiled", {"forward"}, marks=pytest.mark.slow),
        pytest.param("training", {"step"}, marks=pytest.mark.slow),
        ("streaming", {"forward"}),
        ("cache", {"store"}),
        ("students", {"run"}),
    ],
)
def test_part_measures_every_row(part: str, what: set[str], tmp_path: Path) -> None:
    rows = rows_of(tmp_path, part)
    assert {row["what"] for row in rows} == what
    assert not [row for row in rows if "error" in row]
    for row in rows:
        assert row["batch"] >= 1
        assert row.get("milliseconds", 1) > 0
        assert 0 < (row.get("busy") or 0.5) <= 1


@pytest.mark.slow
def test_quick_report_on_the_cpu_finishes_every_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--device", "cpu", "--quick", "--out", str(tmp_path), "--budget", "3000"]
    assert main(arguments) == 0
    found = json.loads((tmp_path / "report.json").read_text())
    assert found["parts"].keys() == PARTS.keys()
    assert {part["status"] for part in found["parts"].values()} == {"finished"}
    assert {row["part"] for row in found["rows"]} == PARTS.keys()
    assert "its figures mean nothing" in (tmp_path / "report.md").read_text()
    assert "## Teachers: time and memory per map" in capsys.readouterr().out


def test_part_runs_in_a_process_and_its_rows_are_in_the_report(tmp_path: Path) -> None:
    found = report(tmp_path, device="cpu", quick=True, parts=["streaming"], budget=300)
    assert found["parts"]["streaming"]["status"] == "finished", (tmp_path / "streaming.log").read_text()
    assert json.loads((tmp_path / "report.json").read_text()) == found
    assert [row["batch"] for row in found["rows"]] == [1, 2]
    assert "| forward | student/stream:micro | eager | fp32 | 1 |" in (tmp_path / "report.md").read_text()


def test_failing_and_slow_parts_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = {"cache": "print('one'); raise SystemExit('no disk')", "students": "import time; time.sleep(60)"}
    run = gpu_report._run

    def fake(command: list[str], log: Path, limit: float) -> str:
        (tmp_path / f"{log.stem}.jsonl").write_text('{"what": "first"}\n')
        return run(["-c", programs[log.stem]], log, limit if log.stem == "cache" else 1)

    monkeypatch.setattr(gpu_report, "_run", fake)
    started = time.monotonic()
    found = report(tmp_path, device="cpu", quick=True, parts=["students", "cache"])
    assert time.monotonic() - started < 50
    assert found["parts"]["cache"]["status"] == "failed with exit code 1: no disk; see cache.log"
    assert found["parts"]["students"]["status"] == "stopped after 1 s; what it had not measured is missing"
    assert [row["what"] for row in found["rows"]] == ["first", "first"]
    assert "no disk" in (tmp_path / "report.md").read_text()


def test_part_without_time_is_not_started(tmp_path: Path) -> None:
    found = report(tmp_path, device="cpu", parts=["inference", "cache"], budget=5)
    assert {part["status"] for part in found["parts"].values()} == {"not started: no time was left"}
    assert found["rows"] == []


def test_unknown_parts_and_devices_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="parts: expected one or more of tests, inference"):
        report(tmp_path, device="cpu", parts=["speed"])
    assert main(["--device", "cuda:99", "--out", str(tmp_path)]) == 2
    assert "device 'cuda:99': not available" in capsys.readouterr().err


def test_failed_measurements_are_rows_with_a_reason() -> None:
    def too_large() -> Row:
        torch.empty(2**50, dtype=torch.uint8)
        return {}

    plan = Plan(CPU, quick=True)
    assert attempt(plan, {"batch": 1}, too_large) == {"batch": 1, "error": "out of memory"}
    wrong = attempt(plan, {}, lambda: {"value": [][1]})
    assert wrong == {"error": "IndexError: list index out of range"}
    assert attempt(Plan(CPU, seconds=-1), {"batch": 2}, dict) == {"batch": 2, "error": RUN_OUT}


def test_group_measures_what_does_not_fail() -> None:
    def broken() -> Any:
        raise ValueError("no kernel")

    cases = [
        Case({"batch": 1}, lambda: lambda: 0.25, units=2, gflops=3.0, memory=lambda call: 7.0),
        Case({"batch": 2}, broken, units=1),
        Case({"batch": 3}, lambda: lambda: 1.0, units=4),
    ]
    rows = list(measure_group(Plan(CPU, quick=True), cases, "fp32"))
    assert [row["batch"] for row in rows] == [2, 1, 3]
    assert rows[0] == {"batch": 2, "error": "ValueError: no kernel"}
    assert (rows[1]["milliseconds"], rows[1]["per_second"], rows[1]["memory_mb"]) == (125.0, 8.0, 7.0)
    assert rows[1]["share"] == pytest.approx(3.0 / 1000 * 8 / rows[1]["matrix_tflops"])
    assert (rows[2]["milliseconds"], rows[2]["share"]) == (250.0, None)


PYTEST = """\
tests/gpu/test_a.py::test_one[cuda] PASSED                       [ 25%]
tests/gpu/test_a.py::test_two[a b-cuda] FAILED                   [ 50%]
tests/gpu/test_a.py::test_three SKIPPED (no CUDA device)         [ 75%]
FAILED tests/gpu/test_a.py::test_two[a b-cuda] - assert 1 == 2
"""


def test_pytest_output_becomes_rows() -> None:
    rows = gpu_report.test_rows(PYTEST)
    assert rows[0]["note"] == "1 passed, 1 failed, 1 skipped"
    assert rows[1:] == [{"what": "tests/gpu/test_a.py::test_two[a b-cuda]", "error": "assert 1 == 2"}]
    assert gpu_report.test_rows("ERROR: no such file")[0]["note"] == "no test ran"


def example(device: str, first: float, **more: Any) -> dict[str, Any]:
    row = {"part": "inference", "what": "forward", "model": "m", "precision": "bf16", "batch": 1}
    return {
        "setting": {"device": device, "quick": False},
        "parts": {"inference": {"title": "Teachers", "seconds": 1.0, "status": "finished"}},
        "rows": [{**row, "milliseconds": first, "share": 0.5}, {**row, "batch": 64, **more}],
    }


def test_comparison_shows_times_and_their_ratio(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = example("H100", 10.0, error="out of memory"), example("H200", 8.0, milliseconds=300.0)
    text = comparison(one, other)
    assert text.startswith("A: H100\nB: H200\n")
    assert "| inference forward m bf16 1 | 10 | 8 | 1.25 | 50.0% | 50.0% | - | - |" in text
    assert "| inference forward m bf16 64 | out of memory | 300 | - |" in text
    paths = [tmp_path / "one.json", tmp_path / "other.json"]
    for path, content in zip(paths, (one, other), strict=True):
        path.write_text(json.dumps(content))
    assert main(["--compare", *map(str, paths)]) == 0
    assert capsys.readouterr().out.strip() == text
    paths[0].write_text("{}")
    assert main(["--compare", *map(str, paths)]) == 2
    assert "one.json: cannot be read as a GPU report" in capsys.readouterr().err


def test_markdown_shows_errors_and_only_used_columns() -> None:
    text = markdown(example("H100", 10.0, error="a | b"))
    assert "| what | model | precision | batch | ms | of matrix rate | error |" in text
    assert "| forward | m | bf16 | 64 | - | - | a \\| b |" in text


# ---------------------------------------------------------------- wheels


def test_wheels_are_those_that_the_machine_lacks() -> None:
    present = gpu_wheels.closure([*gpu_wheels.PRESENT, *gpu_wheels.SPARED])
    assert {"numpy", "pillow", "psutil", "pyyaml", "huggingface-hub", "jinja2"} <= present
    wanted = gpu_wheels.required_names(gpu_wheels.wanted(REPOSITORY / "pyproject.toml"))
    assert set(wanted) - present == {"av", "cmap", "platformdirs", "portalocker", "pydantic", "pytest"}


def test_requirements_of_other_platforms_and_extras_are_left_out() -> None:
    given = ["a>=1", "b; sys_platform == 'win32'", "c; extra == 'test'", "D_e; python_version >= '3.12'"]
    assert gpu_wheels.required_names(given) == ["a", "d-e"]


def test_wheels_above_the_limit_are_refused(tmp_path: Path) -> None:
    wheel = tmp_path / "large-1-py3-none-any.whl"
    with wheel.open("wb") as file:
        file.truncate(60 * 2**20)
    with pytest.raises(UserError, match=r"60\.0 MiB, expected at most 50; the largest are large-1"):
        gpu_wheels.check_size([wheel])
    assert gpu_wheels.main([str(tmp_path)]) == 2
