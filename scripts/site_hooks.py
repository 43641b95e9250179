"""Hooks of mkdocs (mkdocs.yml): pages from files outside docs/, and links from pages to such files.

`mkdocs build` calls the functions `on_*`. A link to a file that is a page of the site leads to that page; any other
file of the repository that a page links to is copied to files/ in the site.
"""

import json
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

REPOSITORY = Path(__file__).resolve().parent.parent

PAGES = {
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "reference/students.md": "student/README.md",
    "reference/teachers.md": "teacher/README.md",
    "models/stream-nano.md": "student/pretrained/stream-nano.md",
    "models/stream-small.md": "student/pretrained/stream-small.md",
    "tutorials/quickstart.md": "docs/tutorials/quickstart.ipynb",
}
"""Pages of the site whose text lies outside docs/: name in the site -> file of the repository."""

LINK = re.compile(r"(\]\()([^)\s#]+)(#[^)\s]*)?(\))")
SCHEME = re.compile(r"[a-z]+:")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages whose text lies outside docs/."""
    for page, source in PAGES.items():
        text = (REPOSITORY / source).read_text(encoding="utf-8")
        content = notebook_page(text, source) if source.endswith(".ipynb") else text
        files.append(File.generated(config, page, content=content))
    return files


def notebook_page(text: str, source: str) -> str:
    """Return a notebook as Markdown: its text, its code, and what the code printed and drew when it was saved."""
    parts = []
    for cell in json.loads(text)["cells"]:
        content = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(content)
            continue
        parts.append(f"```python\n{content}\n```")
        for output in cell["outputs"]:
            data = output.get("data", {})
            if "image/png" in data:
                parts.append(f"![](data:image/png;base64,{data['image/png'].strip()})")
            elif output.get("name") != "stderr":
                printed = "".join(data.get("text/plain", output.get("text", "")))
                parts.append(f"```text\n{printed.rstrip()}\n```")
    title, *rest = parts
    download = f'<a href="{posixpath.basename(source)}" download>Download this notebook</a>'
    return "\n\n".join([title, download, *rest])


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Lead relative links, which are right on a code host, to pages and files of the site."""
    here = page.file.src_uri
    source = PAGES.get(here, f"docs/{here}")

    def lead(match: re.Match[str]) -> str:
        if SCHEME.match(match[2]):
            return match[0]
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), match[2]))
        if not (REPOSITORY / target).exists():
            return match[0]  # mkdocs reports it
        uri = site_uri(target, config, files)
        return f"{match[1]}{posixpath.relpath(uri, posixpath.dirname(here) or '.')}{match[3] or ''}{match[4]}"

    return LINK.sub(lead, markdown)


def site_uri(target: str, config: Any, files: Files) -> str:
    """Return where a file of the repository is in the site, and add it if it is not there yet."""
    for page, source in PAGES.items():
        if target == source:
            return page
    if target.startswith("docs/"):
        return target.removeprefix("docs/")
    uri = f"files/{target}"
    if files.get_file_from_path(uri) is None:
        files.append(File.generated(config, uri, content=(REPOSITORY / target).read_bytes()))
    return uri
