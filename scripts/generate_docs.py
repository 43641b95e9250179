"""Write the tables that come from code into README.md and docs/: metrics, losses, data sets, codecs, config keys.

    python scripts/generate_docs.py              rewrite the blocks between `<!-- generated: NAME -->` and `<!-- end -->`
    python scripts/generate_docs.py --check      exit with 1 and name the pages that are out of date
    python scripts/generate_docs.py --demo runs/demo        also README.md's table, from a run of `saldistill demo`
"""

import argparse
import difflib
import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import get_args

from pydantic import BaseModel

REPOSITORY = Path(__file__).resolve().parent.parent
# The repository's root comes first: distill.py in this folder would hide the package.
sys.path.insert(0, str(REPOSITORY))

from distill.data.sets.find import DATASETS
from distill.evaluation.metrics import METRICS
from distill.evaluation.protocols import PROTOCOLS
from distill.targets.codec import CODECS
from distill.training.config import RunConfig
from distill.training.losses import LOSSES

BLOCK = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", flags=re.DOTALL)


def table(head: Sequence[str], rows: Iterable[Sequence[str]], align: str = "") -> str:
    """Return a Markdown table; `align` has one letter per column, `r` for numbers."""
    rule = ["---:" if letter == "r" else "---" for letter in align.ljust(len(head))]
    lines = [f"| {' | '.join(head)} |", f"|{'|'.join(rule)}|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"
