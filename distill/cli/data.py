"""`saldistill data`: inspect a data set, or make one from videos and a table of fixations."""

import argparse

from distill.cli.options import add_output
from distill.cli.output import print_json, print_result, print_text
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
    print_text(arguments, report.table(every_video=arguments.videos))
    print_json(arguments, report.as_dict())
    report.require_usable()


CHECK = Verb(
    "check",
    "report what a folder contains and what can be used",
    "Detect the data set by the layout of the folder, and report its videos, frames, sizes, splits and ground "
    "truth, everything that is missing or damaged, and what training and evaluation would use. Inspections are "
    "cached until a file changes. The exit code is 2 if nothing can be used.",
    ("saldistill data check @sample", "saldistill data check DHF1K --thorough"),
    _add_check_arguments,
    _run_check,
    "root, dataset, layout, thorough, videos, splits, broken and problems",
)


def _add_import_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("videos", metavar="VIDEOS", help="folder of video files")
    parser.add_argument("table", metavar="TABLE", help="CSV file of fixations")
    add_output(parser, "DIR", "folder to write; the videos are linked")


def _run_import(arguments: argparse.Namespace) -> None:
    from distill.data.gaze_table import import_gaze

    print_result(arguments, import_gaze(arguments.videos, arguments.table, arguments.out))


IMPORT = Verb(
    "import",
    "make a data set from a folder of videos and a table of fixations",
    "Write a data set (dataset: ntire) from a folder of videos and a CSV file with one fixation or gaze sample per "
    "row: columns video, x and y (pixels of the video), start (seconds) or frame (from 1), and optionally duration "
    "(seconds). The file may separate columns by commas, semicolons or tabs; other columns are ignored.",
    ("saldistill data import VIDEOS fixations.csv -o data/own-gaze",),
    _add_import_arguments,
    _run_import,
    "out, points, outside and after_end",
)

DATA = Group("data", "inspect a data set before using it, or make one from your own gaze data", (CHECK, IMPORT))
