r"""Compare a student, its calibrations on few videos, and a model that was trained with the data.

    python scripts/calibration_study.py student.onnx reference.onnx --on ntire:data/hevc-gaze --on-split train \
        --test ntire:data/hevc-gaze --test-split public_test --scenes 'Vidyo*' -o runs/calibration

The folder gets results.json and results.md. After an interruption the same command resumes; more counts or seeds
extend a finished study.
"""

import argparse
import sys
from pathlib import Path

# The repository's root comes first: distill.py in this folder would hide the package.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from distill.calibration.study import COUNTS, Study, run_study
from distill.cli.main import run_guarded
from distill.cli.options import count, counts, names
from distill.limits import MAX_CALIBRATED_MAPS, MAX_FRAMES


def main() -> int:
    """Run the study and return the exit code of `saldistill`."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog=__doc__.partition("\n\n")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("student", metavar="STUDENT.onnx", help="file to calibrate")
    parser.add_argument("reference", metavar="REFERENCE.onnx", help="model that was trained with the data")
    parser.add_argument("--on", required=True, metavar="DATA", help="calibration data, DATASET:ROOT")
    parser.add_argument("--on-split", metavar="NAME", help="split of --on")
    parser.add_argument("--test", required=True, metavar="DATA", help="data to score on, DATASET:ROOT")
    parser.add_argument("--test-split", metavar="NAME", help="split of --test")
    parser.add_argument(
        "--scenes", type=names, default=[], metavar="PATTERN,PATTERN", help="test videos that show one scene"
    )
    parser.add_argument(
        "--counts",
        type=counts(MAX_CALIBRATED_MAPS),
        default=list(COUNTS),
        metavar="N,N",
        help="numbers of videos to calibrate on (default: 5,10,20,50)",
    )
    parser.add_argument(
        "--seeds", type=count(1000), default=3, metavar="N", help="draws of each number (default: 3)"
    )
    parser.add_argument(
        "--every", type=count(MAX_FRAMES), default=8, metavar="N", help="use every Nth frame (default: 8)"
    )
    parser.add_argument("-o", "--out", required=True, metavar="DIR", help="folder of the results")
    given = vars(parser.parse_args())
    out = given.pop("out")
    study = Study(**{name: tuple(value) if isinstance(value, list) else value for name, value in given.items()})
    return run_guarded(lambda: print(run_study(study, out)))


if __name__ == "__main__":
    sys.exit(main())
