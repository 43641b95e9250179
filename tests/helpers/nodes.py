"""Two "nodes" on the loopback: two torchrun agents, each with its own working folder and one process on the CPU."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from helpers.places import REPOSITORY


@contextmanager
def started_nodes(folders: Sequence[Path], *arguments: str) -> Iterator[list[subprocess.Popen[str]]]:
    """Yield the agents of nodes that run `saldistill train`, one per working folder; kill those left at the end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes", str(len(folders))]
    launcher += ["--nproc_per_node", "1", "--rdzv_backend", "c10d", "--rdzv_endpoint", f"127.0.0.1:{port}"]
    launcher += ["--rdzv_id", "test", "--local_addr", "127.0.0.1"]
    program = [str(REPOSITORY / "scripts" / "train_teacher.py"), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    nodes: list[subprocess.Popen[str]] = []
    try:
        for folder in folders:
            nodes.append(
                subprocess.Popen(
                    [*launcher, *program],
                    cwd=folder,
                    env=environment,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
        yield nodes
    finally:
        for node in nodes:
            node.kill()
            node.wait()


def results_of(nodes: Sequence[subprocess.Popen[str]], seconds: float = 240) -> list[tuple[int, str]]:
    """Return each node's exit code and standard error; the test fails if one is still running after that time."""
    printed = [node.communicate(timeout=seconds)[1] for node in nodes]
    return [(node.returncode, err) for node, err in zip(nodes, printed, strict=True)]


def launch_nodes(folders: Sequence[Path], *arguments: str) -> list[tuple[int, str]]:
    """Run `saldistill train` on one node per working folder; return each node's exit code and standard error."""
    with started_nodes(folders, *arguments) as nodes:
        return results_of(nodes)
