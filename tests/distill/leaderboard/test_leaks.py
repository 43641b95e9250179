"""Leaks of models: runs with their initial weights and teachers, files, pretrained models, and what is unknown."""

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers.pretrained_models import make_pretrained, placeholder

from distill.data.clips import Video
from distill.data.picture_hashes import hash_videos
from distill.data.sets.find import find_videos
from distill.errors import UserError
from distill.files import file_hash
from distill.leaderboard import leaks as leaks_module
from distill.leaderboard import training_data
from distill.leaderboard.leaks import Leaks, check_leaks
from distill.models import pretrained
from distill.models.pretrained import pretrained_folder, pretrained_model
from distill.models.training_hashes import FILE, training_hashes
from distill.models.weight_files import save_model
from distill.targets.store import TargetStore
from distill.training.config import RunConfig, save_config


@pytest.fixture(autouse=True)
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def scored(sample: Path) -> list[Video]:
    """The sample videos 002 and 068."""
    return find_videos("dhf1k", sample)


def make_run(sample: Path, name: str, videos: str | None = "002", **changes: Any) -> str:
    """Write the config of a run that was trained on a sample video, or on a generated one for None."""
    source: dict[str, Any] = {"dataset": "synthetic", "split": "train"}
    if videos is not None:
        source = {"dataset": "dhf1k", "root": str(sample), "videos": [videos], "frames": [1, 40]}
    content: dict[str, Any] = {
        "out": name,
        "model": {"name": "student/stream", "variant": "micro", "weights": changes.pop("weights", None)},
        "data": {"train": [source]},
        "losses": [{"name": "kldiv"}],
        "training": {"steps": 1},
    }
    Path(name).mkdir()
    save_config(RunConfig.model_validate(content | changes), Path(name) / "config.yaml")
    return name


def with_teacher(**teacher: Any) -> dict[str, Any]:
    return {"teacher": teacher, "losses": [{"name": "kldiv"}, {"name": "kldiv", "against": "teacher"}]}


def make_store(path: str, **notes: Any) -> str:
    TargetStore.create(path, fingerprint={}, videos={"a": [0]}, map_size=(4, 4), notes=notes)
    return path


def test_run_trained_on_a_scored_video_is_found(sample: Path, scored: list[Video]) -> None:
    leaks = check_leaks(make_run(sample, "run"), scored)
    assert leaks == Leaks(
        "found",
        ("002",),
        "compared with the one video that the model, its initial weights and its teachers were trained on: 1 of 2 "
        "scored videos are copies or near-duplicates",
    )


def test_run_on_other_videos_has_no_leaks(sample: Path, scored: list[Video]) -> None:
    run = make_run(sample, "run")
    assert check_leaks(run, scored[1:]).status == "none"
    assert check_leaks(make_run(sample, "generated", None), scored).status == "none"


def test_renamed_training_video_is_found_under_its_new_name(sample: Path, scored: list[Video]) -> None:
    Path("elsewhere").mkdir()
    shutil.copy(scored[0].path, "elsewhere/holiday.avi")
    videos = find_videos("folder", "elsewhere")
    assert check_leaks(make_run(sample, "run"), videos).videos == ("holiday",)


def test_data_behind_initial_weights_and_teachers_counts(sample: Path, scored: list[Video]) -> None:
    first = make_run(sample, "first")
    checkpoint = Path(first) / "checkpoints" / "step-000001"
    checkpoint.mkdir(parents=True)
    save_model(placeholder(), checkpoint / "model.safetensors")
    weights = str(checkpoint / "model.safetensors")
    store = make_store("store", teacher=first)
    runs = [
        make_run(sample, "by-folder", None, weights=first),
        make_run(sample, "by-file", None, weights=weights),
        make_run(sample, "grandchild", None, weights="by-folder"),
        make_run(sample, "online", None, **with_teacher(source="online", model=first)),
        make_run(sample, "cached", None, **with_teacher(store=store)),
        make_run(sample, "mean", None, **with_teacher(store=make_store("mean-store", imported=[store]))),
    ]
    for run in [*runs, weights]:
        leaks = check_leaks(run, scored)
        assert (leaks.status, leaks.videos) == ("found", ("002",)), run
    assert check_leaks("mean", scored[1:]).status == "none"


def test_runs_that_name_each_other_end(sample: Path, scored: list[Video]) -> None:
    make_run(sample, "a", weights="b")
    make_run(sample, "b", None, weights="a")
    assert check_leaks("b", scored).videos == ("002",)


def test_imagenet_weights_are_mentioned(sample: Path, scored: list[Video]) -> None:
    leaks = check_leaks(make_run(sample, "run", weights="imagenet"), scored[1:])
    assert leaks.status == "none"
    assert leaks.reason.endswith("; ImageNet, on which a backbone was trained first, is not compared")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"weights": "lost/run"}, "training data of lost/run is unknown (no file, folder or pretrained model of"),
        (
            with_teacher(store="lost"),
            "training data of the teacher behind lost is unknown (lost: not a target store (no store.json))",
        ),
        (
            with_teacher(store="anonymous"),
            "the teacher behind anonymous is unknown (the target store does not name",
        ),
        (with_teacher(store="mean"), "training data of what made the maps in maps/theirs is unknown"),
    ],
)
def test_unknown_ancestors_leave_unknown_what_was_not_found(
    sample: Path, scored: list[Video], changes: dict[str, Any], why: str
) -> None:
    make_store("anonymous")
    make_store("mean", imported=["maps/theirs"])
    run = make_run(sample, "run", **changes)
    leaks = check_leaks(run, scored[1:])
    assert leaks.status == "unknown"
    assert why in leaks.reason
    assert leaks.reason.startswith(
        "compared with the one video of the known training data: no scored video is a copy or near-duplicate; "
    )
    leaks = check_leaks(run, scored)
    assert (leaks.status, leaks.videos) == ("found", ("002",))
    assert why in leaks.reason


def test_missing_training_data_is_named(sample: Path, scored: list[Video]) -> None:
    shutil.copytree(sample, "moved")
    run = make_run(Path("moved"), "run")
    shutil.rmtree("moved")
    leaks = check_leaks(run, scored)
    assert leaks == Leaks("unknown", (), "training data of run is unknown (moved: no such folder)")


@pytest.mark.parametrize("reference", ["centre-prior", "frame-difference", "observers", "student/stream:micro"])
def test_what_is_not_trained_has_no_leaks(scored: list[Video], reference: str) -> None:
    leaks = check_leaks(reference, scored)
    assert (leaks.status, leaks.videos) == ("none", ())
    assert ("observers of the same frames" in leaks.reason) == (reference == "observers")


def test_models_without_a_record_of_their_data_are_unknown(scored: list[Video]) -> None:
    for folder in ("maps", "run/checkpoints"):
        Path(folder).mkdir(parents=True)
    save_model(placeholder(), "lone.safetensors", notes={"step": 1})
    Path("pickle.pth").write_bytes(b"")
    reasons = {
        "maps": "training data of maps is unknown (a folder of maps does not record what made them)",
        "run": "training data of run is unknown (the run folder has no config.yaml)",
        "lone.safetensors": "training data of lone.safetensors is unknown (the file names no pretrained model, and "
        "is not in its run folder)",
        "pickle.pth": "training data of pickle.pth is unknown (pickle.pth: ",
    }
    for reference, reason in reasons.items():
        leaks = check_leaks(reference, scored)
        assert (leaks.status, leaks.videos) == ("unknown", ())
        assert leaks.reason.startswith(reason)


def test_file_in_its_run_folder_is_known_by_the_hash_of_the_config(sample: Path, scored: list[Video]) -> None:
    run = make_run(sample, "run")
    notes = {"run": {"config_sha256": file_hash("run/config.yaml")}}
    save_model(placeholder(), "run/mine.safetensors", notes=notes)
    assert check_leaks("run/mine.safetensors", scored).videos == ("002",)
    save_model(placeholder(), f"{run}/foreign.safetensors")
    assert check_leaks("run/foreign.safetensors", scored).status == "unknown"


def test_pretrained_model_was_trained_on_the_sample(scored: list[Video]) -> None:
    shutil.copy(pretrained_folder() / "stream-nano.onnx", "renamed.onnx")
    for reference in ("stream-nano", "stream-small", "renamed.onnx"):
        leaks = check_leaks(reference, scored)
        assert (leaks.status, leaks.videos) == ("found", ("002", "068"))
        assert leaks.reason.startswith("compared with the 1,552 videos and images that the model, its initial")
        assert "2 of 2 scored videos are copies or near-duplicates; ImageNet" in leaks.reason


def test_run_that_starts_from_pretrained_weights_inherits_their_data(sample: Path, scored: list[Video]) -> None:
    model = {"name": "student/stream", "variant": "nano", "weights": "pretrained"}
    assert check_leaks(make_run(sample, "run", None, model=model), scored).videos == ("002", "068")
    model = {"name": "student/stream", "weights": "stream-small"}
    assert check_leaks(make_run(sample, "named", None, model=model), scored).videos == ("002", "068")


def test_repository_with_a_pretrained_file_is_known_by_its_hash(
    scored: list[Video], monkeypatch: pytest.MonkeyPatch
) -> None:
    def repository(sha256: str) -> None:
        manifest = SimpleNamespace(
            weights="model.safetensors", files={"model.safetensors": SimpleNamespace(sha256=sha256)}
        )
        monkeypatch.setattr(training_data, "open_repository", lambda _: SimpleNamespace(manifest=manifest))

    repository(pretrained_model("stream-nano").weights.sha256)
    assert check_leaks("hf://someone/nano", scored).videos == ("002", "068")
    repository("0" * 64)
    leaks = check_leaks("hf://someone/nano", scored)
    assert leaks.status == "unknown"
    assert leaks.reason == "training data of hf://someone/nano is unknown (its saldistill.json does not list it)"


def test_pretrained_model_without_hashes_is_unknown(
    scored: list[Video], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_pretrained(tmp_path / "pretrained", {"stream-mine": placeholder()})
    monkeypatch.setattr(pretrained, "pretrained_folder", lambda: folder)
    leaks = check_leaks("stream-mine", scored)
    assert leaks == Leaks(
        "unknown", (), "training data of stream-mine is unknown (stream-mine comes without hashes of it)"
    )
    (folder / FILE).write_text('{"format": 1, "version": 0, "models": {}}')
    assert check_leaks("stream-mine", scored).status == "unknown"  # older hashes cannot be compared


@pytest.mark.parametrize(
    "content", ['{"format": 1}', '{"format": 1, "version": 1, "models": {"stream-mine": {"videos": 1}}}']
)
def test_damaged_hashes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str) -> None:
    monkeypatch.setattr(pretrained, "pretrained_folder", lambda: tmp_path)
    (tmp_path / FILE).write_text(content)
    with pytest.raises(
        UserError, match=r"training_hashes\.json: cannot be read as hashes of training data .*; reinstall"
    ):
        training_hashes()


def test_unreadable_training_video_is_unknown(
    sample: Path, scored: list[Video], monkeypatch: pytest.MonkeyPatch
) -> None:
    def only_second(paths: list[Path], **options: Any) -> list[Any]:
        found = hash_videos(paths, **options)
        return [
            UserError(f"{path.name}: hangs; leave it out") if "002" in path.name else each
            for path, each in zip(paths, found, strict=True)
        ]

    monkeypatch.setattr(leaks_module, "hash_videos", only_second)
    leaks = check_leaks(make_run(sample, "run"), scored[1:])
    assert leaks.status == "unknown"
    assert leaks.reason.endswith("; 1 training video cannot be read (002.AVI: hangs)")


def test_unreadable_scored_video_is_an_error(sample: Path, scored: list[Video]) -> None:
    run = make_run(sample, "run")
    Path("broken.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"broken\.png"):
        check_leaks(run, [replace(scored[0], path=Path("broken.png"))])


def test_pretrained_model_on_public_test_has_no_leaks(shared: Path) -> None:
    root = shared / "data" / "hevc-gaze"
    leaks = check_leaks("stream-nano", find_videos("ntire", root, split="public_test"))
    assert (leaks.status, leaks.videos) == ("none", ())
    trained = find_videos("ntire", root, videos=["BQSquare", "SlideShow"])
    assert check_leaks("stream-nano", trained).videos == ("BQSquare", "SlideShow")
