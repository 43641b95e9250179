"""JSON from outside: strict types and one sentence per error."""

import re
from pathlib import Path

import pytest

from distill import validation
from distill.errors import UserError, reading
from distill.validation import parse_json, read_json

Splits = dict[str, list[str]]


def test_json_of_the_schema_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"train": ["a.mp4"]}')
    assert read_json(tmp_path / "a.json", Splits, "a split file") == {"train": ["a.mp4"]}
    assert parse_json("[1.5, 2]", tuple[float, float], "key") == (1.5, 2.0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"train": "a.mp4"}', "train: expected a valid array, got 'a.mp4'"),
        (b'{"train": [5]}', "train.0: expected a valid string, got 5"),
        (b"[" * 200_000, "recursion limit exceeded"),
        (b'{"train": ["\xff"]}', "invalid"),
        (b'{"train": [', "EOF"),
        (b"", "EOF"),
        (b"null", "expected"),
    ],
)
def test_other_content_is_refused_in_one_sentence(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read_json(path, Splits, "a split file", "write it again")
    text = str(caught.value)
    assert text.startswith(f"{path}: cannot be read as a split file (")
    assert text.endswith("; write it again")
    assert "\n" not in text
    assert len(text) < len(str(path)) + 250


def test_missing_folder_and_large_file_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"No such file or directory.*check the path"):
        read_json(tmp_path / "a.json", Splits, "a split file")
    with pytest.raises(UserError, match="it is not a file"):
        read_json(tmp_path, Splits, "a split file")
    (tmp_path / "a.json").write_text('{"train": ["a.mp4"]}')
    monkeypatch.setattr(validation, "MAX_JSON_BYTES", 10)
    with pytest.raises(UserError, match="bytes: 20 is over the limit of 10"):
        read_json(tmp_path / "a.json", Splits, "a split file")


@pytest.mark.parametrize(
    "error", [RecursionError("deep"), MemoryError(), KeyError("I"), IndexError(), OSError("bad\nx")]
)
def test_door_turns_any_exception_into_one_sentence(error: Exception) -> None:
    with pytest.raises(UserError) as caught, reading("a.mat", "a MATLAB file"):
        raise error
    assert re.match(r"a.mat: cannot be read as a MATLAB file \(.+\); it may be", str(caught.value))
    assert "\n" not in str(caught.value)


def test_door_lets_user_errors_and_interrupts_pass() -> None:
    with pytest.raises(UserError, match=r"^mine$"), reading("a.mat", "a MATLAB file"):
        raise UserError("mine")
    with pytest.raises(KeyboardInterrupt), reading("a.mat", "a MATLAB file"):
        raise KeyboardInterrupt
