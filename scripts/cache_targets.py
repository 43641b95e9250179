"""Stores a teacher's maps: `saldistill cache build` as a file, which `accelerate launch` needs.

    accelerate launch scripts/cache_targets.py configs/distill/demo.yaml

Arguments and help are the verb's.
"""

import sys
from pathlib import Path

# The repository's root comes first: this folder's own distill.py would hide the package.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from distill.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["cache", "build", *sys.argv[1:]]))
