"""Arguments shared by several verbs, and parsers for their values."""

import argparse
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from distill.errors import UserError
from distill.stride import Stride, read_stride

if TYPE_CHECKING:
    from distill.inference.settings import InferenceSettings

# ------------------------------------------------------------------------------------------- shared arguments


def add_config(parser: argparse.ArgumentParser) -> None:
    """Add CONFIG and its overrides."""
    parser.add_argument("config", metavar="CONFIG", help="YAML file that describes the run")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="settings to override, e.g. training.steps=50"
    )


def add_data(parser: argparse.ArgumentParser, text: str, *, split: str = "all videos") -> None:
    """Add DATA, and the options that select some of its videos."""
    parser.add_argument("data", metavar="DATA", help=text)
    parser.add_argument("--split", metavar="NAME", help=f"split of the data set (default: {split})")
    parser.add_argument("--videos", type=names, metavar="NAME,NAME", help="use only these videos")


def add_output(parser: argparse.ArgumentParser, metavar: str, text: str, *, required: bool = True) -> None:
    """Add -o."""
    parser.add_argument("-o", "--out", metavar=metavar, required=required, help=text)


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add --device."""
    parser.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, cuda, cuda:1 or mps")


def add_threads(parser: argparse.ArgumentParser, default: str) -> None:
    """Add --threads."""
    parser.add_argument("--threads", type=count, metavar="N", help=f"CPU threads (default: {default})")


def add_rounds(parser: argparse.ArgumentParser) -> None:
    """Add --rounds."""
    parser.add_argument("--rounds", type=count, default=5, metavar="N", help="interleaved rounds of timing")


def add_every(parser: argparse.ArgumentParser) -> None:
    """Add --every."""
    parser.add_argument("--every", type=count, default=1, metavar="N", help="score every Nth frame")


def add_inference(parser: argparse.ArgumentParser) -> None:
    """Add the options of inference: --first-frames, --device, --stride and --batch-size."""
    from distill.inference.settings import FIRST_FRAMES

    parser.add_argument(
        "--first-frames",
        choices=FIRST_FRAMES,
        default="repeat",
        help="fill clips that start before the video by repeating its first frame, or by reversing the clip",
    )
    add_device(parser)
    parser.add_argument(
        "--stride",
        type=stride,
        metavar="N",
        help="step between the frames of a clip, or a frame rate, e.g. 30fps (default: as in training)",
    )
    parser.add_argument("--batch-size", type=count, default=8, metavar="N", help="clips per forward pass")


def add_list(parser: argparse.ArgumentParser, title: str, entries: dict[str, str]) -> None:
    """Append a list of names with descriptions to the help."""
    width = max(map(len, entries)) + 2
    parser.add_argument_group(title, "\n".join(f"{name:<{width}}{text}" for name, text in entries.items()))


def inference_settings(arguments: argparse.Namespace, *, precision: str = "fp32") -> "InferenceSettings":
    """Return the settings that the arguments of `add_inference` describe."""
    from distill.inference.settings import InferenceSettings

    return InferenceSettings(
        stride=arguments.stride,
        batch_size=arguments.batch_size,
        device=arguments.device,
        precision=precision,
        first_frames=arguments.first_frames,
    )


# ------------------------------------------------------------------------------------------- value parsers


def count(text: str) -> int:
    """Parse an integer of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected an integer of at least 1, got '{text}'")
    return int(text)


def counts(text: str) -> list[int]:
    """Parse comma-separated integers of at least 1."""
    return [count(part) for part in text.split(",")]


def seed(text: str) -> int:
    """Parse an integer of at least 0."""
    return 0 if text == "0" else count(text)


def fraction(text: str) -> float:
    """Parse a number between 0 and 1, both excluded."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"expected a number between 0 and 1, e.g. 0.01, got '{text}'")
    return value


def stride(text: str) -> Stride:
    """Parse a number of frames, or a rate such as 30fps."""
    try:
        return read_stride(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def shape(text: str) -> tuple[int, ...]:
    """Parse positive integers joined by x, e.g. 1x3x224x384."""
    parts = text.split("x")
    if not all(part.isdecimal() and int(part) for part in parts):
        raise argparse.ArgumentTypeError(f"expected positive integers joined by x, e.g. 1x3x224x384, got '{text}'")
    return tuple(map(int, parts))


def map_size(text: str) -> tuple[int, int]:
    """Parse HEIGHTxWIDTH."""
    if len(size := shape(text)) != 2:
        raise argparse.ArgumentTypeError(f"expected HEIGHTxWIDTH, e.g. 112x192, got '{text}'")
    return size[0], size[1]


def input_shape(text: str) -> tuple[str, tuple[int, ...]]:
    """Parse the name of a model input and its shape, e.g. images=1x3x224x384."""
    name, _, numbers = text.rpartition("=")
    if not name:
        raise argparse.ArgumentTypeError(f"expected NAME=AxBxC, e.g. images=1x3x224x384, got '{text}'")
    return name, shape(numbers)


def names(text: str) -> list[str]:
    """Parse comma-separated names."""
    return text.split(",")


def some_of(accepted: Collection[str]) -> Callable[[str], list[str]]:
    """Return a parser for comma-separated, distinct names out of `accepted`."""

    def parse(text: str) -> list[str]:
        values = names(text)
        if not set(values) <= set(accepted) or len(set(values)) < len(values):
            raise argparse.ArgumentTypeError(
                f"expected one or more of {', '.join(accepted)}, comma-separated, got '{text}'"
            )
        return values

    return parse


def frame_range(text: str) -> tuple[int, int]:
    """Parse FIRST-LAST, counted from 1, both included."""
    first, _, last = text.partition("-")
    if not (first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last)):
        raise argparse.ArgumentTypeError(f"expected FIRST-LAST, counted from 1, e.g. 601-783, got '{text}'")
    return int(first), int(last)
