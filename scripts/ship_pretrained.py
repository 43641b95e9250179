r"""Turn the folder of a finished run into a pretrained model in student/pretrained, with its card and tables.

    python scripts/ship_pretrained.py RUN [RUN ...] --name stream-small \
        --experiment configs/experiments/pretrained.yaml \
        --int8 ntire:data/hevc-gaze --int8-split train --validate stills:data/stills
    saldistill evaluate stream-small centre-prior observers ntire:data/hevc-gaze --split public_test --every 8 \
        -o scores
    saldistill benchmark mobilenetv2_100.onnx student/pretrained/stream-small.onnx -o cost.json --threads 2
    python scripts/ship_pretrained.py --name stream-small --scores public_test=scores --benchmark cost.json

Of several RUNs of one config that differ in their seed, the mean of their weights is shipped. They are stored in
fp16 if the maps stay equal to 1e-3, else in fp32; the .onnx file is INT8 if that was asked for and loses at most
0.01 CC. Without RUN, scores and a benchmark are added to the record of a shipped model.
student/pretrained/facts.yaml has the terms of the data, published scores, intended use and limits.
"""

import argparse
import logging
import sys
from pathlib import Path

# The repository's root comes first: distill.py in this folder would hide the package.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import generate_docs

from distill.cli.main import run_guarded
from distill.cli.options import count
from distill.errors import UserError
from distill.limits import MAX_FRAMES
from distill.release.ship import Int8, Sources, ship, update

REPOSITORY = Path(__file__).resolve().parent.parent
VIDEO = REPOSITORY / "tests" / "data" / "dhf1k" / "video" / "068.AVI"


def parse() -> argparse.Namespace:
    """Return the arguments."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog=__doc__.partition("\n\n")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "runs", nargs="*", metavar="RUN", help="folder of a finished run; without it, update a record"
    )
    parser.add_argument("--name", required=True, help="name of the model, one of those in facts.yaml")
    parser.add_argument("--config", metavar="FILE", help="config that the run was started with")
    parser.add_argument("--experiment", metavar="FILE", help="experiment that the run is an arm of")
    parser.add_argument(
        "--learnt-from",
        action="append",
        default=[],
        metavar="RUN",
        help="another run behind it, which is not found",
    )
    parser.add_argument("--video", default=str(VIDEO), help="real video on which maps are compared")
    parser.add_argument("--int8", metavar="DATA", help="try INT8, calibrated on DATASET:ROOT, a config or a video")
    parser.add_argument("--int8-split", metavar="NAME", help="split of the calibration data")
    parser.add_argument("--validate", metavar="DATA", help="DATASET:ROOT or config on which INT8's CC is compared")
    parser.add_argument("--validate-split", metavar="NAME", help="split of the validation data")
    parser.add_argument(
        "--every", type=count(MAX_FRAMES), default=8, metavar="N", help="score every Nth frame there"
    )
    parser.add_argument(
        "--scores",
        action="append",
        default=[],
        metavar="KEY=DIR,DIR",
        help="folders of `saldistill evaluate -o` or of an experiment, for a key of facts.yaml",
    )
    parser.add_argument("--benchmark", metavar="FILE", help="file of `saldistill benchmark -o`")
    parser.add_argument(
        "--also-called", action="append", default=[], metavar="NAME", help="reference in scores and benchmark"
    )
    return parser.parse_args()


def main(arguments: argparse.Namespace) -> None:
    """Ship a run, or update a record, and write cards and tables."""
    logging.getLogger("distill").setLevel(logging.INFO)
    if bool(arguments.int8) != bool(arguments.validate):
        raise UserError("--int8 and --validate: expected both or neither; INT8 is calibrated and validated on data")
    scores = {key: folders.split(",") for key, _, folders in (each.partition("=") for each in arguments.scores)}
    sources = Sources(
        config=arguments.config,
        experiment=arguments.experiment,
        learnt_from=arguments.learnt_from,
        scores=scores,
        benchmark=arguments.benchmark,
        extra_names=arguments.also_called,
    )
    if not arguments.runs:
        record = update(arguments.name, sources)
    else:
        int8 = None
        if arguments.int8:
            int8 = Int8(
                arguments.int8, arguments.validate, arguments.int8_split, arguments.validate_split, arguments.every
            )
        record = ship(arguments.runs, arguments.name, sources, video=arguments.video, int8=int8)
    for file in (record.weights, record.onnx):
        print(f"{file.name}: {file.bytes / 1e6:.2f} MB, stored as {file.precision}, SHA-256 {file.sha256}")
    generate_docs.write(check=False)


if __name__ == "__main__":
    sys.exit(run_guarded(lambda: main(parse())))
