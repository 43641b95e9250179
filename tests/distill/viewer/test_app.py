from collections.abc import Iterator
from io import BytesIO

import numpy as np
import pytest
from helpers.views import Maps, blob, wait_for
from PIL import Image
from starlette.testclient import TestClient

from distill.viewer.app import HEADERS, PAGE, make_app
from distill.viewer.layers import PredictedLayer, TruthLayer
from distill.viewer.scoring import ComputedScores
from distill.viewer.view import View

PANEL = "/api/videos/0/frames/3/panels/"


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    """A client of two generated videos with ground truth, a fast model and one that never answers."""
    fast, slow = PredictedLayer(Maps(), "fast"), PredictedLayer(Maps(pause=3), "slow")
    view = View("title", "videos", [blob(0), blob(1)], [TruthLayer(), fast, slow], ComputedScores([fast]))
    yield TestClient(make_app(view), base_url="http://127.0.0.1:8765", raise_server_exceptions=False)
    assert view.close(10)


def test_page_and_its_files_are_served_with_strict_headers(client: TestClient) -> None:
    for path, (_, kind) in PAGE.items():
        answer = client.get(path)
        assert (answer.status_code, answer.headers["content-type"]) == (200, f"{kind}; charset=utf-8")
        assert HEADERS.items() <= {name.title(): value for name, value in answer.headers.items()}.items()
        assert "http://" not in answer.text
        assert "https://" not in answer.text


def test_api_describes_videos_panels_and_metrics(client: TestClient) -> None:
    view = client.get("/api/view").json()
    assert view["panels"] == ["frame", "ground truth", "fast", "slow"]
    assert [video["name"] for video in view["videos"]] == ["blob0", "blob1"]
    assert (view["series"], view["metrics"][0]) == (["fast"], {"name": "nss", "title": "NSS", "higher": True})
    assert client.get("/api/videos/1").json()["numbers"] == list(range(1, 49))


def test_panels_are_pictures_and_a_pending_map_is_202(client: TestClient) -> None:
    assert client.get(PANEL + "3").status_code == 202
    assert client.get("/api/videos/0/frames/3/viewed").status_code == 204
    wait_for(lambda: client.get(PANEL + "2").status_code == 200)
    for panel in range(3):
        for query in ("", "?draw=map", "?draw=contours&gaze=1"):
            answer = client.get(f"{PANEL}{panel}{query}")
            assert answer.headers["content-type"] == "image/jpeg"
            assert Image.open(BytesIO(answer.content)).size == (128, 72)
    assert client.get(PANEL + "3").json() == {"waiting": True}


def test_scores_and_worst_frames_arrive(client: TestClient) -> None:
    client.get("/api/videos/0/frames/0/viewed")
    wait_for(lambda: client.get("/api/videos/0/scores").json()["series"][0]["scored"] == 48)
    scores = client.get("/api/videos/0/scores").json()
    values = scores["series"][0]["values"]["nss"]
    assert len(values) == scores["total"] == 48
    worst = client.get("/api/worst/0/0").json()
    assert worst[0]["value"] == min(values)
    assert worst[0]["frame"] == int(np.argmin(values)) + 1
    assert not scores["done"]  # the slow model is still predicting


@pytest.mark.parametrize(
    "path",
    [
        "/../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/page/view.js",
        "/view.js/../../app.py",
        "/api/videos/../../../etc/passwd",
        "/api/videos/2",
        "/api/videos/-1",
        "/api/videos/0x0",
        "/api/videos/%D9%A1",
        f"/api/videos/{'9' * 5000}",
        "/api/videos/0/frames/48/panels/0",
        "/api/videos/0/frames/48/viewed",
        "/api/videos/0/frames/..%2f..%2fetc%2fpasswd/panels/0",
        "/api/videos/0/frames/1.5/panels/0",
        "/api/videos/0/frames/0/panels/4",
        "/api/worst/5/0",
        "/api/worst/0/1",
        "/api/worst/0/%00",
    ],
)
def test_what_does_not_exist_is_404_with_one_sentence(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert (answer.status_code, list(answer.json())) == (404, ["error"])
    assert "\n" not in answer.json()["error"]


def test_unknown_drawing_is_400(client: TestClient) -> None:
    answer = client.get(PANEL + "0?draw=<script>")
    assert (answer.status_code, answer.json()) == (400, {"error": "draw: expected one of overlay, contours, map"})


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "TRACE"])
def test_only_get_is_answered(client: TestClient, method: str) -> None:
    assert client.request(method, "/api/view").status_code == 405


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8765", "127.0.0.1.evil.example", "0.0.0.0", ""])
def test_other_host_names_get_nothing(client: TestClient, host: str) -> None:
    answer = client.get("/api/view", headers={"host": host})
    assert (answer.status_code, answer.text) == (400, "Invalid host header")


@pytest.mark.parametrize("host", ["localhost:8765", "127.0.0.1:8765", "localhost"])
def test_names_of_this_machine_are_answered(client: TestClient, host: str) -> None:
    assert client.get("/api/view", headers={"host": host}).status_code == 200
