"""The viewer's page in headless Chromium; skipped where no Chromium is installed."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from helpers.chromium import EXECUTABLE, Chromium
from helpers.views import Maps, blob, wait_for

from distill.viewer.app import make_app
from distill.viewer.layers import PredictedLayer, TruthLayer
from distill.viewer.scoring import ComputedScores
from distill.viewer.server import listen
from distill.viewer.view import View

SOURCE = "document.querySelectorAll('#panels img')[{}].src"
LOADED = (
    "[...document.querySelectorAll('#panels figure')].filter("
    "figure => figure.querySelector('p').hidden && figure.querySelector('img').naturalWidth === 128).length === 3"
)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    layer = PredictedLayer(Maps(), "student")
    view = View("two blobs", "videos", [blob(0), blob(1)], [TruthLayer(), layer], ComputedScores([layer]))
    with listen(None) as listening:
        server = uvicorn.Server(uvicorn.Config(make_app(view), log_config=None, lifespan="off", ws="none"))
        thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
        thread.start()
        wait_for(lambda: server.started)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
        server.should_exit = True
        thread.join(10)
    assert view.close(10)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    if EXECUTABLE is None:
        pytest.skip("Chromium is not installed")
    with Chromium(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def page(browser: Chromium, address: str) -> Iterator[Chromium]:
    """The page with its first pictures and all scores; it must leave nothing in the console."""
    browser.call("Emulation.setDeviceMetricsOverride", width=1200, height=900, deviceScaleFactor=1, mobile=False)
    browser.open(address)
    browser.wait(LOADED)
    yield browser
    assert browser.log == []
    assert browser.run("document.getElementById('message').hidden")


def position(page: Chromium) -> str:
    text: str = page.run("document.getElementById('position').textContent")
    return text


def press(page: Chromium, key: str, code: str, modifiers: int = 0) -> None:
    for kind in ("keyDown", "keyUp"):
        text = {"text": " "} if key == " " and kind == "keyDown" else {}
        page.call("Input.dispatchKeyEvent", type=kind, key=key, code=code, modifiers=modifiers, **text)


def click(page: Chromium, selector: str, x: float = 0.5) -> None:
    box = page.run(
        f"(() => {{ const node = document.querySelector('{selector}'); node.scrollIntoView({{block: 'center'}});"
        "const box = node.getBoundingClientRect(); return [box.left, box.top, box.width, box.height]; })()"
    )
    for kind in ("mousePressed", "mouseReleased"):
        page.call(
            "Input.dispatchMouseEvent",
            type=kind,
            x=box[0] + x * box[2],
            y=box[1] + box[3] / 2,
            button="left",
            clickCount=1,
        )


def test_slider_changes_all_pictures(page: Chromium) -> None:
    before = [page.run(SOURCE.format(panel)) for panel in range(3)]
    assert position(page).startswith("frame 1 ")
    click(page, "#slider", 0.5)
    page.wait("document.getElementById('position').textContent.startsWith('frame 2')")
    page.wait(" && ".join(f"{SOURCE.format(panel)} !== '{before[panel]}'" for panel in range(3)))
    page.wait(LOADED)


def test_keys_step_and_space_plays_to_the_end(page: Chromium) -> None:
    for key, modifiers, frame in (
        ("ArrowRight", 0, 2),
        ("ArrowRight", 8, 12),
        ("ArrowLeft", 0, 11),
        ("End", 0, 48),
    ):
        press(page, key, key, modifiers)
        page.wait(f"document.getElementById('position').textContent.startsWith('frame {frame} ')")
    press(page, "Home", "Home")
    press(page, " ", "Space")
    page.wait("document.getElementById('play').getAttribute('aria-label') === 'Pause'")
    page.wait("document.getElementById('position').textContent.startsWith('frame 48 ')")
    page.wait("document.getElementById('play').getAttribute('aria-label') === 'Play'")


def test_time_line_seeks_and_shows_the_scores_of_the_frame(page: Chromium) -> None:
    page.wait("document.getElementById('progress').textContent === ''")
    click(page, ".plot", 0.75)
    page.wait("document.getElementById('position').textContent.startsWith('frame 36 ')")
    assert page.run("document.querySelectorAll('.chart').length") == 3
    assert page.run("document.querySelector('.chart-head span').textContent").startswith("student ")
    assert "NSS" in page.run("document.querySelectorAll('figcaption span')[2].textContent")
    worst = page.run("document.querySelector('#worst button').textContent")
    click(page, "#worst button")
    frame = worst.split("frame ")[1]
    page.wait(f"document.getElementById('position').textContent.startsWith('frame {frame} ')")


def test_toggles_hide_panels_and_draw_maps_alone(page: Chromium) -> None:
    before = page.run(SOURCE.format(2))
    click(page, "#draw label:nth-of-type(3)")
    page.wait(f"{SOURCE.format(2)} !== '{before}'")
    click(page, "#panel-options label:nth-of-type(2)")
    page.wait("document.querySelectorAll('#panels figure')[1].hidden")


def test_list_of_videos_opens_another_one(page: Chromium) -> None:
    before = page.run(SOURCE.format(0))
    click(page, "#videos button:last-of-type")
    page.wait(f"{SOURCE.format(0)} !== '{before}'")
    assert page.run("document.querySelector('#videos [aria-current]').textContent").startswith("blob1")


@pytest.mark.parametrize("dark", [False, True])
def test_page_fits_a_phone(page: Chromium, tmp_path: Path, dark: bool) -> None:
    page.picture(tmp_path / "phone.png", 390, 844, dark=dark)
    assert page.run("document.documentElement.scrollWidth") <= 390
