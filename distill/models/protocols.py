"""The model contract: the members of a network that the toolkit uses, as protocols checked by mypy."""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol, Self, TypeGuard

import torch
from torch import Tensor, nn

from distill.data.fit import FITS, fit_of
from distill.errors import UserError


class Network(Protocol):
    """The part of `torch.nn.Module` that the toolkit uses."""

    training: bool

    def __call__(self, clip: Tensor, /) -> Tensor: ...
    def train(self, mode: bool = True) -> Self: ...
    def eval(self) -> Self: ...
    def to(self, device: str | torch.device, /) -> Self: ...
    def float(self) -> Self: ...
    def requires_grad_(self, requires_grad: bool = True) -> Self: ...
    def zero_grad(self) -> None: ...
    def compile(self) -> None: ...
    def parameters(self) -> Iterator[nn.Parameter]: ...
    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...
    def buffers(self) -> Iterator[Tensor]: ...
    def modules(self) -> Iterator[nn.Module]: ...
    def get_submodule(self, target: str, /) -> nn.Module: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: Mapping[str, Any], /) -> Any: ...


class SaliencyModel(Network, Protocol):
    """A network that maps a clip (B, 3, T, H, W) to log-saliency (B, N, h, w).

    The clip is RGB, uint8 or float in [0, 1]; the network normalises it. Each map is the logarithm of a saliency
    map up to a constant. `forward` is `forward_head(forward_features(clip))`.

    Attributes:
        num_frames: T, frames of a clip.
        size: (H, W) of a clip.
        target_frames: which of the clip's frames get a map, 0-based (N of them).
        map_size: (h, w) of a map.
        no_gradient: patterns (fnmatch) of the parameters that never receive a gradient.
        encoder_layers: names of the encoder's modules in the order of the data: the patch embedding or stem, then
            the blocks. Empty if the encoder has no separate layers.
    """

    num_frames: int
    size: tuple[int, int]
    target_frames: tuple[int, ...]
    map_size: tuple[int, int]
    no_gradient: tuple[str, ...]
    encoder_layers: tuple[str, ...]

    def forward_features(self, clip: Tensor, /) -> dict[str, Tensor]:
        """Return the features (B, C, t, h, w) or (B, C, h, w) of a clip by name."""
        ...

    def forward_head(self, features: dict[str, Tensor], /) -> Tensor:
        """Return the log-saliency (B, N, h, w) of a clip's features."""
        ...


class StreamingModel(SaliencyModel, Protocol):
    """A network that also runs frame by frame.

    Attributes:
        reach: number of frames on which a map depends, its own included.
        state_shapes: name -> shape without the batch of each tensor of the state, in the order of `initial_state`.
    """

    reach: int
    state_shapes: dict[str, tuple[int, ...]]

    def initial_state(self, batch: int = 1) -> dict[str, Tensor]:
        """Return the state before the first frame of a video."""
        ...

    def step(self, frame: Tensor, state: dict[str, Tensor], /) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the log-saliency (B, 1, h, w) of a frame (B, 3, H, W), and the state for the next frame."""
        ...

    def steps(self, clip: Tensor, state: dict[str, Tensor], /) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the log-saliency (B, T, h, w) of T consecutive frames (B, 3, T, H, W), and the state after them.

        T is at least 1; the result equals that of T calls of `step`.
        """
        ...


def is_streaming(network: object) -> TypeGuard[StreamingModel]:
    """Return whether a network runs frame by frame, i.e. has the method `step`."""
    return callable(getattr(network, "step", None))


def check_model(network: object) -> None:
    """Check that a network has every member of `SaliencyModel`, and of `StreamingModel` if it has `step`.

    Raises:
        UserError: naming the missing members, or an unknown `fit`.
    """
    contracts = [SaliencyModel, StreamingModel] if is_streaming(network) else [SaliencyModel]
    members = [name for contract in contracts for name in _members(contract)]
    missing = [name for name in members if getattr(network, name, None) is None]
    if missing:
        raise UserError(
            f"{type(network).__module__}.{type(network).__name__}: missing {', '.join(missing)}; "
            f"a model needs {', '.join(members)} (distill/models/protocols.py)"
        )
    if (fit := fit_of(network)) not in FITS:
        name = f"{type(network).__module__}.{type(network).__name__}"
        raise UserError(f"{name}: fit '{fit}': expected one of {', '.join(FITS)}")


def _members(contract: type) -> list[str]:
    """Return the names that a protocol itself defines."""
    methods = [name for name in vars(contract) if not name.startswith("_")]
    return [*contract.__annotations__, *methods]
