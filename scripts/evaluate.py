"""Scores models: `saldistill evaluate` as a file.

    python scripts/evaluate.py runs/demo/student --data dhf1k:tests/data/dhf1k --videos 002

Arguments and help are the verb's.
"""

import sys
from pathlib import Path

# The repository's root comes first: this folder's own distill.py would hide the package.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from distill.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
