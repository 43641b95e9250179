"""`saldistill data`: inspect a data set."""

import argparse

from distill.cli.verb import Group, Verb


def _add_check_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("root", metavar="ROOT", help="folder of the data set")
    parser.add_argument("--dataset", metavar="NAME", help="name of the data set (default: detected)")
    parser.add_argument(
        "--thorough", action="store_true", help="decode every frame and image, to find damage inside the files"
    )
    parser.add_argument("--videos", action="store_true", help="print one line per video, however many there are")


def _run_check(arguments: argparse.Namespace) -> None:
    from distill.data.check import check

    report = check(arguments.root, arguments.dataset, thorough=arguments.thorough)
    print(report.table(every_video=arguments.videos), flush=True)
    report.require_usable()


CHECK = Verb(
    "check",
    "report what a folder contains and what can be used",
    "Detect the data set by the layout of the folder, and report its videos, frames, sizes, splits and ground "
    "truth, everything that is missing or damaged, and what training and evaluation would use. Inspections are "
    "cached until a file changes. The exit code is 2 if nothing can be used.",
    ("saldistill data check tests/data/dhf1k", "saldistill data check DHF1K --thorough"),
    _add_check_arguments,
    _run_check,
)

DATA = Group("data", "inspect a data set before using it", (CHECK,))
