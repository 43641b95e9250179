"""What verbs print: their result on standard output, as text or with --json as one JSON document.

Everything else goes to standard error: log lines and progress bars, which --quiet leaves out, warnings and errors.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stdout
from typing import Any, Protocol

PACKAGES = ("distill", "teacher", "student")
"""Packages whose informational messages are shown."""


class Result(Protocol):
    """Result of a verb: its text is `str(result)`."""

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""


def add_output_options(parser: argparse.ArgumentParser, keys: str) -> None:
    """Add --quiet, and --json if the verb has a result.

    Args:
        parser: parser of the verb.
        keys: keys of the JSON document, in one line; empty if the verb has no result.
    """
    parser.add_argument("-q", "--quiet", action="store_true", help="show only the result, warnings and errors")
    if keys:
        parser.add_argument("--json", action="store_true", help=f"print one JSON document with the keys {keys}")


@contextmanager
def output_of(arguments: argparse.Namespace) -> Iterator[None]:
    """Apply --quiet and --json while a verb runs."""
    with ExitStack() as stack:
        if arguments.quiet:
            stack.enter_context(quiet())
        if arguments.json:
            arguments.stdout = sys.stdout
            stack.enter_context(redirect_stdout(sys.stderr))  # what libraries and the demo print
        yield


@contextmanager
def quiet() -> Iterator[None]:
    """Show neither progress bars nor informational messages."""
    import logging

    from distill.data.progress import hidden_bars

    loggers = [logging.getLogger(package) for package in PACKAGES]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.WARNING)
        with hidden_bars():
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def print_result(arguments: argparse.Namespace, result: Result) -> None:
    """Print the result of a verb, which has only this one."""
    print_text(arguments, result)
    print_json(arguments, result.as_dict())


def print_text(arguments: argparse.Namespace, text: object) -> None:
    """Print a part of the result; nothing with --json."""
    if not arguments.json:
        print(text, flush=True)


def print_json(arguments: argparse.Namespace, content: Mapping[str, Any]) -> None:
    """Print the whole result as one JSON document, in ASCII for any locale; nothing without --json."""
    if arguments.json:
        import json

        from distill.files import finite

        text = json.dumps(finite(content), indent=2, allow_nan=False, default=_plain)
        print(text, file=arguments.stdout, flush=True)


def _plain(value: object) -> str:
    from os import PathLike, fspath

    if isinstance(value, PathLike):
        return str(fspath(value))
    raise TypeError(f"{type(value).__name__} is not a JSON value")
