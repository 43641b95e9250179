"""A Ray actor that holds a teacher and computes one shard of a target store at a time."""

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace

import torch

from distill.data.clips import Video
from distill.data.remote_data import data_root, origin
from distill.errors import RunError, UserError
from distill.inference.runtime import Running, run_in
from distill.inference.settings import InferenceSettings
from distill.models.device import resolve_device
from distill.models.references import load_model
from distill.targets.build import fill
from distill.targets.fingerprint import fingerprint
from distill.targets.manifest import ShardRecord
from distill.targets.shard_sinks import ShardSink
from distill.targets.store import TargetStore


@dataclass(frozen=True)
class WorkerTask:
    """What a worker needs to compute the shards of a store.

    Attributes:
        teacher: reference of the teacher, which the worker loads on its node.
        settings: its inference settings: a stride, device cpu or cuda, and the runtime that the driver chose.
        videos: name -> video, without ground truth.
        origins: name -> address and path in it, for the videos of data sets at addresses.
        sink: where shards are written.
        threads: CPU threads of the teacher.
    """

    teacher: str
    settings: InferenceSettings
    videos: Mapping[str, Video]
    origins: Mapping[str, tuple[str, str]]
    sink: ShardSink
    threads: int


@dataclass(frozen=True)
class ShardReport:
    """Progress of a shard.

    Attributes:
        maps: number of its maps that are committed.
        full: whether it is full; the last report of a shard that is not means that another process is writing it.
        record: what the driver records of a full shard.
    """

    maps: int
    full: bool = False
    record: ShardRecord | None = None


class TeacherWorker:
    """The actor.

    Args:
        task: what it needs.
        node: name of its node, for errors.
    """

    def __init__(self, task: WorkerTask, node: str) -> None:
        self.task, self.node = task, node

    def prepare(self) -> None:
        """Load the teacher, and check that its maps would be those of the store.

        Raises:
            UserError: the store, the teacher or a video is missing here or differs, or the runtime cannot run the
                teacher.
            RunError: the teacher does not fit the memory.
        """
        with self._errors():
            self.videos = self._local_videos()
            self.store, self.running = self._prepared()

    def _local_videos(self) -> dict[str, Video]:
        """Return the videos with the paths of this node: it has its own tree of the files at an address."""
        origins = self.task.origins
        roots = {address: data_root(address) for address in sorted({address for address, _ in origins.values()})}
        moved = {name: roots[address] / path for name, (address, path) in origins.items()}
        return {name: replace(each, path=moved.get(name, each.path)) for name, each in self.task.videos.items()}

    def _prepared(self) -> tuple[TargetStore, Running]:
        task, settings = self.task, self.task.settings
        torch.set_num_threads(task.threads)
        store = task.sink.open()
        videos = list(self.videos.values())
        for video in videos:
            if "bytes" in store.fingerprint["videos"][video.name] and not video.path.exists():
                raise UserError(f"{video.path}: no such video here; all nodes need the data at the same path")
        resolve_device(str(settings.device))
        model = load_model(task.teacher)
        assert settings.stride is not None
        # only the sizes of videos are compared: each worker would read all of them for their hashes
        found = fingerprint(model, settings.stride, videos, precision=settings.precision, content=False)
        store.require(found, "give all nodes the same weights, data and version of saldistill")
        running = run_in(model, settings, frames=store.plan.num_records, example=videos[0].path)
        assert running.settings.device is not None
        running.network.to(running.settings.device)
        return store, running

    def write(self, shard: int) -> Iterator[ShardReport]:
        """Compute the missing maps of a shard.

        Yields:
            Its progress after each batch; at last whether it is full.

        Raises:
            UserError: a video cannot be read, a map contains NaN, or no space is left.
            RunError: a batch does not fit the memory.
        """
        running, plan = self.running, self.store.plan
        first = plan.batches_of(shard).start
        with self._errors(), self.task.sink.folder(self.store) as store:
            batches = store.claim_shard(shard)
            if batches is None:  # in a folder: another process has filled the shard, or is writing it
                yield ShardReport(store.committed_in(shard), shard in store.sealed())
                return
            filled = fill(store, running.network, self.videos, running.settings, shards=[batches])
            with closing(filled):
                for batch in filled:  # which is being written while those before it are committed
                    yield ShardReport(plan.records_of(range(first, batch.index)))
            record = self.task.sink.publish(store, shard)
            yield ShardReport(plan.records_of(plan.batches_of(shard)), True, record)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Name the node in errors, and raise them as plain types, which can be pickled."""
        try:
            yield
        except UserError as error:
            raise UserError(f"node {self.node}: {error}") from None
        except RunError as error:
            raise RunError(f"node {self.node}: {error}") from None


def without_truth(videos: Mapping[str, Video]) -> dict[str, Video]:
    """Return videos as workers need them: with absolute paths, and without ground truth, which can be large."""
    return {
        name: replace(each, path=each.path.absolute() if each.path.exists() else each.path, truth=None)
        for name, each in videos.items()
    }


def origins_of(videos: Mapping[str, Video]) -> dict[str, tuple[str, str]]:
    """Return the addresses of the videos that are at one, see `WorkerTask`."""
    found = {name: origin(video.path) for name, video in videos.items()}
    return {name: each for name, each in found.items() if each is not None}
