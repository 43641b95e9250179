"""decord, with two of its habits corrected: what it loads, and how its readers end.

On import it loads every library that it finds in the packages called `nvidia`, for decoding on a GPU, which this
project does not do. Beside a PyTorch for GPUs these are all of CUDA and cuDNN: 370 MB of memory in each loader
worker, and four times the time.

A reader's end waits for its threads. A forked process has a copy of the reader and none of its threads: it would
wait for ever when that copy is collected, which may be at any moment where the reader was part of a cycle.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib import import_module
from typing import Any


@cache
def load_decord() -> Any:
    """Return decord, quiet. One that was built for GPUs cannot do without the libraries, and gets them."""
    with without_module("nvidia"), suppress(ImportError, OSError):
        import_module("decord")
    decord = import_module("decord")
    decord.logging.set_level(decord.logging.QUIET)  # FFmpeg's remarks; errors still raise
    return decord


@contextmanager
def without_module(name: str) -> Iterator[None]:
    """Let a module not be found by what is imported in a block."""
    before = {key: module for key, module in sys.modules.items() if key == name}
    sys.modules[name] = None  # type: ignore[assignment]  # Python's way to say that it is not there
    try:
        yield
    finally:
        del sys.modules[name]
        sys.modules.update(before)


@cache
def reader_class() -> Any:
    """Return decord's VideoReader as one that only the process that opened it closes."""

    class Reader(load_decord().VideoReader):  # type: ignore[misc]
        def __init__(self, *arguments: Any, **more: Any) -> None:
            self._process = os.getpid()
            super().__init__(*arguments, **more)

        def __del__(self) -> None:
            if self._process == os.getpid():
                super().__del__()

    return Reader
