"""Numbers and names on the command line that no command can use."""

from collections.abc import Iterator

from attack.harness import Case, nothing
from attack.material import Material

COUNTS = ("0", "-1", "1.5", "nan", "inf", "1e9", "²", "½", "9" * 30, "9" * 5000, "", " ", "0x10", "many")
"""Values of options that expect a positive number of moderate size."""


def cases(material: Material) -> Iterator[Case]:
    """Yield bad values of the options of every verb."""
    data = f"ntire:{material.ntire}"
    predict = ("predict", material.model, material.mp4, "--maps", "maps")
    evaluate = ("evaluate", "centre-prior", data)
    edge = (material.onnx, material.mp4, "--maps", "maps")
    for value in COUNTS:
        for command, options in (
            (predict, ("--batch-size", "--stride")),
            (evaluate, ("--every", "--workers", "--frames", "--seed")),
            (edge, ("--threads", "--fps", "--stride", "--cuts")),
            (("quantize", material.onnx, "--on", material.mp4, "-o", "out.onnx"), ("--frames", "--threads")),
            (("calibrate", material.onnx, "--on", data, "-o", "out.onnx"), ("--videos", "--every", "--threads")),
            (("leaderboard", "centre-prior", "--on", data, "-o", "out"), ("--every", "--rounds", "--workers")),
            (("cache", "verify", material.store), ("--sample",)),
        ):
            for option in options:
                if is_fine(option, value):
                    continue
                program = "edge" if command is edge else "saldistill"
                name = f"{option}={value[:20]}: {program if command is edge else command[0]}"
                yield Case(name, (*command, f"{option}={value}"), check=nothing, program=program)
    for value in ("0x0", "9999999x9999999", "1e9", "48", "-1x5", "x", "²x²", "48x64x3", ""):
        yield Case(
            f"--size={value}: cache import",
            ("cache", "import", material.maps, "-o", "out", f"--size={value}"),
            check=nothing,
        )
    for value in ("", ",", "../x", "\x01", "n" * 5000, "one,one,nowhere", "²"):
        yield Case(f"--videos={value[:20]!r}: evaluate", (*evaluate, f"--videos={value}"), check=nothing)
        yield Case(f"--metrics={value[:20]!r}: evaluate", (*evaluate, f"--metrics={value}"), check=nothing)
        yield Case(f"--device={value[:20]!r}: predict", (*predict, f"--device={value}"), check=nothing)
        yield Case(
            f"model {value[:20]!r}: predict", ("predict", value, material.mp4, "--maps", "maps"), check=nothing
        )
        yield Case(
            f"video {value[:20]!r}: predict", ("predict", material.model, value, "--maps", "maps"), check=nothing
        )
        yield Case(f"data {value[:20]!r}: evaluate", ("evaluate", "centre-prior", value), check=nothing)


def is_fine(option: str, value: str) -> bool:
    """Return whether a value of COUNTS is one that an option takes."""
    many = "9" * 30
    return (option, value) in {
        ("--seed", "0"),
        ("--seed", many),
        ("--sample", many),
        ("--every", many),
        ("--cuts", "0"),
        ("--cuts", "1.5"),
        ("--cuts", many),
        ("--cuts", "9" * 5000),
        ("--fps", "1.5"),
    }
