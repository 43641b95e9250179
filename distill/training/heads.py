"""Distillation heads: projections for hints and side maps, read from a model's features by name.

A hint compares the model's features with the teacher's. A learned projection matches the channels, and both are
averaged to the coarser of the two grids. A side map is a saliency map predicted from intermediate features, and is
compared like the model's own map.

Features are (B, C, t, h, w), or (B, C, h, w) if the model has reduced time. At any resolution, their grid spans the
full clip and the full frame.

Sources: Romero et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015 (hints); Hu et al., "TinyHD: Efficient Video
Saliency Prediction with Heterogeneous Decoders using Hierarchical Maps Distillation", WACV 2023 (side maps).
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.data.clips import ClipSpec
from distill.data.fit import unfit, unfit_features
from distill.errors import UserError
from distill.models.loaded import LoadedModel
from distill.models.onnx import OnnxModel
from distill.models.protocols import SaliencyModel
from distill.models.registry import rebuild
from distill.stride import step_of
from distill.training.losses import resize_features, with_time


def last_part(features: Tensor, fraction: float) -> Tensor:
    """Return the last fraction of the frames of features (B, C, t, h, w); (B, C, h, w) are returned unchanged."""
    if features.ndim == 4:
        return features
    return features[:, :, -count_frames(features.shape[2], fraction) :]


def count_frames(frames: int, fraction: float) -> int:
    """Return a fraction of a number of frames, rounded, at least 1."""
    return max(1, round(frames * fraction))


class Projection(nn.Module):
    """Projection of the model's features to the teacher's: crop to shared frames, average, 1x1x1 convolution.

    Args:
        feature: name of the model's features.
        shape: their shape without the batch, (C, t, h, w) or (C, h, w).
        teacher: shape of the teacher's features of its full clip.
        fractions: fraction of the model's clip and of the teacher's, from the end, that both clips show.
    """

    def __init__(
        self, feature: str, shape: tuple[int, ...], teacher: tuple[int, ...], fractions: tuple[float, float]
    ) -> None:
        super().__init__()
        self.feature, self.fraction = feature, fractions[0]
        frames = [
            count_frames(each[1], fraction) if len(each) == 4 else 1
            for each, fraction in zip((shape, teacher), fractions, strict=True)
        ]
        pixels = [min(sides) for sides in zip(shape[-2:], teacher[-2:], strict=True)]
        self.size = (min(frames), *pixels)
        self.convolution = nn.Conv3d(shape[0], teacher[0], 1)

    def forward(self, features: Tensor) -> Tensor:
        """Return the projected features (B, C of the teacher, t, h, w)."""
        return self.convolution(resize_features(last_part(features, self.fraction), self.size))

    def unfit(self, projected: Tensor, boxes: Tensor) -> Tensor:
        """Return the projected features of inputs as those of whole frames; see `fit.unfit_features`."""
        return unfit_features(projected, boxes)


class SideMap(nn.Module):
    """Saliency map predicted from features: a (t, 1, 1) convolution over all frames, resized to the model's map.

    Args:
        feature: name of the model's features.
        shape: their shape without the batch, (C, t, h, w) or (C, h, w).
        maps: N, number of maps per clip.
        size: (h, w) of the model's map.
    """

    def __init__(self, feature: str, shape: tuple[int, ...], *, maps: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.feature, self.size = feature, size
        frames = shape[1] if len(shape) == 4 else 1
        # no bias: log-saliency is defined up to a constant
        self.convolution = nn.Conv3d(shape[0], maps, (frames, 1, 1), bias=False)
        nn.init.trunc_normal_(self.convolution.weight, std=0.01)  # the first maps are nearly uniform

    def forward(self, features: Tensor) -> Tensor:
        """Return log-saliency (B, N, h, w)."""
        logits = self.convolution(with_time(features)).squeeze(2).float()  # (B, N, ., .)
        return F.interpolate(logits, size=self.size, mode="bilinear", align_corners=False, antialias=True)

    def unfit(self, log_saliency: Tensor, boxes: Tensor) -> Tensor:
        """Return the maps of inputs as maps of whole frames; see `fit.unfit`."""
        return unfit(log_saliency, boxes)


class Learner(nn.Module):
    """A model and its heads as one module, to train, replicate or shard together.

    Args:
        model: the model.
        heads: heads by name; `head.feature` names the features that a head reads.
    """

    def __init__(self, model: SaliencyModel, heads: Mapping[str, nn.Module] | None = None) -> None:
        super().__init__()
        self.model = model
        self.heads = nn.ModuleDict(heads)
        self.encoder_layers = tuple(f"model.{name}" for name in model.encoder_layers)

    def forward(self, clip: Tensor, boxes: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the model's log-saliency (B, N, h, w), and the heads' outputs from the same features.

        Args:
            clip: (B, 3, T, H, W).
            boxes: where the frames lie in the clips, (B, 4) from `fit.fit_box`, to return the outputs of whole
                frames; None if they fill the clips.
        """
        if not self.heads:
            maps, outputs = self.model(clip), {}
        else:
            features = self.model.forward_features(clip)
            outputs = {name: head(features[str(head.feature)]) for name, head in self.heads.items()}
            maps = self.model.forward_head(features)
        if boxes is None:
            return maps, outputs
        whole = {name: self.heads[name].unfit(output, boxes) for name, output in outputs.items()}  # type: ignore[operator]
        return unfit(maps, boxes), whole


def feature_shapes(model: LoadedModel) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a model's features by name, without the batch: (C, t, h, w) or (C, h, w).

    They are computed with a copy of the model on the meta device, which takes almost no memory or time.

    Raises:
        UserError: the model is an exported file, which has no named features.
    """
    if isinstance(model.network, OnnxModel):
        raise UserError(f"{model.reference}: an exported model has no named features; use the model it came from")
    with torch.device("meta"), torch.no_grad():
        network = rebuild(model.identity).network.eval()
        features = network.forward_features(torch.zeros(1, 3, network.num_frames, *network.size))
    return {name: tuple(value.shape[1:]) for name, value in features.items()}


def feature_shape(feature: str, shapes: Mapping[str, tuple[int, ...]], owner: str) -> tuple[int, ...]:
    """Return the shape of features by name.

    Args:
        feature: name of the features.
        shapes: name -> shape.
        owner: model to name in errors.

    Raises:
        UserError: there are no such features; the error lists the existing ones.
    """
    if feature not in shapes:
        raise UserError(f"{owner} has no features '{feature}'; expected one of {', '.join(shapes)}")
    return shapes[feature]


def shared_fractions(student: ClipSpec, teacher: ClipSpec, rates: Iterable[float]) -> tuple[float, float]:
    """Return the fraction of each clip, from its end, that the other clip also shows; one of the two is 1.

    Args:
        student: the student's clips.
        teacher: the teacher's clips.
        rates: frame rates of the videos, in frames per second.

    Raises:
        UserError: the fractions differ between videos, as they do if one stride is in frames and the other in
            frames per second.
    """
    lengths = [[spec.num_frames * step_of(spec.stride, fps) for spec in (student, teacher)] for fps in rates]
    fractions = {tuple(round(min(pair) / length, 6) for length in pair) for pair in lengths}
    if len(fractions) > 1:
        raise UserError(
            f"data.stride {student.stride} and teacher.stride {teacher.stride}: the overlap of the clips depends "
            "on the video's frame rate, and a hint needs a constant one; give both in frames or both as a rate"
        )
    first, second = fractions.pop()
    return first, second
