r"""Hash the training data of a pretrained model again, into student/pretrained/training_hashes.json.

    python scripts/hash_training_data.py stream-nano \
        configs/pretrained/nano.yaml configs/pretrained/nano_stills.yaml \
        configs/pretrained/base.yaml configs/pretrained/base_stills.yaml \
        configs/pretrained/small_truth.yaml configs/pretrained/small_stills.yaml

`scripts/ship_pretrained.py` does so when it ships a model; this is for a new version of the hashes. Name the
configs of the run, of its initial weights' runs and of its teachers'. Relative roots start at the working folder.
"""

import argparse
import logging
import sys
from pathlib import Path

# The repository's root comes first: distill.py in this folder would hide the package.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from distill.cli.main import run_guarded
from distill.models.pretrained import pretrained_model
from distill.models.training_hashes import training_hashes, write_training_hashes
from distill.release.training_hashes import hash_training_data
from distill.training.config import load_config


def parse() -> argparse.Namespace:
    """Return the arguments."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog=__doc__.partition("\n\n")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", help="name of the pretrained model")
    parser.add_argument("configs", nargs="+", metavar="CONFIG", help="config of a run behind it")
    return parser.parse_args()


def main(arguments: argparse.Namespace) -> None:
    """Hash the data and write the file."""
    logging.getLogger("distill").setLevel(logging.INFO)
    pretrained_model(arguments.name)  # an unknown name is reported at once
    hashes = hash_training_data(load_config(config) for config in arguments.configs)
    write_training_hashes({**training_hashes(), arguments.name: hashes})
    print(f"{arguments.name}: hashes of {hashes.videos:,} videos and images")


if __name__ == "__main__":
    sys.exit(run_guarded(lambda: main(parse())))
