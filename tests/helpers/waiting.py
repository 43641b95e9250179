"""Wait for what a command in another process does, before it is signalled or killed."""

import subprocess
import time
from collections.abc import Callable


def wait_until(condition: Callable[[], object], process: subprocess.Popen[str], seconds: float = 120) -> None:
    """Wait until a condition is true; fail if the process ends, or the time is over, before that."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
