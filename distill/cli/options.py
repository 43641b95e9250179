"""What verbs have in common: how one is added, arguments that several of them take, and kinds of values."""

import argparse
import textwrap
from typing import Any

from distill.errors import UserError
from distill.stride import Stride, read_stride

PRECISIONS = ("fp32", "bf16", "fp16")
RUNTIMES = ("pytorch", "onnx")


def add_verb(verbs: Any, name: str, help_line: str, story: str, *examples: str) -> argparse.ArgumentParser:
    """Add a verb with its story and examples; return its parser."""
    parser = verbs.add_parser(
        name,
        help=help_line,
        description=textwrap.fill(story, 88),
        epilog="\n  ".join(["examples:", *examples]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(verb=parser.prog.removeprefix("saldistill "))
    return parser


def add_group(verbs: Any, name: str, help_line: str, *examples: str) -> Any:
    """Add a verb that has verbs of its own; return what they are added to."""
    parser = verbs.add_parser(
        name,
        help=help_line,
        description=f"{help_line[:1].upper()}{help_line[1:]}.",
        epilog="\n  ".join(["examples:", *examples]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return parser.add_subparsers(title=f"saldistill {name}", metavar="VERB", required=True)


def add_config(parser: argparse.ArgumentParser) -> None:
    """Add CONFIG and its overrides."""
    parser.add_argument("config", metavar="CONFIG", help="the run, one YAML file")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="settings to change, such as training.steps=50"
    )


def add_output(parser: argparse.ArgumentParser, metavar: str, help_line: str, *, required: bool = True) -> None:
    """Add -o."""
    parser.add_argument("-o", "--out", metavar=metavar, required=required, help=help_line)


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add --device."""
    parser.add_argument(
        "--device", default="auto", metavar="NAME", help="auto, cpu, cuda, cuda:1 or mps (default: %(default)s)"
    )


def add_precision(parser: argparse.ArgumentParser) -> None:
    """Add --precision."""
    parser.add_argument(
        "--precision", choices=PRECISIONS, default="fp32", help="to compute in (default: %(default)s)"
    )


def add_first_frames(parser: argparse.ArgumentParser) -> None:
    """Add what a clip holds that begins before the video."""
    parser.add_argument(
        "--first-frames",
        choices=("repeat", "flip"),
        default="repeat",
        help="what stands before the video: its first frame, or the clip turned round (default: %(default)s)",
    )


def add_running(parser: argparse.ArgumentParser) -> None:
    """Add what running a model over a video needs to know."""
    add_device(parser)
    parser.add_argument(
        "--stride",
        type=stride,
        metavar="N",
        help="frames from one of a clip's frames to the next, or a rate: 30fps (default: as trained)",
    )
    parser.add_argument(
        "--batch-size", type=count, default=8, metavar="N", help="maps at a time (default: %(default)s)"
    )


def count(text: str) -> int:
    """Read a whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got '{text}'")
    return int(text)


def seed(text: str) -> int:
    """Read a whole number of at least 0."""
    return 0 if text == "0" else count(text)


def stride(text: str) -> Stride:
    """Read a whole number of frames, or a rate such as 30fps."""
    try:
        return read_stride(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def size(text: str) -> tuple[int, int]:
    """Read height and width with an x between them."""
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise argparse.ArgumentTypeError(f"expected HEIGHTxWIDTH, such as 112x192, got '{text}'")
    return int(height), int(width)


def counts(text: str) -> list[int]:
    """Read whole numbers of at least 1 with commas between them."""
    return [count(part) for part in text.split(",")]


def precisions(text: str) -> list[str]:
    """Read precisions with commas between them."""
    for part in text.split(","):
        if part not in PRECISIONS:
            raise argparse.ArgumentTypeError(f"expected {', '.join(PRECISIONS)} with commas between, got '{part}'")
    return text.split(",")


def runtimes(text: str) -> list[str]:
    """Read runtimes with commas between them."""
    for part in text.split(","):
        if part not in RUNTIMES:
            raise argparse.ArgumentTypeError(f"expected {', '.join(RUNTIMES)} with commas between, got '{part}'")
    return text.split(",")


def shape_of_input(text: str) -> tuple[str, tuple[int, ...]]:
    """Read the name of an input and its shape, such as images=1x3x224x384."""
    name, _, shape = text.rpartition("=")
    if not name or not all(part.isdecimal() and int(part) for part in shape.split("x")):
        raise argparse.ArgumentTypeError(f"expected NAME=AxBxC, such as images=1x3x224x384, got '{text}'")
    return name, tuple(int(part) for part in shape.split("x"))


def names(text: str) -> list[str]:
    """Read names with commas between them."""
    return text.split(",")


def frame_range(text: str) -> tuple[int, int]:
    """Read FIRST-LAST, counted from 1, both included."""
    first, dash, last = text.partition("-")
    if not (dash and first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last)):
        raise argparse.ArgumentTypeError(f"expected FIRST-LAST counted from 1, such as 601-783, got '{text}'")
    return int(first), int(last)
