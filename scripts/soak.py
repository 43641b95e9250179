"""Run an exported student over many frames, and check for growing memory and changing maps.

    python scripts/soak.py student.onnx VIDEO -o soak [--frames 20000] [--threads 1]
    python scripts/soak.py student.tflite VIDEO -o soak        # in the runtime of any format of `saldistill export`

Plays the video through the stream of student/edge.py repeatedly, decoding included. The maps of every round must
equal those of the first, bit for bit. Writes soak/soak.csv, one row per 100 frames (resident memory, latency), and
soak/soak.html, the same as charts. Exits with 1 if maps differ, or if memory grows by more than 10 MB after the
first tenth of the run, in which allocators and caches fill up.
"""

import argparse
import csv
import hashlib
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import numpy as np
import psutil
from tqdm import tqdm

sys.path.insert(
    0, str(Path(__file__).resolve().parent.parent)
)  # before scripts/, whose distill.py hides the package

from distill.files import atomic_folder
from student import edge

EVERY = 100
"""Frames per row."""

MAX_GROWTH = 10.0
"""Largest accepted growth of resident memory, in MB."""


PAGE = """{% extends "page.html.j2" %}
{% from "pieces.html.j2" import section, chart_grid %}
{% block title %}Soak test of an exported student{% endblock %}
{% block content %}
{% call section("Memory and latency") %}{{ chart_grid(charts) }}{% endcall %}
{% endblock %}"""
"""Template of soak.html."""


@dataclass(frozen=True)
class Row:
    """Measurements of EVERY frames: frames and seconds since the start, memory at their end, and their latency."""

    frames: int
    seconds: float
    resident_mb: float
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True)
class Soak:
    """Result of a run: its rows, its rounds, and how many later frames had another map than in the first round."""

    rows: list[Row]
    rounds: int
    differing: int

    @property
    def growth(self) -> float:
        """MB from the end of the first tenth to the maximum of the last tenth."""
        tenth = len(self.rows) // 10
        return max(row.resident_mb for row in self.rows[-tenth - 1 :]) - self.rows[tenth].resident_mb

    @property
    def passed(self) -> bool:
        """Whether memory stayed flat and the maps of all rounds were equal."""
        return self.growth <= MAX_GROWTH and not self.differing

    def __str__(self) -> str:
        last, tenth = self.rows[-1], len(self.rows) // 10 + 1
        early, late = (np.median([row.p50_ms for row in part]) for part in (self.rows[:tenth], self.rows[-tenth:]))
        return (
            f"{last.frames} frames in {self.rounds} rounds and {last.seconds:.0f} s; resident memory "
            f"{last.resident_mb:.1f} MB, grown by {self.growth:.1f} MB since the first tenth; median latency "
            f"{early:.2f} ms in the first tenth, {late:.2f} ms in the last; maps of {self.differing} frames differ "
            "from the first round"
        )


def soak(
    stream: edge.Stream, video: str | Path, frames: int, *, every: int = EVERY, progress: bool = False
) -> Soak:
    """Play a video through a stream until a number of frames has been run.

    Args:
        stream: stream to run; reset at the start of every round.
        video: a video file or a folder of images.
        frames: total number of frames.
        every: frames per row.
        progress: show a progress bar.

    Raises:
        ValueError: the video cannot be opened or has no frames.
    """
    process, started = psutil.Process(), time.perf_counter()
    rows: list[Row] = []
    first: list[bytes] = []  # digests of the first round's maps
    rounds = run = differing = 0
    latency: list[float] = []
    figures = edge.Figures()

    def check(_: np.ndarray, saliency: np.ndarray, index: int) -> None:
        nonlocal run, differing
        digest = hashlib.blake2b(saliency.tobytes(), digest_size=16).digest()
        if rounds == 0:
            first.append(digest)
        else:
            differing += digest != first[index]
        run += 1
        bar.update()
        latency.append(figures.seconds[-1] * 1000)
        if run % every == 0:
            p50, p99 = np.percentile(latency, [50, 99])
            resident = process.memory_info().rss / 1e6
            rows.append(Row(run, time.perf_counter() - started, resident, float(p50), float(p99)))
            latency.clear()

    def remaining() -> Iterator[tuple[int, np.ndarray]]:
        for index, frame in enumerate(edge.open_video(video)[1]):
            if run >= frames:
                return
            yield index, frame

    with tqdm(total=frames, unit="frame", disable=not progress) as bar:
        while run < frames:
            stream.reset()
            edge.run(stream, remaining(), check, figures)
            if not run:
                raise ValueError(f"{video}: the video has no frames")
            rounds += 1
    return Soak(rows, rounds, differing)


def open_stream(path: str, video: str, threads: int) -> edge.Stream:
    """Return a stream of a model of any format in its runtime, at the stride of its training if it can."""
    fps = edge.open_video(video)[0]
    if path.endswith(".onnx"):
        return edge.Stream(edge.EdgeModel(path, threads), fps=fps)
    from distill.deploy.formats.find import load_exported  # loads PyTorch, which an .onnx file does not need
    from distill.deploy.formats.format import STATE_KEPT

    model = load_exported(path, threads=threads)
    return edge.Stream(model, 1 if model.metadata.get(STATE_KEPT) else None, fps)


def write(result: Soak, folder: Path) -> None:
    """Write soak.csv and soak.html into a new folder."""
    from distill.reports.charts import Curve, line_chart  # after the run: they load PyTorch
    from distill.reports.page import Verdict, write_report
    from distill.reports.templating import TEMPLATES

    frames = [row.frames for row in result.rows]
    memory = [Curve("resident memory", frames, [row.resident_mb for row in result.rows])]
    latency = [
        Curve("p50", frames, [row.p50_ms for row in result.rows]),
        Curve("p99", frames, [row.p99_ms for row in result.rows]),
    ]
    charts = [
        line_chart("Resident memory", memory, levels={"zero": 0.0}, x="frames", y="MB"),
        line_chart("Latency", latency, levels={"zero": 0.0}, x="frames", y="ms"),
    ]
    with atomic_folder(folder) as temporary:
        with (temporary / "soak.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow([field.name for field in fields(Row)])
            writer.writerows([round(value, 3) for value in astuple(row)] for row in result.rows)
        write_report(
            temporary / "soak.html",
            TEMPLATES.from_string(PAGE),
            verdict=Verdict(str(result), result.passed),
            charts=charts,
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script. Return 0; 1 if the student failed; 2 for invalid input; 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(prog="soak.py", description="Run an exported student over many frames.")
    parser.add_argument("model", help="exported model, student.onnx")
    parser.add_argument("video", help="video file or folder of images, played repeatedly")
    parser.add_argument("-o", "--out", type=Path, required=True, help="new folder for soak.csv and soak.html")
    parser.add_argument("--frames", type=int, default=20_000, help="total number of frames (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="threads of the network (default: %(default)s)")
    chosen = parser.parse_args(arguments)
    try:
        if chosen.frames < 10 * EVERY:
            raise ValueError(f"--frames {chosen.frames}: expected at least {10 * EVERY}")
        if chosen.out.exists():
            raise ValueError(f"{chosen.out}: already exists; choose another name or remove it")
        result = soak(
            open_stream(chosen.model, chosen.video, chosen.threads), chosen.video, chosen.frames, progress=True
        )
        write(result, chosen.out)
    except ValueError as error:
        print(f"soak.py: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"soak.py: {error.filename or chosen.out}: {error.strerror or error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("soak.py: stopped", file=sys.stderr)
        return 130
    print(result)
    print(f"Written to {chosen.out}: soak.csv and soak.html")
    return 0 if result.passed else 1


if __name__ == "__main__":
    sys.exit(main())
