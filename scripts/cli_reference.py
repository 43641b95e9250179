"""The reference of the `saldistill` command as Markdown, from its parsers; scripts/generate_docs.py writes it."""

import argparse
import html

from distill.cli.main import COMMANDS, DESCRIPTION, EPILOG
from distill.cli.verb import Group, HelpFormatter
from distill.reports.model_card import markdown_table as table


def command_line() -> str:
    """Return the reference of the command: one section per verb, with its arguments and examples."""
    found = parsers()
    rows = [(f"[`saldistill {name}`](#{anchor(name)})", escape(summary)) for name, (summary, _) in found.items()]
    text = " ".join(DESCRIPTION.split())
    lines = ["", text, "", table(("verb", "work"), rows).rstrip(), "", "```text", EPILOG.strip(), "```"]
    for name, (_, parser) in found.items():
        lines += describe(name, parser)
    return "\n".join(lines) + "\n"


def parsers() -> dict[str, tuple[str, argparse.ArgumentParser]]:
    """Return the summary and the parser of each verb by its name, e.g. `cache build`, in the order of the help."""
    root = argparse.ArgumentParser(prog="saldistill", formatter_class=HelpFormatter)
    verbs = root.add_subparsers(metavar="VERB")
    found = {}
    for command in COMMANDS:
        members = command.verbs if isinstance(command, Group) else ()
        command.add_to(verbs, [command.name, *(member.name for member in members)])
        parser = verbs.choices[command.name]
        if not members:
            found[command.name] = command.summary, parser
            continue
        inner = next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
        for member in members:
            found[f"{command.name} {member.name}"] = member.summary, inner.choices[member.name]
    return found


def describe(name: str, parser: argparse.ArgumentParser) -> list[str]:
    """Return the section of a verb."""
    formatter = HelpFormatter(parser.prog)
    rows = []
    lists: list[str] = []
    for group in parser._action_groups:
        for action in group._group_actions:
            if action.help == argparse.SUPPRESS or isinstance(action, argparse._HelpAction):
                continue
            text = formatter._expand_help(action) if action.help else ""
            rows.append((f"`{invocation(action)}`", escape(text)))
        if group.description:
            title = str(group.title)
            title = f"Values of `{title}`" if title.startswith("-") else title[:1].upper() + title[1:]
            lists += ["", f"{title}:", "", "```text", group.description, "```"]
    lines = ["", f"## `saldistill {name}`", "", escape(" ".join((parser.description or "").split())), ""]
    lines.append(table(("argument", "meaning"), rows).rstrip())
    lines += lists
    examples = [line.strip() for line in (parser.epilog or "").splitlines()[1:]]
    return [*lines, "", "```console", *examples, "```"]


def invocation(action: argparse.Action) -> str:
    """Return how an argument is written, e.g. `-o OUT, --out OUT` or `--style heat|contour`."""
    if not action.option_strings:
        value = str(action.metavar or action.dest)
        return f"[{value}]" if action.nargs == "?" else f"[{value} ...]" if action.nargs == "*" else value
    names = ", ".join(action.option_strings)
    if action.nargs == 0:
        return names
    if isinstance(action.metavar, tuple):
        return f"{names} {' '.join(action.metavar)}"
    return f"{names} {action.metavar or '/'.join(map(str, action.choices or [action.dest.upper()]))}"


def escape(text: str) -> str:
    """Return plain text for a Markdown table cell or paragraph: no column separators, no HTML, no emphasis."""
    return html.escape(text, quote=False).replace("|", "\\|").replace("*", "\\*")


def anchor(name: str) -> str:
    """Return the anchor of a verb's section, which mkdocs and code hosts form in the same way."""
    return f"saldistill-{name.replace(' ', '-')}"
