"""The structure of the code, read from its syntax trees: no import circles, one door to the networks."""

import ast
from pathlib import Path

import pytest
from helpers.places import REPOSITORY

PACKAGES = ("distill", "teacher", "student")


def module_name(path: Path) -> str:
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {
    module_name(path): ast.parse(path.read_text(encoding="utf-8"))
    for package in PACKAGES
    for path in sorted((REPOSITORY / package).rglob("*.py"))
}


def imported_modules(tree: ast.Module) -> set[str]:
    """Return every module of the project that a file imports, inside functions and under TYPE_CHECKING too."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            members = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= members & SOURCES.keys() or {node.module}
    return names & SOURCES.keys()


def find_circle(imports: dict[str, set[str]]) -> list[str]:
    """Return one chain of modules that ends where it began; an empty list when there is none."""
    done: set[str] = set()

    def visit(module: str, chain: list[str]) -> list[str]:
        if module in chain:
            return [*chain[chain.index(module) :], module]
        if module in done:
            return []
        for other in sorted(imports.get(module, ())):
            if circle := visit(other, [*chain, module]):
                return circle
        done.add(module)
        return []

    return next((circle for module in sorted(imports) if (circle := visit(module, []))), [])


@pytest.mark.parametrize(
    ("imports", "circle"),
    [
        ({"a": {"b"}, "b": {"c"}, "c": set()}, []),
        ({"a": {"b"}, "b": {"c"}, "c": {"b"}}, ["b", "c", "b"]),
        ({"a": {"a"}}, ["a", "a"]),
    ],
)
def test_find_circle_on_small_graphs_returns_the_chain(imports: dict[str, set[str]], circle: list[str]) -> None:
    assert find_circle(imports) == circle


def test_modules_do_not_import_each_other_in_a_circle() -> None:
    circle = find_circle({name: imported_modules(tree) - {name} for name, tree in SOURCES.items()})
    assert not circle, f"import circle: {' -> '.join(circle)}"


def test_only_the_models_package_imports_modules_by_name() -> None:
    """`importlib` would let a file reach teacher/ and student/ past the import contracts."""
    users = {
        name
        for name, tree in SOURCES.items()
        if name.startswith("distill.")
        for node in ast.walk(tree)
        if (isinstance(node, ast.Attribute) and node.attr == "import_module")
        or (isinstance(node, ast.Name) and node.id in ("import_module", "__import__"))
    }
    outside = {name for name in users if not name.startswith("distill.models.")}
    assert outside <= {"distill.data.video.decord_reader"}, "only decord is loaded by name outside distill/models/"


def test_functions_are_at_most_80_lines_long() -> None:
    lengths = {
        f"{name}.{node.name}": (node.end_lineno or 0) - node.lineno + 1
        for name, tree in SOURCES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert max(lengths.values()) <= 80, max(lengths, key=lambda name: lengths[name])


def test_no_test_module_imports_another() -> None:
    for path in (REPOSITORY / "tests").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not [name for name in names if name.split(".")[-1].startswith("test_")], path


def test_init_files_are_empty_but_for_the_python_interface() -> None:
    """distill/__init__.py offers `distill.load`, and imports the code behind it when it is used."""
    full = {
        str(path)
        for path in REPOSITORY.glob("*/**/__init__.py")
        if path.stat().st_size and ".venv" not in str(path)
    }
    assert {path for path in full if path.startswith(tuple(f"{REPOSITORY / name}/" for name in PACKAGES))} == {
        str(REPOSITORY / "distill" / "__init__.py")
    }
