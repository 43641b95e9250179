"""Records that describe the verbs of the `saldistill` command."""

import argparse
import textwrap
from collections.abc import Callable
from typing import Any, NamedTuple

from distill.cli.output import add_output_options


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Help formatter that keeps paragraphs as written and appends the default of every option that has one."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        has_default = isinstance(action.default, str | int | float) and not isinstance(action.default, bool)
        documented = action.default == argparse.SUPPRESS or "default:" in text
        return f"{text} (default: %(default)s)" if has_default and not documented else text


class Verb(NamedTuple):  # not a dataclass, whose import alone takes a sixth of the time of `saldistill --help`
    """A verb of the command: its help, its arguments and the function that runs it.

    Args:
        name: what the user types, e.g. "evaluate".
        summary: one line for the list of verbs.
        description: the paragraph at the top of the verb's help.
        examples: complete command lines.
        add_arguments: adds the verb's arguments to its parser. May import registries to list their names, since it
            is called only if the command line names the verb.
        run: does the work, and prints the result with the functions of cli/output.py. Heavy imports belong here, so
            that `saldistill --help` stays fast.
        keys: keys of the result with --json, for the help; a verb without them has no --json.
    """

    name: str
    summary: str
    description: str
    examples: tuple[str, ...]
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], None]
    keys: str = ""

    def add_to(self, parsers: Any, argv: list[str]) -> None:
        """Add a parser for the verb; its arguments are only added if the command line `argv` names the verb."""
        parser = add_parser(parsers, self.name, self.summary, self.description, self.examples)
        parser.set_defaults(verb=self, quiet=False, json=False)
        if self.name in argv:
            self.add_arguments(parser)
            add_output_options(parser, self.keys)


class Group(NamedTuple):
    """A verb with subcommands, e.g. `cache` with `cache build` and `cache info`."""

    name: str
    summary: str
    verbs: tuple[Verb, ...]

    def add_to(self, parsers: Any, argv: list[str]) -> None:
        """Add a parser for the group and for each of its verbs."""
        description = f"{self.summary[:1].upper()}{self.summary[1:]}."
        parser = add_parser(
            parsers, self.name, self.summary, description, [verb.examples[0] for verb in self.verbs]
        )
        inner = parser.add_subparsers(title=f"saldistill {self.name}", metavar="VERB", required=True)
        for verb in self.verbs:
            verb.add_to(inner, argv if self.name in argv else [])


def add_parser(
    parsers: Any, name: str, summary: str, description: str, examples: tuple[str, ...] | list[str]
) -> argparse.ArgumentParser:
    """Add a parser with description and examples; `parsers` is what `add_subparsers` returned."""
    parser: argparse.ArgumentParser = parsers.add_parser(
        name,
        help=summary,
        description=textwrap.fill(description, 88),
        epilog="\n  ".join(["examples:", *examples]),
        formatter_class=HelpFormatter,
    )
    return parser
