"""Run a saldistill command that kills itself (SIGKILL) when it flushes its output to disk.

    python killed_command.py N VERB ARGUMENTS

It dies at the Nth flush, counted from 1: the output is complete, and still under its temporary name.
"""

import os
import signal
import sys

from distill.cli.main import main


def kill_at(flush: int) -> None:
    """Make the process die at a call of os.fsync."""
    seen = 0

    def fsync(file: int) -> None:
        nonlocal seen
        seen += 1
        if seen == flush:
            os.kill(os.getpid(), signal.SIGKILL)

    os.fsync = fsync


if __name__ == "__main__":
    kill_at(int(sys.argv[1]))
    sys.exit(main(sys.argv[2:]))
