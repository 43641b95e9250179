"""Run a model over one video or still image: write an overlay and one map per frame.

    saldistill predict MODEL VIDEO -o OUT.mp4 [--maps DIR]
    saldistill predict MODEL IMAGE -o OUT.png [--maps DIR]

For a folder of videos or images see `folders.py`.
"""

import logging
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from distill.claims import claim
from distill.data.video.damage import damaged_frames_read
from distill.data.video.names import is_image
from distill.data.video.open import open_video
from distill.data.video.protocol import VideoReader, in_parts
from distill.data.video.writer import PictureWriter, VideoWriter
from distill.errors import UserError
from distill.files import atomic_folder, temporary_folder
from distill.inference.overlay import overlay, resize_map
from distill.inference.settings import InferenceSettings
from distill.inference.sliding_window import slide
from distill.models.protocols import SaliencyModel
from distill.saliency import peak_map

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prediction:
    """Result of `predict`: number of frames, duration in seconds, and the paths written."""

    frames: int
    seconds: float
    out: Path | None
    maps: Path | None

    def __str__(self) -> str:
        places = " and ".join(str(place) for place in (self.out, self.maps) if place)
        rate = self.frames / max(self.seconds, 1e-9)
        return f"{self.frames} frames in {self.seconds:.1f} s ({rate:.1f} per second): {places}"


def predict(
    network: SaliencyModel,
    source: str | Path,
    settings: InferenceSettings = InferenceSettings(),
    *,
    out: str | Path | None = None,
    maps: str | Path | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> Prediction:
    """Predict every frame of a video, and write an overlay video, the maps, or both.

    The outputs are claimed at the start, and appear under their names when all frames are done; an interrupted run
    leaves nothing.

    Args:
        network: the network; it is moved to the device of the settings.
        source: a video file, a folder of image frames, or a still image.
        settings: how the network runs.
        out: overlay video to write: H.264, with the size and frame rate of the source; a picture for a still image.
        maps: folder for one 8-bit grey PNG per frame, 0001.png first, at the size of the source and with maximum
            255.
        overwrite: replace an existing `out`, and existing PNGs in `maps`.
        progress: show a progress bar.

    Raises:
        UserError: no output is given, an output exists, is the source or is being written by another process, or
            the source cannot be read.
    """
    source, out, maps = Path(source), Path(out) if out else None, Path(maps) if maps else None
    _check_outputs(source, out, maps)
    remedy = "choose another name, or pass --overwrite to replace it"
    with ExitStack() as claims:
        kind = "picture" if is_image(source) else "video"
        for path, what in ((out, f"the overlay {kind}"), (maps, "the folder of maps")):
            if path is not None:
                claims.enter_context(claim(path, what, overwrite=overwrite, remedy=remedy))
        return write_prediction(
            network, source, settings, out=out, maps=maps, overwrite=overwrite, progress=progress
        )


def write_prediction(
    network: SaliencyModel,
    source: Path,
    settings: InferenceSettings,
    *,
    out: Path | None = None,
    maps: Path | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> Prediction:
    """Predict every frame of a video into outputs that are checked and claimed; see `predict`.

    A thread writes the results of one batch while the next one is computed.
    """
    if settings.device is not None:
        network.to(settings.device)
    at_model_size, at_own_size = open_video(source), open_video(source)
    num_frames, started = at_model_size.num_frames, time.perf_counter()
    with ExitStack() as stack:
        folder = stack.enter_context(_png_folder(maps, overwrite=overwrite)) if maps else None
        size, fps = at_own_size.size, at_own_size.fps
        video = stack.enter_context(_overlay_writer(source, out, size, fps, overwrite=overwrite)) if out else None
        bar = stack.enter_context(tqdm(total=num_frames, unit="frame", desc=source.name, disable=not progress))
        pool = stack.enter_context(ThreadPoolExecutor(1))
        written: Future[None] | None = None
        for frames, log_saliency in slide(network, at_model_size, range(num_frames), settings):
            if written:
                written.result()
            written = pool.submit(_write, frames, log_saliency.numpy(), at_own_size, folder, video)
            bar.update(len(frames))
        if written:
            written.result()
    if damaged := damaged_frames_read(source):
        log.warning("%s: %d of %d frames damaged; the decoder filled in missing parts", source, damaged, num_frames)
    return Prediction(num_frames, time.perf_counter() - started, out, maps)


def _overlay_writer(
    source: Path, out: Path, size: tuple[int, int], fps: float, *, overwrite: bool
) -> AbstractContextManager[VideoWriter | PictureWriter]:
    if is_image(source) and source.is_file():
        return PictureWriter(out, overwrite=overwrite)
    return VideoWriter(out, size, fps, overwrite=overwrite)


def _write(
    frames: list[int],
    log_saliency: np.ndarray,
    reader: VideoReader,
    folder: Path | None,
    video: VideoWriter | PictureWriter | None,
) -> None:
    """Write the maps of some frames as PNGs, as frames of the overlay, or both."""
    parts = in_parts(frames, reader.size)
    pictures = (picture for part in parts for picture in reader.read(part)) if video else [None] * len(frames)
    for frame, picture, log_map in zip(frames, pictures, log_saliency, strict=True):
        saliency = resize_map(peak_map(log_map), reader.size)
        if folder:
            Image.fromarray(np.rint(saliency * 255).astype(np.uint8)).save(folder / f"{frame + 1:04d}.png")
        if video and picture is not None:
            video.write(overlay(picture, saliency))


def _check_outputs(source: Path, out: Path | None, maps: Path | None) -> None:
    if out is None and maps is None:
        raise UserError(
            "nothing to write: expected an overlay (-o OUT.mp4, or OUT.png for a still image), a folder for maps "
            "(--maps DIR), or both"
        )
    kind = "image" if is_image(source) else "video"
    for path in (out, maps):
        if path is not None and path.resolve() == source.resolve():
            raise UserError(f"{path}: is the input {kind}; choose another name for the result")
    if out is not None and maps is not None and maps.resolve() in out.resolve().parents:
        raise UserError(f"{out}: is inside {maps}, the folder for maps; choose another location")
    if out is not None and out.is_dir():
        example = out / ("overlay.png" if is_image(source) else "overlay.mp4")
        raise UserError(f"{out}: is a folder; expected the name of a file, e.g. {example}")
    if maps is not None and maps.exists() and not maps.is_dir():
        raise UserError(f"{maps}: is a file; expected the name of a folder")


@contextmanager
def _png_folder(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """Yield a folder that is renamed to `path` when the block succeeds; with `overwrite`, files are replaced."""
    if not overwrite or not path.exists() or not any(path.iterdir()):
        with atomic_folder(path) as temporary:
            yield temporary
        return
    with temporary_folder(path) as temporary:
        yield temporary
        for file in sorted(temporary.iterdir()):
            file.replace(path / file.name)
