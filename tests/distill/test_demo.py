import json
from pathlib import Path

import pytest
import yaml
from helpers.places import REPOSITORY

from distill import demo
from distill.errors import UserError
from distill.reports.demo import format_duration, score_table, text_table, verdict_of

ROOT = REPOSITORY


class Work:
    """A step's work that counts how often it was done."""

    def __init__(self, result: object = None, makes: Path | None = None) -> None:
        self.result, self.makes, self.calls = result, makes, 0

    def __call__(self) -> object:
        self.calls += 1
        if self.makes:
            self.makes.touch()
        return self.result


def test_a_step_is_done_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    work = Work({"nss": 2.5})
    for expected_calls in (1, 1):
        diary = demo.Diary(tmp_path / "results.json", {"lr": 1})
        assert diary.step("a", "Do it.", work) == {"nss": 2.5}
        assert work.calls == expected_calls
    assert capsys.readouterr().out.count("Done before") == 1


def test_a_step_whose_file_is_gone_is_done_again_and_those_after_it(tmp_path: Path) -> None:
    first, second, third = Work(makes=tmp_path / "one"), Work(makes=tmp_path / "two"), Work()
    for _ in range(2):
        diary = demo.Diary(tmp_path / "results.json", 0)
        diary.step("a", "One.", first, makes=first.makes)
        diary.step("b", "Two.", second, makes=second.makes)
        diary.step("c", "Three.", third)
        (tmp_path / "two").unlink()
    assert (first.calls, second.calls, third.calls) == (1, 2, 2)


def test_an_interrupted_step_leaves_no_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    diary = demo.Diary(tmp_path / "results.json", 0)
    diary.step("a", "One.", Work(1))
    with pytest.raises(KeyboardInterrupt):
        diary.step("b", "Two.", interrupted)
    assert "the same command goes on" in capsys.readouterr().out
    assert list(json.loads((tmp_path / "results.json").read_text())["steps"]) == ["a"]


def test_results_of_other_configs_are_refused(tmp_path: Path) -> None:
    demo.Diary(tmp_path / "results.json", {"steps": 100}).step("a", "One.", Work(1))
    with pytest.raises(UserError, match="other configs"):
        demo.Diary(tmp_path / "results.json", {"steps": 200})


def results(student_cc: float) -> dict[str, object]:
    def scores(nss: float, cc: float) -> dict[str, float]:
        return {"auc_judd": 0.9, "nss": nss, "cc": cc, "sim": 0.4, "kldiv": 1.0}

    cost = {"weights": 2_000_000, "gflops": 6.0, "milliseconds": 80.0}
    return {
        "b": {"result": {"centre prior": scores(1.0, 0.3), "teacher": scores(2.0, 0.5)}},
        "f": {"result": {"scores": scores(1.9, student_cc), "costs": {"teacher": cost, "student": cost}}},
    }


def test_the_table_has_every_model_score_and_cost() -> None:
    columns, rows = score_table(results(0.4))
    assert columns[:6] == ["model", "AUC-J", "NSS", "CC", "SIM", "KL"]
    assert [row[0] for row in rows] == ["centre prior", "teacher", "student"]
    assert rows[0][6:] == [None, None, None]
    assert rows[2][1:] == [0.9, 1.9, 0.4, 0.4, 1.0, 2.0, 6.0, 80.0]


@pytest.mark.parametrize(("student_cc", "good"), [(0.4, True), (0.2, False)])
def test_the_verdict_follows_the_scores(student_cc: float, good: bool) -> None:
    assert verdict_of(results(student_cc)).good is good


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (59.6, "1 min 0 s"), (42, "42 s"), (192, "3 min 12 s")]
)
def test_durations_in_words(seconds: float, words: str) -> None:
    assert format_duration(seconds) == words


def test_text_tables_line_up() -> None:
    lines = text_table(["model", "x"], [["teacher", 1.5], ["centre prior", None]]).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[1].endswith("1.500")
    assert lines[2].endswith("-")


def small(source: Path, target: Path) -> Path:
    """A copy of a demo config that takes seconds."""
    config = yaml.safe_load(source.read_text())
    config["model"] |= {"variant": "micro", "arguments": {"size": [32, 64]}}
    config["training"] |= {"steps": 4, "validate_every": 2}
    config["data"]["workers"] = 0
    for source_section in config["data"]["train"]:
        source_section["frames"] = [1, 24]
    config["data"]["test"][0]["frames"] = [601, 624]
    target.write_text(yaml.safe_dump(config))
    return target


@pytest.mark.slow
def test_the_whole_demo_at_toy_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(demo, "TEACHER", small(demo.TEACHER, tmp_path / "teacher.yaml"))
    monkeypatch.setattr(demo, "STUDENT", small(demo.STUDENT, tmp_path / "student.yaml"))
    out = tmp_path / "demo"
    page = demo.run_demo(out, device="cpu")
    text = page.read_text()
    assert "Warning" in text  # four steps teach nothing
    assert all(f'<th scope="row">{name}</th>' in text for name in ("centre prior", "teacher", "student"))
    losses = json.loads((out / "results.json").read_text())["steps"]["e"]["result"]
    assert losses["online"] == pytest.approx(losses["cached"], rel=1e-3)
    first = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    assert "Done before" not in capsys.readouterr().out

    demo.run_demo(out, device="cpu")
    assert capsys.readouterr().out.count("Done before") == 8
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()} == first
