"""SalDistill: predict where people look in videos.

    import distill

    model = distill.load("stream-small")
    maps = model.predict("video.mp4")  # (frames, h, w), float32 in [0, 1]

The names below are the stable Python interface; distill/api.py documents its functions. `import distill` itself
imports nothing: PyTorch is loaded when one of these names is first used (PEP 562).
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distill.api import build_targets, conform, evaluate, export, list_models, load, predict, push, train
    from distill.errors import RunError, UserError
    from distill.inference.predictor import Predictor
    from distill.shipped import shipped_path

__version__ = "0.2.0"

__all__ = [
    "Predictor",
    "RunError",
    "UserError",
    "__version__",
    "build_targets",
    "conform",
    "evaluate",
    "export",
    "list_models",
    "load",
    "predict",
    "push",
    "shipped_path",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name in ("RunError", "UserError"):
        from distill import errors

        return getattr(errors, name)
    if name == "shipped_path":
        from distill.shipped import shipped_path

        return shipped_path
    if name == "Predictor":
        from distill.inference.predictor import Predictor

        return Predictor
    from distill import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted(__all__)
