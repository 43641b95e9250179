"""Shortcuts on the way to the first map: networks without PyTorch's compiler, and without initial weights.

The compiler (torch._dynamo, with SymPy and more) takes more than half as long to import as PyTorch itself.
Predictions never use it, but torchvision and timm import it, for one function and one decorator.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

COMPILER = "torch._dynamo"


@contextmanager
def compiler_postponed() -> Iterator[None]:
    """Put a stand-in for PyTorch's compiler in place while torchvision and timm are imported.

    The two functions that they take from it load it when they are called for the first time.
    """
    if COMPILER in sys.modules:
        yield
        return
    stand_ins = {COMPILER: ModuleType(COMPILER), f"{COMPILER}.utils": ModuleType(f"{COMPILER}.utils")}
    compiler, utils = stand_ins.values()
    compiler.disable, compiler.utils = _disable, utils  # type: ignore[attr-defined]
    utils.is_compile_supported = _is_compile_supported  # type: ignore[attr-defined]
    sys.modules.update(stand_ins)
    try:
        yield
    finally:
        for name, stand_in in stand_ins.items():
            if sys.modules.get(name) is stand_in:
                del sys.modules[name]


def _is_compile_supported(device: str) -> bool:
    from torch._dynamo.utils import is_compile_supported

    return bool(is_compile_supported(device))


def _disable(function: Callable[..., Any], recursive: bool = True, *, reason: str | None = None) -> Any:
    """Stand in for `torch._dynamo.disable`, a decorator for functions that must not be compiled."""

    def call(*args: Any, **kwargs: Any) -> Any:
        from torch import _dynamo

        return _dynamo.disable(function, recursive, reason=reason)(*args, **kwargs)

    return call


class InitialWeightsSkipped(TorchFunctionMode):
    """Skip the functions of torch.nn.init, for networks whose weights are loaded next.

    On the device `meta`, these functions would import the compiler; for a large network, they take seconds.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Return the tensor that a function of torch.nn.init would fill; call other functions."""
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == torch.nn.init.__name__:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)
