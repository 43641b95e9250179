"""Running a model over one video: the overlay video and the maps that people look at.

    saldistill predict MODEL VIDEO -o OUT.mp4 [--maps DIR]

A folder of videos is the work of `predict_folder.py`.
"""

import shutil
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F
from tqdm import tqdm

from distill.data.video.open import open_video
from distill.data.video.writer import VideoWriter
from distill.errors import UserError
from distill.files import atomic_folder, refuse_existing
from distill.inference.settings import InferenceSettings
from distill.inference.sliding_window import slide
from distill.models.protocols import SaliencyModel
from distill.saliency import peak_map


@dataclass(frozen=True)
class Prediction:
    """What `predict` did: how many frames, in how many seconds, and where the results are."""

    frames: int
    seconds: float
    out: Path | None
    maps: Path | None

    def __str__(self) -> str:
        places = " and ".join(str(place) for place in (self.out, self.maps) if place)
        rate = self.frames / max(self.seconds, 1e-9)
        return f"{self.frames} frames in {self.seconds:.1f} s ({rate:.1f} a second): {places}"


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
    """Predict every frame of a video file or folder of frames, and write what was asked for.

    The overlay and the maps of one batch are written while the next is computed. (For the overlay a frame is
    decoded once more, at the video's size, by the thread that writes.) Nothing appears under the final
    names before all is done; an interrupted run leaves nothing behind.

    Args:
        network: the network; it is moved to the device of the settings.
        source: a video file, or a folder of image frames.
        settings: how the network runs.
        out: the overlay video to write (H.264, the video's size and rate).
        maps: a folder for one 8-bit grey PNG a frame at the video's size, 0001.png first; each map's maximum
            is 255.
        overwrite: replace an `out` that exists, and the PNGs of the same names in `maps`.
        progress: show a bar with the rate and the time left.

    Raises:
        UserError: nothing to write, an output that exists, an output that is the source, or a source that cannot
            be read.
    """
    source, out, maps = Path(source), Path(out) if out else None, Path(maps) if maps else None
    _check_outputs(source, out, maps, overwrite=overwrite)
    if settings.device is not None:
        network.to(settings.device)
    small, full = open_video(source), open_video(source)  # one is read at the model's size, one at its own
    started = time.perf_counter()
    with ExitStack() as stack:
        folder = stack.enter_context(_png_folder(maps)) if maps else None
        writer = stack.enter_context(VideoWriter(out, full.size, full.fps)) if out else None

        def write(frames: list[int], log_saliency: np.ndarray) -> None:
            pictures = full.read(frames) if writer else [None] * len(frames)
            for frame, picture, one in zip(frames, pictures, log_saliency, strict=True):
                saliency = resize_map(peak_map(one), full.size)
                if folder:
                    grey = Image.fromarray(np.rint(saliency * 255).astype(np.uint8))
                    grey.save(folder / f"{frame + 1:04d}.png")
                if writer:
                    writer.write(overlay(picture, saliency))

        bar = stack.enter_context(
            tqdm(total=small.num_frames, unit="frame", desc=source.name, disable=not progress)
        )
        pool = stack.enter_context(ThreadPoolExecutor(1))
        written: Future[None] | None = None
        for frames, batch in slide(network, small, range(small.num_frames), settings):
            if written:
                written.result()
            written = pool.submit(write, frames, batch.numpy())
            bar.update(len(frames))
        if written:
            written.result()
    return Prediction(small.num_frames, time.perf_counter() - started, out, maps)


def _check_outputs(source: Path, out: Path | None, maps: Path | None, *, overwrite: bool) -> None:
    if out is None and maps is None:
        raise UserError(
            "nothing to write: name an overlay video (-o OUT.mp4), a folder of maps (--maps DIR) or both"
        )
    for path, what in ((out, "the overlay video"), (maps, "the folder of maps")):
        if path is None:
            continue
        if path.resolve() == source.resolve():
            raise UserError(f"{path}: the result would replace the video it is made from; choose another name")
        if not overwrite:
            refuse_existing(path, what, remedy="choose another name, or pass --overwrite to replace it")
    if out is not None and maps is not None and maps.resolve() in out.resolve().parents:
        raise UserError(f"{out}: lies in {maps}, the folder of maps, which holds nothing else; choose another name")
    if out is not None and out.is_dir():
        raise UserError(f"{out}: is a folder; -o takes the name of a video file, such as {out / 'overlay.mp4'}")
    if maps is not None and maps.exists() and not maps.is_dir():
        raise UserError(f"{maps}: is a file; --maps takes the name of a folder")


@contextmanager
def _png_folder(path: Path) -> Iterator[Path]:
    """Yield a folder that becomes `path` when the block ends well; one with files in it has those replaced."""
    if not path.exists() or not any(path.iterdir()):
        with atomic_folder(path) as temporary:
            yield temporary
        return
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield temporary
        for made in sorted(temporary.iterdir()):
            made.replace(path / made.name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def resize_map(saliency: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize one map (h, w) to `size` for looking at: bilinear, float32, within the range of its input."""
    if saliency.shape == tuple(size):
        return saliency
    image = torch.from_numpy(np.ascontiguousarray(saliency, dtype=np.float32))[None, None]
    return F.interpolate(image, size=size, mode="bilinear", align_corners=False, antialias=True)[0, 0].numpy()


def overlay(
    frame: np.ndarray, saliency: np.ndarray, *, colours: str = "inferno", strength: float = 0.7
) -> np.ndarray:
    """Paint a peak map over a frame as heat: the hotter, the more opaque, so that the background stays visible.

    Args:
        frame: (H, W, 3) uint8 RGB.
        saliency: (h, w) in [0, 1] of any size; it is resized to the frame's.
        colours: a matplotlib colour map; "inferno" grows brighter with the map all the way, unlike rainbows.
        strength: opacity of the hottest spot, in [0, 1].

    Returns:
        (H, W, 3) uint8. A zero map returns the frame as it is.
    """
    heat = np.clip(resize_map(saliency, frame.shape[:2]), 0.0, 1.0)
    alpha = (strength * heat * (2.0 - heat))[..., None]  # rises quickly, so that mild heat can be seen too
    colour = _lookup(colours)[np.rint(heat * 255).astype(np.uint8)]
    return np.rint(frame * (1.0 - alpha) + colour * alpha).astype(np.uint8)


@cache
def _lookup(colours: str) -> np.ndarray:
    """Return the colour map as 256 rows of RGB, float32 in [0, 255]."""
    from matplotlib import colormaps  # here: half a second that only overlays should pay

    return np.asarray(colormaps[colours](np.linspace(0, 1, 256))[:, :3] * 255, dtype=np.float32)
