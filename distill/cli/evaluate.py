"""`saldistill evaluate`: score models against ground truth."""

import argparse
import logging
from contextlib import ExitStack
from pathlib import Path

from distill.cli.options import (
    add_data,
    add_every,
    add_inference,
    add_list,
    add_output,
    add_runtime,
    add_scoring,
    frame_range,
    inference_settings,
    some_of,
)
from distill.cli.output import print_json, print_text
from distill.cli.verb import Verb
from distill.errors import UserError
from distill.paths import path_inside

log = logging.getLogger(__name__)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    from distill.evaluation.baselines import BASELINES, INFO_GAIN_BASELINES
    from distill.evaluation.metrics import METRICS
    from distill.evaluation.protocols import PROTOCOLS

    parser.add_argument("models", nargs="+", metavar="MODEL", help="what to score (see: saldistill --help)")
    add_data(parser, "DATASET:ROOT, e.g. dhf1k:@sample, or CONFIG.yaml for its test videos")
    parser.add_argument(
        "--frames", type=frame_range, metavar="FIRST-LAST", help="use only these frames, counted from 1"
    )
    add_every(parser)
    parser.add_argument("--metrics", type=some_of(METRICS), metavar="NAME,NAME", help="metrics, listed below")
    parser.add_argument(
        "--protocol", choices=tuple(PROTOCOLS), default="official", help="how to score, listed below"
    )
    parser.add_argument(
        "--over",
        choices=tuple(INFO_GAIN_BASELINES),
        default="centre-prior",
        help="baseline of information gain, listed below",
    )
    add_scoring(parser)
    add_output(parser, "DIR", "also write scores.json, scores.csv, videos.csv and report.html here", required=False)
    add_inference(parser)
    add_runtime(parser)
    add_list(parser, "baselines, as MODEL", {name: each.help for name, each in BASELINES.items()})
    add_list(parser, "--metrics", {name: f"{each.title}: {each.help}" for name, each in METRICS.items()})
    add_list(parser, "--protocol", {name: each.help for name, each in PROTOCOLS.items()})
    add_list(parser, "--over", {name: each.how for name, each in INFO_GAIN_BASELINES.items()})


def _run(arguments: argparse.Namespace) -> None:
    from distill.claims import claim
    from distill.evaluation.scores import FILES

    folders = score_folders(arguments.models, arguments.out)
    with ExitStack() as claims:
        if folders:
            claims.enter_context(claim(Path(arguments.out) / "report.html", "a report"))
        for folder in folders:
            for name in FILES:
                claims.enter_context(claim(folder / name, "a file of scores"))
        for folder in folders[1:]:
            claims.enter_context(claim(folder / "difference.json", "a comparison"))
        evaluate_models(arguments, folders)


def evaluate_models(arguments: argparse.Namespace, folders: list[Path]) -> None:
    """Score the models, compare them, and write the results if there are folders for them."""
    from dataclasses import replace

    from distill.data.video.guard import cores
    from distill.evaluation.references import same_scene, score
    from distill.evaluation.scores import compare_scores
    from distill.reports.scores import report_scores
    from distill.training.sources import videos_of_argument

    videos = videos_of_argument(
        arguments.data, split=arguments.split, videos=arguments.videos, frames=arguments.frames
    )
    videos = same_scene(videos, arguments.scenes)
    settings = inference_settings(arguments)
    results = []
    for index, model in enumerate(arguments.models):
        scores, maps = score(
            model,
            videos,
            settings,
            every=arguments.every,
            metrics=arguments.metrics,
            protocol=arguments.protocol,
            over=arguments.over,
            seed=arguments.seed,
            workers=arguments.workers or cores(),
        )
        scores = replace(scores, how=scores.how | {"data": arguments.data})  # `saldistill view` shows its frames
        print_text(arguments, ("\n" if index else "") + scores.table())
        if folders:
            scores.save(folders[index])
        results.append((scores, maps))
    differences = []
    for index, (scores, _) in enumerate(results[1:], 1):
        difference = compare_scores(results[0][0], scores)
        differences.append(difference)
        print_text(arguments, f"\n{difference}")
        if folders:
            difference.save(folders[index] / "difference.json")
    report = Path(arguments.out) / "report.html" if folders else None
    if report is not None:
        report_scores(report, results, videos)
        log.info("report: %s", report)
    content = {"scores": [scores.as_dict() for scores, _ in results], "report": report}
    print_json(arguments, content | {"differences": [each.as_dict() for each in differences]})


def score_folders(models: list[str], out: str | None) -> list[Path]:
    """Return the folder for each model's scores: `out`, or one folder per model in it; empty without `out`."""
    if not out:
        return []
    if len(models) == 1:
        return [Path(out)]
    from distill.evaluation.references import folder_name

    folders = [path_inside(out, folder_name(model), "-o") for model in models]
    if len(set(folders)) < len(folders):
        raise UserError(f"{', '.join(models)}: name each model once")
    return folders


EVALUATE = Verb(
    "evaluate",
    "score models against ground truth",
    "Score one or more models on the same frames; with several, also report their differences from the first, "
    "with paired confidence intervals. A MODEL may also be a folder of external saliency maps (DIR/VIDEO/0001.png "
    "for the first frame, or DIR/VIDEO.mp4), a baseline, or `observers`: how "
    "well one half of the observers predicts the other half.",
    (
        "saldistill evaluate runs/demo/student @distill/demo",
        "saldistill evaluate centre-prior runs/demo/teacher runs/demo/student dhf1k:@sample "
        "--videos 002 --frames 601-783 --every 4",
        "saldistill evaluate runs/demo/student dhf1k:DHF1K --split validation -o scores",
        "saldistill evaluate maps dhf1k:DHF1K --split validation --protocol dhf1k",
    ),
    _add_arguments,
    _run,
    "scores (a list as in scores.json), differences from the first model and report",
)
