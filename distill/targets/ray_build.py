"""Fill target stores with the workers of a Ray cluster.

    saldistill cache build CONFIG --engine ray --address auto

Each worker is an actor with a teacher (`ray_worker.py`), and each shard that is not full is a task. When a worker
dies, its shard is computed again by another one, from the last committed batch on if the store is a folder. Workers
are added when nodes join the cluster, and released when no shard is left for them.
"""

import logging
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from distill.errors import RunError, UserError
from distill.runtimes.names import TITLES
from distill.targets.build import StoreBuild, progress_of
from distill.targets.ray_cluster import Node, alive_nodes, check_version, connected, on_node, reason_of_loss
from distill.targets.ray_worker import ShardReport, TeacherWorker, WorkerTask, origins_of, without_truth
from distill.targets.shard_sinks import sink_of
from distill.targets.store import TargetStore

log = logging.getLogger(__name__)

POLL_SECONDS = 2.0
"""Seconds between two looks at the nodes of the cluster."""

MIN_DEATHS = 5
"""Deaths of workers without a full shard in between that end a build, or twice the number of workers if that is
more."""

LOCK_SECONDS = 120.0
"""Time for which a shard that a dead worker was writing may stay locked, e.g. by an NFS server."""

HINT_SECONDS = 60.0
"""Time without a worker after which a line is logged."""

STOP_SECONDS = 10.0
"""Time to wait for killed workers."""


@contextmanager
def ray_engine(*, address: str | None = None, cpus_per_worker: int | None = None) -> Iterator["RayEngine"]:
    """Return a context with an `Engine` on a Ray cluster.

    Args:
        address: HOST:PORT of a cluster to join, "auto" for the one of this machine; None starts one here.
        cpus_per_worker: CPUs, and CPU threads, of each worker. Defaults to the threads that PyTorch uses in this
            process, with which the maps are, bit for bit, those that this process would compute on a CPU.

    Raises:
        UserError: Ray is not installed, or the cluster cannot be joined.
    """
    with connected(address):
        yield RayEngine(cpus_per_worker)


class RayEngine:
    """The `Engine` of `ray_engine`.

    Args:
        cpus_per_worker: see `ray_engine`.
    """

    def __init__(self, cpus_per_worker: int | None) -> None:
        self.cpus_per_worker = cpus_per_worker

    def device(self, name: str) -> torch.device:
        """Return cuda if the cluster has a GPU and the config allows it, else cpu.

        Raises:
            UserError: the cluster lacks the device, or no node has room for a worker.
        """
        kind, has_gpu = name.partition(":")[0], any(node.gpus for node in alive_nodes())
        if kind not in ("auto", "cpu", "cuda"):
            raise UserError(f"device '{name}': workers of a Ray cluster run on cpu or cuda; expected auto")
        if kind == "cuda" and not has_gpu:
            raise UserError(f"device '{name}': no node of the Ray cluster offers a GPU; expected auto or cpu")
        device = torch.device("cuda" if has_gpu and kind != "cpu" else "cpu")
        self._places(device).require_one()
        return device

    def _places(self, device: torch.device) -> "Places":
        threads = self.cpus_per_worker or torch.get_num_threads()
        return Places(device, threads, strict=self.cpus_per_worker is not None)

    def fill(self, build: StoreBuild, *, progress: bool) -> None:
        """Compute the missing maps of a store.

        Raises:
            UserError: a node lacks what a worker needs, a video cannot be read, or a map contains NaN.
            RunError: workers die again and again.
            KeyboardInterrupt: on Ctrl-C; committed maps are kept.
        """
        store = build.store
        places = self._places(torch.device(build.settings.device or "cpu"))
        task = WorkerTask(
            _absolute(build.model.reference),
            replace(build.settings, runtime=_runtime_name(build)),
            without_truth(build.videos),
            origins_of(build.videos),
            sink_of(store),
            places.threads,
        )
        with progress_of(store, shown=progress) as bar:
            Scheduler(store, task, places, bar).run()


def _absolute(reference: str) -> str:
    """Return a model reference that does not depend on the working folder."""
    return str(Path(reference).absolute()) if Path(reference).exists() else reference


def _runtime_name(build: StoreBuild) -> str:
    """Return the runtime that this process would use, so that all workers use it or fail."""
    titles = {title: name for name, title in TITLES.items()}
    return titles[build.run().runtime]


class Places:
    """How many workers fit on each node.

    Args:
        device: device of the teacher, cpu or cuda.
        threads: CPUs of a worker.
        strict: never give a worker fewer CPUs; otherwise a node with fewer has one worker.
    """

    def __init__(self, device: torch.device, threads: int, *, strict: bool) -> None:
        self.on_gpu = device.type == "cuda"
        self.threads, self.strict = threads, strict

    def cpus(self, node: Node) -> int:
        """Return the CPUs of a worker on a node."""
        share = node.cpus // node.gpus if self.on_gpu and node.gpus else node.cpus
        return self.threads if self.strict else min(self.threads, share)

    def count(self, node: Node) -> int:
        """Return the number of workers that fit on a node."""
        cpus = self.cpus(node)
        if self.on_gpu:
            return node.gpus if cpus == 0 else min(node.gpus, node.cpus // cpus)
        return node.cpus // cpus if cpus else 0

    def require_one(self) -> None:
        """Raise UserError if no node has room for a worker."""
        nodes = alive_nodes()
        if not any(map(self.count, nodes)):
            most = max((node.cpus for node in nodes), default=0)
            raise UserError(
                f"--cpus-per-worker {self.threads}: no node of the Ray cluster has room for a worker; the largest "
                f"offers {most} CPUs; use a smaller number"
            )


@dataclass
class Worker:
    """An actor, and the shard that it is writing."""

    actor: Any
    node: Node
    ready: bool = False
    shard: int | None = None


class Scheduler:
    """Hands out the shards of one store.

    Args:
        store: an incomplete store.
        task: what workers need.
        places: how many workers fit on a node.
        bar: counts committed maps.
    """

    def __init__(self, store: TargetStore, task: WorkerTask, places: Places, bar: tqdm) -> None:
        import ray

        self.ray, self.store, self.task, self.places, self.bar = ray, store, task, places, bar
        self.shared_task = ray.put(task)
        self.actor_class: Any = ray.remote(TeacherWorker)
        self.todo = deque(sorted(set(range(store.plan.num_shards)) - store.sealed()))
        self.busy: list[int] = []
        """Shards that other processes are writing."""
        self.committed = {shard: store.committed_in(shard) for shard in self.todo}
        self.lost: dict[int, float] = {}
        """Shard of a dead worker -> time of its death."""
        self.full: set[int] = set()
        """Shards that were filled meanwhile."""
        self.deaths = 0
        self.filled_since_busy = False
        self.workers: list[Worker] = []
        self.waiting: dict[Any, Worker] = {}
        """Reference of a preparation, or generator of a shard's reports -> its worker."""
        self.checked: set[str] = set()
        self.next_look = 0.0
        self.hint_at = time.monotonic() + HINT_SECONDS

    def run(self) -> None:
        """Fill the store, except for shards that other processes are writing."""
        try:
            while self.todo or self._writing() or self._retry_busy():
                self._add_workers()
                self._assign()
                self._hint()
                if not self.waiting:
                    time.sleep(POLL_SECONDS)  # until a node joins the cluster
                    continue
                ready, _ = self.ray.wait(list(self.waiting), num_returns=1, timeout=POLL_SECONDS)
                for reference in ready:
                    self._receive(reference)
        finally:
            self._stop()
            self.task.sink.flush()

    def _writing(self) -> bool:
        return any(worker.shard is not None for worker in self.workers)

    def _retry_busy(self) -> bool:
        """Hand out again what other processes were writing, if one of them may have stopped."""
        now = time.monotonic()
        may_be_locked = any(now - self.lost.get(shard, -LOCK_SECONDS) < LOCK_SECONDS for shard in self.busy)
        if not self.busy or not (self.filled_since_busy or may_be_locked):
            return False
        if not self.filled_since_busy:
            time.sleep(POLL_SECONDS)
        self.todo.extend(self.busy)
        self.busy, self.filled_since_busy = [], False
        return True

    def _add_workers(self) -> None:
        """Start workers where there is room, as many as there are shards without one."""
        if time.monotonic() < self.next_look:
            return
        self.next_look = time.monotonic() + POLL_SECONDS
        wanted = len(self.todo) - sum(worker.shard is None for worker in self.workers)
        if wanted <= 0:
            return
        have = Counter(worker.node.id for worker in self.workers)
        nodes = alive_nodes()
        room = [(place, node) for node in nodes for place in range(have[node.id], self.places.count(node))]
        for _, node in sorted(room, key=lambda each: each[0])[:wanted]:  # spread over the nodes
            if node.id not in self.checked:
                if not check_version(node):
                    continue
                self.checked.add(node.id)
            self._start(node)

    def _start(self, node: Node) -> None:
        actor = self.actor_class.options(
            num_cpus=self.places.cpus(node),
            num_gpus=1 if self.places.on_gpu else None,
            scheduling_strategy=on_node(node),
        ).remote(self.shared_task, node.name)
        worker = Worker(actor, node)
        self.workers.append(worker)
        self.waiting[actor.prepare.remote()] = worker

    def _assign(self) -> None:
        """Give shards to the workers that have none; release those for which there is none."""
        for worker in [worker for worker in self.workers if worker.ready and worker.shard is None]:
            if not self.todo:
                self._release(worker)
                continue
            worker.shard = self.todo.popleft()
            self.waiting[worker.actor.write.options(num_returns="streaming").remote(worker.shard)] = worker

    def _hint(self) -> None:
        """Log once if no worker starts."""
        if any(worker.ready for worker in self.workers):
            self.hint_at = float("inf")
        if time.monotonic() > self.hint_at:
            log.info("no worker could start yet: the nodes of the Ray cluster are in use, or lost; still waiting")
            self.hint_at = float("inf")

    def _receive(self, reference: Any) -> None:
        """Handle a finished preparation, the next report of a shard, or what became of either."""
        worker = self.waiting[reference]
        try:
            if not worker.ready:
                self.ray.get(reference)
                worker.ready = True
            else:
                assert worker.shard is not None
                self._note(worker.shard, self.ray.get(next(reference)))
                return
        except StopIteration:
            self._end(worker)
        except self.ray.exceptions.RayTaskError as error:
            raise (error.cause if isinstance(error.cause, UserError | RunError | OSError) else error) from None
        except self.ray.exceptions.RayError as error:
            self._lose(worker, error)
        del self.waiting[reference]

    def _note(self, shard: int, report: ShardReport) -> None:
        """Count what a worker reports of a shard."""
        self.bar.update(report.maps - self.committed[shard])
        self.committed[shard] = report.maps
        if report.full:
            self.task.sink.record(shard, report.record)
            self.full.add(shard)
            self.deaths, self.filled_since_busy = 0, True

    def _end(self, worker: Worker) -> None:
        """Free a worker that has written a shard, or found that another process is writing it."""
        assert worker.shard is not None
        if worker.shard not in self.full:
            self.busy.append(worker.shard)
        worker.shard = None

    def _lose(self, worker: Worker, error: Exception) -> None:
        """Hand out a dead worker's shard again.

        Raises:
            RunError: too many workers died.
        """
        reason = reason_of_loss(error)
        self.deaths += 1
        if self.deaths >= max(MIN_DEATHS, 2 * len(self.workers)):
            raise RunError(
                f"{self.store.path}: {self.deaths} workers died and no shard was finished in between, the last on "
                f"node {worker.node.name} ({reason}); committed maps are kept: remove the cause and run the same "
                "command again"
            )
        again = ""
        if worker.shard is not None:
            self.todo.appendleft(worker.shard)
            self.lost[worker.shard] = time.monotonic()
            again = f"; shard {worker.shard} is computed again"
        log.warning("node %s: a worker died (%s)%s", worker.node.name, reason, again)
        self._release(worker)
        self.next_look = 0.0

    def _release(self, worker: Worker) -> None:
        self.workers.remove(worker)
        self.ray.kill(worker.actor)

    def _stop(self) -> None:
        """Kill the workers, and wait until they are dead, so that their shards are not locked any more."""
        for worker in list(self.workers):
            self._release(worker)
        deadline = time.monotonic() + STOP_SECONDS
        while self.waiting and time.monotonic() < deadline:
            ready, _ = self.ray.wait(list(self.waiting), num_returns=1, timeout=STOP_SECONDS)
            for reference in ready:
                del self.waiting[reference]
