"""Run an exported student without PyTorch, with numpy, onnxruntime, and PyAV or OpenCV for videos and cameras.

    python edge.py student.onnx VIDEO|FOLDER|CAMERA [-o overlay.mp4] [--show] [--maps FOLDER] [--csv FILE] ...
    python student/edge.py student/pretrained/stream-small.onnx video.mp4 -o overlay.mp4      # a pretrained student

    CAMERA   a number (0), a device (/dev/video0) or an address (rtsp://...). Frames that arrive while another one
             is being processed are dropped and counted. `--live` treats a file the same way.
    --csv    one row per frame, written while it runs: frame (from 1), seconds, the numbers of `describe`, and cut
             (1 at a scene cut, else 0)

This file is self-contained: copy it to the device together with the .onnx file. In a program:

    stream = Stream(EdgeModel("stream-small.onnx", threads=2), fps=30)
    for frame in camera:              # (height, width, 3) uint8 RGB, any size
        saliency = stream(frame)      # (h, w) float32 in [0, 1] with a maximum of 1

The sections follow the data: reading frames, resizing and scene cuts, the model, the stream with its state, heat
maps, output to a file or window, numbers of a map, and the command.

The .onnx file describes itself (mode, sizes, inputs, outputs and state) in JSON under the metadata key
"saldistill"; docs/reference/onnx-metadata.md documents the keys for implementations in other languages.
"""

import argparse
import csv
import hashlib
import importlib
import io
import json
import math
import os
import re
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import onnxruntime

METADATA_KEY = "saldistill"
CHECKSUM_KEY = "saldistill_sha256"
"""Key of the checksum; files of earlier versions have none."""
FORMATS = (1, 2, 3)
"""Supported versions of the metadata. Version 1 has only clip mode, and neither `reach` nor `state`; version 3 has
a `fit` other than "stretch"."""

FITS = ("stretch", "letterbox", "crop")
"""How frames of another aspect ratio fill the model's input; see `content_size`."""

PADDING = 128
"""Value of the grey around a letterboxed frame."""

MAX_ASPECT = 8
"""Limit of `crop`: a frame is scaled to at most this many times the input's length; longer frames are squeezed."""

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")

CUT = 0.1
"""Default threshold of `Cuts`."""

TIMEOUT = 10.0
"""Seconds without a frame after which a camera counts as disconnected."""

MAX_FRAMES, MAX_SIDE, MAX_PIXELS = 1000, 8192, 2**26
"""Bounds of a clip's frames, of the sides of the model's frames and maps, and of the pixels of a source's frame."""

MAX_FPS, MAX_STRIDE, MAX_THREADS = 1000, 1000, 256
"""Bounds of frames per second, of a stride in frames or frames per second, and of threads."""

MAX_MEMORY = 2**31
"""Bytes of the frames of a clip at its stride, or of the states."""

_modules: dict[str, Any] = {}


def _optional(name: str) -> Any:
    """Return a module, or None if it is not installed; the result is cached."""
    if name not in _modules:
        try:
            _modules[name] = importlib.import_module(name)
        except ImportError:
            _modules[name] = None
    return _modules[name]


# ------------------------------------------------------------------------------------------------ reading frames


def is_camera(source: str) -> bool:
    """Return whether a source is a camera (number, device or address) rather than a video file or folder."""
    path = Path(source)
    return path.is_char_device() or (not path.exists() and (_is_number(source) or "://" in source))


def _is_number(source: str) -> bool:
    return re.fullmatch("[0-9]{1,4}", source) is not None


def open_camera(source: str) -> tuple[float, Iterator[np.ndarray]]:
    """Return the frame rate and the frames of a camera, read with PyAV (an address) or OpenCV (everything else).

    Returns:
        Frames per second (30 if the camera does not report it), and an iterator of frames, (height, width, 3)
        uint8 RGB. The iterator ends with a ValueError, because a camera has no last frame.

    Raises:
        ValueError: the camera cannot be opened, or the library for it is not installed.
    """
    by_address = "://" in source
    if by_address and _optional("av"):
        fps, found = _open_av(source)
    elif _optional("cv2"):
        fps, found = _open_cv2(int(source) if _is_number(source) else source)
    else:
        raise ValueError(
            f"{source}: opening a camera needs OpenCV (pip install opencv-python)"
            f"{', or PyAV (pip install av)' if by_address else ''}, which is not installed"
        )

    def frames() -> Iterator[np.ndarray]:
        yield from found
        raise ValueError(f"{source}: the camera sends no more frames; check that it is on and connected")

    return fps, frames()


def open_video(path: str | Path) -> tuple[float, Iterator[np.ndarray]]:
    """Return the frame rate and the frames of a video file, or of a folder of images in numeric order.

    Returns:
        Frames per second (30 for a folder), and an iterator of frames, (height, width, 3) uint8 RGB, upright. For a
        truncated video, the iterator ends with a ValueError (with OpenCV, it just ends).

    Raises:
        ValueError: the path does not exist, has no image or video, or neither PyAV nor OpenCV is installed.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(f"{path}: no such video file, folder or camera")
    files = _images(path) if path.is_dir() else [path]
    if not files:
        raise ValueError(f"{path}: the folder has no images; expected files ending in {', '.join(IMAGES)}")
    if not (_optional("av") or _optional("cv2")):
        raise ValueError("opening a video needs PyAV (pip install av) or OpenCV; neither is installed")
    open_file = _open_av if _optional("av") else _open_cv2
    if not path.is_dir():
        return open_file(str(path))
    return 30.0, (frame for file in files for frame in open_file(str(file))[1])


def _images(folder: Path) -> list[Path]:
    def key(path: Path) -> list[tuple[int, str]]:
        return [(int(p), "") if p.isdecimal() else (-1, p) for p in re.split(r"(\d+)", path.name) if p]

    found = (p for p in folder.iterdir() if p.suffix.lower() in IMAGES and not p.name.startswith("."))
    return sorted(found, key=key)


def _open_av(source: str) -> tuple[float, Iterator[np.ndarray]]:
    av, by_address = _optional("av"), "://" in source
    try:
        container = av.open(source, timeout=TIMEOUT if by_address else None)
    except Exception as error:  # of many types, for damaged files
        raise ValueError(f"{source}: cannot be opened as a video ({_reason(error)})") from error
    if not container.streams.video:
        raise ValueError(f"{source}: has no video stream; expected a video or a folder of images")
    stream = container.streams.video[0]
    context = stream.codec_context
    _check_pixels(source, context.height or 0, context.width or 0)
    stream.thread_type = "SLICE" if by_address else "AUTO"  # decoding several frames in parallel delays them

    def frames() -> Iterator[np.ndarray]:
        count = 0
        with container:
            try:
                for packet in container.demux(stream):
                    count += packet.is_discard  # frames cut by an editor are in the file, but not shown
                    for frame in packet.decode():
                        _check_pixels(source, frame.height, frame.width)
                        # the header of an AVI also counts positions that only repeat the previous frame
                        count = max(count, frame.pts or 0) + 1 if container.format.name == "avi" else count + 1
                        degrees = getattr(frame, "rotation", 0)  # counter-clockwise; missing in old PyAV
                        turns = degrees // 90 if degrees % 90 == 0 else 0
                        yield np.rot90(frame.to_ndarray(format="rgb24"), turns)
            except av.FFmpegError as error:
                raise ValueError(f"{source}: decoding failed after {count} frames ({_reason(error)})") from error
        _check_complete(source, stream.frames, count)

    return _known_rate(float(stream.average_rate or 0)), frames()


def _known_rate(fps: float) -> float:
    """Return a source's frames per second; 30 if it does not report them."""
    return fps if 0 < fps < math.inf else 30.0


def _check_pixels(source: str | int, height: int, width: int) -> None:
    if height * width > MAX_PIXELS:
        raise ValueError(f"{source}: frames of {height}x{width} pixels are over the limit of {MAX_PIXELS} pixels")


def _reason(error: BaseException) -> str:
    """Return the first line of an error, at most 200 characters; its type if it has no text."""
    text = getattr(error, "strerror", None) or str(error)
    return (text.strip().splitlines() or [type(error).__name__])[0][:200]


def _check_complete(source: str, expected: int, count: int) -> None:
    """Raise a ValueError if frames are missing; the header's count may be 0 (unknown) or off by one or two."""
    if expected - count > max(2, 0.01 * expected):
        raise ValueError(
            f"{source}: the video is truncated or damaged: {count} of its {expected} frames can be decoded"
        )


def _open_cv2(source: str | int) -> tuple[float, Iterator[np.ndarray]]:
    cv2 = _optional("cv2")
    capture = cv2.VideoCapture(source)
    if not capture.isOpened():
        raise ValueError(f"{source}: cannot be opened as a video or camera")

    def frames() -> Iterator[np.ndarray]:
        while (found := capture.read())[0]:
            _check_pixels(source, *found[1].shape[:2])
            yield found[1][..., ::-1]  # BGR to RGB
        capture.release()

    return _known_rate(float(capture.get(cv2.CAP_PROP_FPS))), frames()


def live(
    video: Iterable[np.ndarray], fps: float | None = None, patience: float = TIMEOUT
) -> Generator[tuple[int, np.ndarray], None, None]:
    """Yield the newest frame of a live source; frames that arrive in between are dropped.

    Args:
        video: frames of the source, which are read in a thread.
        fps: frames per second at which to play a file; None for a camera, which sets its own rate.
        patience: seconds without a frame after which the source counts as disconnected.

    Yields:
        (number, frame); the numbering includes dropped frames.

    Raises:
        ValueError: the source is disconnected. Errors of the source are raised unchanged.
    """
    newest: deque[tuple[int, np.ndarray]] = deque(maxlen=1)  # a new frame replaces the previous one
    end: list[Exception | None] = []
    arrived, stopped = threading.Event(), threading.Event()

    def read() -> None:
        error, started = None, time.monotonic()
        try:
            for number, frame in enumerate(video):
                delay = started + number / fps - time.monotonic() if fps else 0.0
                if stopped.wait(max(delay, 0.0)):
                    break
                newest.append((number, frame))
                arrived.set()
        except Exception as raised:  # raised again below, in the caller's thread
            error = raised
        end.append(error)
        arrived.set()

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    try:
        while newest or not end:
            if not arrived.wait(patience):
                raise ValueError(f"no frame arrived for {patience:g} seconds; check that the camera is connected")
            arrived.clear()
            if newest:
                yield newest.pop()
        if end[0]:
            raise end[0]
    finally:
        stopped.set()
        thread.join(timeout=1)


# ----------------------------------------------------------------------------------------- resizing and scene cuts


def resize(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return a frame (height, width, 3) uint8 RGB resized to `size`, bicubic and antialiased as in training.

    Uses PyAV if it is installed, otherwise OpenCV (area averaging), otherwise numpy, which is exact but slower.

    Raises:
        ValueError: the frame has another type or shape.
    """
    check_frame(frame)
    if frame.shape[:2] == tuple(size):
        return frame
    if av := _optional("av"):
        image = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        scaled: np.ndarray = _scaler(frame.shape[:2], tuple(size))(image).to_ndarray()
        return scaled
    if cv2 := _optional("cv2"):
        interpolation = cv2.INTER_AREA if size[0] < frame.shape[0] else cv2.INTER_CUBIC
        resized: np.ndarray = cv2.resize(frame, (size[1], size[0]), interpolation=interpolation)
        return resized
    rows, columns = (_cubic(old, new) for old, new in zip(frame.shape[:2], size, strict=True))
    height, width = frame.shape[:2]
    values = (rows @ frame.reshape(height, -1).astype(np.float32)).reshape(size[0], width, 3)
    return np.clip(np.rint(columns @ values), 0, 255).astype(np.uint8)


def check_frame(frame: np.ndarray) -> None:
    """Raise a ValueError if a frame is not uint8 RGB (height, width, 3)."""
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or frame.size == 0:
        raise ValueError(
            f"expected a uint8 RGB frame of shape (height, width, 3), got {frame.dtype} of shape {frame.shape}"
        )


@lru_cache(maxsize=8)
def _scaler(old: tuple[int, int], new: tuple[int, int]) -> Callable[[Any], Any]:
    """Return PyAV's scaler for one frame size, which caches its tables; it is faster with a single thread."""
    av = _optional("av")
    threads = {"threads": 1} if int(av.__version__.split(".")[0]) >= 17 else {}  # older versions have only one
    reformat = av.video.reformatter.VideoReformatter().reformat
    return partial(reformat, width=new[1], height=new[0], interpolation="BICUBIC", **threads)


def _cubic(old: int, new: int) -> np.ndarray:
    """Return the matrix (new, old) that resizes one axis with a cubic kernel (a = -0.5), widened for shrinking."""
    scale = max(old / new, 1.0)
    centres = (np.arange(new) + 0.5) * old / new - 0.5
    x = np.abs(centres[:, None] - np.arange(old)) / scale
    near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    weights = np.where(x < 1, near, np.where(x < 2, far, 0.0))
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def content_size(fit: str, frame: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """Return the (height, width) to which a frame of `frame` pixels is scaled for an input of `size`.

    This is `size` for stretch. Letterbox keeps the aspect ratio and fits inside the input; crop keeps it and covers
    the input.
    """
    (height, width), (H, W) = frame, size
    if fit == "stretch":
        return size
    taller = height * W > width * H  # than the input
    if taller == (fit == "letterbox"):  # the height becomes that of the input
        return H, min(max(1, (2 * width * H + height) // (2 * height)), MAX_ASPECT * W)
    return min(max(1, (2 * height * W + width) // (2 * width)), MAX_ASPECT * H), W


def place(content: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return scaled content (h, w, 3) on an input (H, W, 3): centred, padded with grey or cropped."""
    if content.shape[:2] == size:
        return content
    placed = np.full((*size, 3), PADDING, np.uint8)
    into, out = zip(*(_shared(old, new) for old, new in zip(content.shape[:2], size, strict=True)), strict=True)
    placed[into] = content[out]
    return placed


def _shared(old: int, new: int) -> tuple[slice, slice]:
    """Return the part of an axis of an input of length `new` that content of length `old` fills, and its source."""
    first, length = (new - old) // 2, min(old, new)  # negative to crop
    return slice(max(first, 0), max(first, 0) + length), slice(max(-first, 0), max(-first, 0) + length)


def unfit(saliency: np.ndarray, fit: str, frame: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """Return a raw map (h, w) of an input of `size` as the map (h, w) of the whole frame of `frame` pixels.

    The part of the frame outside the input, which `crop` leaves out, is zero.
    """
    if fit == "stretch":
        return saliency
    rows, columns = _unfit_axes(fit, frame, size, (saliency.shape[0], saliency.shape[1]))
    whole: np.ndarray = rows @ saliency @ columns.T
    return whole


@lru_cache(maxsize=8)
def _unfit_axes(
    fit: str, frame: tuple[int, int], size: tuple[int, int], map_size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the matrices that resample the rows and the columns of a raw map, bilinearly."""
    axes = []
    for content, whole, pixels in zip(content_size(fit, frame, size), size, map_size, strict=True):
        first = ((whole - content) // 2) / whole
        places = first + content / whole * (np.arange(pixels) + 0.5) / pixels  # of the new pixels in the input
        at = np.clip(places * pixels - 0.5, 0, pixels - 1)
        weights = np.clip(1 - np.abs(at[:, None] - np.arange(pixels)), 0, 1)
        weights[(places < 0) | (places > 1)] = 0
        axes.append(weights.astype(np.float32))
    return axes[0], axes[1]


class Cuts:
    """Scene cut detector: a frame is a cut if its difference from the previous frame rises sharply.

    The difference is the mean absolute difference between block averages (12 x 20 blocks; 1 from black to white),
    which noise and most motion hardly change. At a cut it rises by more than the threshold from one frame to the
    next. Measured on 8,903 frames of 32 videos (DHF1K, HEVC test sequences, film), it rises by .12 to .77 at the 11
    cuts, and by at most .09 elsewhere; 99.7 % of 992 pairs of frames from different videos differ by more than .1.
    Fades are not detected, and a flash counts as a cut.

    Args:
        size: (H, W) of the frames.
        threshold: minimum rise.
    """

    def __init__(self, size: tuple[int, int], threshold: float = CUT) -> None:
        self._rows, self._columns = _cubic(size[0], 12), _cubic(size[1], 20).T
        self._blocks: np.ndarray | None = None
        self._difference, self.threshold = 0.0, threshold

    def __call__(self, image: np.ndarray, share: float = 1.0) -> bool:
        """Return whether the next frame, (3, H, W) uint8, starts a new scene.

        Args:
            image: the frame.
            share: share of the image that is not padding, which never differs.
        """
        blocks = self._rows @ image.astype(np.float32) @ self._columns / 255  # (3, 12, 20)
        last, self._blocks = self._blocks, blocks
        difference = float(np.abs(blocks - last).mean()) / share if last is not None else 0.0
        rise, self._difference = difference - self._difference, difference
        return rise > self.threshold


# ------------------------------------------------------------------------------------------------------ the model


class EdgeModel:
    """An exported model, run by ONNX Runtime: `model(clip)` in clip mode, `model.step(frame, state)` in step mode.

    Args:
        path: the .onnx file; a .data file, if any, must be next to it.
        threads: threads per call; defaults to ONNX Runtime's choice.
        providers: ONNX Runtime execution providers, in order of preference; defaults to the CPU.
        check: raise an error for a map that contains NaN or infinity; otherwise it has NaN there.
        spinning: let waiting threads spin, which takes processor time from other work of the program.

    Attributes:
        mode: "clip", or "step" for a streaming model, which takes one frame and a state at a time.
        num_frames: T, frames per clip; 1 in step mode.
        reach: number of frames that a map depends on; T in clip mode.
        size: (H, W) of the frames.
        target_frames: indices of the N frames of a clip that have a map.
        map_size: (h, w) of the maps.
        fit: how frames of another aspect ratio fill the input, one of FITS. The model itself takes frames of its
            size and returns maps of them; a `Stream` takes frames of any size and returns maps of whole frames.
        state_shapes: name -> shape of each state tensor without the batch; empty in clip mode.
        metadata: metadata of the file.
        peaked: whether every map has a maximum of 1, because the network's own sigmoid was not exported.
        has_checksum: whether the file has a checksum, which was compared.

    Raises:
        ValueError: the file does not exist, is not an ONNX file, or was not exported by this project.
    """

    def __init__(
        self,
        path: str | Path,
        threads: int | None = None,
        providers: Sequence[str] | None = None,
        *,
        check: bool = True,
        spinning: bool = True,
    ) -> None:
        self.path, self._check = Path(path), check
        if not self.path.is_file():
            raise ValueError(f"{path}: no such file; expected an exported .onnx model")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # only errors: warnings are about ONNX Runtime's graph optimiser
        options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
        if threads is not None:
            if not 1 <= threads <= MAX_THREADS:
                raise ValueError(f"threads: expected a number from 1 to {MAX_THREADS}, got {threads}")
            options.intra_op_num_threads = int(threads)
            options.inter_op_num_threads = 1
        try:
            self.session = onnxruntime.InferenceSession(
                str(self.path), options, providers=list(providers or ["CPUExecutionProvider"])
            )
            properties = self.session.get_modelmeta().custom_metadata_map
        except Exception as error:  # ONNX Runtime's exceptions have no common base class
            raise ValueError(f"{path}: ONNX Runtime cannot load it: {_reason(error)}") from error
        self.has_checksum = check_file(properties, self.path)
        self._describe(read_metadata(properties, self.path))
        frame = ("clip", (3, self.num_frames, *self.size)) if self.mode == "clip" else ("frame", (3, *self.size))
        declared = dict([frame, *self.state_shapes.items()])
        inputs = {each.name: tuple(each.shape[1:]) for each in self.session.get_inputs()}
        if inputs != declared or {each.name for each in self.session.get_outputs()} != set(self._outputs):
            raise ValueError(f"{path}: inputs, outputs or state differ from the metadata; export the model again")

    @classmethod
    def from_session(
        cls, path: str | Path, session: Any, metadata: dict[str, Any], *, check: bool = True
    ) -> "EdgeModel":
        """Return a model that another runtime runs.

        Args:
            path: the model's file, for messages.
            session: has ONNX Runtime's `run(names, feed)`: names of outputs, and arrays by name of input.
            metadata: from `read_metadata`.
            check: as for `EdgeModel`.
        """
        model = cls.__new__(cls)
        model.path, model._check, model.session, model.has_checksum = Path(path), check, session, True
        model._describe(metadata)
        return model

    def _describe(self, metadata: dict[str, Any]) -> None:
        """Set the attributes that the metadata define."""
        self.metadata = metadata
        self.mode: str = metadata["mode"]
        self.num_frames: int = metadata["frames"]
        self.reach: int = metadata.get("reach", self.num_frames)
        self.size: tuple[int, int] = tuple(metadata["size"])
        self.target_frames: tuple[int, ...] = tuple(metadata["target_frames"])
        self.map_size: tuple[int, int] = tuple(metadata["map_size"])
        self.fit: str = metadata.get("fit", "stretch")
        state = metadata.get("state", [])
        self.state_shapes = {each["input"]: tuple(each["shape"][1:]) for each in state}
        self._outputs = ["saliency", *(each["output"] for each in state)]
        self._input_type = metadata["input"]["type"]
        self._log = metadata["output"]["values"] == "log"
        self.peaked = metadata["output"]["values"] != "sigmoid"

    def __call__(self, clip: np.ndarray) -> np.ndarray:
        """Return the saliency maps of clips, in clip mode.

        Args:
            clip: (B, 3, T, H, W) uint8 RGB.

        Returns:
            (B, N, h, w) float32 in [0, 1]. The maximum of each map is 1, unless the file was exported with the
            network's own sigmoid; a constant map is all ones.

        Raises:
            ValueError: the clip has another type or shape, the file is in step mode, or a map contains NaN or
                infinity.
        """
        if self.mode != "clip":
            raise ValueError(f"{self.path.name}: is in step mode; call step(frame, state)")
        shape = (3, self.num_frames, *self.size)
        images = self._images(clip, "clips", "(batch, RGB, frames, height, width)", shape)
        return self._maps(self._run(["saliency"], {"clip": images})[0])

    def initial_state(self, batch: int = 1) -> dict[str, np.ndarray]:
        """Return the state before a video's first frame and after a cut: zeros."""
        return {name: np.zeros((batch, *shape), np.float32) for name, shape in self.state_shapes.items()}

    def step(self, frame: np.ndarray, state: dict[str, np.ndarray]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Return the saliency map of one frame of each of B videos, given the state, in step mode.

        Args:
            frame: (B, 3, H, W) uint8 RGB.
            state: from the previous step, or `initial_state`; not changed.

        Returns:
            Maps (B, 1, h, w) as in `__call__`, and the state for the next frame.

        Raises:
            ValueError: the frame or state has another type or shape, the file is in clip mode, or a map contains
                NaN or infinity.
        """
        if self.mode != "step":
            raise ValueError(f"{self.path.name}: is in clip mode, which has no state; call the model with a clip")
        images = self._images(frame, "frames", "(batch, RGB, height, width)", (3, *self.size))
        for name, shape in self.state_shapes.items():
            expected, found = (len(frame), *shape), state.get(name)
            if found is None or found.dtype != np.float32 or found.shape != expected:
                got = "nothing" if found is None else f"{found.dtype} of shape {found.shape}"
                raise ValueError(
                    f"{self.path.name}: state {name}: expected float32 of shape {expected}, got {got}; start with "
                    "initial_state() and keep one state per model"
                )
        feed = {"frame": images, **{name: state[name] for name in self.state_shapes}}
        saliency, *after = self._run(self._outputs, feed)
        return self._maps(saliency), dict(zip(self.state_shapes, after, strict=True))

    def _images(self, images: np.ndarray, kind: str, layout: str, shape: tuple[int, ...]) -> np.ndarray:
        """Return clips or frames, checked and converted to the input type of the graph."""
        if images.dtype != np.uint8 or images.shape[1:] != shape or len(images) == 0:
            raise ValueError(
                f"{self.path.name}: expected uint8 {kind} of shape (batch, {', '.join(map(str, shape))}), i.e. "
                f"{layout}, got {images.dtype} of shape {images.shape}"
            )
        if self._input_type == "float32":
            return images.astype(np.float32) / np.float32(255)
        return np.ascontiguousarray(images)

    def _run(self, names: Sequence[str], feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        try:
            found: list[np.ndarray] = self.session.run(names, feed)
        except Exception as error:  # as above
            raise ValueError(f"{self.path.name}: the runtime cannot run it: {_reason(error)}") from error
        return found

    def _maps(self, maps: np.ndarray) -> np.ndarray:
        expected = (len(self.target_frames), *self.map_size)
        if maps.shape[1:] != expected:
            raise ValueError(
                f"{self.path.name}: gives maps of shape {maps.shape[1:]}, and its metadata says {expected}; export "
                "the model again"
            )
        with np.errstate(invalid="ignore"):  # the result is checked
            if self._log:
                maps = np.exp(maps - maps.max(axis=(-2, -1), keepdims=True))
        finite = np.isfinite(maps)
        clipped = np.clip(maps, 0.0, 1.0, dtype=np.float32)
        if finite.all():
            return clipped
        if self._check:
            raise ValueError(
                f"{self.path.name}: the map contains NaN or infinity; its weights are damaged or its training "
                "diverged; copy or export the file again"
            )
        return np.where(finite, clipped, np.float32(np.nan))


def check_file(properties: dict[str, str], path: Path) -> bool:
    """Check the checksum of an exported file; return whether it has one.

    Raises:
        ValueError: the file was damaged or changed after it was exported.
    """
    recorded = properties.get(CHECKSUM_KEY)
    if recorded is not None and (len(recorded) != 64 or checksum(path, recorded) != recorded):
        raise ValueError(
            f"{path}: its checksum differs, so that it was damaged or changed after the export; copy or export it "
            "again"
        )
    return recorded is not None


def checksum(path: Path, recorded: str) -> str:
    """Return the SHA-256 of a file, with zeros in place of the recorded checksum, and of its .data file."""
    entry = CHECKSUM_KEY.encode() + b"\x12\x40"  # field 2 of 64 bytes follows, in the file's Protocol Buffers
    found = hashlib.sha256(path.read_bytes().replace(entry + recorded.encode(), entry + b"0" * 64))
    data = path.with_name(path.name + ".data")
    if data.is_file():
        with data.open("rb") as file:
            while block := file.read(2**24):
                found.update(block)
    return found.hexdigest()


def read_metadata(properties: dict[str, str], path: Path) -> dict[str, Any]:
    """Return the metadata of an exported file, whose keys have the documented types and ranges.

    Raises:
        ValueError: the file was not exported by this project, or by an unknown version of it, or its metadata are
            invalid.
    """
    if METADATA_KEY not in properties:
        raise ValueError(
            f'{path}: has no "{METADATA_KEY}" metadata; expected an ONNX file written by `saldistill export`'
        )
    invalid = f'{path}: its "{METADATA_KEY}" metadata is invalid'
    try:
        metadata = json.loads(properties[METADATA_KEY])
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{invalid}: not JSON; export the model again") from error
    if not isinstance(metadata, dict):
        raise ValueError(f"{invalid}: expected a JSON object; export the model again")
    version, mode = metadata.get("format"), metadata.get("mode")
    if type(version) is not int or version not in FORMATS or mode not in ("clip", "step"):
        raise ValueError(
            f"{path}: has format {version!r:.40}, mode {mode!r:.40}; expected format "
            f"{' or '.join(map(str, FORMATS))}, mode 'clip' or 'step'; use the edge.py of the version "
            "that exported it"
        )
    for key, (valid, expected) in _checks(metadata).items():
        if not valid:
            raise ValueError(f"{invalid}: {key}: expected {expected}; export the model again")
    return metadata


def _checks(metadata: dict[str, Any]) -> dict[str, tuple[bool, str]]:
    """Return for each key of the metadata whether its value is valid, and what is expected."""

    def at(*keys: str) -> Any:
        value: Any = metadata
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return value

    def pair(value: Any) -> bool:
        return _list_of(value, 1, MAX_SIDE) and len(value) == 2

    frames, targets, stride, state = at("frames"), at("target_frames"), at("notes", "stride"), at("state")
    size = f"two integers from 1 to {MAX_SIDE}"
    most = frames - 1 if _is_whole(frames, 1, MAX_FRAMES) else 0
    known_cost = at("gflops_per_map")
    fixed = metadata["mode"] == "clip" and metadata.get("reach", frames) == frames  # format 1 has no reach
    return {
        "frames": (_is_whole(frames, 1, MAX_FRAMES), f"an integer from 1 to {MAX_FRAMES}"),
        "reach": (_is_whole(at("reach"), 1, MAX_FRAMES) or fixed, f"an integer from 1 to {MAX_FRAMES}"),
        "size": (pair(at("size")), size),
        "map_size": (pair(at("map_size")), size),
        "fit": (metadata.get("fit", "stretch") in FITS, ", ".join(FITS)),
        "target_frames": (
            _list_of(targets, 0, most) and targets == sorted({*targets}),
            f"ascending integers from 0 to {most}",
        ),
        "input.type": (at("input", "type") in ("uint8", "float32"), "uint8 or float32"),
        "output.values": (at("output", "values") in ("peak", "sigmoid", "log"), "peak, sigmoid or log"),
        "state": (
            _is_state(metadata.get("state", [])),
            "a list of input, output and shape, whose names are distinct and whose sizes are positive",
        ),
        "notes": (isinstance(metadata.get("notes") or {}, dict), "an object"),
        "notes.stride": (
            stride is None or _is_whole(stride, 1, MAX_STRIDE) or isinstance(stride, str),
            f"an integer from 1 to {MAX_STRIDE}, or a rate such as 25fps",
        ),
        "precision": (isinstance(metadata.get("precision", ""), str), "text"),
        "weights": (_is_whole(metadata.get("weights", 0), 0, 2**63), "a count"),
        "gflops_per_map": (
            known_cost is None or (type(known_cost) in (int, float) and 0 <= known_cost < math.inf),
            "a number",
        ),
        "mode": (metadata["mode"] == "step" or not state, "step, or no state"),
    }


def _is_whole(value: Any, least: int, most: int) -> bool:
    return type(value) is int and least <= value <= most


def _list_of(value: Any, least: int, most: int) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(_is_whole(each, least, most) for each in value)


def _is_state(state: Any) -> bool:
    """Return whether a state's tensors have distinct names, and shapes that take at most MAX_MEMORY together."""
    if not isinstance(state, list) or not all(isinstance(each, dict) for each in state):
        return False
    names = [each.get(key) for each in state for key in ("input", "output")]
    shapes = [each.get("shape") for each in state]
    if not all(isinstance(name, str) for name in names) or len({*names}) < len(names):
        return False
    if not all(isinstance(shape, list) and _list_of(shape[1:], 1, MAX_MEMORY) for shape in shapes):
        return False
    return sum(4 * math.prod(shape[1:]) for shape in shapes) <= MAX_MEMORY


# ------------------------------------------------------------------------------------------------------ the stream


def step_of(stride: int | str, fps: float | None) -> float:
    """Return the average distance, in frames of the video, between consecutive frames of a clip or state.

    Args:
        stride: as in training, a number of frames (2) or a rate ("25fps").
        fps: frames per second of the video; only needed for a rate.

    Raises:
        ValueError: the stride is invalid, or is a rate and `fps` is missing.
    """
    match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?) ?fps|([1-9][0-9]{0,9})", str(stride)[:30])
    if not match or not 0 < float(match[1] or match[2]) <= MAX_STRIDE:
        raise ValueError(
            f"stride: expected a positive number of frames or a rate such as 25fps, up to {MAX_STRIDE}, got "
            f"{str(stride)[:30]!r}"
        )
    if match[2]:
        return float(match[2])
    if not fps or not 0 < fps < math.inf:
        raise ValueError(f"stride {stride}: a rate needs the frame rate of the video; set fps")
    return fps / float(match[1])


class Stream:
    """A model that runs over a video frame by frame and keeps the past frames or states that it needs.

    A stream behaves as if its first frame had been repeated forever before it, so that the first frame has a map.
    It starts over at a scene cut.

    In clip mode it keeps the frames of one clip, with copies in place of dropped frames. In step mode it keeps one
    state per frame of the stride: at a stride of 2, two states alternate. Each state has the time (in frames) of
    its last frame, and is advanced by the first frame that is at least one step later. This also keeps the rate if
    frames are dropped, and at fractional steps such as 2.4, where occasionally no state is due and the new state is
    discarded after the map is computed. A video below the frame rate of the training is used unchanged.

    Args:
        model: an `EdgeModel`.
        stride: distance between frames of a clip, see `step_of`; defaults to the stride of the training.
        fps: frames per second of the video.
        cuts: threshold of `Cuts`; None disables scene cuts. They are always disabled for a model that predicts a
            frame before the last one of its clip, because the clip spans the cut.

    Attributes:
        delay: age of the returned map in frames; 0 for a model that predicts the last frame of its clip.
        resets: number of scene cuts.

    Raises:
        ValueError: see `step_of`.
    """

    def __init__(
        self,
        model: EdgeModel,
        stride: int | str | None = None,
        fps: float | None = None,
        cuts: float | None = CUT,
    ) -> None:
        notes = model.metadata.get("notes") or {}
        self.model, self.step = model, step_of(notes.get("stride", 1) if stride is None else stride, fps)
        last = model.num_frames - 1
        places = [math.floor((j - last) * self.step + 0.5) for j in range(last + 1)]  # from the clip's last frame
        self.delay, self.resets = -places[model.target_frames[-1]], 0
        steps = 1 - places[0] if model.mode == "clip" else max(1, int(self.step))
        state = sum(4 * math.prod(shape) for shape in model.state_shapes.values())
        needed = steps * (3 * math.prod(model.size) if model.mode == "clip" else state)
        if needed > MAX_MEMORY:
            raise ValueError(
                f"stride {self.step:g} frames: needs {needed / 1e9:.1f} GB of past frames or states, over the "
                f"limit of {MAX_MEMORY / 1e9:.1f} GB; choose a smaller one"
            )
        self._cuts = Cuts(model.size, cuts) if cuts is not None and self.delay == 0 else None
        self._frames: deque[np.ndarray] = deque(maxlen=1 - places[0])
        self._indices = [place - places[0] for place in places]
        self._states: dict[float, dict[str, np.ndarray]] = {}  # time of its last frame -> state
        self._number = -1

    def __call__(self, frame: np.ndarray, number: int | None = None) -> np.ndarray:
        """Return the map of the next frame of a video.

        Args:
            frame: (height, width, 3) uint8 RGB of any size.
            number: its index in the video, in case frames were dropped; defaults to the next index.

        Returns:
            Map (h, w) in [0, 1] of this frame, or of the frame `delay` frames earlier.
        """
        check_frame(frame)
        model, shown = self.model, (frame.shape[0], frame.shape[1])
        content = content_size(model.fit, shown, model.size)
        image = place(resize(frame, content), model.size).transpose(2, 0, 1)  # (3, H, W)
        share = min(1.0, math.prod(content) / math.prod(model.size))
        if self._cuts and self._cuts(image, share):
            self._forget()
            self.resets += 1
        passed = 1 if number is None else max(1, number - self._number)
        self._number += passed
        raw = self._clip(image, passed) if model.mode == "clip" else self._step(image)
        if model.fit == "stretch":
            return raw
        saliency = unfit(raw, model.fit, shown, model.size)
        return saliency / (saliency.max() or np.float32(1)) if model.peaked else saliency

    def reset(self) -> None:
        """Start over, with the next frame as the first one of another video."""
        self._forget()
        if self._cuts:
            self._cuts = Cuts(self.model.size, self._cuts.threshold)

    def _forget(self) -> None:
        self._frames.clear()
        self._states.clear()

    def _clip(self, image: np.ndarray, passed: int) -> np.ndarray:
        length = self._frames.maxlen or 1
        if self._frames:
            self._frames.extend([self._frames[-1]] * min(passed - 1, length))
        self._frames.extend([image] * (1 if self._frames else length))
        clip = np.stack([self._frames[place] for place in self._indices], axis=1)  # (3, T, H, W)
        return self.model(clip[None])[0, -1]

    def _step(self, image: np.ndarray) -> np.ndarray:
        if not self._states:
            maps, state = self.model.step(image[None], self.model.initial_state())
            self._states = {float(self._number - turn): state for turn in range(max(1, int(self.step)))}
            return maps[0, 0]
        due = [time for time in self._states if time + self.step <= self._number + 0.5]
        previous = max(due, default=min(self._states))
        maps, state = self.model.step(image[None], self._states[previous])
        if due:
            del self._states[min(due)]  # if several are due after a drop, the oldest is replaced
            now = previous + self.step
            self._states[now if now > self._number - 0.5 else self._number] = state
        return maps[0, 0]


# ------------------------------------------------------------------------------------------------------- heat maps


HEAT = np.array(
    [
        (0, 0, 4), (33, 12, 74), (87, 16, 110), (138, 34, 106), (188, 55, 84),
        (228, 90, 49), (249, 142, 9), (249, 203, 53), (252, 255, 164),
    ],
    dtype=np.float32,
)  # fmt: skip
"""Nine evenly spaced colours of the "inferno" map, cold to hot."""


def overlay(frame: np.ndarray, saliency: np.ndarray, strength: float = 0.7) -> np.ndarray:
    """Return a frame (H, W, 3) uint8 with a map (h, w) in [0, 1] as a heat map on top, more opaque where hotter."""
    grey = np.rint(np.clip(saliency, 0, 1) * 255).astype(np.uint8)
    heat = resize(np.repeat(grey[..., None], 3, axis=2), (frame.shape[0], frame.shape[1]))[..., 0]
    share, paint = _heat(strength)
    return (frame * share.take(heat)[..., None] + paint.take(heat, axis=0)).astype(np.uint8)


@lru_cache(maxsize=8)
def _heat(strength: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the weight of the frame (256,) and the colour to add (256, 3) for each grey level of a map."""
    level = np.linspace(0, 1, 256)
    alpha = strength * level * (2 - level)
    places = level * (len(HEAT) - 1)
    colours = np.stack([np.interp(places, range(len(HEAT)), HEAT[:, c]) for c in range(3)], axis=1)
    return (1 - alpha).astype(np.float32), (alpha[:, None] * colours + 0.5).astype(np.float32)


class Writer:
    """Writer of an H.264 video (MPEG-4 Part 2 without PyAV), which can be played even if the run is interrupted."""

    def __init__(self, path: Path, size: tuple[int, int], fps: float) -> None:
        height, width = size[0] // 2 * 2, size[1] // 2 * 2  # codecs need even sizes: an odd last line is cropped
        self._size, self._even = size, (height, width)
        self._first: int | None = None  # number of the first frame
        self._next = 0
        self._av, self._cv2 = _optional("av"), _optional("cv2")
        if not (height and width):
            raise ValueError(f"{path}: frames of {size[0]}x{size[1]} pixels are too small for a video")
        if self._av:
            try:
                self._container = self._av.open(str(path), "w")
            except ValueError as error:  # the file name does not end in a video format
                raise ValueError(f"{path}: cannot be written as a video; choose a name ending in .mp4") from error
            codec = next(c for c in ("libx264", "h264", "mpeg4") if c in self._av.codecs_available)
            self._stream = self._container.add_stream(codec, rate=Fraction(fps).limit_denominator(1001))
            self._stream.height, self._stream.width, self._stream.pix_fmt = height, width, "yuv420p"
        else:
            code = self._cv2.VideoWriter.fourcc(*"mp4v")
            self._video = self._cv2.VideoWriter(str(path), code, fps, (width, height))
            if not self._video.isOpened():
                raise ValueError(f"{path}: cannot be written as a video; choose a name ending in .mp4")

    def write(self, frame: np.ndarray, number: int) -> None:
        """Append one frame, (height, width, 3) uint8 RGB; missing numbers are filled with a neighbouring frame."""
        if frame.shape[:2] != self._size:  # the resolution of the video changes
            frame = resize(frame, self._size)
        frame = np.ascontiguousarray(frame[: self._even[0], : self._even[1]])
        if self._first is None:
            self._first = self._next = number
        if self._av:
            image = self._av.VideoFrame.from_ndarray(frame, format="rgb24")
            image.pts = number - self._first
            self._container.mux(self._stream.encode(image))
        else:
            for _ in range(self._next, number + 1):
                self._video.write(np.ascontiguousarray(frame[..., ::-1]))
        self._next = number + 1

    def close(self) -> None:
        """Finish and close the file."""
        if self._av:
            self._container.mux(self._stream.encode(None))
            self._container.close()
        else:
            self._video.release()


class WindowClosed(Exception):  # noqa: N818 - not an error
    """The window was closed, or q or Escape was pressed."""


class Window:
    """An OpenCV window.

    Raises:
        ValueError: OpenCV is not installed or has no window support, or there is no display.
    """

    def __init__(self, name: str) -> None:
        self._cv2, self._name = _optional("cv2"), name
        if not self._cv2:
            raise ValueError("a window needs OpenCV (pip install opencv-python); write a file with -o instead")
        if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            raise ValueError("no display found for a window; write a file with -o instead")
        try:
            self._cv2.namedWindow(name, self._cv2.WINDOW_NORMAL)
        except self._cv2.error as error:
            raise ValueError(
                "this OpenCV was built without windows (pip install opencv-python, not opencv-python-headless); "
                "write a file with -o instead"
            ) from error

    def write(self, frame: np.ndarray, number: int) -> None:
        """Show one frame, (height, width, 3) uint8 RGB."""
        self._cv2.imshow(self._name, np.ascontiguousarray(frame[..., ::-1]))
        key = self._cv2.waitKey(1) & 0xFF
        if key in (27, ord("q")) or self._cv2.getWindowProperty(self._name, self._cv2.WND_PROP_VISIBLE) < 1:
            raise WindowClosed

    def close(self) -> None:
        """Close the window."""
        self._cv2.destroyAllWindows()


# ----------------------------------------------------------------------------------------------- numbers of a map


def describe(saliency: np.ndarray, size: tuple[int, int]) -> dict[str, float]:
    """Return numbers of a map (h, w) of a frame of `size`, (height, width) in pixels.

    They are those of the density: the map divided by its sum, uniform if all values are 0. Its pixels count as
    points at their centres, which are measured in pixels of the frame from its left and upper edge.

    Returns:
        peak_x, peak_y: the pixel with the maximum, the first one in reading order if there are several.
        centre_x, centre_y: the centre of mass.
        spread: square root of the summed variances along x and y, in pixels of the frame.
        entropy: in bits; 0 for a single pixel, log2(h * w) for a uniform map.
        share_1_1 to share_3_3: the probability in each cell (row, column) of a 3x3 grid. Pixels that belong to
            several cells are split in proportion to the overlap, so that the shares sum to 1.
    """
    density = np.maximum(saliency, 0).astype(np.float64)
    total = density.sum()
    density = density / total if total > 0 else np.full(density.shape, 1 / density.size)
    h, w = density.shape
    y, x = (np.arange(h) + 0.5) * size[0] / h, (np.arange(w) + 0.5) * size[1] / w
    of_rows, of_columns = density.sum(axis=1), density.sum(axis=0)
    row, column = divmod(int(density.argmax()), w)
    centre_y, centre_x = of_rows @ y, of_columns @ x
    variance = of_rows @ (y - centre_y) ** 2 + of_columns @ (x - centre_x) ** 2
    positive = density[density > 0]
    shares = _thirds(h) @ density @ _thirds(w).T
    return {
        "peak_x": float(x[column]),
        "peak_y": float(y[row]),
        "centre_x": float(centre_x),
        "centre_y": float(centre_y),
        "spread": math.sqrt(variance),
        "entropy": abs(float(positive @ np.log2(positive))),
        **{f"share_{i + 1}_{j + 1}": float(shares[i, j]) for i in range(3) for j in range(3)},
    }


def _thirds(length: int) -> np.ndarray:
    """Return the share (3, length) of each pixel of an axis that lies in each third of the axis."""
    pixels, thirds = (
        3 * np.arange(length),
        length * np.arange(3)[:, None],
    )  # where they start; the axis has 3 * length
    overlap = np.minimum(pixels + 3, thirds + length) - np.maximum(pixels, thirds)
    shares: np.ndarray = np.maximum(overlap, 0) / 3
    return shares


class Table:
    """Writer of a CSV file with one row per frame, which is on disk before the next frame is processed.

    Args:
        path: the file, which is created with the first row.
        fps: frames per second of the video.
    """

    def __init__(self, path: Path, fps: float) -> None:
        self._path, self._fps = path, fps
        self._file: TextIO | None = None
        self._cuts = 0

    def write(self, saliency: np.ndarray, size: tuple[int, int], number: int, cuts: int) -> None:
        """Write one row.

        Args:
            saliency: map (h, w).
            size: (height, width) of the frame.
            number: index of the frame.
            cuts: number of scene cuts up to this frame.
        """
        numbers = {name: round(value, 6) for name, value in describe(saliency, size).items()}
        cut, self._cuts = int(cuts > self._cuts), cuts
        row = {"frame": number + 1, "seconds": round(number / self._fps, 6), **numbers, "cut": cut}
        if self._file is None:
            self._file = self._path.open("x", newline="", encoding="utf-8", buffering=1)  # flushes each row
            csv.writer(self._file, lineterminator="\n").writerow(row)
        csv.writer(self._file, lineterminator="\n").writerow(row.values())

    def close(self) -> None:
        """Close the file."""
        if self._file:
            self._file.close()


# ---------------------------------------------------------------------------------------------------- the command


@dataclass
class Figures:
    """Statistics of a run, whose text is the last line that the command prints.

    Attributes:
        frames: number of processed frames.
        dropped: number of frames of a live source that arrived while another one was being processed.
        resets: number of scene cuts.
        elapsed: total seconds, including decoding and drawing.
        seconds: latency of each of the last 10,000 frames: resizing and one pass of the network.
    """

    frames: int = 0
    dropped: int = 0
    resets: int = 0
    elapsed: float = 0.0
    seconds: deque[float] = field(default_factory=lambda: deque(maxlen=10_000))

    def __str__(self) -> str:
        if not self.seconds:
            return "no frames processed"
        p50, p99 = np.percentile(np.array(self.seconds) * 1000, [50, 99])
        return (
            f"{self.frames} frames in {self.elapsed:.1f} s: {self.frames / self.elapsed:.1f} frames per second "
            f"including decoding and drawing; latency per frame p50 {p50:.1f} ms, p99 {p99:.1f} ms; "
            f"{self.dropped} dropped; {self.resets} scene cuts"
        )


def run(
    stream: Stream,
    video: Iterable[tuple[int, np.ndarray]],
    show: Callable[[np.ndarray, np.ndarray, int], None] | None = None,
    figures: Figures | None = None,
) -> Figures:
    """Run a stream over a video and return statistics.

    Args:
        stream: the stream.
        video: (number, frame) pairs; frames are (height, width, 3) uint8 RGB, and missing numbers count as dropped.
        show: called with each frame, its map and its number.
        figures: statistics to update, which are valid even if the run is interrupted.
    """
    figures = figures or Figures()
    waiting: deque[tuple[int, np.ndarray]] = deque()  # frames that wait for their map
    start, previous, last = time.perf_counter(), -1, None

    def step(frame: np.ndarray, number: int) -> None:
        step_start = time.perf_counter()
        try:
            saliency = stream(frame, number)
        except ValueError as error:
            raise ValueError(f"frame {number + 1}: {error}") from error
        now = time.perf_counter()
        figures.seconds.append(now - step_start)
        figures.elapsed, figures.resets = now - start, stream.resets
        while show and waiting and waiting[0][0] <= number - stream.delay:
            shown_number, shown = waiting.popleft()
            show(shown, saliency, shown_number)

    for number, frame in video:
        if show:
            waiting.append((number, frame))
        figures.frames, figures.dropped = figures.frames + 1, figures.dropped + number - previous - 1
        previous, last = number, frame
        step(frame, number)
    if last is not None:  # flush the delayed maps by repeating the last frame
        for extra in range(1, stream.delay + 1):
            step(last, previous + extra)
    return figures


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0; 2 for invalid input; 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(prog="edge.py", description="Run an exported student on a video or camera.")
    parser.add_argument("model", help="exported model, e.g. student.onnx")
    parser.add_argument("video", help="video file, folder of images, or camera (number, device or address)")
    parser.add_argument("-o", "--out", type=Path, help="overlay video to write (.mp4)")
    parser.add_argument("--maps", type=Path, help="folder to write every map to, as (h, w) float32 .npy")
    parser.add_argument("--csv", type=Path, help="table to write, one row per frame: peak, centre, spread, ...")
    parser.add_argument("--show", action="store_true", help="show the overlay in a window; q closes it")
    parser.add_argument("--live", action="store_true", help="play a file at its frame rate and drop frames")
    parser.add_argument("--threads", type=int, help="threads of the network (default: ONNX Runtime's choice)")
    parser.add_argument("--fps", type=float, help="frames per second (default: the source's, or 30 if unknown)")
    parser.add_argument("--stride", help="distance between frames: 2, or 25fps (default: as in training)")
    parser.add_argument("--cuts", default=str(CUT), help="threshold of scene cuts, or off (default: %(default)s)")
    options = parser.parse_args(arguments)
    figures, code = Figures(), 0
    try:
        with ExitStack() as stack:
            _run(options, figures, stack)
    except WindowClosed:
        pass
    except OSError as error:
        print(f"edge.py: {error.filename or options.out}: {error.strerror or error}", file=sys.stderr)
        code = 2
    except ValueError as error:
        print(f"edge.py: {error}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("edge.py: interrupted", file=sys.stderr)
        code = 130
    if figures.frames:
        print(figures)
    return code


def _with_progress(video: Iterable[tuple[int, np.ndarray]], figures: Figures) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the frames, and print progress once per second if standard error is a terminal."""
    printed = time.monotonic()
    for each in video:
        yield each
        if sys.stderr.isatty() and time.monotonic() - printed > 1:
            printed, rate = time.monotonic(), figures.frames / figures.elapsed
            print(
                f"\r{figures.frames} frames, {rate:.1f} per second, {figures.dropped} dropped ",
                end="",
                file=sys.stderr,
            )


def _run(options: argparse.Namespace, figures: Figures, stack: ExitStack) -> None:
    """Run the command with parsed options."""
    for path in (options.out, options.maps, options.csv):
        if path and path.exists():
            raise ValueError(f"{path}: already exists; choose another name or remove it")
        if path and not path.parent.is_dir():
            raise ValueError(f"{path}: folder {path.parent} does not exist; create it or choose another path")
    for name, value, most in (("--threads", options.threads, MAX_THREADS), ("--fps", options.fps, MAX_FPS)):
        if value is not None and not 0 < value <= most:  # NaN fails too
            raise ValueError(f"{name} {value:g}: expected a positive number up to {most}")
    if options.cuts != "off" and not re.fullmatch(r"[0-9]{0,9}\.?[0-9]{1,9}", options.cuts):
        raise ValueError(f"--cuts {options.cuts}: expected a number such as {CUT}, or off")
    os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")  # its warnings only repeat what its return values say
    model, camera = EdgeModel(options.model, options.threads), is_camera(options.video)
    fps, frames = open_camera(options.video) if camera else open_video(options.video)
    fps = options.fps or fps
    stream = Stream(model, options.stride, fps, None if options.cuts == "off" else float(options.cuts))
    video: Iterable[tuple[int, np.ndarray]] = enumerate(frames)
    if camera or options.live:
        video = stack.enter_context(closing(live(frames, None if camera else fps)))
    sinks: list[Writer | Window] = []
    if options.show:
        sinks.append(stack.enter_context(closing(Window(f"{model.path.name}: {options.video}"))))

    table = stack.enter_context(closing(Table(options.csv, fps))) if options.csv else None

    def show(frame: np.ndarray, saliency: np.ndarray, number: int) -> None:
        if table:
            table.write(saliency, (frame.shape[0], frame.shape[1]), number, stream.resets)
        if options.maps:
            options.maps.mkdir(exist_ok=True)  # here, so that a model without a valid map writes nothing
            content = io.BytesIO()  # numpy turns a Ctrl-C while it writes to a file into a TypeError
            np.save(content, saliency)
            (options.maps / f"{number:06d}.npy").write_bytes(content.getvalue())
        if options.out and not any(isinstance(sink, Writer) for sink in sinks):
            writer = Writer(options.out, (frame.shape[0], frame.shape[1]), fps)
            sinks.insert(0, stack.enter_context(closing(writer)))
        painted = overlay(frame, saliency) if sinks else frame
        for sink in sinks:
            sink.write(painted, number)

    wanted = options.out or options.show or options.maps or options.csv
    run(stream, _with_progress(video, figures), show if wanted else None, figures)
    if not figures.frames:
        raise ValueError(f"{options.video}: no frames found; expected a video, a folder of images or a camera")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stop a service like Ctrl-C
    sys.exit(main())
