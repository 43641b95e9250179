"""Maps of a video as arrays, for use from Python: `distill.load` and `Predictor`.

import distill

model = distill.load("stream-small")
maps = model.predict("video.mp4")  # (frames, h, w), float32 in [0, 1]
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from distill.data.video.array_reader import ArrayReader
from distill.data.video.open import open_video
from distill.data.video.protocol import VideoReader
from distill.errors import UserError
from distill.inference.overlay import resize_map
from distill.inference.runtime import MIN_FRAMES, Running, run_in
from distill.inference.settings import InferenceSettings
from distill.inference.sliding_window import slide
from distill.limits import MAX_PREDICTION_BYTES
from distill.models.loaded import LoadedModel
from distill.models.pretrained import DEFAULT_MODEL
from distill.models.protocols import SaliencyModel
from distill.models.references import load_model
from distill.saliency import density, peak_map, resize_density

Size = Literal["map", "video"] | tuple[int, int]
"""Size of the returned maps: the model's own, the video's, or (height, width)."""

VALUES = ("peak", "density")
"""What the returned maps hold: saliency scaled to a maximum of 1 per map, or probabilities that sum to 1."""


class Predictor:
    """A model and how it runs.

    Args:
        model: the model.
        settings: how it runs; by default at the stride of its training, on the network's device, in the runtime
            `auto`.

    Attributes:
        network: the network (`torch.nn.Module`): clips (B, 3, T, H, W) to log-saliency (B, N, h, w).
        map_size: (h, w) of its maps.
    """

    def __init__(
        self, model: LoadedModel, settings: InferenceSettings = InferenceSettings(stride=None, runtime="auto")
    ) -> None:
        self.model, self.settings = model, settings.for_model(model)
        self.network: SaliencyModel = model.network
        self.map_size = self.network.map_size
        self._running: Running | None = None
        self._chosen_for: tuple[list[tuple[int, int]], bool] = ([], False)  # versions of the weights; many frames

    def __repr__(self) -> str:
        size = "x".join(map(str, self.network.size))
        return f"Predictor({self.model.reference!r}: frames of {size}, maps of {'x'.join(map(str, self.map_size))})"

    def predict(self, video: str | Path | np.ndarray, *, size: Size = "map", values: str = "peak") -> np.ndarray:
        """Predict the map of every frame of a video.

        Args:
            video: a video file, a folder of frames, an image, or frames (n, H, W, 3) uint8 RGB; (H, W, 3) is a
                single frame.
            size: "map" for the model's own size, "video" for the video's, or (height, width).
            values: "peak" for maps scaled to a maximum of 1 before they are resized, the values of the files that
                `saldistill predict --maps` writes; "density" for probabilities, where each map sums to 1.

        Returns:
            (frames, h, w) float32.

        Raises:
            UserError: if the video cannot be read, an argument is invalid, or the maps would take more than
                MAX_PREDICTION_BYTES; `iterate` has no such limit.
        """
        reader = _reader(video)
        shape = (reader.num_frames, *self._map_size(reader, size))
        if (needed := 4 * shape[0] * shape[1] * shape[2]) > MAX_PREDICTION_BYTES:
            raise UserError(
                f"{_name(video)}: {shape[0]} maps of {shape[1]}x{shape[2]} would take {needed / 2**30:.1f} GiB, "
                f"over the limit of {MAX_PREDICTION_BYTES / 2**30:g} GiB; use iterate(), or size='map'"
            )
        maps = np.empty(shape, dtype=np.float32)
        for number, saliency in enumerate(self._maps(reader, size, values)):
            maps[number] = saliency
        return maps

    def iterate(
        self, video: str | Path | np.ndarray, *, size: Size = "map", values: str = "peak"
    ) -> Iterator[np.ndarray]:
        """Yield the map (h, w) of one frame after the other; arguments as `predict`. For long videos."""
        return self._maps(_reader(video), size, values)

    def _maps(self, reader: VideoReader, size: Size, values: str) -> Iterator[np.ndarray]:
        if values not in VALUES:
            raise UserError(f"values: expected one of {', '.join(VALUES)}, got {values!r}")
        shape = self._map_size(reader, size)

        def maps() -> Iterator[np.ndarray]:
            running = self._run(reader)
            for _, log_saliency in slide(running.network, reader, range(reader.num_frames), running.settings):
                if values == "density":
                    yield from resize_density(density(log_saliency)[:, None], shape)[:, 0].numpy()
                else:
                    yield from (resize_map(peak_map(each), shape) for each in log_saliency.numpy())

        return maps()

    def _run(self, reader: VideoReader) -> Running:
        """Return the network in its runtime, chosen again if its weights changed or a video has more frames."""
        versions, many = _versions(self.network), reader.num_frames >= MIN_FRAMES
        before, was_many = self._chosen_for
        if self._running is None or versions != before or many > was_many:
            self._running = run_in(self.model, self.settings, frames=reader.num_frames, example=reader)
            self._chosen_for = versions, many
        return self._running

    def _map_size(self, reader: VideoReader, size: Size) -> tuple[int, int]:
        if size == "map":
            return self.map_size
        if size == "video":
            return reader.size
        if not isinstance(size, tuple) or len(size) != 2 or min(size) < 1:
            raise UserError(f"size: expected 'map', 'video' or (height, width), got {size!r}")
        return size


def load(model: str | Path = DEFAULT_MODEL, *, device: str | torch.device = "auto") -> Predictor:
    """Load a model to predict videos with.

    Args:
        model: a pretrained model, such as `stream-small` or `stream-nano`, a run folder, a weight file, or an
            exported .onnx file.
        device: device to run on; `auto` for a GPU if there is one.

    Raises:
        UserError: if there is no such model or device.
    """
    settings = InferenceSettings(stride=None, device=device, runtime="auto")
    return Predictor(load_model(model, device=settings.device or "cpu"), settings)


def _versions(network: SaliencyModel) -> list[tuple[int, int]]:
    """Return what changes if a network's weights are replaced or changed in place."""
    tensors = network.state_dict().values()
    return [(tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version) for tensor in tensors]


def _reader(video: str | Path | np.ndarray) -> VideoReader:
    return open_video(video) if isinstance(video, str | Path) else ArrayReader(np.asarray(video))


def _name(video: str | Path | np.ndarray) -> str:
    return str(video) if isinstance(video, str | Path) else "frames"
