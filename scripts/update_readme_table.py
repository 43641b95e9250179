"""Copy the demo's results table into README.md, between the lines demo-table:begin and demo-table:end.

python scripts/update_readme_table.py [runs/demo/demo.json] [README.md]
"""

import json
import sys
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- demo-table:begin -->", "<!-- demo-table:end -->"


def format_cell(column: str, cell: str | float | None) -> str:
    """Return a cell as text: whole milliseconds, costs to 2 places, scores to 3."""
    if cell is None:
        return "-"
    if isinstance(cell, str):
        return cell
    return f"{cell:.{0 if column.startswith('ms') else 2 if column[0] in 'wG' else 3}f}"


def to_markdown(summary: dict[str, Any]) -> str:
    """Return the table as Markdown, with a line that says where and when it was made."""
    rows = [
        [format_cell(column, cell) for column, cell in zip(summary["columns"], row, strict=True)]
        for row in summary["rows"]
    ]
    lines = [summary["columns"], ["---"] + ["---:"] * (len(summary["columns"]) - 1), *rows]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    made = f"`saldistill demo`, {summary['duration']} on {summary['machine']}, {summary['date']}."
    return f"{table}\n\n{made}"


def main(demo: str = "runs/demo/demo.json", readme: str = "README.md") -> int:
    """Rewrite the block and return the exit code: 2 if a file or the block is missing."""
    for path in (demo, readme):
        if not Path(path).is_file():
            print(f"{path}: no such file; expected demo.json of `saldistill demo`, and a README", file=sys.stderr)
            return 2
    text = Path(readme).read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        print(f"{readme}: no block between {BEGIN} and {END}; add both lines where the table goes", file=sys.stderr)
        return 2
    table = to_markdown(json.loads(Path(demo).read_text(encoding="utf-8")))
    Path(readme).write_text(f"{before}{BEGIN}\n{table}\n{END}{after}", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
