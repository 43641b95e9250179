"""A folder of videos and a table of fixations become a data set."""

import json
from pathlib import Path

import numpy as np
import pytest

from distill.cli.main import main
from distill.data.gaze_table import import_gaze
from distill.data.sets.find import find_videos
from distill.data.video.writer import VideoWriter
from distill.errors import UserError


@pytest.fixture
def videos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with videos `a` and `b` of 10 frames at 10 frames per second, 32 x 48 pixels."""
    monkeypatch.chdir(tmp_path)
    folder = Path("videos")
    folder.mkdir()
    for name in ("a.mp4", "b.mp4"):
        with VideoWriter(folder / name, (32, 48), 10.0) as writer:
            writer.write(np.full((10, 32, 48, 3), 100, np.uint8))
    return folder


def points(name: str) -> list[list[list[int]]]:
    return json.loads(Path(f"out/FixationsTrain/Train/{name}/fixations.json").read_text())


def test_row_counts_in_the_frames_that_are_shown_meanwhile(videos: Path) -> None:
    Path("t.csv").write_text(
        "video,observer,x,y,start,duration\n"
        "a.mp4,p1,20.9,10.2,0.25,0.3\n"  # from the third frame, until 0.55 s
        "a,p2,1,2,0.9,5\n"  # to the end
        "a,p2,3,4,0.5,\n"
        "b,p1,48,10,0,0\n"  # right of the picture
        "b,p1,4,5,1.0,1\n"  # after the end
        "\n"
        "b,p1,5,6,0,0\n"
    )
    result = import_gaze(videos, "t.csv", "out")
    a = points("a")
    assert [frame for frame in range(10) if [10, 20] in a[frame]] == [2, 3, 4, 5]
    assert [frame for frame in range(10) if [2, 1] in a[frame]] == [9]
    assert [frame for frame in range(10) if [4, 3] in a[frame]] == [5]
    assert points("b")[0] == [[6, 5]]
    assert (result.points, result.outside, result.after_end) == ({"a": 6, "b": 1}, 1, 1)
    assert str(result).splitlines()[1:] == [
        "  left out: 1 row outside the picture",
        "  left out: 1 row after the end of the video",
    ]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_table_with_frames_of_any_delimiter_is_a_data_set(
    videos: Path, delimiter: str, capsys: pytest.CaptureFixture[str]
) -> None:
    table = "\ufeffVideo, X ,y,frame,pupil\r\na,5,6,1,x\r\na,7,8,10,x\r\nb,5,6,3,x\r\n"
    Path("t.csv").write_text(table.replace(",", delimiter), encoding="utf-8", newline="")
    assert main(["data", "import", "videos", "t.csv", "-o", "out"]) == 0
    assert capsys.readouterr().out == "out: 2 videos, 3 fixations in frames\n"
    assert [points("a")[0], points("a")[9]] == [[[6, 5]], [[8, 7]]]
    found = find_videos("ntire", "out", split="train")
    assert [(video.name, video.num_frames) for video in found] == [("a", 10), ("b", 10)]
    truth = found[0].truth
    assert truth is not None
    assert truth.points(9).tolist() == [[8, 7]]
    assert not truth.has(5)


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ("", r"t\.csv: no column video; expected columns video, x, y, and start .* got nothing"),
        ("video,x,y\na,1,2\n", r"t\.csv: no column start or frame; expected"),
        ("video,y,frame\na,1,2\n", r"t\.csv: no column x; expected"),
        ("video,x,y,frame\nc,1,2,3\n", r"t\.csv: line 2: no video 'c' in the folder; expected a, b"),
        ("video,x,y,frame\na,1,2,0\n", r"t\.csv: line 2: frame: expected at least 1, got 0"),
        ("video,x,y,start\na,1,2,-1\n", r"t\.csv: line 2: start: expected at least 0, got -1"),
        ("video,x,y,start,duration\na,1,2,1,-1\n", r"t\.csv: line 2: duration: expected at least 0, got -1"),
        ("video,x,y,start\na,one,2,3\n", r"t\.csv: line 2: x: expected a number, got 'one'"),
        ("video,x,y,start\na,nan,2,3\n", r"t\.csv: line 2: x: expected a number, got 'nan'"),
        ("video,x,y,start\na,1,2,1e999\n", r"t\.csv: line 2: start: expected a number, got '1e999'"),
        ("video,x,y,start\na,1\n", r"t\.csv: line 2: y: expected a number, got ''"),
        ('video,x,y,start\na,"1,2,3\n', r"t\.csv: cannot be read as a table of fixations"),
        ("video,x,y,start\na,900,2,0\n", r"t\.csv: no fixation is inside a frame of its video \(1 outside the pic"),
    ],
)
def test_invalid_table_is_one_sentence_and_leaves_nothing(videos: Path, table: str, sentence: str) -> None:
    Path("t.csv").write_text(table)
    with pytest.raises(UserError, match=sentence) as error:
        import_gaze(videos, "t.csv", "out")
    assert "\n" not in str(error.value)
    assert sorted(path.name for path in Path().iterdir()) == ["t.csv", "videos"]


def test_missing_inputs_and_existing_output_are_refused(videos: Path) -> None:
    Path("t.csv").write_text("video,x,y,start\na,1,2,0\n")
    with pytest.raises(UserError, match=r"nothing\.csv: no such file; expected a CSV file with columns"):
        import_gaze(videos, "nothing.csv", "out")
    Path("empty").mkdir()
    with pytest.raises(UserError, match="empty: no video in this folder; expected"):
        import_gaze("empty", "t.csv", "out")
    (videos / "a.mov").touch()
    with pytest.raises(UserError, match=r"a\.(mov|mp4) and a\.(mov|mp4) differ only in their suffix; rename one"):
        import_gaze(videos, "t.csv", "out")
    (videos / "a.mov").unlink()
    Path("out").mkdir()
    (Path("out") / "mine").touch()
    with pytest.raises(UserError, match="out: the data set already exists"):
        import_gaze(videos, "t.csv", "out")
