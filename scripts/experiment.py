"""Train the arms of an experiment over several seeds, score them and compare them.

    python scripts/experiment.py configs/experiments/hevc_gaze.yaml
    python scripts/experiment.py configs/experiments/hevc_gaze.yaml seeds=[0] out=runs/quick
    python scripts/experiment.py configs/experiments/hevc_gaze.yaml --arms small_truth small_both

After an interruption the same command resumes. With --arms, several processes share the work; the one that finds
all runs finished writes the table.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(
    0, str(Path(__file__).resolve().parent.parent)
)  # before scripts/, whose distill.py hides the package

from distill.cli.main import run_guarded
from distill.experiment import load_experiment, run_experiment


def main() -> int:
    """Run the experiment and return the exit code of `saldistill`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("experiment", help="YAML file that describes the experiment")
    parser.add_argument("overrides", nargs="*", help="settings to override, e.g. seeds=[0]")
    parser.add_argument("--arms", nargs="+", help="train only these arms")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps")
    arguments = parser.parse_args()
    return run_guarded(
        lambda: run_experiment(
            load_experiment(arguments.experiment, arguments.overrides),
            arms=arguments.arms,
            device=arguments.device,
        )
    )


if __name__ == "__main__":
    sys.exit(main())
