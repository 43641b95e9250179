"""The runner's table: numbers of maps with known answers, and the rows of the command."""

import csv
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers.edge_models import REAL_VIDEO, frames

from student import edge
from student.edge import describe

SHARES = [f"share_{row}_{column}" for row in (1, 2, 3) for column in (1, 2, 3)]
NUMBERS = ["peak_x", "peak_y", "centre_x", "centre_y", "spread", "entropy", *SHARES]


def rows(path: Path) -> list[dict[str, float]]:
    with path.open(newline="", encoding="utf-8") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def shares(saliency: np.ndarray) -> np.ndarray:
    found = describe(saliency, (90, 90))
    return np.array([found[name] for name in SHARES]).reshape(3, 3)


def test_describe_single_pixel_is_its_centre_without_spread() -> None:
    saliency = np.zeros((4, 6), np.float32)
    saliency[2, 5] = 0.3
    found = describe(saliency, (40, 120))
    assert list(found) == NUMBERS
    expected = {"peak_x": 110, "peak_y": 25, "centre_x": 110, "centre_y": 25, "spread": 0, "entropy": 0}
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    # rows 2 to 3 of 4 are half to three quarters of the height: 2/3 of them lie in the second third
    assert shares(saliency) == pytest.approx(np.array([[0, 0, 0], [0, 0, 2 / 3], [0, 0, 1 / 3]]))


@pytest.mark.parametrize("value", [0.0, 0.7])
def test_describe_constant_map_is_uniform(value: float) -> None:
    found = describe(np.full((4, 5), value, np.float32), (40, 50))
    expected = {"peak_x": 5, "peak_y": 5, "centre_x": 25, "centre_y": 20, "entropy": math.log2(20)}
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    # a discrete uniform distribution of n points at a distance d has the variance d ** 2 * (n ** 2 - 1) / 12
    assert found["spread"] == pytest.approx(math.sqrt(100 * 15 / 12 + 100 * 24 / 12))
    assert shares(np.full((4, 5), value)) == pytest.approx(np.full((3, 3), 1 / 9))


def test_describe_two_pixels_are_weighted() -> None:
    saliency = np.zeros((3, 9))
    saliency[0, 0], saliency[2, 8] = 0.25, 0.75
    found = describe(saliency, (30, 90))
    expected = {"peak_x": 85, "peak_y": 25, "centre_x": 65, "centre_y": 20}
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert found["spread"] == pytest.approx(math.sqrt(0.25 * 0.75 * (80**2 + 20**2)))
    assert found["entropy"] == pytest.approx(2 - 0.75 * math.log2(3))
    assert shares(saliency) == pytest.approx(np.array([[0.25, 0, 0], [0, 0, 0], [0, 0, 0.75]]))


@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (16, 24), (56, 96), (7, 11)])
def test_describe_depends_on_neither_scale_nor_frame_size(shape: tuple[int, int]) -> None:
    saliency = np.random.default_rng(0).random(shape)
    found, doubled = describe(saliency, (100, 200)), describe(saliency * 7, (200, 400))
    assert sum(found[name] for name in SHARES) == pytest.approx(1)
    for name, value in doubled.items():
        assert value == pytest.approx(found[name] * (1 if name in SHARES or name == "entropy" else 2))


def test_command_writes_one_row_per_frame(step_file: Path, short: Path, tmp_path: Path) -> None:
    assert edge.main([str(step_file), str(short), "--csv", str(tmp_path / "t.csv"), "--threads", "1"]) == 0
    table = rows(tmp_path / "t.csv")
    assert list(table[0]) == ["frame", "seconds", *NUMBERS, "cut"]
    assert [row["frame"] for row in table] == list(range(1, 41))
    assert [row["seconds"] for row in table] == [round(number / 30, 6) for number in range(40)]
    assert not any(row["cut"] for row in table)
    stream = edge.Stream(edge.EdgeModel(step_file, threads=1))
    for row, frame in zip(table, edge.open_video(short)[1], strict=True):
        expected = describe(stream(frame), (360, 640))
        assert {name: row[name] for name in NUMBERS} == pytest.approx(expected, abs=0.05)


def test_command_marks_scene_cuts(step_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dark, light = np.zeros((64, 96, 3), np.uint8), np.full((64, 96, 3), 255, np.uint8)
    monkeypatch.setattr(edge, "open_video", lambda path: (25.0, iter([dark, dark, light, light, light, dark])))
    assert edge.main([str(step_file), "video", "--csv", str(tmp_path / "t.csv")]) == 0
    assert [row["cut"] for row in rows(tmp_path / "t.csv")] == [0, 0, 1, 0, 0, 1]


def test_command_table_is_written_while_it_runs(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def video() -> Iterator[np.ndarray]:
        for frame in frames(4, (32, 48)):
            yield frame
            seen.append(len(rows(tmp_path / "t.csv")))
        raise KeyboardInterrupt

    monkeypatch.setattr(edge, "open_video", lambda path: (25.0, video()))
    assert edge.main([str(exported), "video", "--csv", str(tmp_path / "t.csv")]) == 130
    assert seen == [1, 2, 3, 4]


def test_command_does_not_replace_a_table(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "t.csv"

    def video() -> Iterator[np.ndarray]:
        path.write_text("another program's")
        yield from frames(2, (32, 48))

    monkeypatch.setattr(edge, "open_video", lambda path: (25.0, video()))
    assert edge.main([str(exported), str(REAL_VIDEO), "--csv", str(path)]) == 2
    assert capsys.readouterr().err == f"edge.py: {path}: File exists\n"
    assert path.read_text() == "another program's"
