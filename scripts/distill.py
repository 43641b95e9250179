"""`saldistill distill` as a script, e.g. for `accelerate launch`.

accelerate launch scripts/distill.py configs/distill/demo.yaml out=runs/mine/student
"""

import sys
from pathlib import Path

sys.path.insert(
    0, str(Path(__file__).resolve().parent.parent)
)  # before scripts/, whose distill.py hides the package

from distill.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["distill", *sys.argv[1:]]))
