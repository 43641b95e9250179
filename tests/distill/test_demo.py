import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from helpers.places import REPOSITORY
from helpers.pretrained_models import make_pretrained, placeholder

from distill import demo
from distill.errors import UserError
from distill.models import pretrained
from distill.reports.demo import describe_shipped, format_duration, score_table, text_table, verdict_of
from distill.shipped import shipped_path


class Work:
    """Work of a step that counts its calls."""

    def __init__(self, result: object = None, output: Path | None = None) -> None:
        self.result, self.output, self.calls = result, output, 0

    def __call__(self) -> object:
        self.calls += 1
        if self.output:
            self.output.touch()
        return self.result


def finished(folder: Path, settings: object = 0) -> demo.FinishedSteps:
    return demo.FinishedSteps(folder / "results.json", settings)


def test_finished_step_is_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    work = Work({"nss": 2.5})
    for _ in range(2):
        assert finished(tmp_path, {"lr": 1}).run("a", "Do it.", work) == {"nss": 2.5}
        assert work.calls == 1
    assert capsys.readouterr().out.count("Already done") == 1


def test_step_with_missing_output_runs_again_and_all_later_steps(tmp_path: Path) -> None:
    first, second, third = Work(output=tmp_path / "one"), Work(output=tmp_path / "two"), Work()
    for _ in range(2):
        steps = finished(tmp_path)
        steps.run("a", "One.", first, output=first.output)
        steps.run("b", "Two.", second, output=second.output)
        steps.run("c", "Three.", third)
        (tmp_path / "two").unlink()
    assert (first.calls, second.calls, third.calls) == (1, 2, 2)


def test_interrupted_step_leaves_no_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    steps = finished(tmp_path)
    steps.run("a", "One.", Work(1))
    with pytest.raises(KeyboardInterrupt):
        steps.run("b", "Two.", interrupted)
    assert "the same command resumes" in capsys.readouterr().out
    assert list(json.loads((tmp_path / "results.json").read_text())["steps"]) == ["a"]


def test_results_of_other_configs_are_refused(tmp_path: Path) -> None:
    finished(tmp_path, {"steps": 100}).run("a", "One.", Work(1))
    with pytest.raises(UserError, match="other configs"):
        finished(tmp_path, {"steps": 200})


DAMAGED = ("{", "[]", '{"settings": 0}', '{"settings": 0, "steps": {"a": 1}}', "[" * 200_000, "\xff", "")


@pytest.mark.parametrize("text", DAMAGED)
def test_damaged_results_are_one_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "results.json").write_bytes(text.encode("latin1"))
    with pytest.raises(UserError, match=r"results\.json: cannot be read as results of the demo") as caught:
        finished(tmp_path)
    assert "\n" not in str(caught.value)


def test_output_outside_the_folder_is_never_removed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "two").mkdir(parents=True)
    folder = tmp_path / "demo"
    folder.mkdir()
    steps = finished(folder)
    steps.run("a", "One.", Work(output=folder / "two"), output=folder / "two")
    text = (folder / "results.json").read_text()
    for made in (str(outside / "two"), str(outside / "two" / "..")):
        (folder / "results.json").write_text(text.replace(str(folder / "two"), made))
        (folder / "two").unlink(missing_ok=True)
        try:
            finished(folder).run("a", "One.", Work(output=folder / "two"), output=folder / "two")
        except UserError as error:
            assert "cannot become a path" in str(error)  # noqa: PT017 - either is right
        assert (outside / "two").is_dir()


def results(student_cc: float) -> dict[str, dict]:
    def scores(nss: float, cc: float) -> dict[str, float]:
        return {"auc_judd": 0.9, "nss": nss, "cc": cc, "sim": 0.4, "kldiv": 1.0}

    cost = {"weights": 2_000_000, "gflops": 6.0, "milliseconds": 80.0}
    return {
        "b": {"seconds": 60.0, "result": {"centre prior": scores(1.0, 0.3), "teacher": scores(2.0, 0.5)}},
        "f": {
            "seconds": 12.0,
            "result": {"scores": scores(1.9, student_cc), "costs": {"teacher": cost, "student": cost}},
        },
    }


def test_table_has_scores_and_cost_of_every_model(tmp_path: Path) -> None:
    columns, rows = score_table(results(0.4))
    assert columns[:6] == ["model", "AUC-J", "NSS", "CC", "SIM", "KL"]
    assert [row[0] for row in rows] == ["centre prior", "teacher", "student"]
    assert rows[0][6:] == [None, None, None]
    assert rows[2][1:] == [0.9, 1.9, 0.4, 0.4, 1.0, 2.0, 6.0, 80.0]
    demo.write_summary(tmp_path / "demo.json", results(0.4), "cpu")
    summary = json.loads((tmp_path / "demo.json").read_text())
    assert (summary["columns"], summary["rows"]) == (columns, rows)
    assert summary["duration"] == "1 min 12 s"
    assert "models on cpu" in summary["machine"]


def test_pretrained_model_has_a_row_and_no_part_in_the_verdict() -> None:
    found = results(0.4)
    scores = {"auc_judd": 0.8, "nss": 0.5, "cc": 0.1, "sim": 0.1, "kldiv": 2.0}
    found["f"]["result"]["shipped"] = {"stream-small": scores}
    found["f"]["result"]["costs"]["stream-small"] = {"weights": 3_000_000, "gflops": 1.0, "milliseconds": 7.0}
    _, rows = score_table(found)
    assert rows[3] == ["stream-small", 0.8, 0.5, 0.1, 0.1, 2.0, 3.0, 1.0, 7.0]
    assert verdict_of(found).good
    assert "stream-small" not in verdict_of(found).sentence


@pytest.mark.parametrize(("student_cc", "good"), [(0.4, True), (0.2, False)])
def test_verdict_follows_the_scores(student_cc: float, good: bool) -> None:
    assert verdict_of(results(student_cc)).good is good


@pytest.mark.parametrize(
    ("sources", "seen"),
    [
        ([{"videos": ["002"]}], True),
        ([{"videos": ["002"], "frames": [1, 601]}], True),
        ([{"videos": ["002"], "frames": [1, 600]}], False),
        ([{"videos": ["068"]}, {"split": "train"}], False),
    ],
)
def test_pretrained_model_that_was_trained_on_the_scored_frames_is_noted(sources: list[dict], seen: bool) -> None:
    video = SimpleNamespace(name="002", num_frames=783, frames=range(600, 783))
    training = SimpleNamespace(data=[], config={"data": {"train": sources}})
    assert ("was trained on these frames" in describe_shipped("stream-small", training, video)) == seen


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.6, "1 min 0 s"), (42, "42 s"), (192, "3 min 12 s")]
)
def test_format_duration_rounds_to_seconds(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_text_table_aligns_columns() -> None:
    lines = text_table(["model", "x"], [["teacher", 1.5], ["centre prior", None]]).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[1].endswith("1.500")
    assert lines[2].endswith("-")


def tiny(source: str, target: Path) -> Path:
    """Copy a demo config and shrink it to seconds."""
    config = yaml.safe_load(shipped_path(source).read_text())
    config["model"] |= {"variant": "micro", "arguments": {"size": [32, 64]}}
    config["training"] |= {"steps": 4, "validate_every": 2}
    config["data"]["workers"] = 0
    for section in config["data"]["train"]:
        section["frames"] = [1, 24]
    config["data"]["test"][0]["frames"] = [601, 624]
    target.write_text(yaml.safe_dump(config))
    return target


@pytest.mark.slow
def test_demo_with_tiny_models_runs_once_and_then_skips_every_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(REPOSITORY)
    folder = make_pretrained(tmp_path / "pretrained", {"stream-small": placeholder()})
    monkeypatch.setattr(pretrained, "pretrained_folder", lambda: folder)
    monkeypatch.setattr(demo, "TEACHER", tiny(demo.TEACHER, tmp_path / "teacher.yaml"))
    monkeypatch.setattr(demo, "STUDENT", tiny(demo.STUDENT, tmp_path / "student.yaml"))
    out = tmp_path / "demo"
    page = demo.run_demo(out, device="cpu")
    text = page.read_text()
    assert "Warning" in text  # four steps are not enough to learn anything
    models = ["centre prior", "teacher", "student", "stream-small"]
    assert "stream-small is a pretrained student" in text
    assert all(f'<th scope="row">{name}</th>' in text for name in models)
    assert [row[0] for row in json.loads((out / "demo.json").read_text())["rows"]] == models
    losses = json.loads((out / "results.json").read_text())["steps"]["e"]["result"]
    assert losses["online"] == pytest.approx(losses["cached"], rel=1e-3)
    first = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    assert "Already done" not in capsys.readouterr().out

    demo.run_demo(out, device="cpu")
    assert capsys.readouterr().out.count("Already done") == 8
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()} == first
