"""Two "nodes" on the loopback: two agents, each with its own working folder and one process on the CPU."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from helpers.places import REPOSITORY

PROGRAM = ["-m", "distill.cli.main", "train"]


def torchrun(rank: int, port: int) -> list[str]:
    """Return the command of a torchrun agent, of two that meet at a port of the loopback."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "1"]
    launcher += ["--rdzv_backend", "c10d", "--rdzv_endpoint", f"127.0.0.1:{port}", "--rdzv_id", "test"]
    return [*launcher, "--local_addr", "127.0.0.1", *PROGRAM]


def accelerate_launch(rank: int, port: int) -> list[str]:
    """Return the command of one of two machines of the shipped accelerate config, here with one process each."""
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file"]
    launcher += [str(REPOSITORY / "examples" / "accelerate" / "two_nodes.yaml"), "--num_processes", "2"]
    launcher += ["--machine_rank", str(rank), "--main_process_ip", "127.0.0.1", "--main_process_port", str(port)]
    return [*launcher, *PROGRAM]


@contextmanager
def started_nodes(
    folders: Sequence[Path], *arguments: str, launcher: Callable[[int, int], list[str]] = torchrun
) -> Iterator[list[subprocess.Popen[str]]]:
    """Yield the agents of two nodes that run `saldistill train`, each in its folder; kill those left at the end.

    Args:
        folders: the working folders.
        arguments: arguments of `saldistill train`.
        launcher: returns an agent's command for its rank and a free port.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    nodes: list[subprocess.Popen[str]] = []
    try:
        for rank, folder in enumerate(folders):
            nodes.append(
                subprocess.Popen(
                    [*launcher(rank, port), *arguments],
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
            assert node.stderr is not None
            node.stderr.close()


def results_of(nodes: Sequence[subprocess.Popen[str]], seconds: float = 240) -> list[tuple[int, str]]:
    """Return each node's exit code and standard error; the test fails if one is still running after that time."""
    printed = [node.communicate(timeout=seconds)[1] for node in nodes]
    return [(node.returncode, err) for node, err in zip(nodes, printed, strict=True)]


def launch_nodes(
    folders: Sequence[Path], *arguments: str, launcher: Callable[[int, int], list[str]] = torchrun
) -> list[tuple[int, str]]:
    """Run `saldistill train` on two nodes; return each node's exit code and standard error; see `started_nodes`."""
    with started_nodes(folders, *arguments, launcher=launcher) as nodes:
        return results_of(nodes)
