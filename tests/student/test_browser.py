"""The browser page: its maps in WebAssembly equal those of student/edge.py, and the page shows them.

The tests run the output of `saldistill page` in Node and in headless Chromium. They are skipped if
either is not installed or onnxruntime-web is missing (`npm ci` in student/browser). No test uses the network.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from helpers.chromium import EXECUTABLE, Chromium, serve
from helpers.edge_models import REAL_VIDEO
from onnx import TensorProto, helper

from distill.data.video.writer import VideoWriter
from student import edge
from student.edge import EdgeModel, Stream

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "student" / "browser"
VIDEOS = [REAL_VIDEO, REAL_VIDEO.with_name("068.AVI")]
FRAMES = 14

needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="Node.js is not installed")


@pytest.fixture(scope="module")
def page(step_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page that the script builds."""
    if shutil.which("npm") is None:
        pytest.skip("Node.js and npm are not installed")
    wanted = json.loads((SOURCES / "package.json").read_text())["dependencies"]["onnxruntime-web"]
    fetched = SOURCES / "node_modules" / "onnxruntime-web" / "package.json"
    if not fetched.exists() or json.loads(fetched.read_text())["version"] != wanted:
        pytest.skip(f"onnxruntime-web {wanted} was not fetched: run `npm ci` in student/browser")
    folder = tmp_path_factory.mktemp("built") / "page"
    assert build(folder, "--model", step_file).returncode == 0
    return folder


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    if EXECUTABLE is None:
        pytest.skip("Chromium is not installed")
    camera = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
    with Chromium(tmp_path_factory.mktemp("profile"), *camera) as browser:
        yield browser


@pytest.fixture
def opened(page: Path, browser: Chromium) -> Iterator[Chromium]:
    """The page in the browser, with its network loaded."""
    with serve(page) as address:
        browser.open(address)
        browser.wait("document.querySelector('#about').children.length > 0")
        yield browser
        browser.open("about:blank#done")


def build(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "distill.cli.main", "page", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def node(script: str) -> Any:
    """Run a module in the source folder and return the JSON that it prints."""
    command = ["node", "--input-type=module", "-"]
    done = subprocess.run(command, cwd=SOURCES, input=script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def real_frames(size: tuple[int, int]) -> np.ndarray:
    """Frames (n, H, W, 3) of two real videos with a cut between them."""
    return np.stack(
        [
            edge.resize(frame, size)
            for video in VIDEOS
            for _, frame in zip(range(FRAMES // 2), edge.open_video(video)[1], strict=False)
        ]
    )


def edge_maps(step_file: Path, frames: np.ndarray) -> np.ndarray:
    stream = Stream(EdgeModel(step_file, threads=1))
    maps = np.stack([stream(frame) for frame in frames])
    assert stream.resets == (1 if len(frames) == FRAMES else 0)
    return maps


def message(browser: Chromium) -> str:
    return str(browser.run("document.querySelector('#message').innerText"))


def test_browser_maps_equal_runner(step_file: Path, page: Path, browser: Chromium) -> None:
    frames = real_frames((64, 96))
    expected = edge_maps(step_file, frames)
    frames.tofile(page / "frames.rgb")
    with serve(page) as address:
        browser.open(address)
        maps = browser.run("""(async () => {
            const ort = await import("./ort.wasm.bundle.min.mjs");
            const { Model, Stream } = await import("./model.js");
            const read = async (name) => new Uint8Array(await (await fetch(name)).arrayBuffer());
            const stream = new Stream(await Model.load(ort, await read("student.onnx")));
            const [frames, maps, size] = [await read("frames.rgb"), [], 3 * 64 * 96];
            for (let place = 0; place < frames.length; place += size) {
                maps.push(Array.from(await stream.next(frames.subarray(place, place + size))));
            }
            return maps;
        })()""")
    assert np.abs(np.array(maps).reshape(expected.shape) - expected).max() < 1e-4
    assert np.abs(expected - expected[0]).max() > 0.05  # they depend on the frames


def test_node_maps_equal_runner(step_file: Path, page: Path, tmp_path: Path) -> None:
    frames = real_frames((64, 96))
    frames.tofile(tmp_path / "frames.rgb")
    done = subprocess.run(
        ["node", str(SOURCES / "example.mjs"), str(step_file), "frames.rgb", "maps.f32"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{FRAMES} frames of 96 x 64: ")
    maps = np.fromfile(tmp_path / "maps.f32", np.float32).reshape(FRAMES, 16, 24)
    assert np.abs(maps - edge_maps(step_file, frames)).max() < 1e-4


@pytest.mark.parametrize("fit", edge.FITS)
def test_page_places_frames_like_runner(browser: Chromium, fit: str) -> None:
    """A canvas plays the video; sizes at which the picture is not resampled."""
    size = {"stretch": (160, 96), "letterbox": (160, 224), "crop": (96, 96)}[fit]
    picture = np.random.default_rng(0).integers(0, 256, (160, 96, 4), dtype=np.uint8)
    picture[..., 3] = 255
    with serve(SOURCES) as address:
        browser.open(address)
        placed = browser.run(f"""(async () => {{
            const {{ Frames }} = await import("./frames.js");
            const picture = document.createElement("canvas");
            [picture.width, picture.height, picture.videoWidth, picture.videoHeight] = [96, 160, 96, 160];
            const pixels = Uint8ClampedArray.from({json.dumps(picture.ravel().tolist())});
            picture.getContext("2d").putImageData(new ImageData(pixels, 96, 160), 0, 0);
            const frames = new Frames(picture, {{}});
            const grab = () => Array.from(frames.grab({{ width: {size[1]}, height: {size[0]}, fit: "{fit}" }}));
            grab();
            return grab();
        }})()""")
        browser.open("about:blank#done")
    found = np.reshape(placed, (*size, 4))[..., :3]
    np.testing.assert_array_equal(found, edge.place(picture[..., :3], size))


def opacity(browser: Chromium) -> np.ndarray:
    """Return the opacity of the overlay, (16, 24) in [0, 1]."""
    rgba = browser.run("[...overlay.getContext('2d').getImageData(0, 0, 24, 16).data]")
    return np.array(rgba).reshape(16, 24, 4)[..., 3] / 255


def test_page_video_shows_maps(step_file: Path, opened: Chromium, tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "two scenes.mp4", (360, 640), 10) as writer:
        writer.write(real_frames((360, 640)))
    frames = list(edge.open_video(tmp_path / "two scenes.mp4")[1])
    opened.drop(tmp_path / "two scenes.mp4")
    opened.wait("rate.innerText > 0 && p99.innerText > 0")
    assert message(opened) == ""
    opened.run("pause.click()")
    opened.wait("video.paused && pause.innerText === 'Resume' && !(rate.innerText > 0)")  # no map is pending
    maps = {n: edge_maps(step_file, edge.resize(frames[n], (64, 96))[None])[0] for n in (2, 11)}
    expected = {n: saliency * (2 - saliency) for n, saliency in maps.items()}  # as `edge.overlay` has it
    assert np.abs(expected[2] - expected[11]).max() > 0.1
    for place in (2, 11):  # seeking while paused shows the map of that frame without a past
        opened.run(f"overlay.width = 1; video.currentTime = {(place + 0.5) / 10}")
        opened.wait("overlay.width === 24")
        # different decoders and resizing
        assert np.abs(opacity(opened) - expected[place]).max() < 0.03
    about = opened.run("about.innerText")
    for text in ("stream/micro", "fp32", "96 x 64 pixels (stretch)", "a map depends on 5", "not stated"):
        assert text in about
    assert opened.log == []


def test_page_webcam_shows_maps(step_file: Path, opened: Chromium) -> None:
    opened.run("webcam.click()")
    opened.wait("rate.innerText > 0")
    opened.run("rate.innerText = 0")
    opened.choose("#model-file", step_file)  # switch the network while it runs
    opened.wait("rate.innerText > 0")
    assert message(opened) == ""
    assert opened.log == []
    opened.run("video.srcObject.getVideoTracks()[0].dispatchEvent(new Event('ended'))")
    assert message(opened).startswith("The camera was disconnected")


@pytest.mark.parametrize(
    ("failure", "said"),
    [("NotAllowedError", "Camera access was denied"), ("NotFoundError", "No camera found")],
)
def test_page_without_camera_shows_message(opened: Chromium, failure: str, said: str) -> None:
    opened.run(f"navigator.mediaDevices.getUserMedia = async () => {{ throw new DOMException('', '{failure}'); }}")
    opened.run("webcam.click()")
    opened.wait("message.innerText !== ''")
    assert message(opened).startswith(said)


def test_page_invalid_file_shows_message(opened: Chromium, tmp_path: Path) -> None:
    (tmp_path / "words.mp4").write_text("no video")
    (tmp_path / "words.onnx").write_text("no model")
    node_of_theirs = helper.make_node("Relu", ["x"], ["y"])
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph([node_of_theirs], "theirs", tensors[:1], tensors[1:])
    onnx.save(helper.make_model(graph), tmp_path / "theirs.onnx")
    for name, said in (
        ("words.mp4", "words.mp4: this browser cannot play it"),
        ("words.onnx", "words.onnx: not an ONNX file"),
        ("theirs.onnx", 'theirs.onnx: has no "saldistill" metadata'),
    ):
        opened.choose("#model-file" if name.endswith(".onnx") else "#video-file", tmp_path / name)
        opened.wait(f"message.innerText.startsWith('{said}')")


def test_page_without_model_accepts_one(page: Path, step_file: Path, browser: Chromium, tmp_path: Path) -> None:
    shutil.copytree(page, tmp_path / "page")
    (tmp_path / "page" / "student.onnx").unlink()
    with serve(tmp_path / "page") as address:
        browser.open(address)
        browser.wait("message.innerText.startsWith('student.onnx is missing')")
        browser.choose("#model-file", step_file)
        browser.wait("about.innerText.includes('stream/micro')")
        assert message(browser) == ""


def test_page_on_isolated_server_uses_threads(page: Path, browser: Chromium) -> None:
    with serve(page, isolated=True) as address:
        browser.open(address)
        browser.wait("about.children.length > 0")
        assert browser.run("self.crossOriginIsolated")
        assert "the server does not allow more" not in browser.run("about.innerText")


@needs_node
def test_read_metadata_unknown_format_is_rejected(step_file: Path, exported: Path, tmp_path: Path) -> None:
    model = onnx.load(step_file)
    (entry,) = (entry for entry in model.metadata_props if entry.key == "saldistill")
    entry.value = json.dumps(json.loads(entry.value) | {"format": 9})
    onnx.save(model, tmp_path / "newer.onnx")
    for path, said in (
        (exported, "takes clips of 8 frames; expected a streaming student"),
        (tmp_path / "newer.onnx", 'has format 9, mode "step"; expected format 2'),
    ):
        words = node(f"""
            import {{ readFileSync }} from "node:fs";
            import {{ readMetadata, UserError }} from "./model.js";
            try {{
                readMetadata(new Uint8Array(readFileSync({json.dumps(str(path))})), "the file");
            }} catch (error) {{
                console.log(JSON.stringify([error instanceof UserError, error.message]));
            }}
        """)
        assert words[0] is True
        assert words[1].startswith(f"the file: {said}")


@needs_node
def test_flipped_bytes_are_found(step_file: Path) -> None:
    """The network itself does not run here: what follows the checks fails in its own way."""
    found = node(f"""
        import {{ readFileSync }} from "node:fs";
        import {{ Model }} from "./model.js";
        const bytes = new Uint8Array(readFileSync({json.dumps(str(step_file))}));
        const ort = {{ InferenceSession: {{ create: async () => {{ throw new Error("not here"); }} }} }};
        const load = (changed) => Model.load(ort, changed).then(String, (error) => error.message);
        const flipped = bytes.slice();
        flipped[Math.floor(bytes.length / 2)] ^= 1;
        console.log(JSON.stringify([await load(bytes), await load(flipped)]));
    """)
    assert found[0] == "the file: onnxruntime-web cannot load it: not here"
    assert found[1].startswith("the file: its checksum differs")


def refusals(texts: list[str]) -> list[str | None]:
    """Return the message for files with these metadata; None for one that is accepted."""
    files = []
    for text in texts:
        model = onnx.ModelProto()
        model.metadata_props.add(key="saldistill", value=text)
        files.append(model.SerializeToString().hex())
    found = node(f"""
        import {{ readMetadata, UserError }} from "./model.js";
        const refusal = (hex) => {{
            try {{
                readMetadata(Uint8Array.from(Buffer.from(hex, "hex")), "the file");
                return null;
            }} catch (error) {{
                return error instanceof UserError ? error.message : `${{error.stack}}`;
            }}
        }};
        console.log(JSON.stringify({json.dumps(files)}.map(refusal)));
    """)
    return list(found)


@needs_node
def test_read_metadata_of_wrong_types_is_one_sentence(step_file: Path) -> None:
    """Only a key that may be missing has values among the wrong ones that fit it."""
    said = EdgeModel(step_file, threads=1).metadata
    wrong = (
        True,
        -1,
        0,
        1.5,
        1e30,
        "5",
        "",
        [],
        {},
        [1],
        [True, True],
        [[1], [2]],
        [None],
        {"type": 1},
        float("nan"),
    )
    optional = ("notes", "model", "weights", "precision", "licence", "fit")
    required = ("format", "mode", "size", "map_size", "input", "output", "state", "reach")
    cases = [(key, value) for key in (*required, *optional) for value in wrong]
    cases += [("state", [{**said["state"][0], "shape": value}]) for value in wrong]
    cases += [("state", [{**said["state"][0], "input": value}]) for value in wrong if not isinstance(value, str)]
    cases += [("notes", {"stride": value}) for value in wrong]
    texts = [json.dumps(said | {key: value}) for key, value in cases]
    texts += ["", "{", "[1]", "null", "3", "[" * 100_000]
    for place, message in enumerate(refusals(texts)):
        if message is None:
            key, value = cases[place]
            assert key in optional or (key == "state" and value == []), (key, value)
        else:
            assert message.startswith("the file: "), message
            assert "\n" not in message
            assert len(message) < 300
    assert refusals([json.dumps(said)]) == [None]


@needs_node
@pytest.mark.parametrize("meaning", ["peak", "log", "sigmoid"])
def test_map_with_nan_or_infinity_is_refused(meaning: str) -> None:
    found = node(f"""
        import {{ Model, UserError }} from "./model.js";
        class Tensor {{ constructor(type, data, dims) {{ Object.assign(this, {{ type, data, dims }}); }} }}
        const metadata = {{
            size: [1, 1], map_size: [1, 2], input: {{ name: "frame", type: "uint8" }}, state: [],
            output: {{ name: "saliency", values: "{meaning}" }},
        }};
        const run = async (values) => {{
            const session = {{ run: async () => ({{ saliency: {{ data: Float32Array.from(values) }} }}) }};
            try {{
                await new Model({{ Tensor }}, session, metadata).step(new Uint8Array(3), {{}});
                return "accepted";
            }} catch (error) {{
                return error instanceof UserError ? error.message : `${{error.stack}}`;
            }}
        }};
        const wrong = [[NaN, 0], [NaN, NaN], [0.5, Infinity], [-Infinity, -Infinity], [0.5]];
        console.log(JSON.stringify(await Promise.all([[0.5, 0.25], ...wrong].map(run))));
    """)
    assert found[0] == "accepted"
    for message in found[1:]:
        assert message.startswith("The map contains NaN or infinity, or has another size than the file says")


@needs_node
def test_read_metadata_equals_runner(step_file: Path) -> None:
    found = node(f"""
        import {{ readFileSync }} from "node:fs";
        import {{ readMetadata }} from "./model.js";
        const bytes = new Uint8Array(readFileSync({json.dumps(str(step_file))}));
        console.log(JSON.stringify(readMetadata(bytes)));
    """)
    assert found == EdgeModel(step_file, threads=1).metadata


@needs_node
def test_heat_colours_equal_runner() -> None:
    ramp = np.arange(256) / 255
    pixels = node("""
        import { paint } from "./heat.js";
        const rgba = new Uint8ClampedArray(4 * 256);
        paint(Float32Array.from({ length: 256 }, (_, level) => level / 255), rgba);
        console.log(JSON.stringify(Array.from(rgba)));
    """)
    rgba = np.array(pixels, np.float64).reshape(1, 256, 4)
    alpha = rgba[..., 3:] / 255
    black, grey = (np.full((1, 256, 3), value, np.uint8) for value in (0, 200))
    for background in (black, grey):
        painted = background * (1 - alpha) + rgba[..., :3] * alpha
        expected = edge.overlay(background, ramp[None].astype(np.float32), strength=1.0)
        assert np.abs(painted - expected).max() < 2  # of 255: rounding


@needs_node
def test_cuts_equal_runner(tmp_path: Path) -> None:
    frames = real_frames((64, 96))
    frames[3] = 255 - frames[3]  # a flash
    cuts = edge.Cuts((64, 96))
    expected = [cuts(frame.transpose(2, 0, 1)) for frame in frames]
    frames.tofile(tmp_path / "frames.rgb")
    found = node(f"""
        import {{ readFileSync }} from "node:fs";
        import {{ Cuts }} from "./cuts.js";
        const bytes = readFileSync({json.dumps(str(tmp_path / "frames.rgb"))});
        const [cuts, found, size] = [new Cuts(96, 64), [], 3 * 64 * 96];
        for (let place = 0; place < bytes.length; place += size) {{
            found.push(cuts.next(bytes.subarray(place, place + size)));
        }}
        console.log(JSON.stringify(found));
    """)
    assert found == expected
    assert np.flatnonzero(found).tolist() == [3, FRAMES // 2]


@needs_node
@pytest.mark.parametrize(
    ("stride", "fps", "taken"),
    [
        (1, 30, [0, 1, 2, 3, 4, 5, 6, 7]),
        (2, 30, [0, 2, 4, 6]),
        ("25fps", 25, [0, 1, 2, 3, 4, 5, 6, 7]),
        ("25fps", 50, [0, 2, 4, 6]),
        ("30fps", 24, [0, 1, 2, 3, 4, 5, 6, 7]),
    ],
)
def test_is_due_keeps_training_stride(stride: int | str, fps: int, taken: list[int]) -> None:
    found = node(f"""
        import {{ isDue }} from "./frames.js";
        const frames = Array.from({{ length: 8 }}, (_, n) => ({{ presentedFrames: n + 1, mediaTime: n / {fps} }}));
        const taken = [0];
        for (const [n, frame] of frames.entries()) {{
            if (n > 0 && isDue(frame, frames[taken.at(-1)], {json.dumps(stride)})) taken.push(n);
        }}
        console.log(JSON.stringify(taken));
    """)
    assert found == taken


def test_page_command_invalid_input_is_rejected(page: Path, step_file: Path, tmp_path: Path) -> None:
    (tmp_path / "words.onnx").write_text("no model")
    for arguments, said in (
        ((page,), "already exists"),
        ((tmp_path / "new", "--model", tmp_path / "none.onnx"), "no such file"),
        ((tmp_path / "new", "--model", tmp_path / "words.onnx"), "not an ONNX file"),
        ((page, "--model", step_file), "already exists"),
    ):
        done = build(*arguments)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert said in done.stderr
        assert done.stderr.startswith("saldistill: ")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["words.onnx"]


def test_onnxruntime_web_version_is_pinned() -> None:
    lock = json.loads((SOURCES / "package-lock.json").read_text())
    wanted = json.loads((SOURCES / "package.json").read_text())["dependencies"]
    runtime = lock["packages"]["node_modules/onnxruntime-web"]
    assert wanted == {"onnxruntime-web": runtime["version"]}
    assert runtime["integrity"].startswith("sha512-")
    assert not any("resolved" in package for package in lock["packages"].values())  # from the user's own registry
