"""Run an exported student without PyTorch: numpy and onnxruntime, and PyAV or OpenCV to open a video.

    python edge.py student.onnx VIDEO_OR_FOLDER [-o overlay.mp4] [--threads N]

One file that works alone: copy it to the device beside the .onnx file. In a program:

    model = EdgeModel("student.onnx", threads=2)
    stream = Stream(model)
    for frame in camera:              # (height, width, 3) uint8 RGB, any size
        saliency = stream(frame)      # (h, w) float32 in [0, 1]; its largest value is 1

The .onnx file says what it is, as JSON under the metadata key "saldistill": frames, size, target frames, map size,
input and output. Whoever writes this in another language needs no more than that and the two tensors: `clip`, uint8
(batch, 3, frames, height, width) RGB, and `saliency`, float32 (batch, targets, h, w).
"""

import argparse
import importlib
import json
import re
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

METADATA_KEY = "saldistill"
IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")


class EdgeModel:
    """An exported model, run by ONNX Runtime.

    Args:
        path: the .onnx file (its .data file, where there is one, lies beside it).
        threads: threads of one call; ONNX Runtime's choice when None.
        providers: ONNX Runtime execution providers, in order of preference; the CPU alone when None.

    Attributes:
        num_frames: T, frames of a clip.
        size: (H, W) of a clip's frames.
        target_frames: which of the T frames get a map, N of them.
        map_size: (h, w) of the maps.
        metadata: everything the file says about itself.

    Raises:
        ValueError: no such file, not an ONNX file, or not one that this project exported.
    """

    def __init__(
        self, path: str | Path, threads: int | None = None, providers: Sequence[str] | None = None
    ) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise ValueError(f"{path}: no such file; expected a model exported to ONNX")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors only: its warnings are about its own optimiser
        if threads is not None:
            options.intra_op_num_threads = int(threads)
            options.inter_op_num_threads = 1
        try:
            self.session = onnxruntime.InferenceSession(
                str(self.path), options, providers=list(providers or ["CPUExecutionProvider"])
            )
        except Exception as error:  # ONNX Runtime's exceptions share no base class of their own
            first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ValueError(f"{path}: ONNX Runtime cannot load it: {first_line}") from error
        self.metadata = read_metadata(self.session.get_modelmeta().custom_metadata_map, self.path)
        self.num_frames = int(self.metadata["frames"])
        self.size = (int(self.metadata["size"][0]), int(self.metadata["size"][1]))
        self.target_frames = tuple(int(frame) for frame in self.metadata["target_frames"])
        self.map_size = (int(self.metadata["map_size"][0]), int(self.metadata["map_size"][1]))
        self._input_type = self.metadata["input"]["type"]
        self._log = self.metadata["output"]["values"] == "log"

    def __call__(self, clip: np.ndarray) -> np.ndarray:
        """Return the saliency maps of clips.

        Args:
            clip: (B, 3, T, H, W) uint8 RGB.

        Returns:
            (B, N, h, w) float32 in [0, 1]. Each map's maximum is 1, unless the file was exported with the
            network's own sigmoid; a constant map gives all ones.

        Raises:
            ValueError: a clip of another type or shape.
        """
        expected = (3, self.num_frames, *self.size)
        if clip.dtype != np.uint8 or clip.ndim != 5 or clip.shape[1:] != expected or len(clip) == 0:
            raise ValueError(
                f"{self.path.name} takes uint8 clips of shape (batch, {', '.join(map(str, expected))}), that is "
                f"(batch, RGB, frames, height, width); got {clip.dtype} of shape {clip.shape}"
            )
        if self._input_type == "float32":
            clip = clip.astype(np.float32) / np.float32(255)
        (maps,) = self.session.run(["saliency"], {"clip": np.ascontiguousarray(clip)})
        if self._log:
            maps = np.exp(maps - maps.max(axis=(-2, -1), keepdims=True))
        return np.clip(maps, 0.0, 1.0, dtype=np.float32)


def read_metadata(properties: dict[str, str], path: Path) -> dict[str, Any]:
    """Return what an exported file says about itself.

    Raises:
        ValueError: the file was not written by this project's export, or by one that this runner does not know.
    """
    if METADATA_KEY not in properties:
        raise ValueError(
            f'{path}: an ONNX file of something else (it has no "{METADATA_KEY}" metadata); expected one that '
            "`saldistill export` wrote"
        )
    try:
        metadata = json.loads(properties[METADATA_KEY])
        known = metadata["format"] == 1 and metadata["mode"] == "clip"
        _ = metadata["frames"], metadata["size"], metadata["target_frames"], metadata["map_size"]
        _ = metadata["input"]["type"], metadata["output"]["values"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f'{path}: its "{METADATA_KEY}" metadata is broken; export it again') from error
    if not known:
        raise ValueError(
            f"{path}: written in format {metadata['format']}, mode {metadata['mode']!r}; this runner knows format "
            "1, mode 'clip': use the edge.py of the same version as the export"
        )
    return metadata


class Stream:
    """The last T frames of a video, and the map of each new one.

    Before the first frame there are copies of it, so that a map comes with the very first frame.

    Args:
        model: an `EdgeModel`.
        stride: distance in the video between neighbouring frames of a clip, as in training.

    Attributes:
        delay: how many frames ago the frame of the returned map came: 0 for a model that predicts its last frame.
    """

    def __init__(self, model: EdgeModel, stride: int = 1) -> None:
        if stride < 1:
            raise ValueError(f"stride must be at least 1, got {stride}")
        self.model, self.stride = model, stride
        self.delay = (model.num_frames - 1 - model.target_frames[-1]) * stride
        self._length = (model.num_frames - 1) * stride + 1
        self._frames: deque[np.ndarray] = deque(maxlen=self._length)
        self._clip = np.empty((1, 3, model.num_frames, *model.size), dtype=np.uint8)

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        """Take the next frame, (height, width, 3) uint8 RGB of any size; return a map (h, w) in [0, 1]."""
        image = resize(frame, self.model.size).transpose(2, 0, 1)  # (3, H, W)
        self._frames.extend([image] * (1 if self._frames else self._length))
        for place in range(self.model.num_frames):
            self._clip[0, :, place] = self._frames[place * self.stride]
        return self.model(self._clip)[0, -1]

    def reset(self) -> None:
        """Forget the past: the next frame is a first frame."""
        self._frames.clear()


def resize(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize a frame (height, width, 3) uint8 RGB to `size`: bicubic and antialiased, as in training.

    PyAV does it where it is installed, else OpenCV (by areas), else numpy, which is exact but slower.

    Raises:
        ValueError: a frame of another type or shape.
    """
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or frame.size == 0:
        raise ValueError(
            f"a frame is uint8 RGB of shape (height, width, 3); got {frame.dtype} of shape {frame.shape}"
        )
    if frame.shape[:2] == tuple(size):
        return frame
    if av := _optional("av"):
        image = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        scaled: np.ndarray = image.reformat(width=size[1], height=size[0], interpolation="BICUBIC").to_ndarray()
        return scaled
    if cv2 := _optional("cv2"):
        way = cv2.INTER_AREA if size[0] < frame.shape[0] else cv2.INTER_CUBIC
        area: np.ndarray = cv2.resize(frame, (size[1], size[0]), interpolation=way)
        return area
    rows, columns = (_cubic(old, new) for old, new in zip(frame.shape[:2], size, strict=True))
    height, width = frame.shape[:2]
    values = (rows @ frame.reshape(height, -1).astype(np.float32)).reshape(size[0], width, 3)
    return np.clip(np.rint(columns @ values), 0, 255).astype(np.uint8)


def _cubic(old: int, new: int) -> np.ndarray:
    """Return the matrix (new, old) that resizes one axis by the cubic kernel (a = -0.5), widened to shrink."""
    scale = max(old / new, 1.0)
    centres = (np.arange(new) + 0.5) * old / new - 0.5
    x = np.abs(centres[:, None] - np.arange(old)) / scale
    near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    weights = np.where(x < 1, near, np.where(x < 2, far, 0.0))
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


_modules: dict[str, Any] = {}


def _optional(name: str) -> Any:
    """Return a module, or None where it is not installed; looked for once."""
    if name not in _modules:
        try:
            _modules[name] = importlib.import_module(name)
        except ImportError:
            _modules[name] = None
    return _modules[name]


def open_video(path: str | Path) -> tuple[float, Iterator[np.ndarray]]:
    """Open a video file or a folder of images (in numeric order) with what is installed.

    Returns:
        Frames a second (30 for a folder), and the frames one by one: (height, width, 3) uint8 RGB, upright. After
        the last frame of a video that is cut off, they raise a ValueError (with OpenCV they just end).

    Raises:
        ValueError: nothing there, no image in the folder, no video in the file, or neither PyAV nor OpenCV.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(f"{path}: no such video file or folder")
    files = _images(path) if path.is_dir() else [path]
    if not files:
        raise ValueError(f"{path}: no image in this folder; expected files ending in {', '.join(IMAGES)}")
    if not (_optional("av") or _optional("cv2")):
        raise ValueError("opening a video needs PyAV (pip install av) or OpenCV; neither is installed")
    open_one = _open_av if _optional("av") else _open_cv2
    if not path.is_dir():
        return open_one(path)
    return 30.0, (frame for file in files for frame in open_one(file)[1])


def _open_av(path: Path) -> tuple[float, Iterator[np.ndarray]]:
    av = _optional("av")
    try:
        container = av.open(str(path))
    except (av.FFmpegError, OSError) as error:
        raise ValueError(f"{path}: cannot be opened as a video ({error.strerror})") from error
    if not container.streams.video:
        raise ValueError(f"{path}: there is no picture in it; expected a video or a folder of images")
    stream = container.streams.video[0]
    stream.thread_type = "AUTO"

    def frames() -> Iterator[np.ndarray]:
        there = 0
        with container:
            try:
                for packet in container.demux(stream):
                    there += packet.is_discard  # what an editor cut away is in the file, but not shown
                    for frame in packet.decode():
                        # an AVI counts places, and a place may only repeat the frame before it
                        there = max(there, frame.pts or 0) + 1 if container.format.name == "avi" else there + 1
                        degrees = getattr(frame, "rotation", 0)  # counter-clockwise; an old PyAV does not say
                        turns = degrees // 90 if degrees % 90 == 0 else 0
                        yield np.rot90(frame.to_ndarray(format="rgb24"), turns)
            except av.FFmpegError as error:
                raise ValueError(f"{path}: cannot be decoded any further ({error.strerror})") from error
        _refuse_cut(path, stream.frames, there)

    return float(stream.average_rate or 30), frames()


def _refuse_cut(path: Path, promised: int, there: int) -> None:
    """Compare the frames with the header's number, 0 where it gives none; it is often off by one or two."""
    if promised - there > max(2, 0.01 * promised):
        raise ValueError(
            f"{path}: the video is cut off or damaged: it should have {promised} frames and {there} can be decoded"
        )


def _open_cv2(path: Path) -> tuple[float, Iterator[np.ndarray]]:
    cv2 = _optional("cv2")
    capture = cv2.VideoCapture(str(path))
    if not capture.isOpened():
        raise ValueError(f"{path}: cannot be opened as a video")

    def frames() -> Iterator[np.ndarray]:
        while (found := capture.read())[0]:
            yield found[1][..., ::-1]  # BGR to RGB
        capture.release()

    return float(capture.get(cv2.CAP_PROP_FPS)) or 30.0, frames()


def _images(folder: Path) -> list[Path]:
    def key(path: Path) -> list[tuple[int, str]]:
        return [(int(p), "") if p.isdigit() else (-1, p) for p in re.split(r"(\d+)", path.name) if p]

    found = (p for p in folder.iterdir() if p.suffix.lower() in IMAGES and not p.name.startswith("."))
    return sorted(found, key=key)


HEAT = np.array(
    [
        (0, 0, 4), (33, 12, 74), (87, 16, 110), (138, 34, 106), (188, 55, 84),
        (228, 90, 49), (249, 142, 9), (249, 203, 53), (252, 255, 164),
    ],
    dtype=np.float32,
)  # fmt: skip
"""Nine evenly spaced colours of the "inferno" map, cold to hot."""


def overlay(frame: np.ndarray, saliency: np.ndarray, strength: float = 0.7) -> np.ndarray:
    """Paint a map (h, w) in [0, 1] over a frame (H, W, 3) uint8 as heat: the hotter, the more opaque."""
    grey = np.rint(np.clip(saliency, 0, 1) * 255).astype(np.uint8)
    heat = resize(np.repeat(grey[..., None], 3, axis=2), (frame.shape[0], frame.shape[1]))[..., 0]
    levels = np.linspace(0, len(HEAT) - 1, 256)
    lookup = np.stack([np.interp(levels, range(len(HEAT)), HEAT[:, c]) for c in range(3)], axis=1)
    share = np.linspace(0, 1, 256, dtype=np.float32)
    alpha = (strength * share * (2 - share))[heat][..., None]
    return np.rint(frame * (1 - alpha) + lookup.astype(np.float32)[heat] * alpha).astype(np.uint8)


class Writer:
    """An H.264 video (MPEG-4 part 2 where only OpenCV is installed), playable whenever it is closed."""

    def __init__(self, path: Path, size: tuple[int, int], fps: float) -> None:
        height, width = size[0] // 2 * 2, size[1] // 2 * 2  # video wants even sizes: an odd last line is cut
        self._size, self._even = size, (height, width)
        self._av, self._cv2 = _optional("av"), _optional("cv2")
        if self._av:
            try:
                self._container = self._av.open(str(path), "w")
            except ValueError as error:  # its name ends in what is no video
                raise ValueError(f"{path}: cannot be written as a video; choose a name ending in .mp4") from error
            codec = next(c for c in ("libx264", "h264", "mpeg4") if c in self._av.codecs_available)
            self._stream = self._container.add_stream(codec, rate=Fraction(fps).limit_denominator(1001))
            self._stream.height, self._stream.width, self._stream.pix_fmt = height, width, "yuv420p"
        else:
            code = self._cv2.VideoWriter.fourcc(*"mp4v")
            self._video = self._cv2.VideoWriter(str(path), code, fps, (width, height))
            if not self._video.isOpened():
                raise ValueError(f"{path}: cannot be written as a video")

    def write(self, frame: np.ndarray) -> None:
        """Append one frame, (height, width, 3) uint8 RGB."""
        if frame.shape[:2] != self._size:  # a video that changes its resolution
            frame = resize(frame, self._size)
        frame = np.ascontiguousarray(frame[: self._even[0], : self._even[1]])
        if self._av:
            self._container.mux(self._stream.encode(self._av.VideoFrame.from_ndarray(frame, format="rgb24")))
        else:
            self._video.write(np.ascontiguousarray(frame[..., ::-1]))

    def close(self) -> None:
        """Finish the file."""
        if self._av:
            self._container.mux(self._stream.encode(None))
            self._container.close()
        else:
            self._video.release()


def run(
    stream: Stream,
    video: Iterable[np.ndarray],
    show: Callable[[np.ndarray, np.ndarray], None] | None = None,
    seconds: list[float] | None = None,
) -> list[float]:
    """Send a video through a stream.

    Args:
        stream: where the frames go; decoding is not in its time.
        video: frames, (height, width, 3) uint8 RGB.
        show: is given each frame with its map.
        seconds: a list to append to, for whoever needs the times of a run that was stopped.

    Returns:
        Seconds of each call: resizing, and one pass of the network.

    Raises:
        ValueError: there is no frame.
    """
    waiting: deque[np.ndarray] = deque()  # frames whose map is still to come
    seconds = [] if seconds is None else seconds
    frame, steps = None, 0

    def step(image: np.ndarray) -> None:
        nonlocal steps
        started = time.perf_counter()
        saliency = stream(image)
        seconds.append(time.perf_counter() - started)
        steps += 1
        if steps > stream.delay and show:
            show(waiting.popleft(), saliency)

    for frame in video:
        if show:
            waiting.append(frame)
        step(frame)
    if frame is None:
        raise ValueError("there is no frame in this video")
    for _ in range(stream.delay):  # the last frames' maps, with the last frame repeated
        step(frame)
    return seconds


def report(seconds: Sequence[float], elapsed: float) -> str:
    """Say in one line how many frames were run and how fast."""
    if not seconds:
        return "no frame was run"
    p50, p99 = np.percentile(np.array(seconds) * 1000, [50, 99])
    return (
        f"{len(seconds)} frames in {elapsed:.1f} s: {len(seconds) / elapsed:.1f} frames a second with decoding"
        f" and drawing; latency of a frame p50 {p50:.1f} ms, p99 {p99:.1f} ms"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns its exit code: 0; 2 when the input is wrong; 130 when it was stopped by Ctrl-C."""
    parser = argparse.ArgumentParser(prog="edge.py", description="Run an exported student on a video.")
    parser.add_argument("model", help="the exported model, student.onnx")
    parser.add_argument("video", help="a video file, or a folder of images")
    parser.add_argument("-o", "--out", type=Path, help="write an overlay video here (.mp4)")
    parser.add_argument("--threads", type=int, help="threads of the network; ONNX Runtime's choice by default")
    parser.add_argument("--stride", type=int, default=1, help="frames between a clip's frames, as in training")
    chosen = parser.parse_args(arguments)
    writers: list[Writer] = []
    seconds: list[float] = []
    code, started = 0, time.perf_counter()
    try:
        if chosen.out and chosen.out.exists():
            raise ValueError(f"{chosen.out}: exists already; choose another name or remove it")
        if chosen.out and not chosen.out.parent.is_dir():
            raise ValueError(
                f"{chosen.out}: there is no folder {chosen.out.parent}; make it or choose another place"
            )
        stream = Stream(EdgeModel(chosen.model, chosen.threads), chosen.stride)
        fps, video = open_video(chosen.video)
        with ExitStack() as at_the_end:

            def show(frame: np.ndarray, saliency: np.ndarray) -> None:
                if not writers:
                    writers.append(Writer(chosen.out, (frame.shape[0], frame.shape[1]), fps))
                    at_the_end.callback(writers[0].close)
                writers[0].write(overlay(frame, saliency))

            started = time.perf_counter()
            run(stream, video, show if chosen.out else None, seconds)
    except OSError as error:
        print(f"edge.py: {error.filename or chosen.out}: {error.strerror or error}", file=sys.stderr)
        code = 2
    except ValueError as error:
        print(f"edge.py: {error}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("edge.py: stopped", file=sys.stderr)
        code = 130
    if seconds:
        print(report(seconds, time.perf_counter() - started))
    if writers:
        print(f"overlay: {chosen.out}")
    return code


if __name__ == "__main__":
    sys.exit(main())
