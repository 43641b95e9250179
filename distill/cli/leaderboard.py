"""`saldistill leaderboard`: one page with the quality and the cost of models."""

import argparse

from distill.cli.options import (
    add_device,
    add_every,
    add_list,
    add_output,
    add_rounds,
    add_scoring,
    add_threads,
)
from distill.cli.output import print_result
from distill.cli.verb import Verb


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    from distill.evaluation.baselines import BASELINES

    parser.add_argument(
        "models",
        nargs="+",
        metavar="MODEL",
        help="what to compare: models (see: saldistill --help), folders of maps and baselines; NAME=MODEL names it",
    )
    parser.add_argument(
        "--on",
        dest="data",
        action="append",
        required=True,
        metavar="DATA",
        help="test set: DATASET:ROOT, or CONFIG.yaml for its test videos; NAME=DATA names it; may be repeated",
    )
    add_output(parser, "DIR", "folder of the page, the table, the picture and the scores; resumes if it exists")
    add_every(parser)
    add_scoring(parser)
    add_rounds(parser)
    add_threads(parser, "PyTorch's")
    add_device(parser)
    add_list(parser, "baselines, as MODEL", {name: each.help for name, each in BASELINES.items()})


def _run(arguments: argparse.Namespace) -> None:
    from distill.data.video.guard import cores
    from distill.inference.settings import InferenceSettings
    from distill.leaderboard.leaderboard import make_leaderboard

    made = make_leaderboard(
        arguments.models,
        arguments.data,
        arguments.out,
        scenes=arguments.scenes,
        every=arguments.every,
        seed=arguments.seed,
        workers=arguments.workers or cores(),
        rounds=arguments.rounds,
        threads=arguments.threads,
        settings=InferenceSettings(stride=None, device=arguments.device, runtime="auto"),
        command=command_of(arguments),
    )
    print_result(arguments, made)


def command_of(arguments: argparse.Namespace) -> str:
    """Return the command with the arguments that change the numbers, for the page."""
    import shlex

    from distill.shipped import shipped_name

    words = ["saldistill", "leaderboard", *arguments.models]
    words += [word for data in arguments.data for word in ("--on", data)]
    if arguments.scenes:
        words += ["--scenes", ",".join(arguments.scenes)]
    for name, default in (("every", 1), ("seed", 0), ("rounds", 5), ("threads", None)):
        if (value := getattr(arguments, name)) != default:
            words += [f"--{name}", str(value)]
    return shlex.join([shipped_name(word) for word in [*words, "-o", arguments.out]])


LEADERBOARD = Verb(
    "leaderboard",
    "one page with the quality and the cost of models",
    "Score models, folders of external saliency maps and baselines on the same videos, with intervals over scenes, "
    "measure the time, memory, file and state of the models in one interleaved run on this machine, and write a "
    "page (Markdown and HTML), a CSV file and a plot of quality against time with its Pareto front. The observers "
    "are always scored, as the ceiling. Scores that DIR has already are kept, so that the same command resumes.",
    (
        "saldistill leaderboard stream-nano stream-small centre-prior --on dhf1k:@sample -o board",
        "saldistill leaderboard ours=runs/demo/student theirs=maps --on dhf1k:@sample --every 8 -o board",
        "saldistill leaderboard stream-nano --on ntire:data/hevc-gaze --on stills:data/stills "
        "--scenes 'RaceHorses*,Vidyo*' -o board",
    ),
    _add_arguments,
    _run,
    "rows, setting and folder",
)
