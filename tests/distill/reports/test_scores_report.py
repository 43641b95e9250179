import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distill.data.clips import Video
from distill.errors import UserError
from distill.evaluation.scores import Row, Scores
from distill.fixations import density_from_points, fixation_map
from distill.reports.scores import CURVES, FRAMES, SHEETS, rank_videos, report_scores, short_names, side_by_side

SIZE = (36, 64)


class TwoObservers:
    """Ground truth of two observers; the first one always looks at (9, 16)."""

    def points(self, frame: int) -> np.ndarray:
        return np.array([[9, 16], [20 + frame % 5, 40]])

    def density(self, frame: int, map_size: tuple[int, int]) -> np.ndarray:
        return density_from_points(self.points(frame), SIZE, map_size)

    def fixation_map(self, frame: int, map_size: tuple[int, int]) -> np.ndarray:
        return fixation_map(self.points(frame), SIZE, map_size)


class SpotMaps:
    """Map source with one bright pixel that records the requested frames."""

    def __init__(self, row: int, peak: float = 1.0) -> None:
        self.row, self.peak, self.requested = row, peak, dict[str, list[int]]()

    def __call__(self, video: Video, frames: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        self.requested.setdefault(video.name, []).extend(frames)
        for frame in frames:
            saliency = np.zeros((18, 32), dtype=np.float32)
            saliency[self.row, 8] = self.peak
            yield frame, saliency


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One video of ten frames, as pictures."""
    frames = tmp_path / "frames"
    frames.mkdir()
    for index in range(10):
        Image.fromarray(np.full((*SIZE, 3), 40 + index, dtype=np.uint8)).save(frames / f"{index:04d}.png")
    return frames


def videos_of(folder: Path, count: int) -> list[Video]:
    return [Video(f"v{i:03d}", folder, 10, 5.0, SIZE, range(10), TwoObservers(), "toy") for i in range(count)]  # type: ignore[arg-type]


def scored(name: str, count: int, level: float, frames: Sequence[int] = range(10)) -> Scores:
    """Scores in which video i is better than video i + 1."""
    rows = [
        Row(f"v{i:03d}", frame, {"nss": level - i / 10 + frame / 45, "kldiv": 1.0 + i / 10})
        for i in range(count)
        for frame in frames
    ]
    return Scores(name, ("nss", "kldiv"), rows, how={"blur": "none", "who": f"evaluated by {name}"})


def section_of(page: str, heading: str) -> str:
    return re.findall(rf"<section><h2>{heading}</h2>.*?</section>", page, re.DOTALL)[0]


def test_report_of_one_video_has_every_section(folder: Path, tmp_path: Path) -> None:
    teacher, prior = SpotMaps(4), SpotMaps(9)
    results = [(scored("runs/demo/teacher", 1, 3.0), teacher), (scored("centre-prior", 1, 1.0), prior)]
    path = report_scores(tmp_path / "report.html", results, videos_of(folder, 1), progress=False)
    page = path.read_text(encoding="utf-8")
    assert "http" not in page
    assert "Teacher beats the centre prior: NSS 3.100 (teacher) against 1.100." in page
    assert "Scored on 10 frames of 1 video." in page
    assert page.count('class="dot"') == 4  # two models, two metrics
    assert "No intervals: they need at least two recordings, and there is one." in page
    pictures = section_of(page, "Pictures")
    assert pictures.count("<img") == FRAMES * 4
    assert "v000: NSS teacher 3.10, centre-prior 1.10" in pictures
    assert "frame 3, 0.4 s" in pictures  # 5 frames a second
    assert "teacher 3.04" in pictures
    assert page.count('<figure class="chart">') == 3  # two distributions, one video over time
    assert "time (s)" in section_of(page, "NSS over time")
    made = section_of(page, "How the scores were computed")
    assert made.count("blur: none.") == 1
    assert "centre-prior, who: evaluated by centre-prior." in made
    assert "teacher is runs/demo/teacher." in made


def test_report_of_many_videos_requests_and_shows_only_the_best_and_the_worst(folder: Path, tmp_path: Path) -> None:
    count, maps = 20, SpotMaps(4)
    path = report_scores(
        tmp_path / "r.html", [(scored("model", count, 5.0), maps)], videos_of(folder, count), progress=False
    )
    page = path.read_text(encoding="utf-8")
    best, worst = section_of(page, "Best videos"), section_of(page, "Worst videos")
    assert re.findall(r"<h3>(v\d+):", best) == ["v000", "v001", "v002"]
    assert re.findall(r"<h3>(v\d+):", worst) == ["v019", "v018", "v017"]
    assert {name: len(frames) for name, frames in maps.requested.items()} == dict.fromkeys(
        ["v000", "v001", "v002", "v017", "v018", "v019"], FRAMES
    )
    over_time = section_of(page, "NSS over time")
    assert over_time.count('<figure class="chart">') == 2 * CURVES
    assert f"The {CURVES} best and the {CURVES} worst of 20 videos" in over_time
    assert f"Of 20 videos, {2 * SHEETS} are shown in pictures and {2 * CURVES} over time" in page
    assert section_of(page, "Distribution over videos").count('class="dot"') == 2 * count
    assert re.search(r"<small>\d\.\d{3} to \d\.\d{3}</small>", section_of(page, "Means"))


def test_time_chart_has_gaps_at_frames_without_fixations(folder: Path, tmp_path: Path) -> None:
    scores = scored("model", 1, 2.0, frames=[0, 2, 6, 8])
    page = report_scores(
        tmp_path / "r.html", [(scores, SpotMaps(4))], videos_of(folder, 1), progress=False
    ).read_text()
    lines = re.findall(r'<polyline class="curve c0" points="([^"]+)"', section_of(page, "NSS over time"))
    assert [len(line.split()) for line in lines] == [2, 2]


def test_undefined_scores_are_counted_and_print_no_nan(folder: Path, tmp_path: Path) -> None:
    scores = scored("model", 2, 2.0)
    for row in scores.rows:
        if row.video == "v000":
            row.values["nss"] = float("nan")
    page = report_scores(
        tmp_path / "r.html", [(scores, SpotMaps(4))], videos_of(folder, 2), progress=False
    ).read_text()
    assert "NSS on 10" in page
    assert "v000: NSS model undefined" in page
    assert "nan" not in re.sub(r"base64,[^\"]*", "", page)
    assert rank_videos({"model": scores}, "nss") == ["v001", "v000"]


def test_rank_videos_ignores_baselines_and_follows_the_metric_direction() -> None:
    model, prior = scored("model", 3, 2.0), scored("centre-prior", 3, 2.0)
    for row in prior.rows:
        row.values["nss"] = 100.0 * int(row.video[1:])
    assert rank_videos({"centre-prior": prior, "model": model}, "nss") == ["v000", "v001", "v002"]
    assert rank_videos({"centre-prior": prior}, "nss") == ["v002", "v001", "v000"]
    assert rank_videos({"model": model}, "kldiv") == ["v000", "v001", "v002"]  # the lowest first


def test_existing_report_is_kept_and_no_map_is_requested(folder: Path, tmp_path: Path) -> None:
    maps = SpotMaps(4)
    (tmp_path / "r.html").write_text("mine")
    with pytest.raises(UserError, match=r"r\.html: a report already exists; choose another name"):
        report_scores(tmp_path / "r.html", [(scored("m", 1, 1.0), maps)], videos_of(folder, 1), progress=False)
    assert maps.requested == {}
    assert (tmp_path / "r.html").read_text() == "mine"


def test_side_by_side_draws_fixations_and_maps_at_their_positions(folder: Path) -> None:
    (video,) = videos_of(folder, 1)
    (frame, (gaze, truth, one, other)), _ = side_by_side(
        video, [2, 7], [SpotMaps(4), SpotMaps(4, peak=255.0)], side=400
    )
    assert frame == 2
    assert gaze[9, 16].tolist() == [255, 214, 10]
    for heat in (truth, one):
        assert heat[9, 16].astype(int).sum() > 1.5 * (3 * 42)
        assert (heat[:5, 50:] == 42).all()  # the frame's own grey, far from the gaze
    assert truth[22, 40].astype(int).sum() > one[22, 40].astype(int).sum()
    assert np.array_equal(one, other)  # maps of 8 bits and of a peak of 1 look the same
    ((_, small),) = side_by_side(video, [2], [SpotMaps(4)], side=32)
    assert {picture.shape for picture in small} == {(18, 32, 3)}


@pytest.mark.parametrize(
    ("names", "short"),
    [
        (["runs/demo/teacher", "runs/demo/student"], ["teacher", "student"]),
        (["runs/a/teacher", "runs/b/teacher", "centre-prior"], ["a/teacher", "b/teacher", "centre-prior"]),
        (["teacher", "old/teacher"], ["teacher", "old/teacher"]),
        (["m", "m"], ["m #1", "m #2"]),
        (["observers (halves of the observers)"], ["observers (halves of the observers)"]),
    ],
)
def test_short_names_are_unique_suffixes(names: list[str], short: list[str]) -> None:
    assert short_names(names) == short
