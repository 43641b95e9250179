"""`saldistill demo`: run the full pipeline on one real video."""

import argparse

from distill.cli.options import add_device
from distill.cli.verb import Verb


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", default="runs/demo", metavar="DIR", help="output folder")
    add_device(parser)


def _run(arguments: argparse.Namespace) -> None:
    from distill.demo import run_demo

    run_demo(arguments.out, device=arguments.device)


DEMO = Verb(
    "demo",
    "run the full pipeline on one real video (5 to 10 minutes)",
    "Train a small teacher on a video with eye-tracking data, store its maps, distil a student, compare both "
    "with a centre prior, export the student and run it. Finished steps are reused. The results are "
    "OUT/report.html and OUT/demo.json.",
    ("saldistill demo", "saldistill demo --out runs/again"),
    _add_arguments,
    _run,
)
