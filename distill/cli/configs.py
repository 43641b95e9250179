"""`saldistill configs`: list the configs that come with saldistill, and copy one to edit."""

import argparse

from distill.cli.options import add_output
from distill.cli.output import print_json, print_text
from distill.cli.verb import Group, Verb
from distill.errors import UserError


def _run_list(arguments: argparse.Namespace) -> None:
    from distill.shipped import config_names

    summaries = {name: summary_of(name) for name in config_names()}
    for name, summary in summaries.items():
        print_text(arguments, f"{name:<42}{summary}".rstrip())
    print_json(arguments, {"configs": summaries})


def summary_of(name: str) -> str:
    """Return the first sentence of a config's opening comment."""
    from distill.shipped import shipped_path

    words: list[str] = []
    for line in shipped_path(name).read_text(encoding="utf-8").splitlines():
        if not line.startswith("# "):
            break
        words += line[2:].split()
    return " ".join(words).partition(". ")[0].removesuffix(".")


def _add_copy_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", metavar="NAME", help="config that `saldistill configs list` prints")
    add_output(parser, "FILE", "the .yaml file to write")


def _run_copy(arguments: argparse.Namespace) -> None:
    from pathlib import Path

    from distill.files import write_text
    from distill.shipped import shipped_path

    if Path(arguments.out).suffix not in (".yaml", ".yml"):
        raise UserError(f"{arguments.out}: expected a file name that ends in .yaml")
    source = shipped_path(arguments.config)
    if source.suffix != ".yaml":
        raise UserError(f"{arguments.config}: not a config; `saldistill configs list` prints their names")
    write_text(arguments.out, source.read_text(encoding="utf-8"), overwrite=False)
    print(f"{arguments.out}: copied; run it with: saldistill train {arguments.out}")


CONFIGS = Group(
    "configs",
    "list and copy the configs that come with saldistill",
    (
        Verb(
            "list",
            "list the configs",
            "List the configs that come with saldistill. A name such as @teacher/demo is accepted wherever a "
            "command takes a CONFIG.",
            ("saldistill configs list",),
            lambda parser: None,
            _run_list,
            keys="configs",
        ),
        Verb(
            "copy",
            "copy a config to edit it",
            "Copy a config, with its comments, to a file of your own.",
            ("saldistill configs copy @student/finetune_own_gaze -o mine.yaml",),
            _add_copy_arguments,
            _run_copy,
        ),
    ),
)
