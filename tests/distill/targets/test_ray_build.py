"""Target stores filled on a Ray cluster of two nodes, whose workers are killed, stopped and added."""

import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from helpers.object_storage import Storage, object_storage
from helpers.places import REPOSITORY
from helpers.stores import content
from helpers.waiting import wait_until

from distill.errors import RunError, UserError
from distill.models.registry import create_model
from distill.models.weight_files import save_model
from distill.targets import ray_cluster
from distill.targets.ray_build import ray_engine
from distill.targets.store import TargetStore
from distill.targets.transfer import pull_store
from distill.training import setup
from distill.training.config import RunConfig, save_config

pytestmark = [
    pytest.mark.slow,
    # Ray leaves pipes and log files of its processes to the garbage collector
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

MAPS = 768
SHARDS = 12


def config(folder: Path, *, store: str = "store", teacher: str = "teacher.safetensors") -> RunConfig:
    """Return a run whose teacher labels eight synthetic videos in two views: twelve shards."""
    source = {"dataset": "synthetic", "videos": [f"blob{number}" for number in range(8)]}
    return RunConfig.model_validate(
        {
            "out": str(folder / "run"),
            "device": "cpu",
            "model": {"name": "student/thtdnet", "variant": "micro"},
            "data": {"train": [source]},
            "teacher": {"model": teacher, "store": store, "views": ["plain", "flipped"], "batch_size": 1},
            "losses": [{"name": "kldiv", "against": "teacher"}],
            "training": {"steps": 1},
        }
    )


@pytest.fixture(scope="module")
def storage() -> Iterator[Storage]:
    """Object storage that the nodes of the cluster reach, too."""
    with pytest.MonkeyPatch.context() as environment, object_storage(environment) as found:
        yield found


@pytest.fixture(scope="module")
def cluster(storage: Storage, own_cache: None) -> Iterator[Any]:
    """A cluster of two nodes with a CPU each, and room for a worker on each."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PYTHONPATH", str(REPOSITORY))
        environment.setenv("RAY_USAGE_STATS_ENABLED", "0")
        from ray.cluster_utils import Cluster

        node = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
        found = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
        found.add_node(**node)
        yield found
        found.shutdown()


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weight file; its random weights are the same in all tests."""
    path = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    save_model(create_model("student/thtdnet:micro"), path)
    return path


@pytest.fixture
def folder(tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of a build, with its teacher."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(teacher, tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory, teacher: Path) -> dict[str, bytes]:
    """Return the files of the store that this process builds."""
    with pytest.MonkeyPatch.context() as environment:
        folder = tmp_path_factory.mktemp("local")
        environment.chdir(folder)
        shutil.copy(teacher, folder)
        setup.build_store(config(folder), runtime="pytorch")
        files = content(folder / "store")
    assert len(files) == 1 + SHARDS
    return files


def build(cluster: Any, folder: Path, *, runtime: str = "pytorch", **changes: str) -> TargetStore:
    """Build the store on the cluster."""
    with ray_engine(address=cluster.address, cpus_per_worker=1) as engine:
        return setup.build_store(config(folder, **changes), runtime=runtime, engine=engine)


def workers(*, writing: bool = True) -> list[psutil.Process]:
    """Return the processes of the workers that are writing a shard, or all of them."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            name = " ".join(process.cmdline())
        except psutil.Error:
            continue
        if name.startswith("ray::TeacherWorker.write" if writing else "ray::TeacherWorker"):
            found.append(process)
    return found


def kill(process: psutil.Process) -> None:
    if process.is_running():
        process.send_signal(signal.SIGKILL)


@contextmanager
def meanwhile(work: Callable[[threading.Event], object]) -> Iterator[list[object]]:
    """Run a function in a thread next to the block; it gets an event that is set at the end of the block.

    Yields:
        A list with what it returned, filled at the end of the block.
    """
    returned: list[object] = []
    over = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(work, over)
        try:
            yield returned
        finally:
            over.set()
            returned.append(future.result())


@pytest.mark.parametrize("runtime", ["pytorch", "auto"])
def test_ray_build_writes_the_bytes_of_this_process(cluster, folder, runtime, graphs):
    store = build(cluster, folder, runtime=runtime)
    assert store.complete
    assert store.notes["runtime"] == {"pytorch": "PyTorch", "auto": "ONNX Runtime"}[runtime]
    found = content(folder / "store")
    shutil.rmtree(folder / "store")
    setup.build_store(config(folder), runtime=runtime)
    assert found == content(folder / "store")


@pytest.mark.parametrize("seed", range(5))
def test_worker_killed_at_a_random_moment_leaves_the_bytes_of_this_process(cluster, folder, local, caplog, seed):
    moment = random.Random(seed)
    target, choice = moment.randrange(int(0.8 * MAPS)), moment.randrange(2)

    def kill_one(over: threading.Event) -> bool:
        while not over.wait(0.01):
            running = workers()
            if len(running) == 2 and TargetStore.open("store").count_committed() >= target:
                kill(running[choice])
                return True
        return False

    with meanwhile(kill_one) as killed:
        assert build(cluster, folder).complete
    assert killed == [True]
    assert "a worker died (Worker unexpectedly exits with a connection error" in caplog.text
    assert content(folder / "store") == local


def wait_for_workers(count: int, build: Future[Any]) -> list[psutil.Process]:
    """Wait until some workers are writing, and return them; fail if the build ends before."""
    deadline = time.monotonic() + 180
    while len(found := workers()) < count:
        assert time.monotonic() < deadline
        assert not build.done(), build.result()
        time.sleep(0.02)
    return found


def test_node_that_joins_during_a_build_takes_part(cluster, folder, local):
    """The workers of the first two nodes are stopped until one of the third node writes."""
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(build, cluster, folder)
        stopped = wait_for_workers(2, future)
        try:
            for process in stopped:
                process.suspend()
            node = cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20)  # in the main thread only
            wait_for_workers(3, future)
        finally:
            for process in stopped:
                process.resume()
        assert future.result().complete
    cluster.remove_node(node)
    assert content(folder / "store") == local


def test_workers_that_always_die_end_the_build_with_rays_reason(cluster, folder, local):
    def kill_all(over: threading.Event) -> None:
        while not over.wait(0.05):
            for process in workers(writing=False):
                kill(process)

    with (
        meanwhile(kill_all),
        pytest.raises(
            RunError, match=r"store: 5 workers died and no shard was finished in between, the last on node"
        ),
    ):
        build(cluster, folder)
    setup.build_store(config(folder), runtime="pytorch")
    assert content(folder / "store") == local


def test_error_of_a_worker_ends_the_build_with_its_sentence_and_its_node(cluster, folder):
    model = create_model("student/thtdnet:micro")
    with torch.no_grad():
        next(iter(model.network.parameters())).fill_(3e38)  # finite, as weights must be
    save_model(model, folder / "broken.safetensors")
    with pytest.raises(UserError, match=r"^node .*: blob\d: frame \d+: the model's map contains NaN or infinity"):
        build(cluster, folder, teacher="broken.safetensors")
    assert not workers(writing=False)


def test_shard_that_another_process_writes_is_left_to_it(cluster, folder, local, caplog):
    caplog.set_level(logging.INFO)
    build(cluster, folder)
    shards = folder / "store" / "shards"
    for number in (3, 7):
        (shards / f"{number:05d}.shard").unlink()
    with TargetStore.open("store") as other:
        assert other.claim_shard(3)
        store = build(cluster, folder)
        assert store.sealed() == set(range(SHARDS)) - {3}
        assert "store: other processes are still writing the rest" in caplog.text
    assert build(cluster, folder).complete
    assert content(folder / "store") == local


def test_build_at_an_address_has_the_bytes_of_a_folder_after_a_kill(cluster, folder, local, storage):
    address = storage.address("ray")

    def kill_one(over: threading.Event) -> bool:
        while not over.wait(0.01):
            if (running := workers()) and TargetStore.exists(address):
                kill(running[0])
                return True
        return False

    with meanwhile(kill_one) as killed:
        assert build(cluster, folder, store=address).complete
    assert killed == [True]
    pull_store(address, "pulled")
    assert content(folder / "pulled") == local


def test_videos_at_an_address_are_found_on_nodes_with_other_cache_folders(
    cluster, folder, storage, sample, monkeypatch
):
    for path in sample.rglob("*"):
        if path.is_file():
            storage.put(f"dhf1k/{path.relative_to(sample).as_posix()}", path.read_bytes())
    source = {"dataset": "dhf1k", "root": storage.address("dhf1k"), "split": "all", "frames": [601, 632]}
    run = config(folder).model_dump(mode="json", exclude_unset=True)
    run["data"]["train"] = [{**source, "videos": ["002"]}]
    run["teacher"]["views"] = ["plain"]
    monkeypatch.setenv("SALDISTILL_CACHE", str(folder / "cache"))  # of this process only
    with ray_engine(address=cluster.address, cpus_per_worker=1) as engine:
        assert setup.build_store(RunConfig.model_validate(run), runtime="pytorch", engine=engine).complete
    found = content(folder / "store")
    shutil.rmtree(folder / "store")
    setup.build_store(RunConfig.model_validate(run), runtime="pytorch")
    assert found == content(folder / "store")


def test_node_with_another_version_is_named(cluster, folder, monkeypatch):
    monkeypatch.setattr(ray_cluster, "own_version", lambda: "0.0.1")
    with pytest.raises(
        UserError, match=r"^node .*: has saldistill .*; all nodes need version 0\.0\.1: pip install"
    ):
        build(cluster, folder)


def test_worker_whose_store_is_another_one_is_refused(cluster, folder, monkeypatch):
    """As on a node with an old copy of the store's folder on its own disk."""
    from distill.targets.ray_build import Scheduler

    run = Scheduler.run

    def replaced(scheduler: Scheduler) -> None:
        shutil.rmtree("store")
        setup.build_store(config(folder, teacher="other.safetensors"), runtime="pytorch")
        run(scheduler)

    save_model(create_model("student/stream:micro"), folder / "other.safetensors")
    monkeypatch.setattr(Scheduler, "run", replaced)
    with pytest.raises(UserError, match=r"^node .*store: is another target store here than on the driver"):
        build(cluster, folder)


def test_ctrl_c_keeps_committed_maps_and_this_process_resumes(folder, local):
    save_config(config(folder), folder / "run.yaml")
    program = "import sys; from distill.cli.main import main; sys.exit(main())"
    words = [
        "cache",
        "build",
        "run.yaml",
        "--runtime",
        "pytorch",
        "--engine",
        "ray",
        "--cpus-per-worker",
        "1",
        "--json",
    ]
    process = subprocess.Popen(
        [sys.executable, "-c", program, *words],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: list(folder.glob("store/shards/*.shard")), process)
    started = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert output == ""
    assert "store: interrupted; committed maps are kept, and the same command resumes" in errors
    assert "Traceback" not in errors
    assert started
    assert not psutil.wait_procs(started, timeout=20)[1]
    kept = TargetStore.open("store")
    assert 0 < kept.count_committed() < kept.plan.num_records
    setup.build_store(config(folder), runtime="pytorch")
    assert content(folder / "store") == local


def test_ray_build_resumes_what_this_process_began(cluster, folder, local):
    store = setup.build_store(config(folder), runtime="pytorch")
    for number in range(4, SHARDS):
        (store.files.path(number)).unlink()
    before = {path: path.stat().st_mtime_ns for path in (folder / "store" / "shards").iterdir()}
    started = time.time_ns()
    assert build(cluster, folder).complete
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert all(store.files.path(number).stat().st_mtime_ns > started for number in range(4, SHARDS))
    assert content(folder / "store") == local


def test_node_without_the_package_reports_why_it_cannot_be_imported(tmp_path):
    """The check of a node is sent as code, so that it runs where saldistill is missing."""
    import ray

    (tmp_path / "probe").write_bytes(ray.cloudpickle.dumps(ray_cluster._version_probe()))
    program = """
import sys
from pathlib import Path
from ray import cloudpickle
sys.modules["distill"] = None
print(*cloudpickle.loads(Path("probe").read_bytes())())
"""
    found = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert found.stdout.startswith("None "), found.stderr
    assert "distill" in found.stdout
