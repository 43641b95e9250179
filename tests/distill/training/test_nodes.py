"""Training on two nodes: the same run as two processes of one, and one clear error where the nodes differ.

The nodes are two torchrun agents on the loopback, which accelerate joins by gloo. With separate working folders
they share neither the data nor the run folder.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.nodes import accelerate_launch, launch_nodes, results_of, started_nodes, torchrun
from helpers.places import REPOSITORY
from helpers.runs import STEPS, config, launch, losses
from helpers.waiting import wait_until
from safetensors.torch import load_file

from distill.training.checkpoint import State, newest_checkpoint
from distill.training.config import save_config
from distill.training.step_log import read_log

pytestmark = pytest.mark.slow

TRAINING = {"steps": STEPS, "batch_size": 1, "accumulate": 2, "clip_norm": 1.0, "checkpoint_every": 1, "ema": 0.9}
TRAINING |= {"validate_every": 3, "keep": 3}


def write_config(folder: Path, **changes: Any) -> None:
    """Write run.yaml, whose run folder and data are relative to the working folder."""
    folder.mkdir(exist_ok=True)
    save_config(config(Path("run"), **{"training": TRAINING, **changes}), folder / "run.yaml")


@pytest.fixture
def nodes(tmp_path: Path) -> list[Path]:
    """Working folders of two nodes."""
    folders = [tmp_path / "node-0", tmp_path / "node-1"]
    for folder in folders:
        write_config(folder)
    return folders


@pytest.fixture(scope="module")
def one_node(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two processes on one node."""
    folder = tmp_path_factory.mktemp("one node")
    write_config(folder)
    launch(str(REPOSITORY / "scripts" / "train_teacher.py"), str(folder / "run.yaml"), f"out={folder}/run")
    return folder / "run"


def run_of(nodes: list[Path]) -> Path:
    """Return the run folder, which only the main process's node has."""
    (run,) = [folder / "run" for folder in nodes if (folder / "run" / "log.jsonl").exists()]
    return run


def assert_equal_runs(one: Path, other: Path) -> None:
    assert losses(one) == losses(other)
    assert len(losses(one)) == STEPS
    first, second = (
        [(line["step"], line["scores"]) for line in read_log(run / "log.jsonl") if line["kind"] == "validation"]
        for run in (one, other)
    )
    assert first == second
    assert [step for step, _ in first] == [3, STEPS]
    for name in ("model.safetensors", "ema.safetensors", "state.safetensors"):
        folders = [newest_checkpoint(run) for run in (one, other)]
        first, second = (load_file(folder / name) for folder in folders if folder is not None)
        assert first.keys() == second.keys()
        assert all(first[key].equal(second[key]) for key in first), name


def errors_of(results: list[tuple[int, str]]) -> list[str]:
    """Return the one line in which each node reported the error, which ended it without a traceback of its own."""
    found = []
    for code, err in results:
        assert code != 0, results
        lines = err.splitlines()
        (line,) = [each for each in lines if each.startswith("saldistill: ")]
        assert "Traceback" not in "\n".join(lines[: lines.index(line)]), err
        assert "Connection closed" not in err, err
        found.append(line.removeprefix("saldistill: "))
    return found


@pytest.fixture(scope="module")
def _interrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("interrupted")
    nodes = [folder / "node-0", folder / "node-1"]
    for node in nodes:
        write_config(node)
    results = launch_nodes(nodes, "run.yaml")
    assert [code for code, _ in results] == [0, 0], results
    run = run_of(nodes)
    assert run == nodes[0] / "run"  # the first agent's process is the main one
    assert not (nodes[1] / "run").exists()
    for step in (4, 5):
        shutil.rmtree(run / "checkpoints" / f"step-{step:06d}")
    assert newest_checkpoint(run) == run / "checkpoints" / "step-000003"
    return folder


@pytest.fixture
def interrupted(_interrupted: Path, tmp_path: Path) -> list[Path]:
    """Working folders of two nodes, the first with a run that crashed after the checkpoint of step 3."""
    shutil.copytree(_interrupted, tmp_path / "nodes")
    return [tmp_path / "nodes" / "node-0", tmp_path / "nodes" / "node-1"]


@pytest.mark.parametrize("launcher", [torchrun, accelerate_launch])
def test_two_nodes_equal_two_processes_of_one(
    launcher: Callable[[int, int], list[str]], nodes: list[Path], one_node: Path
) -> None:
    results = launch_nodes(nodes, "run.yaml", launcher=launcher)
    assert [code for code, _ in results] == [0, 0], results
    assert_equal_runs(one_node, run_of(nodes))


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "copied"])
def test_resumed_run_with_a_shared_or_copied_folder_is_the_same(
    shared: bool, interrupted: list[Path], one_node: Path
) -> None:
    run, other = (folder / "run" for folder in interrupted)
    if shared:
        other.symlink_to(run)
    else:
        shutil.copytree(run / "checkpoints", other / "checkpoints")  # no log, no config
    results = launch_nodes(interrupted, "run.yaml", "resume=auto")
    assert [code for code, _ in results] == [0, 0], results
    assert_equal_runs(one_node, run)


def test_validation_repeated_after_a_crash_without_a_shared_log_is_the_same(
    interrupted: list[Path], one_node: Path
) -> None:
    run, other = (folder / "run" for folder in interrupted)
    log = run / "log.jsonl"
    lines = [line for line in log.read_text().splitlines() if '"validation"' not in line]
    log.write_text("".join(f"{line}\n" for line in lines))  # the crash was in the validation after step 3
    shutil.copytree(run / "checkpoints", other / "checkpoints")
    results = launch_nodes(interrupted, "run.yaml", "resume=auto")
    assert [code for code, _ in results] == [0, 0], results
    assert_equal_runs(one_node, run)


def test_resumed_run_without_the_checkpoint_on_a_node_is_refused_on_all(interrupted: list[Path]) -> None:
    first, second = errors_of(launch_nodes(interrupted, "run.yaml", "resume=auto"))
    message = (
        "run/checkpoints/step-000003: missing; every process resumes from it; share the folder run between the "
        "nodes, or give each a copy of the main process's"
    )
    assert second == message
    assert first.startswith("process 1 on ")
    assert first.endswith(message)


def test_resumed_run_with_another_checkpoint_on_a_node_is_refused_on_all(interrupted: list[Path]) -> None:
    run, other = (folder / "run" for folder in interrupted)
    shutil.copytree(run, other)
    state = other / "checkpoints" / "step-000003" / "state.json"
    content = json.loads(state.read_text())
    content["memory"]["seconds"] += 1
    del content["sha256"]
    content["sha256"] = State.model_validate(content).checksum()
    state.write_text(json.dumps(content))
    for error in errors_of(launch_nodes(interrupted, "run.yaml", "resume=auto")):
        assert "run/checkpoints/step-000003: is not the main process's checkpoint of that name" in error


def test_resumed_run_whose_checkpoints_are_on_another_node_is_refused_on_all(interrupted: list[Path]) -> None:
    run, other = (folder / "run" for folder in interrupted)
    run.rename(other)
    for error in errors_of(launch_nodes(interrupted, "run.yaml", "resume=auto")):
        assert "run/checkpoints/step-000003: the main process has no checkpoint of this run" in error
    assert not run.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("missing", "differs from the main process in data.train[0] 068; each node needs the same data"),
        ("other", "differs from the main process in data.train[0] 068; each node needs the same data"),
        ("no folder", "data: "),
    ],
)
def test_other_data_on_a_node_is_refused_on_all(change: str, message: str, nodes: list[Path]) -> None:
    data = {"train": [{"dataset": "dhf1k", "root": "data", "frames": [1, 40]}], "workers": 0}
    for folder in nodes:
        write_config(folder, data=data)
        shutil.copytree(REPOSITORY / "tests" / "data" / "dhf1k", folder / "data")
    video = nodes[1] / "data" / "video" / "068.AVI"
    if change == "missing":
        video.unlink()
    elif change == "other":
        shutil.copy(video.with_name("002.AVI"), video)
    else:
        shutil.rmtree(nodes[1] / "data")
    first, second = errors_of(launch_nodes(nodes, "run.yaml"))
    assert message in first
    assert message in second
    assert "process 1 on " in first
    assert not any((folder / "run").exists() for folder in nodes)


def test_other_config_on_a_node_is_refused_on_all(nodes: list[Path]) -> None:
    write_config(nodes[1], optimizer={"name": "adam", "lr": 2e-3})
    for error in errors_of(launch_nodes(nodes, "run.yaml")):
        assert error.startswith("config: process 1 on ")
        assert error.endswith(
            "differs from the main process in optimizer.lr; give every process the same config and settings"
        )


def test_sigterm_to_one_node_saves_the_state_and_stops_all(nodes: list[Path]) -> None:
    for folder in nodes:
        write_config(folder, training={**TRAINING, "steps": 10_000, "validate_every": 10_000})
    log = nodes[0] / "run" / "log.jsonl"
    with started_nodes(nodes, "run.yaml") as agents:
        wait_until(lambda: log.exists() and len(log.read_bytes().splitlines()) > 2, agents[0])
        agents[1].terminate()
        results = results_of(agents)
    assert all(code != 0 for code, _ in results)
    assert "to resume, add resume=auto" in results[0][1]
    newest = newest_checkpoint(nodes[0] / "run")
    assert newest is not None
    assert newest.name == f"step-{losses(nodes[0] / 'run')[-1][0]:06d}"
