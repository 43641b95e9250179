"""Keep what converters print out of the output, also what their C++ parts write to file descriptors."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout


@contextmanager
def captured_output() -> Iterator[None]:
    """Drop what is printed in the block, by Python or by a library; one block at a time."""
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    with open(os.devnull, "w", encoding="utf-8") as nothing:  # noqa: PTH123 - a device
        try:
            os.dup2(nothing.fileno(), 1)
            os.dup2(nothing.fileno(), 2)
            with redirect_stdout(nothing), redirect_stderr(nothing):
                yield
        finally:
            for number, copy in enumerate(saved, 1):
                os.dup2(copy, number)
                os.close(copy)
