"""Speed of `saldistill predict` on one video: its overlay and its maps, next to what the parts cost alone.

    saldistill benchmark --of predict VIDEO [MODEL ...]

The plain pass decodes the video and encodes it again with the settings of an overlay: no program that writes an
overlay can be faster. The network alone runs on frames in memory, at its own size.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np

from distill.benchmark.process import memory_growth
from distill.benchmark.rows import Table, environment, interleave, summarise, timed
from distill.data.video.array_reader import ArrayReader
from distill.data.video.canvas import Canvas
from distill.data.video.frames import open_frames
from distill.data.video.writer import VideoWriter
from distill.inference.outputs import OutputSettings, Targets
from distill.inference.predict import write_prediction
from distill.inference.runtime import Running, run_in
from distill.inference.settings import InferenceSettings
from distill.inference.sliding_window import slide
from distill.models.device import torch_threads
from distill.models.loaded import LoadedModel
from distill.models.pretrained import pretrained_models
from distill.models.references import load_model

FRAMES = 64
"""Frames in memory that the network alone runs on."""

OUTPUTS: dict[str, tuple[str, OutputSettings]] = {
    "overlay": ("out", OutputSettings()),
    "maps, npy": ("maps", OutputSettings(map_form="npy")),
    "maps, png": ("maps", OutputSettings()),
    "table": ("csv", OutputSettings()),
}
"""Row -> the target that is written, and how."""

NAMES = {"out": "o.mp4", "maps": "maps", "csv": "table.csv"}

COLUMNS = "work model runtime frames_per_second milliseconds ratio of_network memory_mb"

PLAIN = "decode + encode"


def benchmark_prediction(
    video: str | Path,
    models: Sequence[str] = (),
    *,
    rounds: int = 5,
    threads: int | None = None,
    runtime: str = "auto",
    memory: bool = True,
    progress: bool = True,
) -> Table:
    """Measure predictions of one video on the CPU.

    Args:
        video: a video file.
        models: references of models; by default the pretrained ones.
        rounds: interleaved rounds.
        threads: CPU threads of the networks; defaults to PyTorch's number.
        runtime: runtime of the networks, see `inference/runtime.py`.
        memory: measure memory, in one more process per row.
        progress: show a progress bar.

    Returns:
        One row for the plain pass, and for each model one for the network alone and one per output. Keys: `work`,
        `model`, `runtime`, `frames_per_second` and `milliseconds` per frame (of the median call), `p99`, `calls`,
        `ratio` (time divided by that of the plain pass), `of_network` (frame rate divided by that of the network
        alone; None for the plain pass) and `memory_mb` (growth of a fresh process's peak resident memory).

    Raises:
        UserError: the video or a model cannot be read.
    """
    path, frames = Path(video), open_frames(video)
    references = list(models) or list(pretrained_models())
    settings = InferenceSettings(stride=None, device="cpu", runtime=runtime)
    with torch_threads(threads) as used, tempfile.TemporaryDirectory() as folder:
        cases: list[tuple[str, str, str, Callable[[], object], int]] = [
            (PLAIN, "", "", lambda: plain_pass(path, Path(folder) / "plain.mp4"), frames.num_frames)
        ]
        for reference in references:
            model = load_model(reference)
            running = run_in(model, settings.for_model(model), frames=frames.num_frames, example=path)
            cases.append(("network", reference, running.runtime, network_work(running, path), FRAMES))
            for work in OUTPUTS:
                call = prediction_work(model, running, path, work, Path(folder))
                cases.append((work, reference, running.runtime, call, frames.num_frames))
        times = interleave([timed(call) for *_, call, _ in cases], rounds, progress=progress)
        rows: list[dict[str, Any]] = [
            {"work": work, "model": model, "runtime": name, **_rates(seconds, units)}
            for (work, model, name, _, units), seconds in zip(cases, times, strict=True)
        ]
        for row, (work, reference, *_) in zip(rows, cases, strict=True):
            row["memory_mb"] = (
                memory_growth(memory_work, work, reference, path, settings) if memory and work in OUTPUTS else None
            )
    alone = {row["model"]: row["frames_per_second"] for row in rows if row["work"] == "network"}
    for row in rows:
        row["ratio"] = row["milliseconds"] / rows[0]["milliseconds"]
        row["of_network"] = row["frames_per_second"] / alone[row["model"]] if row["model"] else None
    setting = {
        "video": path.name,
        "video_size": "{}x{}".format(*frames.size),
        "frames": frames.num_frames,
        "threads": used,
        "rounds": rounds,
        **environment(),
    }
    note = (
        f"{frames.num_frames} frames of {frames.size[1]}x{frames.size[0]}, {used} threads; ratio: time divided by "
        f"that of {PLAIN}; of network: frame rate divided by that of the network alone"
    )
    return Table(rows, COLUMNS, setting, [note])


def plain_pass(source: Path, out: Path) -> None:
    """Decode a video with PyAV and encode it with the settings of an overlay, and do nothing else."""
    frames = open_frames(source)
    with VideoWriter(out, frames.size, frames.fps) as writer, av.open(str(source)) as container:
        container.streams.video[0].thread_type = "AUTO"
        for frame in container.decode(video=0):
            writer.write_canvas(Canvas.of_frame(frame, frames.turn))


def network_work(running: Running, source: Path) -> Callable[[], object]:
    """Return the work of a network on the first frames of a video, which are in memory at its size."""
    reader = open_frames(source)
    count = min(FRAMES, reader.num_frames)
    pixels = np.stack([reader.pixels(reader.frame(number), running.network.size) for number in range(count)])
    in_memory = ArrayReader(np.resize(pixels, (FRAMES, *pixels.shape[1:])), reader.fps)

    def work() -> None:
        for _ in slide(running.network, in_memory, range(FRAMES), running.settings):
            pass

    return work


def prediction_work(
    model: LoadedModel, running: Running, source: Path, work: str, folder: Path
) -> Callable[[], object]:
    """Return the work of `saldistill predict` for one kind of output, which replaces the last call's results."""
    model, (what, outputs) = replace(model, network=running.network), OUTPUTS[work]
    targets = Targets(**{what: folder / NAMES[what]})
    return lambda: write_prediction(
        model, source, running.settings, targets, outputs, overwrite=True, progress=False
    )


def memory_work(work: str, reference: str, source: Path, settings: InferenceSettings) -> Callable[[], object]:
    """Return the work whose memory is measured: one prediction with a model that is loaded already."""
    model = load_model(reference)
    running = run_in(model, settings.for_model(model), frames=open_frames(source).num_frames, example=source)

    def predict() -> None:
        with tempfile.TemporaryDirectory() as folder:
            prediction_work(model, running, source, work, Path(folder))()

    return predict


def _rates(seconds: Sequence[float], units: int) -> dict[str, Any]:
    timing = summarise(seconds, units)
    return {"frames_per_second": 1000 / timing["milliseconds"], **timing}
