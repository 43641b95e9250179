"""Jinja2 environment of the report templates, with autoescape on."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.filters["px"] = lambda value: f"{value:.1f}"


def render(template: str, **values: Any) -> Markup:
    """Render `templates/<template>.html.j2`; every string that is not already `Markup` is escaped."""
    return Markup(_TEMPLATES.get_template(f"{template}.html.j2").render(values).strip())
