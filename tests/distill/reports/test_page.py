import base64
import json
import re
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distill.reports import page as report
from distill.reports.charts import Curve, line_chart, strip_plot
from distill.reports.page import Estimate, Verdict
from distill.reports.templating import TEMPLATES

GOOD = {
    "centre prior": {"NSS": 1.2, "CC": 0.30},
    "teacher": {"NSS": 2.9, "CC": 0.60},
    "student": {"NSS": 2.7, "CC": 0.57},
}


EVERY_PIECE = TEMPLATES.from_string(
    """{% extends "page.html.j2" %}
    {% from "pieces.html.j2" import section, figures, chart_grid, notes %}
    {% block title %}{{ text }}{% endblock %}
    {% block lead %}{{ text }}{% endblock %}
    {% block content %}
    {{ figures([(text, text)]) }}
    {% call section(text, text) %}{{ table }}{{ examples }}{{ chart_grid(curves) }}{{ video }}{% endcall %}
    {{ notes(sentences) }}
    {% endblock %}"""
)
"""A page with one of everything."""


def make_run(folder: Path, *, validations: int = 3) -> Path:
    folder.mkdir()
    lines = [
        {"kind": "train", "step": step, "loss": 2 / step, "terms": {"truth/kldiv": 3 / step, "truth/cc": -0.1}}
        for step in range(1, 31)
    ]
    lines += [
        {"kind": "validation", "step": 10 * i, "scores": {"nss": 1 + i / 10, "cc": i / 10}}
        for i in range(1, validations + 1)
    ]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture
def page(tmp_path: Path) -> str:
    """A report with one of everything, as text."""
    frame = np.full((36, 64, 3), 90, dtype=np.uint8)
    clip = tmp_path / "overlay.mp4"
    clip.write_bytes(b"not really a video")
    path = tmp_path / "report.html"
    runs = {"teacher": make_run(tmp_path / "teacher"), "student": make_run(tmp_path / "student")}
    report.write_report(
        path,
        EVERY_PIECE,
        verdict=report.judge(GOOD),
        text="Title",
        table=report.table(["model", "NSS"], [["teacher", 2.875], ["student", 2.125]]),
        examples=report.examples([("frame 7", [(frame, "gaze"), (frame, "truth")])]),
        curves=report.learning_curves(runs, {"nss": {"centre prior": 1.25}}),
        video=report.video(clip, "the exported student", page=path),
        sentences=["resized bicubically"],
    )
    return path.read_text(encoding="utf-8")


def test_page_is_self_contained(page: str) -> None:
    assert "http" not in page
    links = re.findall(r'(?:src|href)="([^"]{0,12})', page) + re.findall(r"url\(([^)]{0,12})", page)
    assert links
    assert all(link.startswith("data:") for link in links)
    assert "<link" not in page
    assert "<script" not in page
    assert "@import" not in page


def test_page_contains_every_piece(page: str) -> None:
    for text in (
        "Title",
        "2.875",
        "2.125",
        "frame 7",
        "gaze",
        "the exported student",
        "resized bicubically",
        "Written by saldistill.",
    ):
        assert text in page
    assert "prefers-color-scheme:dark" in page
    assert 'name="viewport"' in page
    assert "--c0:" in page
    assert base64.b64encode(b"not really a video").decode() in page


def test_learning_curves_have_every_run_score_and_term(page: str) -> None:
    assert page.count('<figure class="chart">') == 4  # nss and cc for both runs, then the terms of each run
    assert "validation NSS" in page
    assert "validation CC" in page
    assert "teacher: training terms" in page
    assert "truth, kldiv" in page
    assert page.count('<polyline class="level"') == 1  # the centre prior, in the NSS chart only
    assert "centre prior <b>1.25</b>" in page


def test_learning_curves_without_log_are_empty(tmp_path: Path) -> None:
    assert report.learning_curves({"teacher": tmp_path / "missing"}) == []


def test_verdict_is_the_first_sentence(page: str) -> None:
    body = page[page.index("<body>") :]
    first = re.search(r"<p[^>]*>(.*?)</p>", body)
    assert first is not None
    assert first.group(1).startswith("Teacher and student beat the centre prior")
    assert "Warning" not in body


@pytest.mark.parametrize(("row", "score"), [("student", "CC"), ("teacher", "NSS")])
@pytest.mark.parametrize("value", [0.1, float("nan")])
def test_verdict_below_the_centre_prior_is_a_warning(tmp_path: Path, row: str, score: str, value: float) -> None:
    scores = {name: dict(values) for name, values in GOOD.items()}
    scores[row][score] = value
    verdict = report.judge(scores)
    assert not verdict.good
    assert f"{row} has {score} {value:.3f} against" in verdict.sentence
    assert "beat" not in verdict.sentence
    path = tmp_path / "report.html"
    report.write_report(path, "page", verdict=verdict)
    assert re.search(r'<p class="verdict bad"><b>Warning\.</b> Below the centre prior', path.read_text())


def test_verdict_of_a_tie_is_not_good() -> None:
    assert not report.judge({**GOOD, "student": {"NSS": 1.2, "CC": 0.57}}).good


def test_verdict_of_a_single_model_is_a_sentence() -> None:
    verdict = report.judge({"centre prior": GOOD["centre prior"], "student": GOOD["student"]})
    assert verdict == Verdict(
        "Student beats the centre prior: NSS 2.700 (student) against 1.200; CC 0.570 (student) against 0.300.",
        good=True,
    )


def test_table_marks_the_best_and_shows_missing_numbers_as_dashes() -> None:
    html = report.table(
        ["model", "NSS", "KL"],
        [["a", 1.0, 2.0], ["b", 3.0, 1.5], ["c", float("nan"), None]],
        best={"NSS": "high", "KL": "low"},
    )
    assert re.findall(r"<b>([^<]*)</b>", html) == ["3.000", "1.500"]
    assert html.count(">–</td>") == 2  # noqa: RUF001


def test_text_is_escaped_in_every_piece(tmp_path: Path) -> None:
    evil = "<script>&"
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(b"video")
    pieces = {
        "table": report.table([evil], [[evil]], caption=evil),
        "examples": report.examples([(evil, [(np.zeros((8, 8, 3), np.uint8), evil)])]),
        "curves": [
            line_chart(evil, [Curve(evil, [1.0], [1.0])], x=evil, y=evil, levels={evil: 1.0}),
            strip_plot(evil, {evil: {evil: 1.0}}, x=evil),
        ],
        "video": report.video(clip, evil, page=tmp_path / "page.html"),
    }
    report.write_report(
        tmp_path / "page.html", EVERY_PIECE, verdict=Verdict(evil, good=True), text=evil, sentences=[evil], **pieces
    )
    page = (tmp_path / "page.html").read_text()
    assert "<script>" not in page
    assert page.count("&lt;script&gt;&amp;") == 28  # every string that was passed in


def test_large_video_is_linked_relative_to_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "VIDEO_LIMIT", 4)
    clip = tmp_path / "videos" / "my clip.mp4"
    clip.parent.mkdir()
    clip.write_bytes(b"12345")
    html = report.video(clip, "caption", page=tmp_path / "pages" / "report.html")
    assert 'href="../videos/my%20clip.mp4"' in html
    assert "base64" not in html


def test_series_skips_values_that_are_not_finite() -> None:
    lines = [
        {"kind": "train", "step": 1, "terms": {"a": 1.0}},
        {"kind": "train", "step": 2, "terms": {}},
        {"kind": "train", "step": 3, "terms": {"a": float("nan")}},
        {"kind": "validation", "step": 3, "scores": {"a": 9.0}},
        {"kind": "train", "step": 4, "terms": {"a": 4}},
    ]
    assert report.series(lines, "train", "terms", "a") == ([1.0, 4.0], [1.0, 4.0])


def test_mark_points_draws_at_the_coordinates_of_a_copy() -> None:
    frame = np.zeros((36, 64, 3), dtype=np.uint8)
    marked = report.mark_points(frame, np.array([[10, 50]]))
    assert marked[10, 50].tolist() == [255, 214, 10]
    assert not marked[:, :40].any()
    assert not frame.any()


@pytest.mark.parametrize(
    ("size", "shown"), [((10, 20), (10, 20)), ((300, 800), (150, 400)), ((800, 300), (400, 150))]
)
def test_pictures_are_shrunk_to_their_longer_side_and_never_enlarged(
    size: tuple[int, int], shown: tuple[int, int]
) -> None:
    data = report.picture_uri(np.zeros((*size, 3), np.uint8), 400).removeprefix("data:image/jpeg;base64,")
    assert Image.open(BytesIO(base64.b64decode(data))).size == shown[::-1]
    assert report.fit(size, 400) == shown


def test_table_shows_intervals_of_estimates() -> None:
    rows = [["a", Estimate(1.0, (0.5, 1.5))], ["b", Estimate(2.0, (float("nan"), float("nan")))]]
    html = report.table(["model", "NSS"], rows, best={"NSS": "high"})
    assert "1.000<small>0.500 to 1.500</small>" in html
    assert "<b>2.000</b></td>" in html


def test_page_without_verdict_starts_with_its_lead(tmp_path: Path) -> None:
    empty = {"text": "led", "table": "", "examples": "", "curves": [], "video": "", "sentences": []}
    report.write_report(tmp_path / "r.html", EVERY_PIECE, verdict=None, **empty)
    body = (tmp_path / "r.html").read_text().split("<body>")[1]
    assert "verdict" not in body
    assert '<p class="lead">led</p>' in body
