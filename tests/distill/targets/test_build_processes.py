"""Several processes build one target store with the bytes of one: from shells, a SLURM array, or a launcher."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.places import REPOSITORY
from helpers.runs import launch
from helpers.stores import content
from helpers.waiting import wait_until

from distill.models.registry import create_model
from distill.models.weight_files import save_model
from distill.targets.store import TargetStore
from distill.training import setup
from distill.training.config import RunConfig, save_config

PROCESSES = 2
SCRIPTS = REPOSITORY / "scripts"


def config(folder: Path) -> RunConfig:
    """Return a run whose teacher labels three synthetic videos in two views: five shards."""
    source = {"dataset": "synthetic", "videos": ["blob0", "blob1", "blob2"], "frames": [1, 48]}
    return RunConfig.model_validate(
        {
            "out": str(folder / "run"),
            "device": "cpu",
            "model": {"name": "student/thtdnet", "variant": "micro"},
            "data": {"train": [source]},
            "teacher": {
                "model": "teacher.safetensors",
                "store": "store",
                "views": ["plain", "flipped"],
                "batch_size": 1,
            },
            "losses": [{"name": "kldiv", "against": "teacher"}],
            "training": {"steps": 1},
        }
    )


def in_shells(folder: Path) -> None:
    run_concurrently([sys.executable, str(SCRIPTS / "cache_targets.py"), "run.yaml"], folder)


def in_a_slurm_array(folder: Path) -> None:
    """Run the script without SLURM, whose srun only starts the command on the task's node."""
    run_concurrently([str(SCRIPTS / "slurm_cache"), "run.yaml"], folder)


def run_concurrently(command: list[str], folder: Path) -> None:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PATH": path}
    processes = [
        subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE) for _ in range(PROCESSES)
    ]
    for process in processes:
        assert process.wait() == 0, process.stderr.read()[-2000:] if process.stderr else ""
        if process.stderr:
            process.stderr.close()


def by_a_launcher(folder: Path) -> None:
    launch(str(SCRIPTS / "cache_targets.py"), "run.yaml", processes=PROCESSES)


@pytest.mark.parametrize(
    "start",
    [
        in_shells,
        pytest.param(in_a_slurm_array, marks=pytest.mark.slow),
        pytest.param(by_a_launcher, marks=pytest.mark.slow),
    ],
)
def test_concurrent_processes_write_the_bytes_of_one(tmp_path: Path, start, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_model(create_model("student/thtdnet:micro"), tmp_path / "teacher.safetensors")
    save_config(config(tmp_path), tmp_path / "run.yaml")
    setup.build_store(config(tmp_path), runtime="auto")  # as on the command line
    alone = content(tmp_path / "store")
    assert len(alone) == 1 + 5
    shutil.rmtree(tmp_path / "store")
    start(tmp_path)
    store = TargetStore.open(tmp_path / "store")
    assert store.complete
    assert content(tmp_path / "store") == alone


def test_build_on_sigterm_keeps_committed_maps_and_resumes(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_model(create_model("student/thtdnet:micro"), tmp_path / "teacher.safetensors")
    save_config(config(tmp_path), tmp_path / "run.yaml")
    command = [sys.executable, str(SCRIPTS / "cache_targets.py"), "run.yaml"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: list(tmp_path.glob("store/shards/*.shard")), process)
    process.terminate()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143, errors
    assert "store: interrupted; committed maps are kept, and the same command resumes" in errors
    assert errors.rstrip().endswith("saldistill: terminated")
    assert "Traceback" not in errors
    kept = TargetStore.open(tmp_path / "store")
    assert 0 < kept.count_committed() < kept.plan.num_records
    setup.build_store(config(tmp_path), runtime="auto")  # as on the command line
    resumed = content(tmp_path / "store")
    shutil.rmtree(tmp_path / "store")
    setup.build_store(config(tmp_path), runtime="auto")  # as on the command line
    assert resumed == content(tmp_path / "store")


def test_each_launched_process_gets_its_own_gpu(monkeypatch, tmp_path) -> None:
    used: list[torch.device] = []
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setattr(setup, "build", lambda *given, **_: used.append(given[3].device))
    monkeypatch.setattr(setup, "load_model", lambda *_, **__: None)
    monkeypatch.setattr(setup, "resolve_device", lambda name: torch.device({"auto": "cuda"}.get(name, name)))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    for rank, name in [(None, "auto"), ("2", "auto"), ("5", "auto"), ("2", "cuda:1"), ("2", "cpu")]:
        if rank is not None:
            monkeypatch.setenv("LOCAL_RANK", rank)
        setup.build_store(config(tmp_path).model_copy(update={"device": name}))
    assert [str(device) for device in used] == ["cuda:0", "cuda:2", "cuda:1", "cuda:1", "cpu"]
