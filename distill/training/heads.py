"""What learns beside a model and is never exported: projections of its features to a teacher's, and side maps.

    learner = Learner(model, {"stage4-encoder": Projection(...), "stage2": SideMap(...)})
    log_saliency, from_heads = learner(clip)

A hint compares features of the model with features of the teacher. The two differ in channels, which a learned
projection bridges, and in size, where both are brought to the coarser of the two grids, so that nothing is made up.
A side map is read from features half way through the model and compared as the model's own map is: with the
teacher's, or with the ground truth.

Features are (B, C, t, h, w), or (B, C, h, w) where a model has done with time. Their grid may be as coarse as it
likes, but it spans the whole clip and the whole frame.

Sources: Romero et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015 (hints); Hu et al., "TinyHD: Efficient Video
Saliency Prediction with Heterogeneous Decoders using Hierarchical Maps Distillation", WACV 2023 (side maps).
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.data.clips import ClipSpec
from distill.errors import UserError
from distill.models.loaded import LoadedModel
from distill.models.onnx import OnnxModel
from distill.models.protocols import SaliencyModel
from distill.models.registry import rebuild
from distill.stride import step_of
from distill.training.losses import resize_features, with_time


def last_part(features: Tensor, share: float) -> Tensor:
    """Cut features (B, C, t, h, w) to the last share of their frames, one at least; without time as they are."""
    if features.ndim == 4:
        return features
    return features[:, :, -last_frames(features.shape[2], share) :]


def last_frames(frames: int, share: float) -> int:
    """Return how many frames the last share of so many is: to the nearest, one at least."""
    return max(1, round(frames * share))


class Projection(nn.Module):
    """Brings the model's features to a teacher's: the frames that both see, averaged, and a 1x1x1 convolution.

    Args:
        feature: name of the model's features.
        shape: theirs, without the batch: (C, t, h, w) or (C, h, w).
        teacher: shape of the teacher's features, of its whole clip.
        shares: of the model's clip and of the teacher's, from the end: what both show.
    """

    def __init__(
        self, feature: str, shape: tuple[int, ...], teacher: tuple[int, ...], shares: tuple[float, float]
    ) -> None:
        super().__init__()
        self.feature, self.share = feature, shares[0]
        frames = [
            last_frames(each[1], share) if len(each) == 4 else 1
            for each, share in zip((shape, teacher), shares, strict=True)
        ]
        pixels = [min(sides) for sides in zip(shape[-2:], teacher[-2:], strict=True)]
        self.size = (min(frames), *pixels)
        self.convolution = nn.Conv3d(shape[0], teacher[0], 1)

    def forward(self, features: Tensor) -> Tensor:
        """Project the model's features to (B, C of the teacher, t, h, w)."""
        return self.convolution(resize_features(last_part(features, self.share), self.size))


class SideMap(nn.Module):
    """Reads a map from features by a convolution of one pixel and all frames, enlarged to the model's map.

    Args:
        feature: name of the model's features.
        shape: theirs, without the batch: (C, t, h, w) or (C, h, w).
        maps: N, maps a clip.
        size: (h, w) of the model's map.
    """

    def __init__(self, feature: str, shape: tuple[int, ...], *, maps: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.feature, self.size = feature, size
        frames = shape[1] if len(shape) == 4 else 1
        self.convolution = nn.Conv3d(
            shape[0], maps, (frames, 1, 1), bias=False
        )  # a constant is no part of a log-map
        nn.init.trunc_normal_(self.convolution.weight, std=0.01)  # the first maps are nearly uniform

    def forward(self, features: Tensor) -> Tensor:
        """Read log-saliency (B, N, h, w)."""
        logits = self.convolution(with_time(features)).squeeze(2).float()  # (B, N, ., .)
        return F.interpolate(logits, size=self.size, mode="bilinear", align_corners=False, antialias=True)


class Learner(nn.Module):
    """A model with its heads: one module, to be trained, copied to several processes, or sharded, as a whole.

    Args:
        model: what is wanted in the end.
        heads: by name; each has the name of the features it reads, `feature`.
    """

    def __init__(self, model: SaliencyModel, heads: Mapping[str, nn.Module] | None = None) -> None:
        super().__init__()
        self.model = model
        self.heads = nn.ModuleDict(heads)
        self.encoder_layers = tuple(f"model.{name}" for name in model.encoder_layers)

    def forward(self, clip: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the model's log-saliency (B, N, h, w), and what each head makes of the same pass."""
        if not self.heads:
            return self.model(clip), {}
        features = self.model.forward_features(clip)
        from_heads = {name: head(features[str(head.feature)]) for name, head in self.heads.items()}
        return self.model.forward_head(features), from_heads


def feature_shapes(model: LoadedModel) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a model's features by name, without the batch: (C, t, h, w) or (C, h, w).

    Found on the meta device, on a model built anew, so that it takes no memory, and the same time for any size.

    Raises:
        UserError: if the model is exported, and shows no features.
    """
    if isinstance(model.network, OnnxModel):
        raise UserError(f"{model.reference}: an exported model shows no features; use the one it came from")
    with torch.device("meta"), torch.no_grad():
        twin = rebuild(model.identity).network.eval()
        features = twin.forward_features(torch.zeros(1, 3, twin.num_frames, *twin.size))
    return {name: tuple(value.shape[1:]) for name, value in features.items()}


def shape_of(feature: str, shapes: Mapping[str, tuple[int, ...]], whose: str) -> tuple[int, ...]:
    """Return the shape of features by their name.

    Raises:
        UserError: if there are none of this name; it says whose they would be, and lists what there is.
    """
    if feature not in shapes:
        raise UserError(f"{whose} has no features '{feature}'; there are {', '.join(shapes)}")
    return shapes[feature]


def shares_in_common(student: ClipSpec, teacher: ClipSpec, rates: Iterable[float]) -> tuple[float, float]:
    """Return the share of each one's clip, from its end, that the other's clip shows as well; one of them is 1.

    Args:
        student: what the student sees.
        teacher: what the teacher sees.
        rates: frames a second of the videos.

    Raises:
        UserError: if the shares change from video to video, as they do when one clip's stride is in frames and the
            other's in frames a second.
    """
    lengths = [[spec.num_frames * step_of(spec.stride, fps) for spec in (student, teacher)] for fps in rates]
    shares = {tuple(round(min(pair) / length, 6) for length in pair) for pair in lengths}
    if len(shares) > 1:
        raise UserError(
            f"data.stride {student.stride} and teacher.stride {teacher.stride}: how much of the student's clip the "
            "teacher sees changes with the video's frame rate, and a hint needs it to be one; give both strides in "
            "frames or both as a rate"
        )
    first, second = shares.pop()
    return first, second
