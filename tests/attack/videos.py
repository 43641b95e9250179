"""Damaged and foreign video files in every command that reads videos."""

import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
from PIL import Image

from attack.damage import REPLACEMENTS, damaged, flip_bytes, written
from attack.harness import Case, Check, Outcome, anything
from attack.material import Material, video


def decoder_errors(content: bytes, folder: Path, suffix: str) -> int:
    """Return how many errors FFmpeg reports while it decodes a video; -1 if it cannot be opened."""
    path = folder / f"probe{suffix}"
    path.write_bytes(content)
    av.logging.set_level(av.logging.ERROR)
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.codec_context.options = {"err_detect": "crccheck+bitstream+buffer"}
            with av.logging.Capture(local=False) as lines:  # not while it is opened: headers may have unknown parts
                for _ in container.decode(stream):
                    pass
        return len(lines)
    except Exception:
        return -1
    finally:
        av.logging.set_level(None)
        path.unlink()


def reported(name: str, errors: int) -> Check:
    """Return a check that `data check --thorough` names a file in which the decoder finds errors."""

    def check(outcome: Outcome, folder: Path) -> str | None:
        fine = "Nothing is missing or broken" in outcome.stdout
        return f"FFmpeg reports {errors} errors in {name}, and data check none" if errors and fine else None

    return check


def every_frame(outcome: Outcome, folder: Path) -> str | None:
    """Check that the maps that `predict` wrote are as many as it says, and whole pictures."""
    maps = sorted((folder / "maps").glob("*.png"))
    if f"{len(maps)} frames" not in outcome.stdout:
        return f"{len(maps)} maps, but it printed {outcome.stdout.strip()[-100:]!r}"
    for path in maps:
        Image.open(path).load()
    return None


def foreign(material: Material) -> Iterator[tuple[str, str, bytes]]:
    """Yield (name, suffix, content) of files that are no videos, or not what their suffix says."""
    for name, content in REPLACEMENTS.items():
        yield name, ".mp4", content
        yield name, ".avi", content
    yield "MPEG-4 AVI", ".mp4", material.avi.read_bytes()
    yield "H.264 MP4", ".avi", material.mp4.read_bytes()
    yield "PNG", ".mp4", (material.frames / "0001.png").read_bytes()
    yield "playlist of other files", ".mp4", b"#EXTM3U\n#EXTINF:1,\nfile:///etc/hostname\n"
    yield "concat script", ".mp4", b"ffconcat version 1.0\nfile /etc/hostname\n"
    yield "subtitles", ".mkv", b"1\n00:00:00,000 --> 00:00:01,000\ntext\n"


def with_box(content: bytes, box: bytes, offset: int, value: int, size: int = 4) -> bytes:
    """Return an MP4 or AVI file with a number in one of its headers."""
    place = content.find(box) + offset
    return content[:place] + value.to_bytes(size, "big") + content[place + size :]


def lying(material: Material) -> Iterator[tuple[str, str, bytes]]:
    """Yield videos whose headers claim other sizes, rates or lengths."""
    content = material.mp4.read_bytes()
    for name, box, offset, value, size in (
        ("65535 pixels wide", b"avc1", 28, 65535, 2),
        ("no pixels", b"avc1", 28, 0, 4),
        ("time scale 0", b"mdhd", 16, 0, 4),
        ("endless", b"mdhd", 20, 2**32 - 1, 4),
        ("many samples", b"stsz", 12, 2**32 - 1, 4),
        ("huge sample", b"stsz", 16, 2**31 - 1, 4),
        ("many times", b"stts", 8, 2**32 - 1, 4),
        ("long frame", b"stts", 16, 2**31 - 1, 4),
    ):
        yield name, ".mp4", with_box(content, box, offset, value, size)
    content = material.avi.read_bytes()
    for name, offset, value in (("0 frames", 24, 0), ("2^31 frames", 24, 2**31), ("0 us per frame", 8, 0)):
        place = content.find(b"avih") + offset
        yield name, ".avi", content[:place] + value.to_bytes(4, "little") + content[place + 4 :]


def cases(material: Material, runner: Any, chance: random.Random, number: int) -> Iterator[Case]:
    """Yield bad videos in `predict`, `data check --thorough`, `evaluate`, `cache import` and `train`."""
    bad = [*foreign(material), *lying(material)]
    bad += [(name, ".mp4", content) for name, content in damaged(material.mp4.read_bytes(), chance, 2 * number)]
    bad += [(name, ".avi", content) for name, content in damaged(material.avi.read_bytes(), chance, 2 * number)]
    place = runner.new_folder("probes")
    longer = video(place / "long.mp4", frames=60, size=(96, 128)).read_bytes()
    pictures = longer.find(b"mdat") + 800, longer.find(b"moov") - 8
    for index in range(number):
        content = (
            longer[: pictures[0]] + flip_bytes(longer[pictures[0] : pictures[1]], chance) + longer[pictures[1] :]
        )
        yield Case(
            f".mp4, flips in the pictures {index}: data check --thorough",
            ("data", "check", "in", "--thorough"),
            in_folder(material, "bad.mp4", content),
            reported("bad.mp4", decoder_errors(content, place, ".mp4")),
        )
    for name, suffix, content in bad:
        yield Case(
            f"{suffix}, {name}: predict",
            ("predict", material.model, f"bad{suffix}", "--maps", "maps", "-o", "out.mp4"),
            written(f"bad{suffix}", content),
            every_frame,
        )
        yield Case(
            f"{suffix}, {name}: data check --thorough",
            ("data", "check", "in", "--thorough"),
            in_folder(material, f"bad{suffix}", content),
            reported(f"bad{suffix}", decoder_errors(content, place, suffix)),
        )
        other = chance.choice(("evaluate", "cache import", "train", "edge"))
        if other == "edge":
            argv = (material.onnx, f"in/bad{suffix}", "--maps", "maps")
            yield Case(
                f"{suffix}, {name}: edge.py", argv, in_folder(material, f"bad{suffix}", content), program="edge"
            )
            continue
        argv = {
            "evaluate": ("evaluate", "centre-prior", "ntire:in"),
            "cache import": ("cache", "import", "in/Videos", "-o", "out"),
            "train": (
                "train",
                material.train,
                "out=out",
                "training.steps=1",
                "data.train.0.root=in",
                "data.validation=[]",
            ),
        }[other]
        yield Case(f"{suffix}, {name}: {other}", argv, in_challenge(material, suffix, content), anything)


def in_folder(material: Material, name: str, content: bytes) -> Callable[[Path], None]:
    """Return a function that writes a folder with a good video and a bad one."""

    def prepare(folder: Path) -> None:
        (folder / "in").mkdir()
        shutil.copy(material.mp4, folder / "in" / "good.mp4")
        written(f"in/{name}", content)(folder)

    return prepare


def in_challenge(material: Material, suffix: str, content: bytes) -> Callable[[Path], None]:
    """Return a function that copies a data set with a bad video."""

    def prepare(folder: Path) -> None:
        shutil.copytree(material.ntire, folder / "in")
        (folder / "in/Videos/two.mp4").unlink()
        written(f"in/Videos/two{suffix}", content)(folder)

    return prepare
