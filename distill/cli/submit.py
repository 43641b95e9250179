"""`saldistill submit`: write the maps that a benchmark scores."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from distill.cli.options import add_data, add_inference, add_output, add_runtime, inference_settings
from distill.cli.output import print_result
from distill.cli.verb import Verb
from distill.errors import UserError

if TYPE_CHECKING:
    from distill.evaluation.submission import Submission


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    from distill.evaluation.submission import SUBMISSION_FORMATS

    parser.add_argument("model", metavar="MODEL", help="model whose maps are submitted (see: saldistill --help)")
    splits = ", ".join(f"{name}'s {each.split}" for name, each in SUBMISSION_FORMATS.items())
    add_data(parser, "DATASET:ROOT, e.g. dhf1k:DHF1K", split=splits)
    formats = "; ".join(f"{name} ({each.help})" for name, each in SUBMISSION_FORMATS.items())
    parser.add_argument(
        "--to", choices=tuple(SUBMISSION_FORMATS), required=True, help=f"benchmark to submit to: {formats}"
    )
    add_output(parser, "DIR", "folder to write, which is what you submit")
    add_inference(parser)
    add_runtime(parser)


def _run(arguments: argparse.Namespace) -> None:
    submission = write_submission(arguments)
    print_result(arguments, submission)
    if submission.problems:
        raise UserError(
            f"{arguments.out}: the submission is invalid; fix the problems listed above and run the command again"
        )


def write_submission(arguments: argparse.Namespace) -> "Submission":
    """Write the maps of a model, a baseline or a folder of maps for every frame of a split.

    Raises:
        UserError: DATA is a config or not a data set, MODEL is not a source of maps, or the submission fails.
    """
    from distill.evaluation.references import resolve_source
    from distill.evaluation.submission import SUBMISSION_FORMATS, submit
    from distill.training.sources import videos_of_argument

    benchmark, reference, split = arguments.to, arguments.model, arguments.split
    dataset, colon, root = arguments.data.partition(":")
    if not colon and Path(arguments.data).suffix in (".yaml", ".yml"):
        raise UserError(
            f"{arguments.data}: expected a data set, not a config; name it as DATASET:ROOT, e.g. {benchmark}:ROOT"
        )
    complete = dataset == benchmark and arguments.videos is None
    if complete and split is None:
        split = SUBMISSION_FORMATS[benchmark].split
    videos = videos_of_argument(arguments.data, split=split, videos=arguments.videos)
    expected = SUBMISSION_FORMATS[benchmark].published(Path(root), split) if complete and split else []
    frames = sum(video.num_frames for video in videos)
    source = resolve_source(reference, inference_settings(arguments), videos=videos, frames=frames)
    made_by = source.provenance() | ({"runtime": source.runtime} if source.runtime else {})
    return submit(source.maps, videos, arguments.out, to=benchmark, made_by=made_by, expected=expected)


SUBMIT = Verb(
    "submit",
    "write a benchmark submission: one map for every frame of the test videos",
    "Write maps in the submission format of a benchmark, DHF1K or the AIM 2024 and NTIRE 2026 challenges (ntire), "
    "and check that no video and no frame is missing. DIR contains only the submission; the settings are recorded "
    "in DIR.json. After an interruption the same command resumes, and several shells can share the work. A MODEL "
    "may also be a folder of maps or a baseline, as in evaluate.",
    (
        "saldistill submit runs/demo/student dhf1k:DHF1K --to dhf1k -o ourmethod",
        "saldistill submit student.onnx ntire:NTIRE --to ntire --split private_test -o ourmethod",
    ),
    _add_arguments,
    _run,
    "out, outcome, videos, frames and problems",
)
