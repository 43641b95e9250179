"""`saldistill train` and `saldistill distill`: run a config."""

import argparse
import os
from typing import TYPE_CHECKING, Any

from distill.cli.options import add_config, add_runtime
from distill.cli.output import print_json, print_text
from distill.cli.verb import Verb
from distill.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

KEYS = "run, steps, seconds, device, best, peak_memory_mib, and on a GPU peak_gpu_memory_mib"


def _run_train(arguments: argparse.Namespace) -> None:
    from distill.training.config import load_config
    from distill.training.train import train

    config = load_config(arguments.config, arguments.overrides)
    print_run(arguments, train(config, runtime=arguments.runtime))


def print_run(arguments: argparse.Namespace, run: "Path") -> None:
    """Print the folder of a finished run, with --json also its summary; only the main process has a result."""
    from distill.validation import read_json

    print_text(arguments, f"done: {run}")
    if arguments.json and os.environ.get("RANK", "0") == "0":
        print_json(arguments, {"run": run, **read_json(run / "summary.json", dict[str, Any], "a run's summary")})


def _add_train_arguments(parser: argparse.ArgumentParser) -> None:
    add_config(parser)
    add_runtime(parser, "the network in the validation after the last step")


def _add_distill_arguments(parser: argparse.ArgumentParser) -> None:
    _add_train_arguments(parser)
    parser.add_argument(
        "--accept",
        action="store_true",
        help="use a target store even if its teacher, code version or videos differ; the run records this",
    )


def _run_distill(arguments: argparse.Namespace) -> None:
    from distill.training.config import load_config
    from distill.training.train import train

    config = load_config(arguments.config, arguments.overrides)
    if arguments.accept:
        config = config.with_teachers(accept=True)
    if not config.teacher_sections:
        raise UserError(
            f"{arguments.config}: no section 'teacher' or 'teachers' to distil from; add one, or use `saldistill "
            "train` to train on ground truth only"
        )
    print_run(arguments, train(config, runtime=arguments.runtime))


TRAIN = Verb(
    "train",
    "train a model on ground truth, with or without a teacher",
    "Run a config. The run folder receives the resolved config, log.jsonl, the best weights and checkpoints. "
    "Ctrl-C and SIGTERM save a checkpoint; the same command with resume=auto resumes.",
    (
        "saldistill train @teacher/demo",
        "saldistill train @teacher/demo out=runs/longer training.steps=2000",
        "saldistill train @teacher/demo out=runs/longer training.steps=2000 resume=auto",
    ),
    _add_train_arguments,
    _run_train,
    KEYS,
)

DISTILL = Verb(
    "distill",
    "train a student from a teacher",
    "Same as train, but a config without a section `teacher` or `teachers` is an error.",
    (
        "saldistill distill @distill/demo",
        "saldistill distill @distill/demo out=runs/online teacher.source=online",
    ),
    _add_distill_arguments,
    _run_distill,
    KEYS,
)
