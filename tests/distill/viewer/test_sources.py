import shutil
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from helpers.places import REPOSITORY, SAMPLE
from helpers.stores import TinyTeacher, build_small
from helpers.views import scores_of, wait_for
from PIL import Image

from distill.data.sets.find import find_videos
from distill.data.video.writer import VideoWriter
from distill.errors import UserError
from distill.evaluation.evaluate import evaluate
from distill.evaluation.references import resolve_source
from distill.inference.settings import InferenceSettings
from distill.saliency import peak_map
from distill.viewer import sources
from distill.viewer.layers import PredictedLayer, StoredLayer
from distill.viewer.view import View

OLD = REPOSITORY / "tests" / "data" / "version-0.1.0"
BLOB = "synthetic:0-48x72x128"

Open = Callable[..., View]


@pytest.fixture
def opened() -> Iterator[Open]:
    """`open_view` on the CPU; the views are closed after the test."""
    views: list[View] = []

    def call(path: object, **options: object) -> View:
        views.append(sources.open_view(str(path), device="cpu", **options))  # type: ignore[arg-type]
        return views[-1]

    yield call
    for view in views:
        assert view.close(10)


def pixels(view: View, number: int, place: int, panel: int, **how: object) -> np.ndarray:
    """Return a panel as (H, W, 3), when its map is there."""
    view.want(number, place)
    options = {"draw": "overlay", "gaze": False} | how
    wait_for(lambda: view.picture(number, place, panel, **options) is not None)  # type: ignore[arg-type]
    found = view.picture(number, place, panel, **options)  # type: ignore[arg-type]
    assert found is not None
    return np.asarray(Image.open(BytesIO(found))).astype(int)


# ------------------------------------------------------------------------------------------------ videos


def test_video_shows_its_frames_and_the_maps_of_a_model(opened: Open) -> None:
    view = opened(SAMPLE / "video" / "068.AVI", models=["centre-prior"])
    assert (view.kind, view.panels, view.scores, view.notes) == ("video", ["frame", "centre-prior"], None, [])
    about = view.describe_video(0)
    assert (about["numbers"][0], len(about["numbers"]), about["truth"]) == (
        1,
        view.videos[0].video.num_frames,
        False,
    )
    assert about["size"] == (360, 640)
    frame, overlaid = pixels(view, 0, 10, 0), pixels(view, 0, 10, 1)
    assert frame.shape == (360, 640, 3)
    changed = np.abs(overlaid - frame).mean(axis=-1)
    assert changed[160:200, 300:340].mean() > 5 * changed[:40, :40].mean()
    alone = pixels(view, 0, 10, 1, draw="map").mean(axis=-1)
    assert alone[180, 320] > 150 > 30 > alone[0, 0]


def test_default_model_is_the_pretrained_student(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load(reference: str, title: str, videos: object, *, device: str) -> PredictedLayer:
        asked.append((reference, title, device))
        return PredictedLayer(resolve_source("centre-prior").maps, title)

    monkeypatch.setattr(sources, "_predicted", load)
    opened(BLOB)
    opened(BLOB, models=["runs/a/student", "runs/b/student"])
    assert asked == [
        ("stream-small", "stream-small", "cpu"),
        ("runs/a/student", "a/student", "cpu"),
        ("runs/b/student", "b/student", "cpu"),
    ]


def test_data_adds_gaze_and_scores_equal_to_those_of_evaluate(opened: Open) -> None:
    view = opened(BLOB, models=["centre-prior"], data="synthetic:")
    assert view.panels == ["frame", "ground truth", "centre-prior"]
    videos = find_videos("synthetic", "", videos=["blob0"])
    expected = evaluate(
        resolve_source("centre-prior").maps,
        videos,
        metrics=view.describe()["metrics"] and list(view.scores.metrics),
        progress=False,  # type: ignore[union-attr]
    )
    found = scores_of(view)
    for row in expected.rows:
        for metric, value in row.values.items():
            assert found[metric][row.frame] == pytest.approx(value, abs=1e-4)
    marked = pixels(view, 0, 5, 0, gaze=True)
    row, column = videos[0].truth.points(5)[0]  # type: ignore[union-attr]
    assert np.abs(marked - pixels(view, 0, 5, 0))[row, column].sum() > 50


def test_data_without_this_video_is_noted(opened: Open) -> None:
    view = opened("synthetic:99-48x72x128", models=["centre-prior"], data="synthetic:")
    assert view.notes == ["synthetic:: has no ground truth of synthetic:99-48x72x128"]


def test_folder_of_videos_lists_them_in_natural_order_without_broken_ones(opened: Open, tmp_path: Path) -> None:
    for name in ("clip10", "clip2"):
        with VideoWriter(tmp_path / f"{name}.mp4", (64, 96), 25.0) as writer:
            writer.write(np.zeros((3, 64, 96, 3), np.uint8))
    (tmp_path / "clip3.mp4").write_bytes(b"no video")
    view = opened(tmp_path, models=["centre-prior"])
    assert [video.name for video in view.videos] == ["clip2", "clip10"]
    assert "clip3.mp4" in view.notes[0]


def test_large_video_is_shown_smaller(opened: Open, tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "tall.mp4", (1300, 700), 25.0) as writer:
        writer.write(np.zeros((2, 1300, 700, 3), np.uint8))
    view = opened(tmp_path / "tall.mp4", models=["centre-prior"])
    assert pixels(view, 0, 0, 0).shape == pixels(view, 0, 1, 1).shape == (640, 345, 3)


# ------------------------------------------------------------------------------------------------ target stores


@pytest.fixture
def store(tmp_path: Path) -> Path:
    build_small(tmp_path / "store", find_videos("synthetic", "", videos=["blob0", "blob1"], frames=(3, 12)))
    return tmp_path / "store"


@pytest.mark.parametrize("name", ["", "store.json"])
def test_store_shows_its_videos_with_the_stored_maps(opened: Open, store: Path, name: str) -> None:
    view = opened(store / name)
    assert (view.kind, view.panels, view.scores) == ("target store", ["frame", "teacher"], None)
    assert [video.name for video in view.videos] == ["blob0", "blob1"]
    assert view.describe_video(1)["numbers"] == list(range(3, 13))
    layer = view.layers[0]
    assert isinstance(layer, StoredLayer)
    found = layer.get(view.videos[1], 4)
    np.testing.assert_array_equal(found, peak_map(layer._store.read("blob1", 6)))
    assert not np.array_equal(pixels(view, 1, 4, 0), pixels(view, 1, 4, 1))


def test_store_with_data_and_model_scores_teacher_and_student(opened: Open, store: Path) -> None:
    view = opened(store, models=["centre-prior"], data="synthetic:")
    assert view.panels == ["frame", "ground truth", "teacher", "centre-prior"]
    assert all(value is not None for value in scores_of(view)["nss"])
    assert view.describe()["series"] == ["teacher", "centre-prior"]


def test_store_of_mirrored_maps_shows_them_as_the_video_is(opened: Open, tmp_path: Path) -> None:
    videos = find_videos("synthetic", "", videos=["blob0"], frames=(1, 4))
    flipped = build_small(tmp_path / "flipped", videos, views=["flipped"])
    found = opened(tmp_path / "flipped").layers[0].get(opened(tmp_path / "flipped").videos[0], 2)
    np.testing.assert_array_equal(found, peak_map(flipped.read("blob0", 2, "flipped"))[:, ::-1])


def test_store_without_its_videos_shows_maps_alone(opened: Open, tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "a.mp4", (64, 96), 25.0) as writer:
        writer.write(np.zeros((4, 64, 96, 3), np.uint8))
    build_small(tmp_path / "store", find_videos("folder", tmp_path))
    (tmp_path / "a.mp4").unlink()
    view = opened(tmp_path / "store")
    assert "a.mp4: does not exist; --data DATASET:ROOT says where" in view.describe_video(0)["missing"]
    with pytest.raises(UserError, match="does not exist"):
        view.picture(0, 0, 0, draw="overlay", gaze=False)
    assert pixels(view, 0, 0, 1).shape == (480, 640, 3)  # the shape of the maps of TinyTeacher
    assert TinyTeacher.map_size == (12, 16)


def test_store_whose_video_was_shortened_says_so(opened: Open, tmp_path: Path) -> None:
    for frames in (4, 2):
        (tmp_path / "a.mp4").unlink(missing_ok=True)
        with VideoWriter(tmp_path / "a.mp4", (64, 96), 25.0) as writer:
            writer.write(np.zeros((frames, 64, 96, 3), np.uint8))
        if frames == 4:
            build_small(tmp_path / "store", find_videos("folder", tmp_path))
    assert "has 2 frames, expected at least 4" in opened(tmp_path / "store").describe_video(0)["missing"]


# ------------------------------------------------------------------------------------------------ run folders


def test_run_shows_validation_videos_and_the_teacher_predicts_what_its_store_lacks(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(OLD)
    view = opened("run")
    assert view.panels == ["frame", "ground truth", "teacher (predicted)", "this run"]
    assert [(video.name, video.group, len(video.frames)) for video in view.videos] == [("blob4", "validation", 48)]
    assert view.notes == [
        "store: has no map of these frames, which the run does not train on; teacher predicts them now"
    ]


def test_run_on_other_data_shows_the_stored_maps(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(OLD)
    view = opened("run", data="synthetic:", models=["centre-prior"])
    assert view.panels == ["frame", "ground truth", "teacher", "this run", "centre-prior"]
    assert len(view.videos) == 8
    with pytest.raises(UserError, match="blob7"):
        view.picture(7, 0, 2, draw="overlay", gaze=False)
    pixels(view, 0, 0, 3)


def test_run_without_weights_and_teacher_is_shown_with_notes(opened: Open, tmp_path: Path) -> None:
    shutil.copy(OLD / "run" / "config.yaml", tmp_path)
    view = opened(tmp_path)
    assert view.panels == ["frame", "ground truth"]
    assert view.notes[0].startswith("no maps of the teacher: store: does not exist; teacher.safetensors: ")
    assert "no weights in this folder" in view.notes[1]


# ------------------------------------------------------------------------------------------------ scores


def write_scores(folder: Path, name: str, **how: str) -> None:
    videos = find_videos("synthetic", "", videos=["blob0", "blob1"])
    scores = evaluate(
        resolve_source("centre-prior", InferenceSettings()).maps,
        videos,
        every=4,
        metrics=["nss", "cc", "kldiv"],
        progress=False,
        name=name,
    )
    scores.how.update(how)
    scores.save(folder)


def test_scores_show_the_frames_of_the_data_that_they_name(opened: Open, tmp_path: Path) -> None:
    write_scores(tmp_path / "scores", "centre-prior", data="synthetic:")
    view = opened(tmp_path / "scores")
    assert (view.kind, view.panels) == ("scores", ["frame", "ground truth", "centre-prior"])
    assert view.describe_video(0)["numbers"] == list(range(1, 49, 4))
    assert [each["name"] for each in view.describe()["metrics"]] == ["nss", "cc", "kldiv"]
    values = view.describe_scores(0)["series"][0]["values"]["nss"]
    assert len(values) == 12
    pixels(view, 1, 11, 2)


@pytest.mark.parametrize(("metric", "sign"), [(0, 1), (2, -1)])
def test_worst_frames_are_sorted_by_the_direction_of_the_metric(
    opened: Open, tmp_path: Path, metric: int, sign: int
) -> None:
    write_scores(tmp_path / "scores", "centre-prior", data="synthetic:")
    view = opened(tmp_path / "scores")
    found = view.worst(metric, 0)
    values = [sign * each["value"] for each in found]  # type: ignore[operator]
    assert values == sorted(values)
    name = view.scores.metrics[metric]  # type: ignore[union-attr]
    every = [v for n in (0, 1) for v in view.describe_scores(n)["series"][0]["values"][name]]
    assert found[0]["value"] == (min(every) if sign == 1 else max(every))
    frames = [each["frame"] for each in found if each["video"] == 0]
    assert all(abs(a - b) >= 10 for a in frames for b in frames if a is not b)  # type: ignore[operator]


def test_several_scores_without_data_show_time_lines_only(opened: Open, tmp_path: Path) -> None:
    for name in ("runs/one/student", "runs/two/student"):
        write_scores(tmp_path / name.replace("/", "_"), name)
    view = opened(tmp_path)
    assert (view.panels, view.describe()["series"]) == ([], ["one/student", "two/student"])
    assert view.notes == ["These scores do not name their data; --data DATASET:ROOT shows the frames."]
    assert view.describe_video(0)["missing"] == ""
    assert view.describe_scores(1)["done"]


def test_scores_whose_data_and_models_are_gone_are_shown_with_notes(opened: Open, tmp_path: Path) -> None:
    write_scores(tmp_path / "a", "gone/model", data="dhf1k:gone/data")
    view = opened(tmp_path / "a" / "scores.json")
    assert view.panels == []
    assert view.notes[0].startswith("no frames: gone/data: no such folder")
    view = opened(tmp_path / "a", data="synthetic:")
    assert view.panels == ["frame", "ground truth"]
    assert view.notes[0].startswith("no maps of model: gone/model: no model")


def test_evaluate_records_the_data_that_scores_are_of(tmp_path: Path) -> None:
    from distill.cli.main import main
    from distill.evaluation.scores import read_scores

    words = [
        "evaluate",
        "centre-prior",
        "synthetic:",
        "--videos",
        "blob0",
        "--every",
        "12",
        "-o",
        str(tmp_path / "s"),
    ]
    assert main(words) == 0
    assert read_scores(tmp_path / "s").how["data"] == "synthetic:"


# ------------------------------------------------------------------------------------------------ bad input


def folder_of_run(path: Path) -> None:
    (path / "best.safetensors").write_bytes(b"")


def damaged_scores(path: Path) -> None:
    write_scores(path / "scores", "centre-prior")
    (path / "scores" / "scores.csv").write_text("video,frame\n1,2,3\n")


def damaged_store(path: Path) -> None:
    (path / "store.json").write_text("{}")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Path.rmdir, "does not exist; expected a run folder, scores, a target store or a video"),
        (lambda path: None, "expected images"),
        (folder_of_run, "has no config.yaml that names its videos"),
        (damaged_scores, "scores.csv"),
        (damaged_store, "store.json: the file was changed or damaged"),
        (lambda path: (path / "a.mp4").write_bytes(b"no video"), "a.mp4"),
        (lambda path: (path / "config.yaml").write_text("out: 3"), "config.yaml"),
    ],
)
def test_bad_input_is_one_sentence(
    opened: Open, tmp_path: Path, make: Callable[[Path], object], message: str
) -> None:
    folder = tmp_path / "input"
    folder.mkdir()
    make(folder)
    with pytest.raises(UserError, match=message):
        opened(folder)


@pytest.mark.parametrize("options", [{"models": ["no/such/model"]}, {"data": "nodata:x"}, {"data": "dhf1k"}])
def test_bad_model_or_data_is_one_sentence(opened: Open, options: dict[str, object]) -> None:
    with pytest.raises(UserError):
        opened(BLOB, **options)
