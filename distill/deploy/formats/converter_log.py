"""Keep what converters print out of the output, also what their C++ parts write to file descriptors."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO


@contextmanager
def captured_output() -> Iterator[IO[bytes]]:
    """Redirect the process's standard output and standard error to a temporary file, which is yielded.

    Everything that is printed in the block, by Python or by a library, goes there. Only one block at a time.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    with tempfile.TemporaryFile() as file:
        try:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            yield file
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, copy in enumerate(saved, 1):
                os.dup2(copy, number)
                os.close(copy)


def last_line(file: IO[bytes]) -> str:
    """Return the last line of a captured output that is not empty; an empty string if there is none."""
    file.seek(0)
    lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else ""
