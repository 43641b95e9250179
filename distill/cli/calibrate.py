"""`saldistill calibrate`: adapt an exported model to a data set with a few numbers."""

import argparse
from pathlib import Path

from distill.cli.options import add_output, add_threads, count, seed
from distill.cli.output import print_result
from distill.cli.verb import Verb
from distill.limits import MAX_CALIBRATED_MAPS, MAX_FRAMES


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="FILE", help="an .onnx file written by `saldistill export` or `quantize`")
    add_output(parser, "FILE", "the .onnx file to write (default: FILE-calibrated.onnx)", required=False)
    parser.add_argument(
        "--on",
        required=True,
        metavar="DATA",
        help="videos or images with fixations: DATASET:ROOT, or CONFIG.yaml for its test videos",
    )
    parser.add_argument("--on-split", metavar="NAME", help="split of the data set of --on (default: all videos)")
    parser.add_argument(
        "--videos",
        type=count(MAX_CALIBRATED_MAPS),
        metavar="N",
        help="use N videos or images, drawn at random (default: all, at most 1000)",
    )
    parser.add_argument(
        "--every",
        type=count(MAX_FRAMES),
        default=8,
        metavar="N",
        help="use every Nth frame, at most 1000 in total, evenly spaced",
    )
    parser.add_argument(
        "--seed", type=seed, default=0, metavar="N", help="seed of the draw, the folds and the intervals"
    )
    add_threads(parser, "one per CPU core")


def _run(arguments: argparse.Namespace) -> None:
    from distill.calibration.calibrate import calibrate

    source = Path(arguments.model)
    report = calibrate(
        source,
        arguments.on,
        arguments.out or source.with_name(f"{source.stem}-calibrated.onnx"),
        split=arguments.on_split,
        videos=arguments.videos,
        every=arguments.every,
        seed=arguments.seed,
        threads=arguments.threads,
    )
    print_result(arguments, report)


CALIBRATE = Verb(
    "calibrate",
    "adapt an exported model to your viewers, screens and content",
    "Fit fourteen numbers to the fixations of your videos or images: temperature, spread by scale, centre bias, a "
    "centre prior, and the weight of motion where the network offers it. They become part of the .onnx file, so "
    "that every runtime has them at no cost. The gain is cross-validated by recording; a file that is not better "
    "is not written. `saldistill quantize` can run before or after.",
    (
        "saldistill calibrate student.onnx --on ntire:MINE -o mine.onnx",
        "saldistill calibrate student.onnx --on ntire:hevc-gaze --on-split train --videos 10 --seed 1",
        "saldistill calibrate student/pretrained/stream-nano.onnx --on stills:PHOTOS -o photos.onnx",
    ),
    _add_arguments,
    _run,
    "path, numbers, gains, on, videos, frames, folds, motion, max_error and seconds",
)
