"""Run a model over one video or still image: write an overlay, the maps and a table.

    saldistill predict MODEL VIDEO -o OUT.mp4 [--maps DIR] [--csv FILE.csv]
    saldistill predict MODEL IMAGE -o OUT.png

Each frame is decoded once. Decoding and scaling, the network, and drawing and encoding run in threads of their own,
at most one batch apart. For a folder of videos or images see `folders.py`.
"""

import logging
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from distill.claims import OVERWRITE, claim
from distill.data.progress import ProgressBar
from distill.data.video.damage import damaged_frames_read
from distill.data.video.frames import KeepingReader, open_frames
from distill.data.video.names import is_image
from distill.data.video.writer import Timing
from distill.errors import UserError
from distill.inference.outputs import MAP_VIDEOS, OutputSettings, Sink, Table, Targets, map_sink, overlay_sink
from distill.inference.runtime import run_in, threads_of
from distill.inference.settings import InferenceSettings
from distill.inference.sliding_window import slide
from distill.models.edge import CutReader
from distill.models.loaded import LoadedModel
from distill.saliency import peak_map

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prediction:
    """Result of `predict`.

    Attributes:
        frames: number of frames.
        size: (height, width) of the frames.
        seconds: duration.
        targets: the paths written.
        runtime: name of the runtime that the network ran in.
        rows: rows of the table, one per frame; empty if no table was requested.
    """

    frames: int
    size: tuple[int, int]
    seconds: float
    targets: Targets
    runtime: str
    rows: list[dict[str, float]] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, without the table."""
        paths = {name: str(path) if path else None for name, path in vars(self.targets).items()}
        return {
            "frames": self.frames,
            "size": list(self.size),
            "seconds": self.seconds,
            "runtime": self.runtime,
            **paths,
        }

    def __str__(self) -> str:
        targets = self.targets
        places = " and ".join(str(place) for place in (targets.out, targets.maps, targets.csv) if place)
        rate = self.frames / max(self.seconds, 1e-9)
        done = f"{self.frames} frames in {self.seconds:.1f} s ({rate:.1f} per second, {self.runtime})"
        return f"{done}: {places}" if places else done


def predict(
    model: LoadedModel,
    source: str | Path,
    settings: InferenceSettings = InferenceSettings(),
    *,
    out: str | Path | None = None,
    maps: str | Path | None = None,
    csv: str | Path | None = None,
    outputs: OutputSettings = OutputSettings(),
    overwrite: bool = False,
    table: bool = False,
    progress: bool = True,
) -> Prediction:
    """Predict every frame of a video, and write an overlay video, the maps, a table, or several of them.

    The outputs are claimed at the start, and appear under their names when all frames are done; an interrupted run
    leaves nothing.

    Args:
        model: the model; its network is moved to the device of the settings.
        source: a video file, a folder of image frames, or a still image.
        settings: how the model runs.
        out: overlay video to write: H.264, with the size, timestamps, colours and sound of the source, upright; a
            picture for a still image.
        maps: folder for one file per frame, 0001.png first, or a video; see `outputs.MAP_FORMS`.
        csv: table to write: one row per frame with the columns `frame` (from 1), `seconds`, those of `describe` in
            student/edge.py, and `cut`, 1 if the frame starts a new scene.
        outputs: how the results are written.
        overwrite: replace an existing `out` and `csv`, and existing files in `maps`.
        table: return the table's rows, whether a table is written or not.
        progress: show a progress bar.

    Raises:
        UserError: no output is given, an output exists, is the source or is being written by another process, or
            the source cannot be read.
    """
    source = Path(source)
    targets = Targets(*(Path(path) if path else None for path in (out, maps, csv)))
    _check_targets(source, targets, outputs, table=table)
    with ExitStack() as claims:
        for path, what in targets.named(source, outputs):
            claims.enter_context(claim(path, what, overwrite=overwrite, remedy=OVERWRITE))
        return write_prediction(
            model, source, settings, targets, outputs, overwrite=overwrite, table=table, progress=progress
        )


def write_prediction(
    model: LoadedModel,
    source: Path,
    settings: InferenceSettings,
    targets: Targets,
    outputs: OutputSettings = OutputSettings(),
    *,
    overwrite: bool = False,
    table: bool = False,
    progress: bool = True,
) -> Prediction:
    """Predict every frame of a video into targets that are checked and claimed; see `predict`.

    Args:
        model: the model.
        source: a video file, a folder of frames, or a still image.
        settings: how the model runs.
        targets: the paths to write.
        outputs: how the results are written.
        overwrite: replace existing results.
        table: return the table's rows even if no table is written.
        progress: show a progress bar.
    """
    frames, started = open_frames(source), time.perf_counter()
    running = run_in(model, settings, frames=frames.num_frames, example=source)
    if running.settings.device is not None:
        running.network.to(running.settings.device)
    timing = Timing.of_file(source, frames.stamps)
    kept = KeepingReader(frames, keep=targets.out is not None)
    reader = CutReader(kept) if table or targets.csv else kept
    numbers = Table(frames.size, frames.fps, timing, reader.cuts) if isinstance(reader, CutReader) else None
    with ExitStack() as stack:
        stack.enter_context(threads_of(running))
        sinks: list[Sink] = [numbers.write] if numbers else []
        if targets.maps:
            sink = map_sink(targets.maps, frames.size, frames.fps, outputs, overwrite=overwrite)
            sinks.append(stack.enter_context(sink))
        if targets.out:
            sink = overlay_sink(targets.out, source, frames, kept, timing, outputs, overwrite=overwrite)
            sinks.append(stack.enter_context(sink))
        bar = stack.enter_context(
            ProgressBar(f"predicting {source.name}", "frame", total=frames.num_frames, shown=progress, result=False)
        )
        writing = stack.enter_context(ThreadPoolExecutor(1))
        written: Future[None] | None = None
        for batch, log_saliency in slide(running.network, reader, range(frames.num_frames), running.settings):
            if written:
                written.result()
            written = writing.submit(_write, batch, log_saliency.numpy(), sinks)
            bar.update(len(batch))
        if written:
            written.result()
        if numbers and targets.csv:
            numbers.save(targets.csv, overwrite=overwrite)
    if damaged := damaged_frames_read(source):
        log.warning(
            "%s: %d of %d frames damaged; the decoder filled in missing parts", source, damaged, frames.num_frames
        )
    seconds = time.perf_counter() - started
    rows = numbers.rows if numbers else []
    return Prediction(frames.num_frames, frames.size, seconds, targets, running.runtime, rows)


def _write(batch: list[int], log_saliency: np.ndarray, sinks: list[Sink]) -> None:
    """Write the log-saliency (n, h, w) of a batch of frames."""
    for frame, log_map in zip(batch, log_saliency, strict=True):
        saliency = peak_map(log_map)
        for sink in sinks:
            sink(frame, saliency)


def _check_targets(source: Path, targets: Targets, outputs: OutputSettings, *, table: bool) -> None:
    out, maps, csv = targets.out, targets.maps, targets.csv
    if out is None and maps is None and csv is None and not table:
        raise UserError(
            "nothing to write: expected an overlay (-o OUT.mp4, or OUT.png for a still image), maps (--maps DIR), "
            "a table (--csv FILE.csv), or several of them"
        )
    kind = "image" if is_image(source) else "video"
    for path in (out, maps, csv):
        if path is not None and path.resolve() == source.resolve():
            raise UserError(f"{path}: is the input {kind}; choose another name for the result")
    if out is not None and out.is_dir():
        example = out / ("overlay.png" if is_image(source) else "overlay.mp4")
        raise UserError(f"{out}: is a folder; expected the name of a file, e.g. {example}")
    if csv is not None and (csv.is_dir() or csv.suffix.lower() != ".csv"):
        raise UserError(f"{csv}: expected the name of a table, ending in .csv")
    if maps is None:
        return
    if outputs.map_form == "video":
        if maps.suffix.lower() not in MAP_VIDEOS:
            raise UserError(f"{maps}: expected the name of a video of maps, ending in {' or '.join(MAP_VIDEOS)}")
        if maps == out:
            raise UserError(f"{maps}: is the overlay too; choose another name for the maps")
        return
    for path in (out, csv):
        if path is not None and maps.resolve() in path.resolve().parents:
            raise UserError(f"{path}: is inside {maps}, the folder for maps; choose another location")
    if maps.exists() and not maps.is_dir():
        raise UserError(f"{maps}: is a file; expected the name of a folder")
