"""Model cards and tables of the pretrained models in Markdown, written from their records only."""

from collections.abc import Iterable, Mapping, Sequence

from distill.data.text import plural
from distill.evaluation.metrics import METRICS
from distill.models.pretrained import DataUse, PretrainedModel, ScoreRow, ScoreTable, ShippedFile
from distill.training.yaml_text import dump_yaml

COLUMNS = ("nss", "cc", "sim", "auc_judd", "sauc")
"""Metrics of the tables, where the scores have them."""

NONE_YET = "No pretrained model is shipped with this version.\n"


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]], align: str = "") -> str:
    """Return a Markdown table; `align` has one letter per column, `r` for numbers."""
    rule = ["---:" if letter == "r" else "---" for letter in align.ljust(len(head))]
    lines = [f"| {' | '.join(head)} |", f"|{'|'.join(rule)}|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"


def model_card(name: str, record: PretrainedModel) -> str:
    """Return the card of a pretrained model."""
    training = record.training
    sections = {
        "Use": use(name),
        "Scores": scores(record.scores),
        "Cost": cost(record),
        "Data": data(training.data),
        "What was chosen on what": listed([f"Weights: {training.best}.", *training.chosen]),
        "Intended use": listed(record.intended_use),
        "Known limits": listed(record.limits),
        "Training": how_trained(record),
        "Files": files([record.weights, record.onnx]),
    }
    text = f"# {name}\n\n{record.summary} Licence of the weights: {record.licence}.\n"
    text += "\n*Written by `scripts/generate_docs.py` from models.json in this folder; do not edit.*\n"
    return text + "".join(f"\n## {title}\n\n{content}" for title, content in sections.items())


def use(name: str) -> str:
    """Return examples."""
    return (
        "```\n"
        f"saldistill predict {name} VIDEO -o overlay.mp4\n"
        f"python student/edge.py student/pretrained/{name}.onnx VIDEO -o overlay.mp4       # without PyTorch\n"
        "```\n\n"
        "```python\nimport distill\n\n"
        f'model = distill.load("{name}")\n'
        'maps = model.predict("video.mp4")  # (frames, h, w), float32 in [0, 1]\n'
        "```\n"
    )


def scores(tables: Sequence[ScoreTable]) -> str:
    """Return the tables of scores, with 95% intervals."""
    if not tables:
        return "Not scored yet.\n"
    text = "Means with 95% bootstrap intervals over recordings; higher is better.\n"
    for table in tables:
        metrics = [metric for metric in COLUMNS if any(metric in row.means for row in table.rows)]
        rows = [[row.name, *(score_cell(row, metric) for metric in metrics)] for row in table.rows]
        rows[0][0] = f"**{rows[0][0]}**"
        head = ["", *(METRICS[metric].title if metric in METRICS else metric for metric in metrics)]
        text += f"\n{table.title[:1].upper()}{table.title[1:]}: {table.what}.\n\n"
        text += markdown_table(head, rows, "l" + "r" * len(metrics))
    return text


def score_cell(row: ScoreRow, metric: str, *, interval: bool = True) -> str:
    """Return a score with its interval; a dash if it is unknown."""
    mean, ends = row.means.get(metric), row.intervals.get(metric)
    if mean is None:
        return "-"
    digits = 2 if metric == "nss" else 3
    text = f"{mean:.{digits}f}"
    return f"{text} [{ends[0]:.{digits}f}, {ends[1]:.{digits}f}]" if ends is not None and interval else text


def cost(record: PretrainedModel) -> str:
    """Return size, operations, speed and input."""
    values, given = record.cost, record.input
    lines = [
        f"{values.weights / 1e6:.2f} M weights"
        + (f", {values.gmacs:.3f} GMACs per map" if values.gmacs is not None else ""),
        f"input: one frame at a time, {given.size[0]} x {given.size[1]} (height x width), fit `{given.fit}`, "
        f"trained at a stride of {given.stride}; a map of {given.map_size[0]} x {given.map_size[1]} depends on "
        f"{plural(given.reach, 'frame')}",
    ]
    if values.milliseconds is not None:
        ratio = f", {values.ratio:.2f} times {values.compared_with}" if values.ratio is not None else ""
        lines.insert(1, f"{values.milliseconds:.1f} ms per map{ratio}: {values.how}")
    return listed([f"{line[:1].upper()}{line[1:]}." for line in lines])


def data(uses: Sequence[DataUse]) -> str:
    """Return the table of the data with terms."""
    rows = [[each.title, each.used, each.licence, each.citation] for each in uses]
    return "Everything that the weights have seen, with its terms:\n\n" + markdown_table(
        ["data", "used", "licence", "citation"], rows
    )


def how_trained(record: PretrainedModel) -> str:
    """Return the command, the cost of the run, and its config."""
    training = record.training
    teachers = f" It learnt from {' and '.join(training.teachers)}." if training.teachers else ""
    return (
        f"{plural(training.steps, 'step')} in {training.minutes:g} minutes on {training.device}.{teachers} "
        f"To repeat the run:\n\n```\n{training.command}\n```\n\n"
        f"Its resolved config (SHA-256 {training.config_sha256}), without defaults:\n\n"
        f"```\n{dump_yaml(training.config)}```\n"
    )


def files(shipped: Sequence[ShippedFile]) -> str:
    """Return the table of the files with their hashes."""
    rows = [
        [
            f"`{each.name}`",
            f"{each.bytes / 1e6:.2f}",
            each.precision,
            "-" if each.max_error is None else f"{each.max_error:.1e}",
            "-" if each.cc is None else f"{each.cc:.5f}",
            f"`{each.sha256}`",
        ]
        for each in shipped
    ]
    head = ["file", "MB", "stored as", "largest difference", "CC", "SHA-256"]
    return (
        "Networks compute in fp32 however their weights are stored, except for INT8. Difference and CC "
        "compare maps, in [0, 1], with those of the run's own weights, on a real video.\n\n"
        + markdown_table(head, rows, "lrlrrl")
    )


def listed(items: Sequence[str]) -> str:
    """Return a Markdown list."""
    return "".join(f"- {item}\n" for item in items)


def zoo(models: Mapping[str, PretrainedModel]) -> str:
    """Return the table of all pretrained models."""
    if not models:
        return NONE_YET
    rows = []
    for name, record in models.items():
        first = record.scores[0].rows[0] if record.scores else ScoreRow(name=name, means={})
        values = record.cost
        rows.append(
            [
                f"`{name}`",
                f"`{record.architecture}`",
                score_cell(first, "nss", interval=False),
                score_cell(first, "cc", interval=False),
                f"{values.weights / 1e6:.2f} M",
                "-" if values.gmacs is None else f"{values.gmacs:.2f}",
                "-" if values.milliseconds is None else f"{values.milliseconds:.1f}",
                f"{record.input.size[0]} x {record.input.size[1]}, {record.input.fit}",
                f"{record.weights.bytes / 1e6:.1f} / {record.onnx.bytes / 1e6:.1f}",
            ]
        )
    head = [
        "model",
        "network",
        "NSS",
        "CC",
        "weights",
        "GMACs per map",
        "ms per map",
        "input",
        "MB, weights / ONNX",
    ]
    return markdown_table(head, rows, "llrrrrrlr")


def zoo_scores(models: Mapping[str, PretrainedModel]) -> str:
    """Return a table per data set: all pretrained models, the baselines and the published scores, each once."""
    if not models:
        return NONE_YET
    merged: dict[str, tuple[ScoreTable, dict[str, ScoreRow]]] = {}
    for record in models.values():
        for table in record.scores:
            _, rows = merged.setdefault(table.key, (table, {}))
            first, *others = table.rows
            models_so_far = [name for name in rows if name in models]
            ordered = [*models_so_far, first.name, *(name for name in rows if name not in models)]
            rows[first.name] = first
            for row in others:
                rows.setdefault(row.name, row)
            merged[table.key] = (table, {name: rows[name] for name in dict.fromkeys([*ordered, *rows])})
    text = "\n"
    for table, rows in merged.values():
        metrics = [metric for metric in COLUMNS if any(metric in row.means for row in rows.values())]
        cells = [[row.name, *(score_cell(row, metric) for metric in metrics)] for row in rows.values()]
        head = ["", *(METRICS[metric].title if metric in METRICS else metric for metric in metrics)]
        text += f"{table.title[:1].upper()}{table.title[1:]}: {table.what}.\n\n"
        text += markdown_table(head, cells, "l" + "r" * len(metrics)) + "\n"
    return text
