"""How frames of another aspect ratio fill a network's input, and how its maps become maps of whole frames again.

    stretch    the frame is scaled to the input without its aspect ratio
    letterbox  the frame is scaled in its aspect ratio to fit inside the input, and centred on grey
    crop       the frame is scaled in its aspect ratio to cover the input, which shows its centre

A network has its fit as the attribute `fit`; one without it stretches. Frames are read at `content_size` and placed
on the input by `place`. `unfit` brings the network's raw maps back to the whole frame, so that everything after it
(losses, metrics, target stores, files) sees maps of whole frames for every fit. With `stretch` all of this does
nothing.

student/edge.py and student/browser/fit.js do the same without PyTorch.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from distill.data.augment import crop_values
from distill.data.video.protocol import VideoReader
from distill.saliency import log_density

FITS = ("stretch", "letterbox", "crop")

PADDING = 128
"""Value of red, green and blue around the frame, in 0 to 255."""

MAX_ASPECT = 8
"""Limit of `crop`: content is at most this many times as long as the input; longer frames are squeezed."""

Size = tuple[int, int]


def fit_of(network: object) -> str:
    """Return the fit of a network; `stretch` if it has none, as exported files and test networks may."""
    return str(getattr(network, "fit", "stretch"))


def content_size(fit: str, frame: Size, size: Size) -> Size:
    """Return (height, width) in pixels of the input to which a frame is scaled.

    Args:
        fit: name in FITS.
        frame: (height, width) of the frame.
        size: (H, W) of the input.

    Returns:
        `size` for stretch; at most `size` along each side for letterbox, at least 1; at least `size` for crop.
    """
    (height, width), (H, W) = frame, size
    if fit == "stretch":
        return size
    taller = height * W > width * H  # than the input
    if taller == (fit == "letterbox"):  # the height of the content is that of the input
        return H, min(max(1, (2 * width * H + height) // (2 * height)), MAX_ASPECT * W)
    return min(max(1, (2 * height * W + width) // (2 * width)), MAX_ASPECT * H), W


def fit_box(fit: str, frame: Size, size: Size) -> tuple[float, float, float, float]:
    """Return where a frame lies in the input: top, left, height and width relative to the input.

    The box is inside the input for letterbox and around it for crop. For the arguments see `content_size`.
    """
    (h, w), (H, W) = content_size(fit, frame, size), size
    return ((H - h) // 2) / H, ((W - w) // 2) / W, h / H, w / W


def place(images: Tensor, size: Size) -> Tensor:
    """Return content (..., h, w), uint8, on an input (..., H, W): centred, padded with grey or cropped."""
    (h, w), (H, W) = images.shape[-2:], size
    if (h, w) == (H, W):
        return images
    top, left = (H - h) // 2, (W - w) // 2  # negative to crop
    return F.pad(images, (left, W - w - left, top, H - h - top), value=PADDING)


def read_placed(reader: VideoReader, frames: Sequence[int], fit: str, size: Size) -> Tensor:
    """Return frames of a video on inputs (n, 3, H, W) uint8 of a network with this fit and size."""
    content = reader.read(frames, size if fit == "stretch" else content_size(fit, reader.size, size))
    return place(torch.from_numpy(content).movedim(-1, 1), size)


def unfit(log_saliency: Tensor, boxes: Tensor) -> Tensor:
    """Return raw maps of inputs as maps of the whole frames, at the same map size.

    Interpolates densities (bilinear) rather than their logarithms. Padding gets no probability. For crop, the parts
    of the frame outside the input get the smallest normal number, and no gradient.

    Args:
        log_saliency: (B, N, h, w), the raw maps.
        boxes: (B, 4) from `fit_box`.

    Returns:
        (B, N, h, w) log-saliency: the logarithm of a density that sums to 1, float32 or float64.
    """
    log_saliency = log_saliency.float() if log_saliency.dtype in (torch.float16, torch.bfloat16) else log_saliency
    # a detached scale leaves the gradient exact, because the result is normalised
    peak = (log_saliency - log_saliency.detach().amax(dim=(-2, -1), keepdim=True)).exp()
    whole = crop_values(peak, boxes)
    tiny = torch.finfo(whole.dtype).tiny
    outside = _outside(boxes.to(whole), (whole.shape[-2], whole.shape[-1]))
    # normalised over the visible part, so that a loss outside it has no gradient
    inside = log_density(whole.clamp_min(tiny).log().masked_fill(outside, -math.inf))
    return inside.masked_fill(outside, math.log(tiny))


def unfit_features(features: Tensor, boxes: Tensor) -> Tensor:
    """Return features (B, C, [t,] h, w) of inputs as features of the whole frames; beyond the input, its border.

    Half precision becomes float32, because it would move the boxes.
    """
    planes = features.flatten(1, -3)  # (B, C * t, h, w)
    planes = planes.float() if planes.dtype in (torch.float16, torch.bfloat16) else planes
    return crop_values(planes, boxes).reshape(features.shape)


def _outside(boxes: Tensor, size: Size) -> Tensor:
    """Return which pixels (B, 1, h, w) of whole frames lie outside the input, given boxes (B, 4)."""
    top, left, height, width = boxes.unbind(1)
    rows, columns = (
        first[:, None] + length[:, None] * ((torch.arange(count, device=boxes.device) + 0.5) / count)
        for first, length, count in ((top, height, size[0]), (left, width, size[1]))
    )
    beyond = [(place < 0) | (place > 1) for place in (rows, columns)]
    return (beyond[0][:, :, None] | beyond[1][:, None, :])[:, None]
