"""SalDistill: predict where people look in videos.

    import distill

    model = distill.load("stream-small")
    maps = model.predict("video.mp4")  # (frames, h, w), float32 in [0, 1]

`import distill` itself imports nothing: PyTorch is loaded when one of these names is first used (PEP 562).
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distill.inference.predictor import Predictor, load

__all__ = ["Predictor", "load"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from distill.inference import predictor

        return getattr(predictor, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
