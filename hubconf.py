"""Entry points for torch.hub: the pretrained students as PyTorch modules.

    network = torch.hub.load("OWNER/saldistill", "stream_small")            # a torch.nn.Module
    model = torch.hub.load("OWNER/saldistill", "predictor", "stream-small")  # maps of video files as arrays

With `source="local"` and the folder of a clone in place of OWNER/saldistill, nothing is downloaded.
"""

from typing import Any

dependencies = ["torch", "timm", "torchvision", "numpy", "safetensors", "pydantic", "einops"]


def stream_small(pretrained: bool = True, **arguments: Any) -> Any:
    """Return the streaming student `small`, in evaluation mode if pretrained.

    Args:
        pretrained: load the weights `stream-small`; otherwise random ones.
        **arguments: arguments of `student.stream.Model`, e.g. `size=(224, 384)`.

    Returns:
        A network that maps clips (B, 3, T, H, W), uint8 or float in [0, 1], to log-saliency (B, N, h, w), and frame
        by frame with `step` (student/stream.py). Frames of another aspect ratio are to be placed on the input as
        its attribute `fit` says (distill/data/fit.py), which `predictor` does itself.
    """
    return _network("small", pretrained, arguments)


def stream_nano(pretrained: bool = True, **arguments: Any) -> Any:
    """Return the streaming student `nano`, in evaluation mode if pretrained; as `stream_small`."""
    return _network("nano", pretrained, arguments)


def predictor(model: str = "stream-small", device: str = "auto") -> Any:
    """Return a `distill.Predictor`, whose `predict(VIDEO)` returns maps (frames, h, w) as a NumPy array."""
    import distill

    return distill.load(model, device=device)


def _network(variant: str, pretrained: bool, arguments: dict[str, Any]) -> Any:
    from distill.models.registry import create_model

    weights = "pretrained" if pretrained else None
    network = create_model("student/stream", variant=variant, weights=weights, **arguments).network
    return network.eval() if pretrained else network
