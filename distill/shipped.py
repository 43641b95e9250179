"""Files that come with saldistill, named by paths that begin with `@`: configs and a sample of DHF1K.

    @teacher/demo                the config configs/teacher/demo.yaml
    @sample                      a folder in DHF1K's layout: one video with gaze and one without
    @sample/video/068.AVI        a file in it

They work from any folder, in an installed wheel and in a checkout, whose folders the wheel contains.
"""

from pathlib import Path

from distill.errors import UserError
from distill.paths import path_inside

MARK = "@"

SAMPLE = "sample"

CHECKOUT = {"configs": "configs", SAMPLE: "tests/data/dhf1k"}
"""Folder in `distill/shipped` of the wheel (see pyproject.toml) -> the folder of a checkout that it copies."""


def shipped_folder(name: str) -> Path:
    """Return the folder `configs` or `sample`."""
    installed = Path(__file__).with_name("shipped") / name
    return installed if installed.is_dir() else Path(__file__).parents[1] / CHECKOUT[name]


def config_names() -> list[str]:
    """Return the names of all shipped configs, e.g. `@teacher/demo`."""
    folder = shipped_folder("configs")
    return sorted(MARK + path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml"))


def shipped_path(path: str | Path) -> Path:
    """Return the file or folder that a path names.

    Args:
        path: `@sample`, a file in it such as `@sample/video/068.AVI`, or the name of a config, `@teacher/demo`; any
            other path is returned as it is.

    Returns:
        A path of the file system; do not write to it.

    Raises:
        UserError: nothing of that name comes with saldistill.
    """
    text = str(path)
    if not text.startswith(MARK):
        return Path(path)
    first, _, rest = text[len(MARK) :].partition("/")
    if first == SAMPLE:
        found = path_inside(shipped_folder(SAMPLE), rest, "@sample") if rest else shipped_folder(SAMPLE)
    else:
        found = path_inside(
            shipped_folder("configs"), text[len(MARK) :].removesuffix(".yaml"), text, suffix=".yaml"
        )
    if not found.exists():
        raise UserError(
            f"{text}: nothing of this name comes with saldistill; expected @{SAMPLE}, a file in it, or one of the "
            "configs that `saldistill configs list` prints"
        )
    return found


def shipped_argument(argument: str) -> str:
    """Return a command-line argument with its shipped path, such as `@teacher/demo` or `dhf1k:@sample`, resolved.

    Raises:
        UserError: as `shipped_path`.
    """
    prefix, mark, name = argument.partition(MARK)
    is_name = bool(mark) and (not prefix or (prefix.endswith(":") and prefix[:-1].isidentifier()))
    return prefix + str(shipped_path(mark + name)) if is_name else argument


def shipped_name(argument: str) -> str:
    """Return an argument with the `@` name of a shipped file or folder; the inverse of `shipped_argument`."""
    for folder in CHECKOUT:
        path = str(shipped_folder(folder))
        before, found, rest = argument.partition(path)
        if found and rest[:1] in ("", "/"):
            rest = f"{SAMPLE}{rest}" if folder == SAMPLE else rest.removeprefix("/").removesuffix(".yaml")
            return f"{before}{MARK}{rest}"
    return argument
