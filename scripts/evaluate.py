"""`saldistill evaluate` as a script.

python scripts/evaluate.py runs/demo/student dhf1k:tests/data/dhf1k --videos 002
"""

import sys
from pathlib import Path

sys.path.insert(
    0, str(Path(__file__).resolve().parent.parent)
)  # before scripts/, whose distill.py hides the package

from distill.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
