"""Trains the arms of an experiment over seeds, scores them, and compares them.

    python scripts/experiment.py configs/experiments/hevc_gaze.yaml
    python scripts/experiment.py configs/experiments/hevc_gaze.yaml seeds=[0] out=runs/quick
    python scripts/experiment.py configs/experiments/hevc_gaze.yaml --arms small_truth small_both

The same command goes on where a stopped one ended. With --arms, several processes share the work: the table is made
by the one that finds all runs done.
"""

import argparse
import sys
from pathlib import Path

# The repository's root comes first: this folder's own distill.py would hide the package.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from distill.cli.main import run_guarded
from distill.experiment import load_experiment, run_experiment


def main() -> int:
    """Run the command. Returns its exit code: 0; 2 for a mistake of the user; 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("experiment", help="its YAML file")
    parser.add_argument("overrides", nargs="*", help="key=value, such as seeds=[0]")
    parser.add_argument("--arms", nargs="+", help="only these arms")
    parser.add_argument("--device", default="auto")
    chosen = parser.parse_args()
    return run_guarded(
        lambda: run_experiment(
            load_experiment(chosen.experiment, chosen.overrides), arms=chosen.arms, device=chosen.device
        )
    )


if __name__ == "__main__":
    sys.exit(main())
