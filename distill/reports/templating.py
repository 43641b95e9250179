"""Jinja2 environment of the report templates, with autoescape on."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
TEMPLATES.filters["px"] = lambda value: f"{value:.1f}"


def render(template: str | Template, **values: Any) -> Markup:
    """Render a template, or `templates/<template>.html.j2`. Every string that is not `Markup` is escaped."""
    found = TEMPLATES.get_template(f"{template}.html.j2") if isinstance(template, str) else template
    return Markup(found.render(values).strip())
