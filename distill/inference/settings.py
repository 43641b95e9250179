"""Inference settings: stride, batch size, device, precision and the handling of the first frames."""

from dataclasses import dataclass, replace

import torch

from distill.errors import UserError
from distill.models.device import check_precision, resolve_device
from distill.models.loaded import LoadedModel
from distill.stride import Stride, read_stride, step_of

FIRST_FRAMES = ("repeat", "flip")
"""How a clip that starts before the video is filled: with the first frame, or with the next frames in reverse."""


@dataclass(frozen=True)
class InferenceSettings:
    """Settings for running a model over a video.

    Attributes:
        stride: distance of a clip's frames in the video, in frames (2) or as a rate ("30fps"). None means the
            training stride of the model, see `for_model`.
        batch_size: maps computed at a time; for a streaming model also the limit of frames per call.
        device: device to run on, `auto` for a GPU if there is one; None means the network's device.
        precision: name in PRECISIONS.
        first_frames: name in FIRST_FRAMES.

    Raises:
        UserError: naming the setting and the accepted values.
    """

    stride: Stride | None = 1
    batch_size: int = 8
    device: str | torch.device | None = None
    precision: str = "fp32"
    first_frames: str = "repeat"

    def __post_init__(self) -> None:
        if self.stride is not None:
            try:
                object.__setattr__(self, "stride", read_stride(self.stride))
            except UserError as error:
                raise UserError(f"stride: {error}") from None
        if self.batch_size < 1:
            raise UserError(f"batch_size: expected at least 1, got {self.batch_size}")
        if isinstance(self.device, str):
            object.__setattr__(self, "device", resolve_device(self.device))
        check_precision(self.precision)
        if self.first_frames not in FIRST_FRAMES:
            raise UserError(f"first_frames: expected one of {', '.join(FIRST_FRAMES)}, got {self.first_frames!r}")

    def for_model(self, model: LoadedModel) -> "InferenceSettings":
        """Return these settings, with the model's training stride if `stride` is None."""
        return replace(self, stride=model.stride) if self.stride is None else self

    def step(self, fps: float) -> float:
        """Return the average distance of a clip's frames in frames of a video of `fps`.

        Raises:
            UserError: if the stride is None.
        """
        if self.stride is None:
            raise UserError("stride: expected a stride, got None; settings.for_model(model) sets the model's")
        return step_of(self.stride, fps)
