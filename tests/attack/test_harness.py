"""The judge of the attack suite finds each kind of violation."""

import random
from pathlib import Path

import pytest

from attack.damage import DAMAGES, REMOVE, replaced, wrong_values
from attack.harness import LONGEST, Case, Outcome, anything, is_temporary, judge, nothing

ONE_LINE = "saldistill: a.png: cannot be read; it may be damaged\n"


def outcome(code: int, stderr: str = "", ended: str = "itself") -> Outcome:
    return Outcome(code, 1.0, 1e8, ended, "done", stderr)


@pytest.mark.parametrize(
    ("ending", "kind"),
    [
        (outcome(0), None),
        (outcome(2, ONE_LINE), None),
        (outcome(2, f"reading\rreading 1\nsaldistill: x\n{ONE_LINE}"), None),
        (outcome(2, "usage: saldistill\nsaldistill predict: error: the following are required\n"), None),
        (outcome(2, ONE_LINE + "and another line\n"), "message"),
        (outcome(2, f"saldistill: {'x' * (LONGEST + 1)}"), "message"),
        (outcome(2, "something went wrong"), "message"),
        (outcome(2), "message"),
        (outcome(1, ONE_LINE), "exit code"),
        (outcome(1, "Traceback (most recent call last):\nValueError: x"), "traceback"),
        (outcome(2, f"Traceback (most recent call last):\nValueError: x\n{ONE_LINE}"), "traceback"),
        (outcome(-11), "crash"),
        (outcome(-9, ended="time"), "time"),
        (outcome(-9, ended="memory"), "memory"),
    ],
)
def test_judge_of_an_ending_returns_its_kind(ending: Outcome, kind: str | None) -> None:
    found = judge(Case("case", [], check=anything), ending, Path())
    assert (found and found[0]) == kind


def test_judge_of_an_accepted_input_without_a_right_result_is_silent() -> None:
    found = judge(Case("case", [], check=nothing), outcome(0), Path())
    assert found is not None
    assert found[0] == "silent"


def test_judge_of_a_list_of_mistakes_accepts_only_lines_of_one_file() -> None:
    listed = outcome(2, "saldistill: a.yaml: seed: expected an integer\na.yaml: out: missing\n")
    other = outcome(2, "saldistill: a.yaml: seed: expected an integer\nadvice\n")
    assert judge(Case("case", [], lists=True), listed, Path()) is None
    assert judge(Case("case", []), listed, Path()) is not None
    assert judge(Case("case", [], lists=True), other, Path()) is not None


def test_judge_lets_a_message_repeat_the_command_line_only() -> None:
    long = "n" * 5000
    ending = outcome(2, f"saldistill: {long}: no such file\n")
    assert judge(Case("case", ["predict", long]), ending, Path()) is None
    assert judge(Case("case", ["predict", "short"]), ending, Path()) is not None


@pytest.mark.parametrize(
    ("name", "temporary"),
    [("out/0001.png", False), ("out.mp4", False), (".out.12345678.tmp.mp4", True), ("out/.a.lock", True)],
)
def test_is_temporary_tells_unfinished_files_from_results(name: str, temporary: bool) -> None:
    assert is_temporary(name) is temporary


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_depends_on_the_seed_only_and_changes_the_content(damage) -> None:
    content = bytes(range(1, 256)) * 40
    first, second, other = (damage(content, random.Random(seed)) for seed in (3, 3, 4))
    assert first == second != other
    assert first != content


def test_wrong_values_leave_the_original_unchanged() -> None:
    value = {"a": [1, {"b": 2}], "c": "x"}
    assert replaced(value, ("a", 1, "b"), 3) == {"a": [1, {"b": 3}], "c": "x"}
    assert replaced(value, ("a", 0), REMOVE) == {"a": [{"b": 2}], "c": "x"}
    assert len(list(wrong_values(value, random.Random(0), 20))) == 20
    assert value == {"a": [1, {"b": 2}], "c": "x"}
