"""Run a saldistill command that kills itself (SIGKILL) when it first flushes a file of its output to disk.

    python killed_command.py FOLDER VERB ARGUMENTS

FOLDER is where the output belongs; the output is then complete or not, and still under its temporary name.
"""

import os
import signal
import sys
from pathlib import Path

from distill.cli.main import main


def kill_at_flush(folder: str) -> None:
    """Make the process die when it calls os.fsync for a file in a folder."""

    def fsync(file: int) -> None:
        if Path(f"/proc/self/fd/{file}").readlink().is_relative_to(Path(folder).resolve()):
            os.kill(os.getpid(), signal.SIGKILL)

    os.fsync = fsync


if __name__ == "__main__":
    kill_at_flush(sys.argv[1])
    sys.exit(main(sys.argv[2:]))
