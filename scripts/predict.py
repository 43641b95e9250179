"""Draws a model's maps over a video: `saldistill predict` as a file.

    python scripts/predict.py runs/demo/student VIDEO -o overlay.mp4

Arguments and help are the verb's.
"""

import sys
from pathlib import Path

# The repository's root comes first: this folder's own distill.py would hide the package.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from distill.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["predict", *sys.argv[1:]]))
