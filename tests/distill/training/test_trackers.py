"""Trackers: real TensorBoard, W&B (offline) and MLflow (SQLite), read back after small runs."""

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from accelerate import PartialState
from helpers import tracked
from helpers.places import REPOSITORY
from helpers.runs import STEPS, assert_same_run, config, launch
from safetensors.torch import load_file

from distill.data.clips import Video
from distill.errors import UserError
from distill.evaluation.map_sources import model_maps
from distill.files import flatten
from distill.inference.settings import InferenceSettings
from distill.models.references import load_model
from distill.training import trackers
from distill.training.config import load_config, save_config
from distill.training.pictures import ValidationPictures
from distill.training.sources import scored_videos
from distill.training.step_log import read_log
from distill.training.tracker_services import TensorBoard, WandB
from distill.training.train import train

pytestmark = pytest.mark.filterwarnings(
    "ignore:The ``noload`` loader strategy is deprecated"  # MLflow with SQLAlchemy 2.1
)

NAMES = [
    "tensorboard",
    "wandb",
    pytest.param("mlflow", marks=pytest.mark.slow),  # seconds to create its tables
]
TRAINING = {"steps": STEPS, "batch_size": 2, "accumulate": 3, "clip_norm": 1.0}
TRAINING |= {"validate_every": 2, "checkpoint_every": 1, "keep": 3}
SOURCES = {"train": [{"dataset": "synthetic"}], "workers": 0}
SOURCES |= {"validation": [{"dataset": "synthetic", "split": "validation", "every": 24}]}


def run_in(folder: Path, *names: str, **changes: Any) -> Any:
    losses = [{"name": "kldiv", "temperature": 4.0, "against": "truth"}, {"name": "cc"}]
    return config(folder / "run", **{"tracking": list(names), "training": TRAINING, "losses": losses, **changes})


@pytest.fixture(autouse=True)
def nothing_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Hide the settings of this machine's trackers, and check that nothing is written to the working folder."""
    for name in os.environ:
        if name.startswith(("WANDB_", "MLFLOW_")):
            monkeypatch.delenv(name)
    for name in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    working = tmp_path / "working"
    working.mkdir()
    monkeypatch.chdir(working)
    yield
    assert not list(working.iterdir())


@pytest.fixture
def accelerate_state() -> None:
    """What accelerate's trackers expect of a program: that it has asked which of its processes this is."""
    PartialState(cpu=True)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(run_in(tmp_path_factory.mktemp("straight")))


@pytest.fixture(scope="module")
def _runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {}


@pytest.fixture
def run(name: str, _runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with one tracker."""
    if name not in _runs:
        _runs[name] = train(run_in(tmp_path_factory.mktemp(name), name))
    return _runs[name]


def expected_curves(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Return the numbers of log.jsonl as trackers name them."""
    found: dict[str, list[tuple[int, float]]] = {}
    for line in read_log(run / "log.jsonl"):
        for name, value in flatten(line, "/").items():
            if isinstance(value, int | float):
                found.setdefault(f"{line['kind']}/{name}", []).append((line["step"], value))
    return found


def stored_as(tracker: str, name: str) -> str:
    return name.replace("@", "_") if tracker == "mlflow" else name


def without_final(curves: tracked.Curves) -> tracked.Curves:
    return {name: values for name, values in curves.items() if not name.startswith("final/")}


@pytest.mark.parametrize("name", NAMES)
def test_tracker_has_every_number_of_the_log_once(name: str, run: Path) -> None:
    expected = expected_curves(run)
    assert {"train/loss", "train/terms/truth/kldiv@4", "train/lr", "validation/scores/nss"} <= set(expected)
    if name == "tensorboard":  # its horizontal axis
        expected = {key: values for key, values in expected.items() if not key.endswith("/step")}
    found = without_final(tracked.curves(name, run))
    assert set(found) == {stored_as(name, key) for key in expected}
    for key, values in expected.items():
        np.testing.assert_allclose(found[stored_as(name, key)], values, rtol=1e-6)  # TensorBoard keeps float32


@pytest.mark.parametrize("name", NAMES)
def test_tracked_run_is_bit_identical(name: str, run: Path, straight: Path) -> None:
    assert_same_run(straight, run)
    assert load_file(run / "best.safetensors").keys() == load_file(straight / "best.safetensors").keys()


@pytest.mark.parametrize("name", NAMES)
def test_tracker_has_the_final_scores_and_cost(name: str, run: Path) -> None:
    summary = json.loads((run / "summary.json").read_text())
    last = [line for line in read_log(run / "log.jsonl") if line["kind"] == "validation"][-1]
    found = {key: values[-1][1] for key, values in tracked.curves(name, run).items() if key.startswith("final/")}
    for metric in ("nss", "cc"):
        assert found[f"final/best/{metric}"] == pytest.approx(summary["best"][metric], rel=1e-6)
        assert found[f"final/last/{metric}"] == pytest.approx(last["scores"][metric], rel=1e-6)
    assert found["final/best/step"] == summary["best"]["step"]
    assert found["final/seconds"] == pytest.approx(summary["seconds"], rel=1e-6)
    assert found["final/peak_memory_mib"] == pytest.approx(summary["peak_memory_mib"], rel=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_tracker_has_the_config_by_its_keys(name: str, run: Path) -> None:
    found = tracked.config(name, run)
    if name == "wandb":
        assert found["losses.0.temperature"] == 4.0
        assert found["data.validation.0.every"] == 24
    else:
        assert found["losses.0.temperature"] == "4.0"
        assert found["data.validation.0.every"] == "24"
        assert found["schedule.name"] == "cosine"
    assert "model.arguments.drop_path" in found


@pytest.mark.parametrize("name", NAMES)
def test_pictures_show_the_predicted_maps_of_the_same_frames(name: str, run: Path) -> None:
    found = tracked.pictures(name, run)
    videos = scored_videos(load_config(run / "config.yaml").data.validation)
    chosen = ValidationPictures(videos)
    assert len(chosen.chosen) == 4
    best = json.loads((run / "summary.json").read_text())["best"]["step"]
    settings = InferenceSettings(batch_size=2)
    maps = chosen.keeping(model_maps(load_model(str(run)).network, settings))
    for video in videos:
        assert [frame for frame, _ in maps(video, video.frames)] == list(video.frames)
    expected = chosen.draw()
    assert set(found) == {(key, step) for key in expected for step in (2, 4, STEPS)}
    for key, picture in expected.items():
        assert np.array_equal(found[key, best], picture[0])


def test_pictures_are_spread_over_the_videos() -> None:
    videos = [
        Video(name=f"{number}", path=Path(f"{number}"), num_frames=9, fps=30, size=(9, 9), frames=range(9),
              truth=None, dataset="any")
        for number in range(100)
    ]  # fmt: skip
    chosen = [(video.name, frame) for video, frame in ValidationPictures(videos).chosen]
    assert chosen == [("12", 4), ("37", 4), ("62", 4), ("87", 4)]
    assert [frame for _, frame in ValidationPictures([videos[0]]).chosen] == [1, 3, 5, 7]
    one = ValidationPictures([Video(**{**vars(videos[0]), "frames": (3,)})])
    assert [frame for _, frame in one.chosen] == [3]


@pytest.mark.parametrize("name", NAMES)
def test_resumed_run_continues_the_trackers_run_without_repeated_steps(
    name: str, tmp_path: Path, straight: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(run_in(tmp_path, name), stop=lambda step, batch: step == 2)
    before = {path: path.read_text() for path in tmp_path.glob("run/tracking.json")}
    assert bool(before) == (name != "tensorboard")
    run = train(run_in(tmp_path, name, resume="auto", data={**SOURCES, "workers": 1}))
    assert_same_run(straight, run)
    assert {path: path.read_text() for path in tmp_path.glob("run/tracking.json")} == before
    for key, values in tracked.curves(name, run).items():
        if key.startswith("train/"):
            assert [step for step, _ in values] == [1, 2, 3, 4, 5], key
        if key.startswith("validation/"):
            assert [step for step, _ in values] == [2, 4, 5], key


def crash_after_three_steps(folder: Path, *names: str) -> None:
    """Leave the files of a run that was killed after step 3 and has a checkpoint of step 2 only."""
    with pytest.raises(KeyboardInterrupt):
        train(run_in(folder, *names), stop=lambda step, batch: step == 2)
    shutil.rmtree(folder / "run" / "checkpoints" / "step-000003")


@pytest.mark.parametrize("name", ["tensorboard", pytest.param("mlflow", marks=pytest.mark.slow)])
def test_steps_repeated_after_a_crash_are_tracked_once(name: str, tmp_path: Path, straight: Path) -> None:
    crash_after_three_steps(tmp_path, name)
    run = train(run_in(tmp_path, name, resume="auto"))
    assert_same_run(straight, run)
    found = tracked.curves(name, run)
    assert [step for step, _ in found["train/loss"]] == [1, 2, 3, 4, 5]
    assert [value for _, value in found["train/loss"]] == pytest.approx(
        [value for _, value in expected_curves(straight)["train/loss"]], rel=1e-6
    )


def test_steps_repeated_after_a_crash_are_in_a_second_part_of_an_offline_wandb_run(
    tmp_path: Path, straight: Path
) -> None:
    crash_after_three_steps(tmp_path, "wandb")
    run = train(run_in(tmp_path, "wandb", resume="auto"))
    first, second = tracked.wandb_files(run)
    assert first.name == second.name  # the same run
    found = tracked.curves("wandb", run)["train/loss"]
    assert [step for step, _ in found] == [1, 2, 3, 3, 4, 5]
    assert found[2] == found[3]


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_repeating_a_finished_run_tracks_nothing(name: str, tmp_path: Path) -> None:
    train(run_in(tmp_path, name))
    before = tracked.curves(name, tmp_path / "run")
    train(run_in(tmp_path, name, resume="auto"))
    assert tracked.curves(name, tmp_path / "run") == before


def test_tracker_added_on_resuming_starts_at_the_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(run_in(tmp_path), stop=lambda step, batch: step == 2)
    run = train(run_in(tmp_path, "wandb", resume="auto"))
    assert [step for step, _ in tracked.curves("wandb", run)["train/loss"]] == [4, 5]
    assert tracked.config("wandb", run)["training.steps"] == STEPS


def test_failing_tracker_is_dropped_and_the_run_and_other_trackers_continue(
    tmp_path: Path, straight: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    logged = TensorBoard.log

    def full(self: TensorBoard, values: dict[str, float], step: int) -> None:
        if step == 3:
            raise OSError(28, "No space left on device")
        logged(self, values, step)

    monkeypatch.setattr(TensorBoard, "log", full)
    run = train(run_in(tmp_path, "tensorboard", "wandb"))
    assert_same_run(straight, run)
    warnings = [each.message for each in caplog.records if each.message.startswith("tracking: ")]
    assert warnings == [
        "tracking: tensorboard failed and is switched off: [Errno 28] No space left on device; the run continues, "
        "and log.jsonl has every number"
    ]
    assert [step for step, _ in tracked.curves("tensorboard", run)["train/loss"]] == [1, 2]
    assert [step for step, _ in tracked.curves("wandb", run)["train/loss"]] == [1, 2, 3, 4, 5]


@pytest.mark.slow
def test_mlflow_store_damaged_during_the_run_does_not_stop_it(
    tmp_path: Path, straight: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def damage(step: int, batch: int) -> bool:
        if (step, batch) == (2, 0):
            (tmp_path / "run" / "mlflow" / "mlflow.db").write_bytes(b"damaged" * 1000)
        return False

    assert_same_run(straight, train(run_in(tmp_path, "mlflow"), stop=damage))
    assert [each.message for each in caplog.records].count(
        "tracking: mlflow failed and is switched off: (sqlite3.DatabaseError) file is not a database; the run "
        "continues, and log.jsonl has every number"
    ) == 1


def test_tracker_that_cannot_start_stops_a_new_run_and_not_a_resumed_one(
    tmp_path: Path, straight: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WANDB_MODE", "onlin")
    with pytest.raises(UserError, match=r"tracking: wandb cannot start: .*add resume=auto, or remove it"):
        train(run_in(tmp_path, "wandb"))
    assert not (tmp_path / "run" / "log.jsonl").exists()
    with pytest.raises(KeyboardInterrupt):
        train(run_in(tmp_path, resume="auto"), stop=lambda step, batch: step == 2)
    assert_same_run(straight, train(run_in(tmp_path, "wandb", resume="auto")))
    assert "tracking: wandb failed and is switched off" in caplog.text


def test_damaged_tracking_json_is_reported_and_the_resumed_run_continues(
    tmp_path: Path, straight: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(run_in(tmp_path, "wandb"), stop=lambda step, batch: step == 2)
    (tmp_path / "run" / "tracking.json").write_text("{")
    assert_same_run(straight, train(run_in(tmp_path, "wandb", resume="auto")))
    assert "tracking.json" in caplog.text


@pytest.mark.usefixtures("accelerate_state")
def test_steps_that_an_online_wandb_run_has_are_skipped_and_older_lines_move_to_its_last_step() -> None:
    class OnlineRun:
        step, id, disabled = 118, "abc", False
        summary: ClassVar = {"train/step": 117, "train/loss": 0.5, "validation/step": 50}

        def __init__(self) -> None:
            self.lines: list[tuple[int, dict[str, float]]] = []

        def log(self, values: dict[str, float], step: int) -> None:
            self.lines.append((step, values))

    service = WandB.__new__(WandB)
    service.run = OnlineRun()
    assert service.reached() == {"train": 117, "validation": 50}
    opened = trackers.Trackers()
    opened._services["wandb"], opened._reached["wandb"] = service, service.reached()
    opened.log({"kind": "validation", "step": 100, "scores": {"cc": 0.5}})  # interrupted before
    for step in (101, 117, 118):
        opened.log({"kind": "train", "step": step, "loss": 1.0})
    assert service.run.lines == [
        (118, {"validation/step": 100, "validation/scores/cc": 0.5}),
        (118, {"train/step": 118, "train/loss": 1.0}),
    ]


@pytest.mark.slow
def test_unreachable_mlflow_server_stops_a_new_run_and_not_a_resumed_one(
    tmp_path: Path, straight: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # nobody listens to the discard port
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    with pytest.raises(UserError, match="tracking: mlflow cannot start: API request to http://127"):
        train(run_in(tmp_path / "new", "mlflow"))
    with pytest.raises(KeyboardInterrupt):
        train(run_in(tmp_path), stop=lambda step, batch: step == 2)
    assert_same_run(straight, train(run_in(tmp_path, "mlflow", resume="auto")))
    assert "tracking: mlflow failed and is switched off: API request to http://127" in caplog.text


@pytest.mark.parametrize(("name", "extra"), [("tensorboard", "tracking"), ("wandb", "wandb"), ("mlflow", "mlflow")])
def test_missing_package_is_named_before_any_work(
    name: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trackers, "is_installed", lambda package: package != name)
    with pytest.raises(UserError) as error:
        train(run_in(tmp_path, name))
    assert str(error.value) == (
        f"tracking: {name} is not installed; install it with: pip install 'saldistill[{extra}]', or remove it from "
        "tracking"
    )
    assert not (tmp_path / "run").exists()


def test_run_without_trackers_writes_no_files_of_theirs(straight: Path) -> None:
    names = {path.name for path in straight.iterdir()}
    assert names == {"config.yaml", "log.jsonl", "checkpoints", "best.safetensors", "summary.json"}


def test_unknown_trackers_are_listed_with_all_other_mistakes(tmp_path: Path) -> None:
    save_config(run_in(tmp_path), tmp_path / "run.yaml")
    with pytest.raises(UserError) as error:
        load_config(tmp_path / "run.yaml", ["tracking=[tensorbord,wandb]", "seed=-1"])
    assert "tracking[0]: expected" in str(error.value)
    assert "'tensorbord'" in str(error.value)
    assert "seed" in str(error.value)


@pytest.mark.usefixtures("accelerate_state")
def test_undefined_numbers_are_left_out(tmp_path: Path) -> None:
    with trackers.Trackers() as opened:
        opened.start(["tensorboard"], tmp_path, done=0, config={})
        opened.log({"kind": "validation", "step": 1, "scores": {"nss": math.nan, "cc": 0.5, "sim": math.inf}})
    assert tracked.curves("tensorboard", tmp_path) == {"validation/scores/cc": [(1, 0.5)]}


@pytest.mark.slow
@pytest.mark.usefixtures("accelerate_state")
def test_mlflow_accepts_long_and_odd_keys_and_values(tmp_path: Path) -> None:
    values = {"model": {"arguments": {"x" * 300: 1, "ä@": "y" * 7000, "empty": "", "none": None}}}
    with trackers.Trackers() as opened:
        opened.start(["mlflow"], tmp_path, done=0, config=values)
        opened.log({"kind": "train", "step": 1, "terms": {"teacher/hint:a,b@4": 1.0}})
        assert opened  # it did not fail
    found = tracked.config("mlflow", tmp_path)
    assert found["model.arguments.__"] == "y" * 5997 + "..."
    assert found["model.arguments.empty"] == ""
    assert found["model.arguments.none"] == "null"
    assert tracked.curves("mlflow", tmp_path)["train/terms/teacher/hint:a_b_4"] == [(1, 1.0)]


@pytest.mark.slow
def test_mlflow_uses_the_store_that_the_environment_names_and_ends_with_the_runs_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path}/other.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.chdir(tmp_path)  # where MLflow creates mlruns/ for such a store
    with pytest.raises(KeyboardInterrupt):
        train(run_in(tmp_path, "mlflow"), stop=lambda step, batch: step == 1)
    assert not (tmp_path / "run" / "mlflow").exists()
    (found,) = MlflowClient(uri).search_runs(["1"])
    assert found.info.status == "KILLED"
    train(run_in(tmp_path, "mlflow", resume="auto"))
    (found,) = MlflowClient(uri).search_runs(["1"])
    assert found.info.status == "FINISHED"


def test_wandb_disabled_by_its_environment_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    run = train(run_in(tmp_path, "wandb"))
    assert not tracked.wandb_files(run)
    assert not (run / "tracking.json").exists()


@pytest.mark.slow
def test_command_prints_only_its_own_lines(tmp_path: Path) -> None:
    save_config(run_in(tmp_path, "wandb"), tmp_path / "run.yaml")
    command = [sys.executable, "-m", "distill.cli.main", "train", str(tmp_path / "run.yaml"), "--json"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["steps"] == STEPS
    assert f"tracking: wandb: offline; wandb sync {tmp_path}/run/wandb/offline-run-*" in done.stderr
    assert "wandb: " not in done.stderr.replace("tracking: wandb: ", "")


@pytest.mark.slow
def test_only_the_main_process_tracks(tmp_path: Path) -> None:
    save_config(run_in(tmp_path, "tensorboard", "wandb"), tmp_path / "run.yaml")
    launch(str(REPOSITORY / "scripts" / "train_teacher.py"), str(tmp_path / "run.yaml"))
    assert len(tracked.wandb_files(tmp_path / "run")) == 1
    for name in ("tensorboard", "wandb"):
        assert [step for step, _ in tracked.curves(name, tmp_path / "run")["train/loss"]] == [1, 2, 3, 4, 5]
