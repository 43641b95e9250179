"""Full disks: every command that writes is refused with one line, and leaves no temporary file."""

import os
import random
from collections.abc import Iterator

from attack.harness import Case, Runner
from attack.material import Material
from attack.works import works

KEPT = ("out", "out.mp4", "out.onnx", "out.safetensors", "out.pth", "out.json")
SMALLEST = 64 * 1024
"""A limit on files must leave room for what a command prints, which is written to files as well."""


def on_disk(argv: tuple[object, ...]) -> list[str]:
    """Return a command with its output on the small disk."""
    words = [str(word) for word in argv]
    return [
        f"disk/{word}" if word in KEPT else word.replace("=out", "=disk/out") if word.endswith("=out") else word
        for word in words
    ]


def cases(material: Material, runner: Runner, chance: random.Random, number: int) -> Iterator[Case]:
    """Yield every command with less space than it needs, from none to almost enough."""
    commands = [(work.name, work.argv) for work in works(material)]
    model = "teacher/salfom:micro"
    commands += [
        ("models --to-published", ("models", model, "--to-published", material.teacher, "out.pth")),
        ("models --to-published", ("models", model, "--to-published", material.teacher, "out.safetensors")),
    ]
    for name, argv in commands:
        folder = runner.new_folder()
        runner.command(*argv, folder=folder)
        sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
        for index in range(max(1, number // 4) if name == "export" else number):
            if max(sizes) > SMALLEST:
                limit = chance.randrange(SMALLEST, max(sizes))
                yield Case(f"files of at most {limit} bytes: {name}", argv, file_size=limit)
            if os.geteuid() == 0:
                space = 4096 * chance.randint(1, max(1, sum(sizes) // 4096)) if index else 4096
                yield Case(
                    f"disk of {space} bytes: {name}",
                    on_disk(argv),
                    lambda folder: (folder / "disk").mkdir(),
                    disk=space,
                )
