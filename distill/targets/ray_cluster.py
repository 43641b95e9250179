"""A connection to a Ray cluster: join one or start one on this machine, list its nodes, and check them.

Ray's own messages are kept off the terminal; what failed, and why, arrives here as exceptions.
"""

import os
import re
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.errors import REASON_LENGTH, UserError, reason_of, shorten
from distill.extras import extras_named, install_line

CONNECT_SECONDS = 5.0
"""Time limit to reach an address. Ray itself tries for minutes."""

PROBE_SECONDS = 120.0
"""Time limit of the check of a node, on which Ray may first have to start a process."""

OBJECT_STORE_BYTES = 128 * 2**20
"""Shared memory of a cluster that is started here; tasks and reports are small."""


@dataclass(frozen=True)
class Node:
    """A node of a cluster.

    Attributes:
        id: Ray's identifier.
        name: host name and IP address.
        cpus: CPUs that it offers to Ray.
        gpus: GPUs that it offers to Ray.
    """

    id: str
    name: str
    cpus: int
    gpus: int


@contextmanager
def connected(address: str | None = None) -> Iterator[None]:
    """Connect to a Ray cluster within a block; an existing connection of this process is used and kept.

    Args:
        address: HOST:PORT of a cluster to join, or "auto" for the one that this machine belongs to; None starts one
            on this machine, which ends with the block.

    Raises:
        UserError: Ray is not installed, or the cluster cannot be joined.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    with extras_named():
        import ray
    if ray.is_initialized():
        yield
        return
    # Ray prints the deaths of workers to standard output, which is for results
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        with _sigterm_kept():
            _connect(ray, address)
        try:
            yield
        finally:
            ray.shutdown()


def _connect(ray: Any, address: str | None) -> None:
    quiet = {"log_to_driver": False, "logging_level": "CRITICAL"}
    if address is None:
        ray.init(address="local", object_store_memory=OBJECT_STORE_BYTES, include_dashboard=False, **quiet)
        return
    _check_reachable(os.environ.get("RAY_ADDRESS", address) if address == "auto" else address)
    try:
        ray.init(address=address, **quiet)
    except Exception as error:  # Ray raises errors of many types
        raise UserError(
            f"--address {address}: cannot join the Ray cluster ({reason_of(error)}); run this command on a node of "
            "a running cluster (`ray start --head`, `ray start --address=HEAD:6379`)"
        ) from error


def _check_reachable(address: str) -> None:
    """Raise UserError unless something listens at HOST:PORT."""
    if address == "auto":
        return
    found = re.fullmatch(r"([^:/\s]+):([0-9]{1,5})", address)
    if found is None or int(found[2]) > 65535:
        raise UserError(
            f"--address {address}: expected auto, or HOST:PORT of a Ray cluster, e.g. 10.0.0.1:6379; Ray Client "
            "addresses (ray://) are not supported: submit the command as a job of the cluster"
        )
    try:
        socket.create_connection((found[1], int(found[2])), CONNECT_SECONDS).close()
    except OSError as error:
        raise UserError(
            f"--address {address}: no Ray cluster can be reached there ({reason_of(error)}); check host and port, "
            "or start one with `ray start --head`"
        ) from error


@contextmanager
def _sigterm_kept() -> Iterator[None]:
    """Restore this program's handling of SIGTERM, which `ray.init` replaces, at the end of the block."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)


def alive_nodes() -> list[Node]:
    """Return the nodes of the cluster that are alive, in the order of their names."""
    import ray

    nodes = []
    for each in ray.nodes():
        if each["Alive"]:
            resources = each["Resources"]
            host, ip = each["NodeManagerHostname"], each["NodeManagerAddress"]
            name = host if host == ip else f"{host} ({ip})"
            nodes.append(Node(each["NodeID"], name, int(resources.get("CPU", 0)), int(resources.get("GPU", 0))))
    return sorted(nodes, key=lambda node: (node.name, node.id))


def check_version(node: Node) -> bool:
    """Check that a node has this version of saldistill.

    Returns:
        False if the node did not answer, e.g. because it was lost.

    Raises:
        UserError: it has another version, or none.
    """
    import ray

    probe = ray.remote(_version_probe()).options(num_cpus=0, scheduling_strategy=on_node(node), max_retries=0)
    try:
        found, reason = ray.get(probe.remote(), timeout=PROBE_SECONDS)
    except ray.exceptions.RayError:
        return False
    wanted = own_version()
    if found != wanted:
        has = f"has saldistill {found}" if found else f"the Python of Ray there has no saldistill ({reason})"
        raise UserError(
            f"node {node.name}: {has}; all nodes need version {wanted}: {install_line('ray')} in the image or "
            "environment of the nodes"
        )
    return True


def on_node(node: Node) -> Any:
    """Return the scheduling strategy of Ray that places a task or an actor on a node."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(node.id, soft=False)


def own_version() -> str | None:
    """Return this process's version of saldistill."""
    return _version_probe()()[0]


def _version_probe() -> Callable[[], tuple[str | None, str]]:
    """Return a function that returns a node's version of saldistill, or None and why it cannot be imported.

    As an inner function it is sent as code. One at the top of a module would be imported on the node, and so fail
    where it is needed.
    """

    def probe() -> tuple[str | None, str]:
        from importlib.metadata import PackageNotFoundError, version

        try:
            import distill.errors  # noqa: F401 - the installed package may be hidden by another one
        except ImportError as error:
            return None, str(error)
        try:
            return version("saldistill"), ""
        except PackageNotFoundError:
            return "from source", ""

    return probe


def reason_of_loss(error: Exception) -> str:
    """Return why Ray lost a worker, from the several lines of its error."""
    text = str(error)
    for pattern in (r"Worker exit detail: (.*?)(?: Some common causes|$)", r"is dead because (.*?)(?:\.|$)"):
        if found := re.search(pattern, text, re.MULTILINE):
            return shorten(found[1].strip().rstrip("."), REASON_LENGTH)
    return reason_of(error).rstrip(".")
