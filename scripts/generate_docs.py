"""Write what comes from code: tables and the command line in README.md and docs/, cards and costs of the models.

python scripts/generate_docs.py              rewrite the blocks marked `<!-- generated: NAME -->`, the cards,
                                             and distill/models/costs.json
python scripts/generate_docs.py --check      exit with 1 and name the pages that are out of date
"""

import argparse
import ast
import difflib
import itertools
import json
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

# The repository's root comes first: distill.py in this folder would hide the package.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cli_reference import command_line

import distill.limits
from distill.cli.configs import summary_of
from distill.evaluation.metrics import METRICS
from distill.evaluation.protocols import PROTOCOLS
from distill.models import stored_costs
from distill.models.cost import costs_of
from distill.models.networks import list_models, source_hash
from distill.models.pretrained import pretrained_folder, pretrained_models
from distill.reports.model_card import markdown_table as table
from distill.reports.model_card import model_card, zoo, zoo_scores
from distill.shipped import config_names
from distill.targets.codec import CODECS
from distill.training.config import RunConfig
from distill.training.losses import LOSSES

REPOSITORY = Path(__file__).resolve().parent.parent

BLOCK = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", flags=re.DOTALL)


def type_name(annotation: Any) -> str:
    """Return a type as YAML shows it: `int`, `fp32, bf16 or fp16`, `list of str`, `[float, float]`."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return type_name(arguments[0])
    if origin is Literal:
        *first, last = [f"`{choice}`" for choice in arguments]
        return f"{', '.join(first)} or {last}" if first else last
    if origin is list:
        return f"list of {type_name(arguments[0])}"
    if origin is tuple:
        return f"[{', '.join(map(type_name, arguments))}]"
    if origin in (Union, UnionType):
        return " or ".join(type_name(argument) for argument in arguments if argument is not NoneType)
    return getattr(origin or annotation, "__name__", str(annotation))


def sections_of(annotation: object) -> list[type[BaseModel]]:
    """Return the pydantic models inside an annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for argument in get_args(annotation) for found in sections_of(argument)]


def describe_section(path: str, section: type[BaseModel], done: dict[type[BaseModel], str]) -> list[str]:
    """Return the Markdown of a section of the config and of those inside it; each class is described once."""
    rows, inner = [], []
    for name, field in section.model_fields.items():
        kind = type_name(field.annotation)
        if nested := sections_of(field.annotation):
            where = f"{path}.{name}".lstrip(".")
            if nested[0] not in done:
                done[nested[0]] = where
                inner.append((where, nested[0]))
            many = "list of " * (get_origin(field.annotation) is list)
            kind = f"{many}[`{done[nested[0]]}`](#{done[nested[0]].replace('.', '')})"
            kind += " or list of them" * (len(nested) > 1)
        value = None if field.is_required() else field.get_default(call_default_factory=True)
        default = "-" if value is None or isinstance(value, BaseModel) else f"`{json.dumps(value)}`"
        description = " ".join((field.description or "").split()).replace("|", "\\|")
        rows.append((f"`{name}`", kind, "required" if field.is_required() else default, description))
    lines = [f"## `{path}`" if path else "## Top level", "", " ".join((section.__doc__ or "").split()), ""]
    lines.append(table(("key", "type", "default", "meaning"), rows))
    for where, nested_section in inner:
        lines += describe_section(where, nested_section, done)
    return lines


def config_keys() -> str:
    """Return the reference of all config keys."""
    return "\n" + "\n".join(describe_section("", RunConfig, {}))


def losses() -> str:
    """Return the table of losses."""
    rows = []
    for name, loss in LOSSES.items():
        against = (
            "`teacher` only" if loss.teacher_only else "`truth` only" if loss.target == "fixations" else "both"
        )
        rows.append((f"`{name}`", loss.target, against, ", ".join(loss.options) or "-", loss.help))
    return table(("loss", "compares with", "`against`", "options", "value"), rows)


def metrics() -> str:
    """Return the table of metrics."""
    rows = [
        (
            f"`{name}`",
            metric.title,
            ", ".join(metric.truth).replace("_", " "),
            metric.help,
            "higher" if metric.higher_is_better else "lower",
        )
        for name, metric in METRICS.items()
    ]
    return table(("metric", "title", "compares with", "range", "better"), rows)


def protocols() -> str:
    """Return the table of protocols."""
    rows = [(f"`{name}`", protocol.help, ", ".join(protocol.metrics)) for name, protocol in PROTOCOLS.items()]
    return table(("`--protocol`", "scores", "metrics"), rows)


def codecs() -> str:
    """Return the table of codecs."""
    return table(("`teacher.codec`", "stores", "cost"), [(f"`{n}`", c.summary, c.help) for n, c in CODECS.items()])


def limits() -> str:
    """Return the table of limits: each constant of distill/limits.py with its docstring."""
    rows = []
    body = ast.parse((REPOSITORY / "distill" / "limits.py").read_text(encoding="utf-8")).body
    for statement, following in itertools.pairwise(body):
        if isinstance(statement, ast.Assign) and isinstance(following, ast.Expr):
            name = ast.unparse(statement.targets[0])
            value, meaning = getattr(distill.limits, name), ast.literal_eval(following.value)
            rows.append((f"`{name}`", f"{value:,}", " ".join(meaning.split())))
    return table(("limit", "value", "of what, and why"), rows, "lr")


def configs() -> str:
    """Return the table of the configs that come with the project: each name with the first sentence of its head."""
    return table(("config", "run"), [(f"`{name}`", summary_of(name)) for name in config_names()])


def costs() -> str:
    """Return the costs of the variants of all networks as JSON, computed for networks that changed since."""
    stored, parts = stored_costs.stored_costs(), []
    for name in list_models():
        rows = stored.get(name) or costs_of(name)
        lines = ",\n".join(f"   {json.dumps(variant)}: {json.dumps(asdict(row))}" for variant, row in rows.items())
        source = json.dumps(source_hash(name))
        parts.append(f' {json.dumps(name)}: {{\n  "source": {source},\n  "variants": {{\n{lines}\n  }}\n }}')
    return "{\n" + ",\n".join(parts) + "\n}\n"


BLOCKS: dict[str, Callable[[], str]] = {
    "command_line": command_line,
    "config": config_keys,
    "configs": configs,
    "losses": losses,
    "metrics": metrics,
    "protocols": protocols,
    "codecs": codecs,
    "limits": limits,
    "zoo": lambda: zoo(pretrained_models()),
    "zoo_scores": lambda: zoo_scores(pretrained_models()),
}


def pages() -> Iterator[tuple[Path, str, str]]:
    """Yield each generated file with its current and its new text."""
    for page in [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]:
        text = page.read_text(encoding="utf-8")
        yield page, text, BLOCK.sub(lambda match: match[1] + BLOCKS[match[2]]() + match[3], text)
    yield stored_costs.FILE, stored_costs.FILE.read_text(encoding="utf-8"), costs()
    for name, record in pretrained_models().items():
        card = pretrained_folder() / f"{name}.md"
        yield card, card.read_text(encoding="utf-8") if card.exists() else "", model_card(name, record)


def write(*, check: bool) -> int:
    """Rewrite or check the pages and cards; return the exit code."""
    outdated = []
    for page, text, new in pages():
        if new == text:
            continue
        outdated.append(str(page.relative_to(REPOSITORY)))
        if check:
            sys.stderr.writelines(
                difflib.unified_diff(text.splitlines(True), new.splitlines(True), page.name, "new", n=0)
            )
        else:
            page.write_text(new, encoding="utf-8")
    if outdated:
        verb = "out of date; run python scripts/generate_docs.py" if check else "rewritten"
        print(f"{', '.join(outdated)}: {verb}", file=sys.stderr)
    return 1 if outdated and check else 0


def main() -> int:
    """Rewrite or check the pages; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing, fail if a page is out of date")
    return write(check=parser.parse_args().check)


if __name__ == "__main__":
    sys.exit(main())
