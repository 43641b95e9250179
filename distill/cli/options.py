"""Arguments shared by several verbs, and parsers for their values."""

import argparse
import re
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from distill.errors import UserError, shorten
from distill.limits import (
    MAX_ASPECT_RATIO,
    MAX_BATCH_SIZE,
    MAX_DIGITS,
    MAX_FRAMES,
    MAX_MAP_PIXELS,
    MAX_ROUNDS,
    MAX_SIDE,
    MAX_THREADS,
    MAX_WORKERS,
)
from distill.remote import is_address
from distill.runtimes.names import RUNTIMES
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
    parser.add_argument("-o", "--out", type=local_path, metavar=metavar, required=required, help=text)


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add --device."""
    parser.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, cuda, cuda:1 or mps")


def add_threads(parser: argparse.ArgumentParser, default: str) -> None:
    """Add --threads."""
    parser.add_argument("--threads", type=count(MAX_THREADS), metavar="N", help=f"CPU threads (default: {default})")


def add_rounds(parser: argparse.ArgumentParser) -> None:
    """Add --rounds."""
    parser.add_argument(
        "--rounds", type=count(MAX_ROUNDS), default=5, metavar="N", help="interleaved rounds of timing"
    )


def add_every(parser: argparse.ArgumentParser) -> None:
    """Add --every."""
    parser.add_argument("--every", type=count(MAX_FRAMES), default=1, metavar="N", help="score every Nth frame")


def add_scoring(parser: argparse.ArgumentParser) -> None:
    """Add --scenes, --seed and --workers."""
    parser.add_argument(
        "--scenes",
        type=names,
        default=[],
        metavar="PATTERN,PATTERN",
        help="treat videos whose names match one pattern, e.g. 'Vidyo*', as one recording in the confidence "
        "intervals",
    )
    parser.add_argument("--seed", type=seed, default=0, metavar="N", help="seed of all random draws")
    parser.add_argument(
        "--workers", type=count(MAX_WORKERS), metavar="N", help="scoring processes (default: one per CPU core)"
    )


def add_runtime(parser: argparse.ArgumentParser, network: str = "the network") -> None:
    """Add --runtime; `network` says what runs in it."""
    parser.add_argument(
        "--runtime",
        choices=RUNTIMES,
        default="auto",
        help=f"what runs {network}; auto: PyTorch on a GPU; on a CPU ONNX Runtime, if there are enough frames",
    )


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
    parser.add_argument(
        "--batch-size",
        type=count(MAX_BATCH_SIZE),
        default=8,
        metavar="N",
        help="clips per forward pass, or frames of a streaming model",
    )


def add_list(parser: argparse.ArgumentParser, title: str, entries: dict[str, str]) -> None:
    """Append a list of names with descriptions to the help."""
    width = max(map(len, entries)) + 2
    parser.add_argument_group(title, "\n".join(f"{name:<{width}}{text}" for name, text in entries.items()))


def inference_settings(arguments: argparse.Namespace, *, precision: str = "fp32") -> "InferenceSettings":
    """Return the settings that the arguments of `add_inference` and `add_runtime` describe."""
    from distill.inference.settings import InferenceSettings

    return InferenceSettings(
        stride=arguments.stride,
        batch_size=arguments.batch_size,
        device=arguments.device,
        precision=precision,
        first_frames=arguments.first_frames,
        runtime=arguments.runtime,
    )


# ------------------------------------------------------------------------------------------- value parsers


def integer(text: str, least: int, most: int) -> int:
    """Parse decimal digits, as an integer between two bounds."""
    if not re.fullmatch("[0-9]+", text):
        raise argparse.ArgumentTypeError(f"expected an integer of at least {least}, got '{shorten(text)}'")
    digits = text.lstrip("0")
    value = int(digits or "0") if len(digits) <= MAX_DIGITS else 10**MAX_DIGITS
    if value < least:
        raise argparse.ArgumentTypeError(f"expected an integer of at least {least}, got '{shorten(text)}'")
    if value > most:
        raise argparse.ArgumentTypeError(
            f"'{shorten(text)}' is over the limit of {most:,} (set in distill/limits.py)"
        )
    return value


def local_path(text: str) -> str:
    """Parse the path of an output, which cannot be an address."""
    if is_address(text):
        raise argparse.ArgumentTypeError(
            f"{shorten(text)}: results are written to files and folders, not to addresses; write to a folder, and "
            "upload a target store with `saldistill cache push`"
        )
    return text


def count(most: int) -> Callable[[str], int]:
    """Return a parser for an integer of at least 1 and at most a bound of distill/limits.py."""
    return lambda text: integer(text, 1, most)


def counts(most: int) -> Callable[[str], list[int]]:
    """Return a parser for comma-separated integers of at least 1 and at most a bound."""
    return lambda text: [integer(part, 1, most) for part in text.split(",")]


def seed(text: str) -> int:
    """Parse an integer of at least 0."""
    return integer(text, 0, 2**63 - 1)


def fraction(text: str) -> float:
    """Parse a number between 0 and 1, both excluded."""
    if not re.fullmatch(r"[0-9]*\.?[0-9]+([eE][-+]?[0-9]+)?", text) or not 0 < float(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number between 0 and 1, e.g. 0.01, got '{shorten(text)}'")
    return float(text)


def share(text: str) -> float:
    """Parse a number from 0 to 1, both included."""
    if not re.fullmatch(r"[0-9]*\.?[0-9]+", text) or not 0 <= float(text) <= 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, e.g. 0.7, got '{shorten(text)}'")
    return float(text)


def aspect_ratio(text: str) -> float:
    """Parse WIDTH:HEIGHT, e.g. 9:16 or 2.39:1, as width / height."""
    number = r"([0-9]{1,6}(?:\.[0-9]{1,6})?)"
    match = re.fullmatch(f"{number}:{number}", text)
    if not match or not all(map(float, match.groups())):
        raise argparse.ArgumentTypeError(f"expected an aspect ratio WIDTH:HEIGHT, e.g. 9:16, got '{shorten(text)}'")
    ratio = float(match[1]) / float(match[2])
    if not 1 / MAX_ASPECT_RATIO <= ratio <= MAX_ASPECT_RATIO:
        raise argparse.ArgumentTypeError(
            f"'{text}' is over the limit of {MAX_ASPECT_RATIO}:1 (set in distill/limits.py); expected e.g. 9:16"
        )
    return ratio


def stride(text: str) -> Stride:
    """Parse a number of frames, or a rate such as 30fps."""
    try:
        return read_stride(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def shape(text: str) -> tuple[int, ...]:
    """Parse positive integers joined by x, e.g. 1x3x224x384."""
    if not re.fullmatch("[0-9]+(x[0-9]+)*", text):
        raise argparse.ArgumentTypeError(
            f"expected positive integers joined by x, e.g. 1x3x224x384, got '{shorten(text)}'"
        )
    return tuple(integer(part, 1, MAX_SIDE) for part in text.split("x"))


def map_size(text: str) -> tuple[int, int]:
    """Parse HEIGHTxWIDTH."""
    if len(size := shape(text)) != 2:
        raise argparse.ArgumentTypeError(f"expected HEIGHTxWIDTH, e.g. 112x192, got '{shorten(text)}'")
    if size[0] * size[1] > MAX_MAP_PIXELS:
        raise argparse.ArgumentTypeError(
            f"'{shorten(text)}' is over the limit of {MAX_MAP_PIXELS:,} pixels (set in distill/limits.py)"
        )
    return size[0], size[1]


def input_shape(text: str) -> tuple[str, tuple[int, ...]]:
    """Parse the name of a model input and its shape, e.g. images=1x3x224x384."""
    name, _, numbers = text.rpartition("=")
    if not name:
        raise argparse.ArgumentTypeError(f"expected NAME=AxBxC, e.g. images=1x3x224x384, got '{shorten(text)}'")
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
                f"expected one or more of {', '.join(accepted)}, comma-separated, got '{shorten(text)}'"
            )
        return values

    return parse


def frame_range(text: str) -> tuple[int, int]:
    """Parse FIRST-LAST, counted from 1, both included."""
    if re.fullmatch("[0-9]+-[0-9]+", text):
        first, last = (integer(part, 1, MAX_FRAMES) for part in text.split("-"))
        if first <= last:
            return first, last
    raise argparse.ArgumentTypeError(f"expected FIRST-LAST, counted from 1, e.g. 601-783, got '{shorten(text)}'")
