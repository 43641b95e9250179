"""`-q` of every verb: results, warnings and errors only."""

import logging
import subprocess
import sys
from argparse import ArgumentParser, Namespace

import pytest
from helpers.places import REPOSITORY, SAMPLE

from distill.cli import main
from distill.cli.output import PACKAGES, quiet
from distill.cli.verb import Group, Verb
from distill.data.progress import ProgressBar, bars_are_hidden
from distill.errors import UserError

VERBS = [verb for each in main.COMMANDS for verb in (each.verbs if isinstance(each, Group) else [each])]


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
def test_every_verb_has_quiet_and_its_keys_in_the_help(verb: Verb) -> None:
    parsers = ArgumentParser().add_subparsers()
    verb.add_to(parsers, [verb.name])
    text = " ".join(parsers.choices[verb.name].format_help().split())
    assert "-q, --quiet" in text
    assert ("--json" in text) == bool(verb.keys)
    assert verb.keys in text


def replace_models(monkeypatch: pytest.MonkeyPatch) -> None:
    log = logging.getLogger("distill.anything")

    def work(arguments: Namespace) -> None:
        for _ in ProgressBar("counting", "frame", range(3)):
            pass
        log.info("information")
        log.warning("a warning")
        print("result")
        if arguments.fail:
            raise UserError("an error")

    def add_arguments(parser: ArgumentParser) -> None:
        parser.add_argument("--fail", action="store_true")

    monkeypatch.setattr(main, "COMMANDS", (Verb("models", "", "", (), add_arguments, work),))


@pytest.mark.parametrize("words", [["-q"], ["--quiet", "--fail"], []])
def test_quiet_leaves_result_warnings_and_errors(
    words: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    replace_models(monkeypatch)
    assert main.main(["models", *words]) == (2 if "--fail" in words else 0)
    out, err = capsys.readouterr()
    assert out == "result\n"
    assert err == ("saldistill: an error\n" if "--fail" in words else "")
    shown = [message.split(" in ")[0] for message in caplog.messages]
    assert shown == (["a warning"] if words else ["counting: 3 frames", "information", "a warning"])
    assert not bars_are_hidden()
    assert {logging.getLogger(package).level for package in PACKAGES} == {logging.INFO}


def test_quiet_is_undone_after_an_error() -> None:
    main.setup_logging()
    with pytest.raises(KeyError), quiet():
        assert bars_are_hidden()
        raise KeyError
    assert not bars_are_hidden()
    assert logging.getLogger("distill").level == logging.INFO


def test_piped_output_has_no_carriage_return_and_quiet_no_message() -> None:
    line = (
        f"evaluate centre-prior dhf1k:{SAMPLE} --videos 002 --frames 601-640 --every 20 --workers 1 --metrics nss"
    )
    loud, silent = (
        subprocess.run(
            [sys.executable, "-m", "distill.cli.main", *line.split(), *extra],
            cwd=REPOSITORY,
            capture_output=True,
            check=False,
        )
        for extra in ([], ["-q"])
    )
    assert b"\r" not in loud.stdout + loud.stderr
    assert b"2 frames in " in loud.stderr
    assert (silent.stdout, silent.stderr) == (loud.stdout, b"")


def test_log_lines_are_written_above_the_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    cleared = []
    bar = ProgressBar("counting", "frame", total=2)
    handler = main.AboveBars()
    monkeypatch.setattr(bar, "clear", lambda **_: cleared.append("cleared"))
    bar.fp = handler.stream  # as on a terminal
    handler.emit(logging.LogRecord("distill", logging.INFO, "", 0, "text", (), None))
    bar.close()
    assert cleared == ["cleared"]
