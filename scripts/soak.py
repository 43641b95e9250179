"""Runs an exported student over many frames, and looks for memory that grows and maps that change.

    python scripts/soak.py student.onnx VIDEO -o soak [--frames 20000] [--threads 1]

The video is played through student/edge.py again and again, decoding included. Every round has to give the maps of
the first, bit for bit. Written are soak/soak.csv, a line for every 100 frames (resident memory, latency), and
soak/soak.png, the same as curves. The exit code is 1 where maps differ or memory grows by more than 10 MB after the
first tenth, in which allocators and caches fill up.
"""

import argparse
import csv
import hashlib
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import matplotlib
import numpy as np
import psutil
from tqdm import tqdm

# The repository's root comes first: this folder's own distill.py would hide the package.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from distill.files import atomic_folder
from student import edge

EVERY = 100
"""Frames in one line."""

GROWTH = 10.0
"""Megabytes by which resident memory may grow."""


@dataclass(frozen=True)
class Line:
    """`EVERY` frames: how many there were up to here, seconds since the start, memory after them, their latency."""

    frames: int
    seconds: float
    resident_mb: float
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True)
class Soak:
    """What came out: the lines, and how many frames of the later rounds had another map than in the first."""

    lines: list[Line]
    rounds: int
    differing: int

    @property
    def growth(self) -> float:
        """Megabytes from the first tenth's end to the highest of the last tenth."""
        tenth = len(self.lines) // 10
        return max(line.resident_mb for line in self.lines[-tenth - 1 :]) - self.lines[tenth].resident_mb

    @property
    def passed(self) -> bool:
        """Whether memory stayed flat and every round's maps were the first's."""
        return self.growth <= GROWTH and not self.differing

    def __str__(self) -> str:
        last, tenth = self.lines[-1], len(self.lines) // 10 + 1
        early, late = (
            np.median([line.p50_ms for line in part]) for part in (self.lines[:tenth], self.lines[-tenth:])
        )
        return (
            f"{last.frames} frames in {self.rounds} rounds and {last.seconds:.0f} s; resident memory "
            f"{last.resident_mb:.1f} MB, grown by {self.growth:.1f} MB since the first tenth; latency p50 "
            f"{early:.2f} ms in the first tenth, {late:.2f} ms in the last; {self.differing} frames with another "
            "map than in the first round"
        )


def soak(
    stream: edge.Stream, video: str | Path, frames: int, *, every: int = EVERY, progress: bool = False
) -> Soak:
    """Play a video through a stream until so many frames have been run.

    Args:
        stream: what runs; it begins anew with every round.
        video: a video file or a folder of images.
        frames: how many to run in all.
        every: frames in one line.
        progress: show a bar.

    Raises:
        ValueError: what `edge.open_video` raises, and a video without a frame.
    """
    process, started = psutil.Process(), time.perf_counter()
    lines: list[Line] = []
    first: list[bytes] = []  # the first round's maps
    rounds = run = differing = 0
    latency: list[float] = []
    figures = edge.Figures()

    def look(_: np.ndarray, saliency: np.ndarray, place: int) -> None:
        nonlocal run, differing
        digest = hashlib.blake2b(saliency.tobytes(), digest_size=16).digest()
        if rounds == 0:
            first.append(digest)
        else:
            differing += digest != first[place]
        run += 1
        bar.update()
        latency.append(figures.seconds[-1] * 1000)
        if run % every == 0:
            p50, p99 = np.percentile(latency, [50, 99])
            resident = process.memory_info().rss / 1e6
            lines.append(Line(run, time.perf_counter() - started, resident, float(p50), float(p99)))
            latency.clear()

    def part() -> Iterator[tuple[int, np.ndarray]]:
        for place, frame in enumerate(edge.open_video(video)[1]):
            if run >= frames:
                return
            yield place, frame

    with tqdm(total=frames, unit="frame", disable=not progress) as bar:
        while run < frames:
            stream.reset()
            edge.run(stream, part(), look, figures)
            if not run:
                raise ValueError(f"{video}: there is no frame in it")
            rounds += 1
    return Soak(lines, rounds, differing)


def write(found: Soak, folder: Path) -> None:
    """Write soak.csv and soak.png into a new folder."""
    matplotlib.use("Agg")
    from matplotlib import pyplot  # after the choice of a backend without windows

    with atomic_folder(folder) as temporary:
        with (temporary / "soak.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow([each.name for each in fields(Line)])
            writer.writerows([round(value, 3) for value in astuple(line)] for line in found.lines)
        figure, (memory, latency) = pyplot.subplots(2, 1, sharex=True, figsize=(9, 6), layout="constrained")
        numbers = [line.frames for line in found.lines]
        resident = [line.resident_mb for line in found.lines]
        memory.plot(numbers, resident)
        memory.set(ylabel="resident memory, MB", ylim=(0, 1.2 * max(resident)), title=str(found).split(";")[0])
        latency.plot(numbers, [line.p50_ms for line in found.lines], label="p50")
        latency.plot(numbers, [line.p99_ms for line in found.lines], label="p99", alpha=0.5)
        latency.set(ylabel="latency, ms", xlabel="frames", ylim=(0, None))
        latency.legend()
        figure.savefig(temporary / "soak.png", dpi=100)
        pyplot.close(figure)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns 0; 1 when the student failed; 2 when the input is wrong; 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(prog="soak.py", description="Run an exported student over many frames.")
    parser.add_argument("model", help="the exported model, student.onnx")
    parser.add_argument("video", help="a video file or a folder of images, played again and again")
    parser.add_argument("-o", "--out", type=Path, required=True, help="a new folder, for soak.csv and soak.png")
    parser.add_argument("--frames", type=int, default=20_000, help="how many in all (%(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="threads of the network (%(default)s)")
    chosen = parser.parse_args(arguments)
    try:
        if chosen.frames < 10 * EVERY:
            raise ValueError(f"--frames {chosen.frames}: expected at least {10 * EVERY}")
        if chosen.out.exists():
            raise ValueError(f"{chosen.out}: exists already; choose another name or remove it")
        stream = edge.Stream(edge.EdgeModel(chosen.model, chosen.threads), fps=edge.open_video(chosen.video)[0])
        found = soak(stream, chosen.video, chosen.frames, progress=True)
        write(found, chosen.out)
    except ValueError as error:
        print(f"soak.py: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"soak.py: {error.filename or chosen.out}: {error.strerror or error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("soak.py: stopped", file=sys.stderr)
        return 130
    print(found)
    print(f"{chosen.out}{os.sep}soak.csv and soak.png")
    return 0 if found.passed else 1


if __name__ == "__main__":
    sys.exit(main())
