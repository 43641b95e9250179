"""Names and source files of the networks in `teacher/` and `student/`, found without importing them."""

import ast
import hashlib
import importlib.util
from collections.abc import Iterator
from functools import cache
from pathlib import Path

PACKAGES = ("teacher", "student")


def list_models() -> list[str]:
    """Return the names of all models, such as `teacher/salfom`, sorted."""
    names = []
    for package in PACKAGES:
        for folder in _folders(package):
            names += [f"{package}/{file.stem}" for file in folder.glob("*.py") if _is_model(_parse(file))]
    return sorted(names)


def source_hash(name: str) -> str:
    """Return the SHA-256 of a network's file and of the files of its package that it imports.

    Args:
        name: the name of a model that `list_models` returns.
    """
    digest = hashlib.sha256()
    for file in sorted(_sources(name)):
        digest.update(f"{file.name}\n{file.read_text(encoding='utf-8')}\n".encode())
    return digest.hexdigest()


def _sources(name: str) -> set[Path]:
    """Return a network's file, and the files of its package that it imports, directly or through others."""
    package, _, stem = name.partition("/")
    found: set[Path] = set()
    pending = [stem]
    while pending:
        module = pending.pop()
        for folder in _folders(package):
            file = folder / f"{module}.py"
            if file not in found and file.is_file():
                found.add(file)
                pending += _imports(_parse(file), package)
    return found


def _imports(tree: ast.Module, package: str) -> Iterator[str]:
    """Yield the modules of a package that a file imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == package:
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"{package}."):
            yield (node.module or "").split(".")[1]
        elif isinstance(node, ast.Import):
            yield from (each.name.split(".")[1] for each in node.names if each.name.startswith(f"{package}."))


def _folders(package: str) -> list[Path]:
    spec = importlib.util.find_spec(package)
    return [Path(folder) for folder in (spec.submodule_search_locations or [])] if spec else []


def _parse(file: Path) -> ast.Module:
    state = file.stat()
    return _parsed(file, state.st_mtime_ns, state.st_size)


@cache
def _parsed(file: Path, changed: int, size: int) -> ast.Module:
    """Return the syntax tree of a file, which is parsed again when it changes."""
    return ast.parse(file.read_text(encoding="utf-8"))


def _is_model(tree: ast.Module) -> bool:
    """Return whether a file defines VARIANTS and Model."""
    names = set()
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return {"VARIANTS", "Model"} <= names
