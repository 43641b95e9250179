import itertools
import math
import re

import numpy as np
import pytest

from distill.reports import charts
from distill.reports.charts import Curve, line_chart, strip_plot

PAGES = {"light": "#ffffff", "dark": "#14171b"}

# colour vision without one of the three cones (Machado, Oliveira and Fernandes, 2009), on linear RGB
SEEN = {
    "all cones": np.eye(3),
    "protanopia": [[0.1523, 1.0526, -0.2049], [0.1145, 0.7863, 0.0992], [-0.0039, -0.0481, 1.0520]],
    "deuteranopia": [[0.3673, 0.8606, -0.2280], [0.2801, 0.6725, 0.0474], [-0.0118, 0.0429, 0.9689]],
    "tritanopia": [[1.2555, -0.0767, -0.1788], [-0.0784, 0.9308, 0.1476], [0.0047, 0.6914, 0.3039]],
}


def linear(colour: str) -> np.ndarray:
    values = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ rgb.clip(0, 1)
    f = np.cbrt((xyz / [0.9505, 1.0, 1.089]).clip(0.008856, None))
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def numbers(html: str, name: str) -> list[float]:
    return [float(value) for value in re.findall(rf'{name}="([-\d.]+)"', html)]


@pytest.mark.parametrize("setting", PAGES)
@pytest.mark.parametrize("kind", SEEN)
def test_colours_are_distinguishable_for_colour_blind_readers(setting: str, kind: str) -> None:
    seen = [lab(np.array(SEEN[kind]) @ linear(colour)) for colour in charts.COLOURS[setting]]
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) > 20  # 2.3 is just noticeable


@pytest.mark.parametrize("setting", PAGES)
def test_colours_have_contrast_with_the_page(setting: str) -> None:
    def luminance(colour: str) -> float:
        return float(linear(colour) @ [0.2126, 0.7152, 0.0722]) + 0.05

    for colour in charts.COLOURS[setting]:
        dark, light = sorted([luminance(colour), luminance(PAGES[setting])])
        assert light / dark > 3  # WCAG's minimum for graphics


def test_every_colour_has_its_own_dash_pattern() -> None:
    assert len(set(charts.DASHES)) == len(charts.COLOURS["light"]) == len(charts.COLOURS["dark"])


@pytest.mark.parametrize(
    ("steps", "values"),
    [
        ([1, 2, 3], [5.0, 5.0, 5.0]),
        ([1], [0.0]),
        ([0, 1], [-1e-9, 1e-9]),
        ([1, 2], [1e6, -1e6]),
        ([20, 26], [1, 2]),
    ],
)
@pytest.mark.parametrize("start", [0.0, None])
def test_line_chart_stays_inside_its_frame(steps: list[float], values: list[float], start: float | None) -> None:
    html = line_chart("t", [Curve("c", steps, values, smooth=True)], start=start, x="time (s)", y="NSS")
    pairs = re.findall(r"([-\d.]+),([-\d.]+)", " ".join(re.findall(r'points="([^"]+)"', html)))
    circles = re.findall(r'cx="([-\d.]+)" cy="([-\d.]+)"', html)
    assert pairs or circles
    for x, y in pairs + circles:
        assert 50 <= float(x) <= charts.WIDTH
        assert 0 <= float(y) <= charts.HEIGHT
    assert ">time (s)<" in html
    assert ">NSS<" in html


def test_line_chart_without_start_begins_at_the_first_step() -> None:
    curve = Curve("c", [20.0, 23.0, 26.0], [1.0, 2.0, 3.0])
    spans = [
        np.ptp([float(x) for x in re.findall(r"([\d.]+),", re.findall(r'curve c0" points="([^"]+)"', html)[0])])
        for html in (line_chart("t", [curve], start=None), line_chart("t", [curve]))
    ]
    assert spans[0] > 3 * spans[1]


def test_line_chart_with_nan_leaves_a_gap() -> None:
    html = line_chart("t", [Curve("c", [0, 1, 2, 3, 4, 5], [1.0, 2.0, math.nan, 3.0, math.nan, 2.0])])
    assert html.count("<polyline") == 1
    assert html.count("<circle") == 2
    assert "nan" not in html


def test_charts_without_a_finite_value_are_empty() -> None:
    assert line_chart("t", []) == ""
    assert line_chart("t", [Curve("c", [1.0], [math.nan])]) == ""
    assert strip_plot("t", {"a": {"v": math.nan}}, x="NSS") == ""


def test_long_curve_is_averaged_to_the_maximum_number_of_points() -> None:
    steps = list(range(100_000))
    html = line_chart("t", [Curve("c", steps, [float(step) for step in steps])])
    assert len(re.findall(r"[\d.]+,[\d.]+", re.findall(r'points="([^"]+)"', html)[0])) == charts.POINTS
    assert len(html) < 12_000
    short = charts._shorten(Curve("c", list(range(800)), [0.0, 1.0] * 400))
    assert set(short.values) == {0.5}


def test_running_mean_keeps_length_and_constants() -> None:
    assert charts._running_mean([2.0] * 7) == [2.0] * 7
    assert charts._running_mean([0.0, 3.0, 0.0]) == [1.5, 1.0, 1.5]
    assert charts._running_mean([0.0, math.nan, 4.0])[::2] == [0.0, 4.0]


def test_strip_plot_of_one_video_is_one_named_dot_without_box() -> None:
    html = strip_plot("NSS", {"teacher": {"002": 3.0}, "student": {"002": 2.5}}, x="NSS, a video's mean")
    assert html.count('class="dot"') == 2
    assert "<title>002: 3.000</title>" in html
    assert 'class="box"' not in html
    assert 'class="mean"' not in html
    assert numbers(html, "cx")[0] > numbers(html, "cx")[1]


def test_strip_plot_places_box_mean_and_interval_by_value() -> None:
    values = {str(i): float(i) for i in (0, 1, 2, 3, 4, 20)}
    html = strip_plot("t", {"a": values}, x="x", intervals={"a": (2.0, 8.0)})
    at = dict(zip(values, numbers(html, "cx"), strict=True))  # dots are in the order of their values

    def place(value: float) -> float:
        return at["0"] + (at["20"] - at["0"]) * value / 20

    (box,), (width,) = (
        re.findall(r'class="box" x="([\d.]+)"', html),
        re.findall(r'y="[\d.]+" width="([\d.]+)"', html),
    )
    assert float(box) == pytest.approx(place(1.25), abs=0.2)
    assert float(box) + float(width) == pytest.approx(place(3.75), abs=0.2)
    assert float(re.findall(r'class="median" x1="([\d.]+)"', html)[0]) == pytest.approx(place(2.5), abs=0.2)
    assert float(re.findall(r'class="mean" d="M([\d.]+)', html)[0]) == pytest.approx(place(5.0), abs=0.2)
    assert float(re.findall(r'class="whisker" x1="([\d.]+)"', html)[0]) == pytest.approx(place(2.0), abs=0.2)
    assert "5.000 (2.000 to 8.000)" in html


@pytest.mark.parametrize("count", [1, 30, 700, 4000])
def test_strip_plot_with_many_dots_stays_within_its_strip_and_small(count: int) -> None:
    values = {f"video {i}": value for i, value in enumerate(np.random.default_rng(0).normal(2, 0.01, count))}
    html = strip_plot("t", {"a": values}, x="x")
    if count > charts.NAMED_DOTS:
        dots = [(float(x), float(y)) for x, y in re.findall(r"M([-\d.]+) ([-\d.]+)h0", html)]
    else:
        dots = list(zip(numbers(html, "cx"), numbers(html, "cy"), strict=True))
    assert len(dots) == count
    assert all(0 < x < charts.WIDTH for x, _ in dots)
    heights = [y for _, y in dots]
    assert max(heights) - min(heights) <= 24
    assert len(html) < 3000 + 120 * min(count, charts.NAMED_DOTS) + 16 * count


def test_strip_plot_stacks_overlapping_dots() -> None:
    html = strip_plot("t", {"a": {"x": 1.0, "y": 1.0, "z": 2.0}}, x="x")
    (one, other, alone) = numbers(html, "cy")
    assert one != other
    assert alone == (one + other) / 2
