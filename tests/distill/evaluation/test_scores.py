"""Tests of scores: means, intervals, the table, files and comparisons."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.fake_gaze import LONG, ONE, gaze, noisy, video

from distill.data.clips import Video
from distill.errors import UserError
from distill.evaluation.evaluate import evaluate
from distill.evaluation.scores import Row, Scores, compare_scores, read_scores
from distill.evaluation.statistics import bootstrap_means

NAN = math.nan


def score(*videos: Video, **options: object) -> Scores:
    return evaluate(noisy, videos, progress=False, **options)  # type: ignore[arg-type]


def by_hand(values: dict[str, list[float]], name: str = "model", **settings: object) -> Scores:
    """Scores of one metric, by video and frame."""
    rows = [Row(label, k, {"nss": value}) for label, found in values.items() for k, value in enumerate(found)]
    return Scores(name, ("nss",), rows, **settings)  # type: ignore[arg-type]


# means and intervals


def test_scores_two_averages() -> None:
    scores = by_hand({"a": [1, 2, 3], "b": [6], "c": [NAN, 10]})
    assert scores.by_video == {"a": {"nss": 2}, "b": {"nss": 6}, "c": {"nss": 10}}
    assert scores.per_video["nss"] == 6
    assert scores.pooled["nss"] == pytest.approx(22 / 5)
    assert scores.undefined == {"nss": 1}


def test_scores_intervals_resample_recordings() -> None:
    values = {"a1": [1.0, 2.0], "a2": [3.0], "b": [5.0, 9.0], "c": [NAN]}
    recordings = {"a1": "a", "a2": "a"}
    scores = by_hand(values, recordings=recordings)
    groups = ["a", "a", "b", "c"]
    expected = bootstrap_means(np.array([[1.5], [3.0], [7.0], [NAN]]), groups)[:, 0]
    assert scores.intervals["per_video"]["nss"] == tuple(expected)
    frames = np.array([[1.0], [2.0], [3.0], [5.0], [9.0], [NAN]])
    expected = bootstrap_means(frames, ["a", "a", "a", "b", "b", "c"])[:, 0]
    assert scores.intervals["pooled"]["nss"] == tuple(expected)
    assert by_hand(values).intervals != scores.intervals
    assert scores.count_recordings == 3


def test_scores_of_one_recording_have_no_interval() -> None:
    scores = by_hand({"a": [1.0, 2.0], "b": [3.0]}, recordings={"a": "film", "b": "film"})
    assert all(math.isnan(end) for end in scores.intervals["per_video"]["nss"])
    assert "95%" not in scores.table()
    assert "no intervals" in scores.table()
    assert str(compare_scores(scores, scores)).endswith("at least two recordings")
    assert "no intervals" not in by_hand({"a": [1.0], "b": [3.0]}).table()


# the table


def test_table_is_aligned_and_complete() -> None:
    lines = score(ONE, LONG, name="noise").table().splitlines()
    assert lines[0].split() == ["noise", "AUC-J", "NSS", "CC", "SIM", "KL"]
    average = ["  95% over 2 recordings, lower", "  upper"]
    assert [line[:30].rstrip() for line in lines[1:]] == [
        *("one", "longer", "mean over 2 videos", *average, "pooled over 40 frames", *average)
    ]
    assert len({len(line) for line in lines}) == 1


def test_table_omits_videos_if_many() -> None:
    table = by_hand({f"v{i}": [float(i)] for i in range(41)}).table()
    assert "mean over 41 videos" in table
    assert "v7" not in table


@pytest.mark.parametrize(
    ("average", "starred"),
    [("per_video", ["mean over 2 videos *"]), ("pooled", ["pooled over 2 frames *"]), (None, [])],
)
def test_table_marks_published_average(average: str | None, starred: list[str]) -> None:
    table = by_hand({"a": [1.0], "b": [3.0]}, average=average).table()
    assert [line[: line.index("*") + 1] for line in table.splitlines() if " *" in line] == starred
    assert ("* the protocol publishes this average" in table) is bool(starred)


# files


def test_save_writes_scores_and_methods(tmp_path: Path) -> None:
    def sometimes_flat(video: Video, frames: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        for frame, saliency in noisy(video, frames):
            yield frame, np.ones((9, 16)) if frame == 2 else saliency

    scores = evaluate(sometimes_flat, [ONE, LONG], name="noise", every=2, progress=False)
    folder = tmp_path / "new" / "folder"
    scores.save(folder)
    assert repr(read_scores(folder)) == repr(scores)  # every number exactly, NaN included
    summary = json.loads((folder / "scores.json").read_text())
    assert summary["pooled"] == scores.pooled
    assert summary["per_video"] == scores.per_video
    assert summary["videos"] == scores.by_video
    assert (summary["frames"], summary["recordings"], summary["undefined"]["nss"]) == (20, 2, 2)
    assert summary["intervals"]["pooled"]["nss"] == list(scores.intervals["pooled"]["nss"])
    assert "bicubic" in summary["how"]["resize"]
    assert summary["how"]["blur"] == "none"
    assert "10000 bootstrap means" in summary["how"]["intervals"]
    lines = (folder / "scores.csv").read_text().splitlines()
    assert [line.split(",")[:2] for line in lines[:3]] == [["video", "frame"], ["one", "1"], ["one", "3"]]
    lines = (folder / "videos.csv").read_text().splitlines()
    assert lines[0].startswith("video,recording,frames,auc_judd,")
    assert lines[2].startswith(f"longer,fake/longer,15,{scores.by_video['longer']['auc_judd']!r},")


def test_tables_show_undefined_means_as_a_dash_with_their_count() -> None:
    broken, whole = by_hand({"a": [NAN], "b": [NAN]}), by_hand({"a": [1.0], "b": [3.0]})
    for text in (broken.table(), str(compare_scores(whole, broken))):
        assert "nan" not in text
        assert "       -\n" in text
        assert "NSS is undefined on 2 of 2 frames (constant map or no density), which its means leave out" in text


DAMAGES: dict[str, list[tuple[str, str]]] = {
    "scores.json": [
        ("{", "["),
        ('"name": "model"', '"name": 3'),
        ('"frames": 4', '"frames": "4"'),
        ('"frames": 4', '"frames": 5'),
        ('"nss": 2.5', '"nss": "high"'),
        ('"nss": 2.5', '"psnr": 2.5'),
        ('"how": {}', '"how": []'),
        ('"average": null', '"average": "none"'),
        ("{", "[" * 200000),
    ],
    "scores.csv": [
        ("video,", "films,"),
        ("a,1,1.0", "a,one,1.0"),
        ("a,1,1.0", "a,0,1.0"),
        ("a,1,1.0", "a,1,high"),
        ("a,1,1.0", "a,1,inf"),
        ("a,1,1.0", "a,1"),
        ("a,1,1.0", "a,1,1.0,2"),
        ("a,1,1.0\r\n", ""),
        ("a,1,1.0", "a,²,1.0"),
        ("a,1,1.0", f"a,{'9' * 5000},1.0"),
        ("a,1,1.0", f"{'a' * 200000},1,1.0"),
        ("a,1,1.0", "a,1,\x00"),
    ],
    "videos.csv": [("recording", "film"), ("a,a,2,1.5", "a")],
}


@pytest.mark.parametrize(
    ("name", "old", "new"), [(name, *damage) for name, damages in DAMAGES.items() for damage in damages]
)
def test_damaged_scores_are_one_sentence(tmp_path: Path, name: str, old: str, new: str) -> None:
    by_hand({"a": [1.0, 2.0], "b": [3.0, 4.0]}).save(tmp_path)
    text = (tmp_path / name).read_bytes().decode()
    assert old in text
    (tmp_path / name).write_bytes(text.replace(old, new, 1).encode())
    with pytest.raises(UserError, match=name) as caught:
        read_scores(tmp_path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_scores_that_are_not_text_or_missing_are_one_sentence(tmp_path: Path) -> None:
    by_hand({"a": [1.0]}).save(tmp_path)
    for name in ("scores.json", "scores.csv", "videos.csv"):
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(b"\xff" + content)
        with pytest.raises(UserError, match=name):
            read_scores(tmp_path)
        (tmp_path / name).unlink()
        with pytest.raises(UserError, match=name):
            read_scores(tmp_path)
        (tmp_path / name).write_bytes(content)
    assert read_scores(tmp_path).name == "model"


def test_save_writes_undefined_means_as_null(tmp_path: Path) -> None:
    by_hand({"a": [NAN], "b": [NAN]}).save(tmp_path)
    written = json.loads((tmp_path / "scores.json").read_text(), parse_constant=pytest.fail)
    assert written["pooled"]["nss"] is None
    assert written["intervals"]["pooled"]["nss"] is None


@pytest.mark.parametrize("name", ["scores.json", "scores.csv", "videos.csv"])
def test_save_refuses_to_overwrite(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("precious")
    with pytest.raises(UserError, match=name):
        by_hand({"a": [1.0]}).save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "precious"


# the difference of two


def test_compare_scores_pairs_frames() -> None:
    first = by_hand({"a": [1.0, 2.0, NAN], "b": [5.0]}, "first")
    second = by_hand({"a": [2.0, 2.5, 9.0], "b": [4.0], "c": [7.0]}, "second")
    found = compare_scores(first, second).difference
    assert found.by_video == {"a": {"nss": 0.75}, "b": {"nss": -1.0}}
    assert found.per_video["nss"] == -0.125
    assert found.pooled["nss"] == pytest.approx(0.5 / 3)
    assert len(found.rows) == 4  # c was not scored for the first


def test_compare_scores_pairing_cancels_video_effects() -> None:
    """Videos differ much, the two by a constant: each interval is wide, the one of their difference a point."""
    rng = np.random.default_rng(0)
    values = {f"v{i}": list(rng.normal(5 * rng.normal(), 1, 4)) for i in range(12)}
    first = by_hand(values)
    second = by_hand({name: [value + 0.01 for value in found] for name, found in values.items()})
    assert compare_scores(first, second).difference.intervals["per_video"]["nss"] == pytest.approx((0.01, 0.01))
    low, high = first.intervals["per_video"]["nss"]
    assert high - low > 1


def test_compare_scores_is_antisymmetric() -> None:
    first, second = score(ONE, LONG), score(ONE, LONG, seed=1, metrics=("nss", "auc_borji"))
    assert set(compare_scores(first, first).difference.pooled.values()) == {0.0}
    there, back = compare_scores(first, second).difference, compare_scores(second, first).difference
    assert there.metrics == ("nss",)  # what both were scored by
    assert there.per_video["nss"] == -back.per_video["nss"]


@pytest.mark.parametrize(("sign", "expected"), [(1, "NSS (better), KL (worse)"), (-1, "NSS (worse), KL (better)")])
def test_comparison_lists_significant_metrics(sign: int, expected: str) -> None:
    def rows(shift: float) -> Scores:
        values = [(f"v{i}", {"nss": i + shift, "kldiv": i + shift, "cc": i % 2 * shift}) for i in range(8)]
        return Scores("m", ("nss", "kldiv", "cc"), [Row(name, 0, one) for name, one in values])

    text = str(compare_scores(rows(0), rows(sign)))
    assert text.splitlines()[-1].endswith(f"for {expected}, CC ({'better' if sign > 0 else 'worse'})")
    assert "+1.0000" in text if sign > 0 else "-1.0000" in text
    alternating = replace(
        rows(0), rows=[Row(f"v{i}", 0, {"nss": i + (-1) ** i}) for i in range(8)], metrics=("nss",)
    )
    assert str(compare_scores(rows(0), alternating)).endswith("for no metric")


def test_comparison_save_writes_json_once(tmp_path: Path) -> None:
    found = compare_scores(by_hand({"a": [1.0], "b": [2.0]}, "x"), by_hand({"a": [2.0], "b": [4.0]}, "y"))
    found.save(tmp_path / "difference.json")
    written = json.loads((tmp_path / "difference.json").read_text())
    assert (written["first"], written["second"]) == ("x", "y")
    assert written["per_video"] == {"nss": 1.5}
    assert written["intervals"]["per_video"]["nss"] == [1, 2]
    with pytest.raises(UserError, match=r"difference\.json"):
        found.save(tmp_path / "difference.json")


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (by_hand({"z": [1.0]}), "share no frame"),
        (Scores("s", ("cc",), [Row("a", 0, {"cc": 1.0})]), "share no metric"),
    ],
)
def test_compare_scores_without_common_data_raises(other: Scores, message: str) -> None:
    with pytest.raises(UserError, match=message):
        compare_scores(by_hand({"a": [1.0]}), other)


def test_scores_recordings_come_from_videos() -> None:
    films = [replace(video(name, gaze(range(3)), range(3)), recording="film") for name in ("a", "b")]
    assert score(*films).count_recordings == 1
    assert score(*films).recordings == {"a": "fake/film", "b": "fake/film"}
