"""Collect as wheels what the GPU report needs and a machine without a network lacks.

    scripts/gpu_wheels OUT

On that machine: `python3 -m pip install --no-index --no-deps --target /tmp/site OUT/*.whl`, then
`PYTHONPATH=/tmp/site scripts/gpu_report` in the repository.
"""

import argparse
import importlib.metadata
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterable, Sequence
from email.parser import HeaderParser
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from distill.errors import UserError

REPOSITORY = Path(__file__).resolve().parents[2]

PRESENT = (
    "torch",
    "timm",
    "torchvision",
    "accelerate",
    "einops",
    "h5py",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "safetensors",
    "tqdm",
    "scipy",
    "matplotlib",
)
"""Packages of the machine that the report is made for; what they need is there, too."""

SPARED = ("decord2",)
"""Dependencies that the report can do without: PyAV reads the videos, which keeps the wheels below the limit."""

EXTRA = ("pytest",)
"""What the report needs in addition to the project's own dependencies."""

MAX_BYTES = 50 * 2**20
"""Limit of all wheels together."""

PYTHON = "3.12"

PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in (34, 31, 28, 27, 24, 17)] + ["manylinux2014_x86_64"]

ENVIRONMENT = {
    "python_version": PYTHON,
    "python_full_version": f"{PYTHON}.3",
    "sys_platform": "linux",
    "platform_system": "Linux",
    "platform_machine": "x86_64",
    "platform_python_implementation": "CPython",
    "implementation_name": "cpython",
    "os_name": "posix",
    "extra": "",
}
"""The machine, for the conditions of requirements."""


def required_names(requirements: Iterable[str]) -> list[str]:
    """Return the names of the packages that requirements demand on the machine, without those of extras."""
    found = [Requirement(each) for each in requirements]
    return [
        canonicalize_name(each.name) for each in found if each.marker is None or each.marker.evaluate(ENVIRONMENT)
    ]


def closure(names: Iterable[str]) -> set[str]:
    """Return packages and all that they need, as far as they are installed here."""
    found: set[str] = set()
    queue = [str(canonicalize_name(name)) for name in names]
    while queue:
        name = queue.pop()
        if name in found:
            continue
        found.add(name)
        try:
            queue += required_names(importlib.metadata.requires(name) or [])
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def wanted(pyproject: Path) -> list[str]:
    """Return the requirements of the report: the project's dependencies, and EXTRA."""
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    return [*project["dependencies"], *EXTRA]


def wheel_requirements(wheel: Path) -> list[str]:
    """Return the requirements in a wheel's metadata."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(each for each in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", each))
        return HeaderParser().parsestr(archive.read(name).decode()).get_all("Requires-Dist") or []


def download(requirement: str, out: Path) -> Path:
    """Download the wheel of a requirement, in the version of constraints.txt, and return its path.

    Raises:
        UserError: pip found no wheel for the machine.
    """
    before = set(out.glob("*.whl"))
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet"]
    command += ["--python-version", PYTHON, "--implementation", "cp", "--disable-pip-version-check"]
    command += [word for platform in PLATFORMS for word in ("--platform", platform)]
    command += ["--constraint", str(REPOSITORY / "constraints.txt"), "--dest", str(out), requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    new = set(out.glob("*.whl")) - before
    if done.returncode != 0 or len(new) != 1:
        lines = done.stderr.strip().splitlines() or ["the folder already has it"]
        raise UserError(f"{requirement}: pip downloaded no wheel: {lines[-1]}")
    return new.pop()


def collect(out: Path, skip: Sequence[str] = ()) -> list[Path]:
    """Download the wheels and return their paths.

    Args:
        out: an empty or new folder.
        skip: further packages that the machine has, or that the report can do without.

    Raises:
        UserError: the folder is not empty, a wheel is missing, or the wheels are too large together.
    """
    if out.exists() and any(out.iterdir()):
        raise UserError(f"{out}: is not empty; choose another folder or remove it")
    out.mkdir(parents=True, exist_ok=True)
    done = closure([*PRESENT, *SPARED, *skip])
    wheels = []
    queue = wanted(REPOSITORY / "pyproject.toml")
    while queue:
        requirement = queue.pop(0)
        for name in required_names([requirement]):
            if name in done:
                continue
            done.add(name)
            wheels.append(download(requirement.split(";")[0].strip(), out))
            queue += wheel_requirements(wheels[-1])
    check_size(wheels)
    return wheels


def check_size(wheels: Sequence[Path]) -> None:
    """Check that wheels are not too large together.

    Raises:
        UserError: they are; the error names the largest ones.
    """
    total = sum(wheel.stat().st_size for wheel in wheels)
    if total > MAX_BYTES:
        largest = sorted(wheels, key=lambda wheel: -wheel.stat().st_size)[:3]
        sizes = ", ".join(f"{wheel.name} {wheel.stat().st_size / 2**20:.1f}" for wheel in largest)
        raise UserError(
            f"the wheels have {total / 2**20:.1f} MiB, expected at most {MAX_BYTES / 2**20:.0f}; the largest are "
            f"{sizes}; leave some out with --skip"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; return 0, or 2 if the wheels cannot be collected."""
    parser = argparse.ArgumentParser(prog="gpu_wheels", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("out", type=Path, help="new folder for the wheels")
    parser.add_argument("--skip", default="", help="packages to leave out, separated by commas")
    chosen = parser.parse_args(arguments)
    try:
        wheels = collect(chosen.out, [name for name in chosen.skip.split(",") if name])
    except UserError as error:
        print(f"gpu_wheels: {error}", file=sys.stderr)
        return 2
    for wheel in sorted(wheels):
        print(f"{wheel.stat().st_size / 2**20:6.2f} MiB  {wheel.name}")
    print(f"{sum(wheel.stat().st_size for wheel in wheels) / 2**20:6.2f} MiB in {len(wheels)} wheels")
    return 0


if __name__ == "__main__":
    sys.exit(main())
