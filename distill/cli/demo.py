"""`saldistill demo`: run the full pipeline on one real video."""

import argparse
from contextlib import nullcontext, redirect_stdout
from io import StringIO
from typing import Any

from distill.cli.options import add_device
from distill.cli.output import print_json, print_text
from distill.cli.verb import Verb


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", default="runs/demo", metavar="DIR", help="output folder")
    add_device(parser)


def _run(arguments: argparse.Namespace) -> None:
    from distill.demo import run_demo
    from distill.validation import read_json

    with redirect_stdout(StringIO()) if arguments.quiet else nullcontext():  # it prints each step and its result
        report = run_demo(arguments.out, device=arguments.device)
    if arguments.quiet:
        print_text(arguments, f"Report: {report}")
    if arguments.json:
        summary = read_json(report.parent / "demo.json", dict[str, Any], "the results of the demo")
        print_json(arguments, {"report": report, **summary})


DEMO = Verb(
    "demo",
    "run the full pipeline on one real video (4 to 5 minutes)",
    "Train a small teacher on a video with eye-tracking data, store its maps, distil a student, compare both "
    "with a centre prior, export the student and run it. Finished steps are reused. The results are "
    "OUT/report.html and OUT/demo.json.",
    ("saldistill demo", "saldistill demo --out runs/again"),
    _add_arguments,
    _run,
    "report, machine, date, duration, columns and rows",
)
