"""`saldistill leaderboard`: quality, cost and leaks in one page, with known answers where there are any."""

import csv
import io
import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import fake_gaze
from helpers.places import SAMPLE
from helpers.still_files import still_set
from PIL import Image

from distill.cli import main
from distill.cli.leaderboard import command_of
from distill.data.sets.find import find_videos
from distill.data.video import synthetic
from distill.errors import UserError
from distill.evaluation.scores import Row as FrameRow
from distill.evaluation.scores import Scores
from distill.inference.settings import InferenceSettings
from distill.leaderboard import leaderboard
from distill.leaderboard.cost import Cost, measure_costs, state_bytes
from distill.leaderboard.entries import Entry, TestSet, find_entries, find_test_sets, split_name
from distill.leaderboard.leaks import Leaks
from distill.leaderboard.page import COLUMNS, markdown_table, sections_of
from distill.leaderboard.pareto import Panel, Point, _box, _overlap, log_ticks, pareto_plot, place_labels
from distill.leaderboard.quality import METRICS, NotScored, explained
from distill.leaderboard.table import as_csv, make_rows
from distill.models.references import load_model

SETTINGS = InferenceSettings(stride=None, device="cpu")
SET = TestSet("fake", "fake:", [fake_gaze.ONE, fake_gaze.LONG])
OBSERVERS = Entry("observers", "observers", None)


def scores(name: str, gains: dict[str, list[float]], **others: float) -> Scores:
    """Scores with given information gains of the frames of each video; the other metrics are constant."""
    constant = {"auc_shuffled": 0.6, "nss": 1.0, "cc": 0.3} | others
    rows = [
        FrameRow(video, frame, {**constant, "info_gain": gain})
        for video, values in gains.items()
        for frame, gain in enumerate(values)
    ]
    return Scores(name, METRICS, rows)


def entry(name: str) -> Entry:
    """An entry whose source is never run."""
    found = find_entries([f"{name}=centre-prior"], SETTINGS)[1]
    return Entry(name, name, found.source)


CEILING = scores("observers", {"a": [2.0, 2.0], "b": [4.0], "c": [3.0]})


def board(
    results: dict[str, Scores | NotScored],
    costs: dict[str, Cost] | None = None,
    leaks: dict[str, Leaks] | None = None,
    ceiling: Scores = CEILING,
) -> list[Any]:
    entries = [OBSERVERS, *map(entry, results)]
    pairs = {("fake", name): result for name, result in {"observers": ceiling, **results}.items()}
    return make_rows(
        entries, [SET], pairs, costs or {}, {("fake", name): each for name, each in (leaks or {}).items()}
    )


# ------------------------------------------------------------------------------------ information gain explained


def test_proportional_gain_explains_its_factor_without_spread() -> None:
    half = scores("half", {"a": [1.0, 1.0], "b": [2.0], "c": [1.5]})
    found = explained(half, CEILING)
    assert found.value == pytest.approx(0.5)
    assert found.ends == pytest.approx((0.5, 0.5))
    assert explained(CEILING, CEILING).value == 1
    assert explained(scores("prior", {"a": [0.0, 0.0], "b": [0.0], "c": [0.0]}), CEILING).value == 0


def test_share_is_a_ratio_of_means_over_videos_not_a_mean_of_ratios() -> None:
    found = explained(scores("one", {"a": [2.0, 2.0], "b": [0.0], "c": [3.0]}), CEILING)
    assert found.value == pytest.approx(5 / 9)
    assert found.ends[0] < 5 / 9 < found.ends[1] <= 1


def test_frames_that_one_side_lacks_are_left_out_of_both() -> None:
    ceiling = scores("observers", {"a": [2.0, math.nan], "b": [4.0]})
    assert explained(scores("one", {"a": [1.0, 100.0], "b": [2.0], "c": [50.0]}), ceiling).value == 0.5


@pytest.mark.parametrize("gain", [0.0, -1.0])
def test_share_of_a_gain_that_is_not_positive_is_undefined(gain: float) -> None:
    found = explained(scores("one", {"a": [1.0]}), scores("observers", {"a": [gain]}))
    assert math.isnan(found.value)
    assert all(map(math.isnan, found.ends))


# ------------------------------------------------------------------------------------------------- order and marks


def test_rows_are_sorted_by_share_with_observers_first_and_unscored_last() -> None:
    rows = board(
        {
            "absent": NotScored("maps: no maps of video one"),
            "low": scores("low", {"a": [0.1, 0.1], "b": [0.1], "c": [0.1]}, nss=3.0),
            "high": scores("high", {"a": [1.0, 1.0], "b": [1.0], "c": [1.0]}, nss=0.5),
        }
    )
    assert [row.name for row in rows] == ["observers", "high", "low", "absent"]
    (section,) = sections_of(rows, [SET])
    assert section.remarks == ["absent: not scored: maps: no maps of video one"]
    text = markdown_table(rows).splitlines()
    assert [cell.strip() for cell in text[0].strip("|").split("|")] == list(COLUMNS)
    assert "not scored" in text[-1]
    assert text[3].count("**") == 2 * 4  # the best share, gain, sAUC (a tie) and CC (a tie), but not NSS


def test_undefined_share_is_a_dash_and_rows_are_sorted_by_nss() -> None:
    rows = board(
        {"a": scores("a", {"a": [1.0]}, nss=1.0), "b": scores("b", {"a": [0.5]}, nss=2.0)},
        ceiling=scores("observers", {"a": [-0.2]}),
    )
    assert [row.name for row in rows] == ["observers", "b", "a"]
    (section,) = sections_of(rows, [SET])
    assert "sorted by NSS" in section.text
    assert markdown_table(rows).splitlines()[3].split("|")[2].strip() == "-"


def test_pareto_front_of_known_points() -> None:
    gains = {"fast": 1.0, "good": 2.0, "slow": 1.5, "twin": 2.0, "free": 9.0, "unknown": 8.0}
    rows = board(
        {name: scores(name, {"a": [gain, gain], "b": [gain], "c": [gain]}) for name, gain in gains.items()},
        {
            "fast": Cost(milliseconds=1),
            "good": Cost(milliseconds=5),
            "slow": Cost(milliseconds=6),
            "twin": Cost(milliseconds=5),
            "unknown": Cost(unknown="cannot be exported"),
        },
    )
    assert {row.name for row in rows if row.optimal} == {"fast", "good", "twin"}
    assert (
        "unknown" in next(line for line in markdown_table(rows).splitlines() if line.startswith("| unknown"))[12:]
    )
    line = next(row for row in csv.DictReader(io.StringIO(as_csv(rows))) if row["name"] == "unknown")
    assert line["milliseconds"] == "unknown"
    assert line["note"] == "cannot be exported"


def test_leaking_row_is_marked_out_of_competition_and_scored_without_its_videos() -> None:
    leaky = scores("leaky", {"a": [2.0, 2.0], "b": [1.0], "c": [1.5]})
    honest = scores("honest", {"a": [0.5, 0.5], "b": [0.5], "c": [0.5]})
    rows = board(
        {"leaky": leaky, "honest": honest},
        {"leaky": Cost(milliseconds=1), "honest": Cost(milliseconds=2)},
        {"leaky": Leaks("found", ("a",), "its config lists it"), "honest": Leaks("none", (), "its config")},
    )
    assert [(row.name, row.scored_on) for row in rows] == [
        ("observers", "all"),
        ("leaky", "all"),
        ("leaky", "unseen"),
        ("honest", "all"),
    ]
    unseen = rows[2]
    assert unseen.videos == 2
    assert unseen.score("explained") == pytest.approx(2.5 / 7)
    assert [row.name for row in rows if row.optimal] == ["honest"]
    lines = markdown_table(rows).splitlines()
    assert lines[3].startswith("| leaky †")
    assert "found: 1 video" in lines[3]
    assert "**" not in lines[3] + lines[4]
    assert "leaky: trained on a: its config lists it" in sections_of(rows, [SET])[0].remarks


def test_row_whose_videos_all_leak_has_no_second_row() -> None:
    rows = board({"leaky": CEILING}, leaks={"leaky": Leaks("found", ("a", "b", "c"), "listed")})
    assert [row.name for row in rows] == ["observers", "leaky"]


# ------------------------------------------------------------------------------------------------- picture


def test_picture_has_a_panel_per_set_with_models_and_is_empty_without_any() -> None:
    panel = Panel("videos: NSS", [Point("a & b", 2, 1.0, True), Point("c", 30, 0.5, False)], {"prior": 0.1})
    svg = pareto_plot([panel, Panel("empty", [], {"prior": 0.1}), panel])
    assert svg.count("<circle") == 4
    assert svg.count('class="on"') == 2
    assert "a &amp; b" in svg
    assert not pareto_plot([Panel("empty", [], {})])


@pytest.mark.parametrize(
    ("values", "ticks"),
    [([2.0, 30.0], [2, 5, 10, 20, 50]), ([7.0], [5, 10]), ([1.0], [1, 2]), ([0.3, 0.3], [0.2, 0.5])],
)
def test_log_ticks_cover_the_values(values: list[float], ticks: list[float]) -> None:
    assert log_ticks(values) == pytest.approx(ticks)


def test_labels_of_close_points_do_not_overlap() -> None:
    places = place_labels(["stream-nano", "stream-small"], [(300, 100), (302, 103)], (40, 300))
    assert len({(y, anchor) for _, y, anchor in places}) == 2


def test_labels_of_a_crowd_of_points_lie_apart_with_lines_to_them() -> None:
    names = [f"a model with a name {number}" for number in range(8)]
    crowd = [Point(name, 2 + number / 100, 60 + number / 3, False) for number, name in enumerate(names)]
    labels = place_labels(names, [(80 + number, 100 + number) for number in range(8)], (40, 300))
    boxes = [_box(name, *label) for name, label in zip(names, labels, strict=True)]
    assert not any(_overlap(one, other) for one, other in itertools.combinations(boxes, 2))
    assert pareto_plot([Panel("videos", crowd, {})]).count('class="leader"') >= 4


def test_what_is_below_the_centre_prior_does_not_squeeze_the_picture() -> None:
    svg = pareto_plot([Panel("videos", [Point("a", 2, 60.0, True)], {"bad": -500.0, "observers": 100.0})])
    assert "bad" not in svg
    assert "observers" in svg


# ------------------------------------------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("nano=runs/x=1/best", ("nano", "runs/x=1/best")),
        ("runs/x=1", (None, "runs/x=1")),
        ("hf://o/n@a=b", (None, "hf://o/n@a=b")),
        ("ours=stills:data", ("ours", "stills:data")),
        ("demo=dhf1k:@sample", ("demo", f"dhf1k:{SAMPLE}")),
    ],
)
def test_name_is_what_stands_before_the_first_equals_sign(argument: str, expected: tuple[Any, str]) -> None:
    assert split_name(argument) == expected


def test_test_sources_of_different_names_are_sets_of_their_own(tmp_path: Path) -> None:
    still_set(tmp_path / "stills")
    config = {
        "out": str(tmp_path / "run"),
        "model": {"name": "student/stream"},
        "training": {"steps": 1},
        "losses": [{"name": "kldiv"}],
        "data": {
            "train": [{"dataset": "synthetic"}],
            "test": [
                {"name": "video", "dataset": "synthetic", "split": "test"},
                {"dataset": "stills", "root": str(tmp_path / "stills")},
            ],
        },
    }
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
    found = find_test_sets([str(tmp_path / "c.yaml")])
    assert [(each.name, each.unit) for each in found] == [("video", "video"), ("stills", "image")]
    with pytest.raises(UserError, match="has 2 test sets"):
        find_test_sets([f"both={tmp_path / 'c.yaml'}"])


@pytest.mark.parametrize(
    ("models", "data", "message"),
    [
        ([], ["synthetic:"], "at least one model"),
        (["observers"], ["synthetic:"], "at least one model"),
        (["centre-prior"], [], "at least one test set"),
        (["a=centre-prior", "a=frame-difference"], ["synthetic:"], "two models have this name"),
        (["centre-prior", "centre-prior"], ["synthetic:"], "two models have this name"),
        (["centre-prior"], ["synthetic:", "synthetic:"], "two test sets have this name"),
        (["../x=centre-prior"], ["synthetic:"], "no model, run folder"),
        (["..=centre-prior"], ["synthetic:"], "cannot become a path"),
        (["nothing"], ["synthetic:"], "no model, run folder"),
        (["centre-prior"], ["nothing"], "expected DATA to be"),
    ],
)
def test_invalid_arguments_are_refused_in_one_sentence(
    models: list[str], data: list[str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        leaderboard.make_leaderboard(models, data, tmp_path / "board", settings=SETTINGS)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "board").exists()


def test_data_without_ground_truth_are_refused(maps: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no video has ground truth"):
        leaderboard.make_leaderboard(["centre-prior"], [f"folder:{maps}"], tmp_path / "board", settings=SETTINGS)


def test_folder_with_other_files_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="has other files"):
        leaderboard.make_leaderboard(["centre-prior"], ["synthetic:"], tmp_path, settings=SETTINGS)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_page_names_shipped_data_as_the_user_did() -> None:
    words = ["leaderboard", "stream-nano", "--on", "dhf1k:@sample", "--on", "x=@distill/demo", "-o", "board"]
    words += ["--every", "9"]
    arguments = main.parse(words)
    assert str(SAMPLE) in arguments.data[0]
    assert command_of(arguments).split() == ["saldistill", *words[:6], "--every", "9", "-o", "board"]


# ------------------------------------------------------------------------------------------------- whole runs


@pytest.fixture
def maps(tmp_path: Path) -> Path:
    """Maps of the synthetic test videos: their brightness."""
    for video in find_videos("synthetic", "", split="test"):
        reader = synthetic.SyntheticReader(str(video.path))
        (tmp_path / "maps" / video.name).mkdir(parents=True)
        for frame, pixels in enumerate(reader.read(range(video.num_frames), (36, 64))):
            Image.fromarray(pixels).convert("L").save(tmp_path / "maps" / video.name / f"{frame + 1:04d}.png")
    return tmp_path / "maps"


@pytest.fixture
def stills(tmp_path: Path) -> Path:
    return still_set(tmp_path / "stills")


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the measurement of costs, which takes seconds."""
    monkeypatch.setattr(
        leaderboard,
        "measure_costs",
        lambda entries, **_: ({each.name: Cost(milliseconds=3.0) for each in entries if each.model}, {}),
    )


@pytest.mark.usefixtures("free")
def test_maps_that_lack_a_test_set_are_shown_for_the_others(maps: Path, stills: Path, tmp_path: Path) -> None:
    # the maps are those of the test videos only
    made = leaderboard.make_leaderboard(
        [f"bright={maps}", "centre-prior"], ["synthetic:", f"stills:{stills}"], tmp_path / "board", every=12
    )
    state = {(row.test, row.name): bool(row.not_scored) for row in made.rows}
    assert state["synthetic", "bright"]
    assert state["stills", "bright"]
    assert not state["synthetic", "centre-prior"]
    page = (tmp_path / "board" / "leaderboard.md").read_text()
    assert "bright: not scored: " in page.replace("\\", "")
    with pytest.raises(UserError, match=r"nothing could be scored; the first reason: .*no maps of video"):
        leaderboard.make_leaderboard([str(maps)], [f"stills:{stills}"], tmp_path / "other")


@pytest.mark.usefixtures("free")
def test_second_run_keeps_scores_of_the_same_origin_only(
    stills: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out, pictures = tmp_path / "board", tmp_path / "pictures"
    for name in "abc":
        (pictures / name).mkdir(parents=True)
        Image.linear_gradient("L").save(pictures / name / "0001.png")

    def run(**options: Any) -> int:
        caplog.clear()
        with caplog.at_level("INFO"):
            leaderboard.make_leaderboard([f"maps={pictures}"], [f"stills:{stills}"], out, **options)
        return caplog.text.count("scored already")

    assert run() == 0
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    assert run() == 2
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()} == before
    Image.linear_gradient("L").rotate(90).save(pictures / "a" / "0001.png")
    assert run() == 1  # the observers'
    assert run(seed=1) == 0
    assert run(seed=1) == 2
    (out / "scores" / "stills" / "maps" / "scores.csv").write_text("video,frame\n")
    assert run(seed=1) == 1
    assert "scored again" in caplog.text


def test_command_writes_page_table_and_picture(
    stills: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    line = f"leaderboard tiny=student/stream:micro centre-prior --on pictures=stills:{stills} -o board"
    line += " --workers 1 --rounds 1 --threads 1 --device cpu --json"
    assert main.main(line.split()) == 0
    document = json.loads(capsys.readouterr().out)
    assert document.keys() == {"rows", "setting", "folder"}
    assert document["setting"]["threads"] == 1
    with Path("board/leaderboard.csv").open(newline="") as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    assert rows.keys() == {"observers", "tiny", "centre-prior"} == {row["name"] for row in document["rows"]}
    tiny = rows["tiny"]
    assert tiny["test"] == "pictures"
    assert tiny["pareto"] == "yes"
    assert tiny["leaks"] == "none"
    assert rows["centre-prior"]["milliseconds"] == ""
    assert rows["centre-prior"]["leaks"] == "none"
    assert float(rows["centre-prior"]["info_gain"]) == pytest.approx(0, abs=1e-9)
    model = load_model("student/stream:micro")
    state = model.network.initial_state(1)  # type: ignore[attr-defined]
    assert float(tiny["state_mb"]) * 1e6 == sum(value.numel() * 4 for value in state.values()) > 0
    assert all(float(tiny[name]) > 0 for name in ("milliseconds", "memory_mb", "file_mb"))
    page = Path("board/leaderboard.md").read_text()
    assert "saldistill leaderboard tiny=student/stream:micro centre-prior --on" in page
    assert "(pareto.svg)" in page
    assert "<circle" in Path("board/pareto.svg").read_text()
    html = Path("board/leaderboard.html").read_text()
    assert "<circle" in html
    assert "How it was measured" in html


def test_network_that_cannot_be_exported_has_unknown_costs(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> Callable[..., None]:
        raise UserError("student/stream:micro: cannot be exported")

    monkeypatch.setattr("distill.leaderboard.cost.export_temporary", refuse)
    costs, setting = measure_costs(find_entries(["tiny=student/stream:micro", "centre-prior"], SETTINGS))
    assert costs == {"tiny": Cost(unknown="student/stream:micro: cannot be exported")}
    assert setting == {}
    assert "its cost is unknown" in caplog.text


def test_clip_network_keeps_no_state() -> None:
    assert state_bytes(load_model("student/thtdnet:tiny")) == 0
