"""`saldistill export` as a script.

python scripts/export_onnx.py runs/demo/student -o student.onnx
"""

import sys
from pathlib import Path

sys.path.insert(
    0, str(Path(__file__).resolve().parent.parent)
)  # before scripts/, whose distill.py hides the package

from distill.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["export", *sys.argv[1:]]))
