import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr

import pytest

from distill.data import progress
from distill.data.progress import ProgressBar, hidden_bars


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self) -> bool:
        return True


@contextmanager
def terminal() -> Iterator[Terminal]:
    """Replace stderr; in the test itself, since pytest replaces it between fixtures and test."""
    with redirect_stderr(Terminal()) as stream:
        yield stream


@pytest.fixture(autouse=True)
def _log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


def test_bar_on_a_terminal_says_what_it_counts_and_is_removed(caplog: pytest.LogCaptureFixture) -> None:
    with terminal() as stream, ProgressBar("scoring noise", "frame", total=4) as bar:
        for _ in range(4):
            bar.update()
    states = stream.getvalue().split("\r")
    assert states[1].startswith("scoring noise:   0%|")
    assert "0/4 frames [00:00<?" in states[1]
    assert states[-2].strip() == states[-1] == ""  # cleared
    assert "\n" not in stream.getvalue()
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("scoring noise: 4 frames in ")
    assert caplog.messages[0].endswith(" per second)")


def test_bar_elsewhere_prints_whole_lines_without_carriage_returns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in ProgressBar("quick", "video", range(3)):
        pass
    assert capsys.readouterr().err == ""  # done within a minute
    monkeypatch.setattr(progress, "LINES_EVERY", 0.0)
    for _ in ProgressBar("caching", "map", range(3)):
        pass
    text = capsys.readouterr().err
    assert "\r" not in text
    lines = text.splitlines()
    assert lines[0].startswith("caching: 0 of 3 maps [00:00<?")
    assert lines[-1].startswith("caching: 3 of 3 maps [")


def test_resumed_work_is_counted_apart(caplog: pytest.LogCaptureFixture) -> None:
    with ProgressBar("caching", "map", total=5, initial=3) as bar:
        bar.update(2)
    assert caplog.messages[0].startswith("caching: 5 maps, 2 of them now in ")


@pytest.mark.parametrize("case", ["unfinished", "no line wanted", "quick", "not shown", "hidden"])
def test_no_line_is_logged(case: str, caplog: pytest.LogCaptureFixture) -> None:
    options: dict = {"no line wanted": {"result": False}, "quick": {"delay": 60}, "not shown": {"shown": False}}
    with terminal() as stream, hidden_bars() if case == "hidden" else nullcontext():
        for number in ProgressBar("counting", "clip", range(3), **options.get(case, {})):
            if case == "unfinished" and number == 1:
                break
    assert caplog.messages == []
    assert bool(stream.getvalue()) == (case in ("unfinished", "no line wanted"))


def test_hidden_bars_are_shown_again_after_an_error() -> None:
    with pytest.raises(ValueError, match="broken"), hidden_bars():
        raise ValueError("broken")
    assert not progress.bars_are_hidden()
