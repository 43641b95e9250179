"""Fit: training, prediction, target stores, edge.py and the browser's code agree on an upright video."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.edge_models import without_checksum
from PIL import Image

from distill.data import fit as toolkit
from distill.data.clip_reader import read_clip, read_fit_box
from distill.data.clips import ClipSpec, Video, Window
from distill.data.sets.find import find_videos
from distill.data.video.open import open_video
from distill.deploy.calibration_clips import read_calibration_clips
from distill.errors import UserError
from distill.evaluation.map_sources import model_maps
from distill.inference.overlay import resize_map
from distill.inference.predict import predict
from distill.inference.settings import InferenceSettings
from distill.inference.sliding_window import slide
from distill.models.loaded import LoadedModel
from distill.models.references import load_model
from distill.models.registry import create_model
from distill.models.weight_files import save_model
from distill.runtimes.export import export
from distill.saliency import peak_map
from distill.targets.build import build
from distill.training.heads import Learner
from student import edge
from student.edge import EdgeModel, Stream

SOURCES = Path(__file__).parents[2] / "student" / "browser"
SIZES = {"letterbox": (160, 224), "crop": (96, 96)}
"""Inputs on which an upright frame of 160 x 96 is placed without being resampled."""
FRAMES = 8
FITS = ("letterbox", "crop")
CASES = [
    (fit, frame, size)
    for fit in edge.FITS
    for frame in ((160, 96), (96, 160), (480, 640), (7, 300), (1, 100_000), (64, 96), (201, 77))
    for size in ((64, 96), (192, 320), (96, 64))
]
needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="Node.js is not installed")


def model_with(fit: str, size: tuple[int, int]) -> LoadedModel:
    """A streaming student whose maps are far from constant though nobody trained it."""
    torch.manual_seed(0)
    model = create_model("student/stream:micro", fit=fit, size=size, num_frames=FRAMES)
    model.network.eval().decoder.head.weight.data *= 100
    return model


@pytest.fixture(scope="module")
def upright(tmp_path_factory: pytest.TempPathFactory) -> Video:
    """A lossless upright video of 160 x 96 pixels."""
    folder = tmp_path_factory.mktemp("videos")
    (folder / "upright").mkdir()
    for number, frame in enumerate(open_video(f"synthetic:4-{FRAMES}x160x96").read(range(FRAMES))):
        Image.fromarray(frame).save(folder / "upright" / f"{number}.png")
    (video,) = find_videos("folder", folder)
    assert video.size == (160, 96)
    return video


@pytest.fixture(scope="module", params=FITS)
def files(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same model as a weight file and exported in both modes."""
    folder, model = tmp_path_factory.mktemp("files"), model_with(request.param, SIZES[request.param])
    save_model(model, folder / "student.safetensors", notes={"stride": 1})
    for mode in ("step", "clip"):
        export(model, folder / f"{mode}.onnx", mode=mode, notes={"stride": 1}, batches=(1,))
    return {each.stem: each for each in folder.iterdir()}


def node(script: str) -> Any:
    """Run a module in the folder of the page and return the JSON that it prints."""
    command = ["node", "--input-type=module", "-"]
    done = subprocess.run(command, cwd=SOURCES, input=script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def slid(model: LoadedModel, video: Video) -> np.ndarray:
    """Return the peak maps of all frames from the sliding window."""
    batches = slide(model.network, video, range(FRAMES), InferenceSettings(batch_size=3))
    return np.stack([peak_map(one) for _, batch in batches for one in batch.numpy()])


# ---------------------------------------------------------------- one video, every way


def test_everything_agrees_on_an_upright_video(files: dict[str, Path], upright: Video, tmp_path: Path) -> None:
    model = load_model(files["student"])
    expected = slid(model, upright)
    assert expected.std() > 0.01

    spec, window = ClipSpec.of(model.network), Window(upright, FRAMES - 1)
    with torch.no_grad():
        trained, _ = Learner(model.network)(
            read_clip(window, spec)[None], read_fit_box(window, spec)["fit_box"][None]
        )
    for found, wanted in zip(trained[0].numpy(), expected, strict=True):
        np.testing.assert_allclose(peak_map(found), wanted, atol=1e-4)

    evaluated = model_maps(model.network, InferenceSettings())(upright, range(FRAMES))
    for _, found, wanted in zip(range(FRAMES), (each for _, each in evaluated), expected, strict=True):
        np.testing.assert_allclose(found / found.max(), wanted, atol=1e-4)

    predict(model, upright.path, maps=tmp_path / "maps", progress=False)
    for number, wanted in enumerate(expected, 1):
        found = np.asarray(Image.open(tmp_path / "maps" / f"{number:04d}.png")) / 255
        assert np.abs(found - resize_map(wanted, upright.size)).max() < 0.5 / 255 + 1e-4

    store = build(model, [upright], tmp_path / "store", InferenceSettings(), codec="exact", progress=False)
    for frame in range(FRAMES):
        np.testing.assert_allclose(peak_map(store.read(upright.name, frame)), expected[frame], atol=1e-4)

    assert load_model(files["step"]).network.fit == model.network.fit
    np.testing.assert_allclose(slid(load_model(files["step"]), upright), expected, atol=1e-4)
    stream = Stream(EdgeModel(files["step"], threads=1))
    edges = np.stack([stream(frame) for frame in open_video(upright.path).read(range(FRAMES))])
    np.testing.assert_allclose(edges, expected, atol=1e-4)


def test_clip_mode_agrees_with_the_sliding_window(files: dict[str, Path], upright: Video) -> None:
    """A model with one map per frame in clip mode has clips of another past; the last frame's is the same."""
    stream = Stream(EdgeModel(files["clip"], threads=1))
    found = [stream(frame) for frame in open_video(upright.path).read(range(FRAMES))][-1]
    np.testing.assert_allclose(found, slid(load_model(files["student"]), upright)[-1], atol=1e-4)


def test_runner_resamples_letterboxed_frames_like_the_toolkit(upright: Video, tmp_path: Path) -> None:
    model = model_with("letterbox", (64, 96))
    export(model, tmp_path / "small.onnx", notes={"stride": 1}, batches=(1,))
    expected = slid(model, upright)
    stream = Stream(EdgeModel(tmp_path / "small.onnx", threads=1))
    reader = open_video(upright.path)
    content = reader.read(range(FRAMES), toolkit.content_size("letterbox", upright.size, (64, 96)))
    np.testing.assert_allclose(np.stack([stream(frame) for frame in content]), expected, atol=1e-4)
    stream.reset()
    found = np.stack([stream(frame) for frame in reader.read(range(FRAMES))])
    assert np.abs(found - expected).mean() < 0.02


@needs_node
def test_browser_stream_agrees_with_the_runner(files: dict[str, Path], upright: Video) -> None:
    """The network is replaced by the raw maps of ONNX Runtime; everything around it is the page's code."""
    model = EdgeModel(files["step"], threads=1)
    frames, stream = open_video(upright.path).read(range(FRAMES)), Stream(model)
    expected = np.stack([stream(frame) for frame in frames])
    state, raw = model.initial_state(), []
    for frame in frames:
        maps, state = model.step(edge.place(frame, model.size).transpose(2, 0, 1)[None], state)
        raw.append(maps.ravel().tolist())
    found = node(f"""
        import {{ Stream }} from "./model.js";
        const raw = {json.dumps(raw)};
        const metadata = {json.dumps({key: model.metadata[key] for key in ("size", "map_size", "fit", "output")})};
        const model = {{
            metadata, fit: metadata.fit, height: {model.size[0]}, width: {model.size[1]}, initialState: () => null,
            step: async () => ({{ map: Float32Array.from(raw.shift()), state: {{}} }}),
        }};
        const [stream, found] = [new Stream(model), []];
        const pixels = new Uint8Array(3 * {model.size[0] * model.size[1]});
        while (raw.length) {{
            found.push(Array.from(await stream.next(pixels, [160, 96])));
        }}
        console.log(JSON.stringify(found));
    """)
    np.testing.assert_allclose(np.reshape(found, expected.shape), expected, atol=1e-4)


# ---------------------------------------------------------------- geometry


@pytest.mark.parametrize(("fit", "frame", "size"), CASES)
def test_geometry_of_the_runner_equals_the_toolkits(
    fit: str, frame: tuple[int, int], size: tuple[int, int]
) -> None:
    content = edge.content_size(fit, frame, size)
    assert content == toolkit.content_size(fit, frame, size)
    image = np.random.default_rng(0).integers(0, 256, (*content, 3), np.uint8)
    placed = toolkit.place(torch.from_numpy(image).movedim(-1, 0), size).movedim(0, -1).numpy()
    np.testing.assert_array_equal(edge.place(image, size), placed)
    raw = np.random.default_rng(1).uniform(0.1, 1, (16, 24)).astype(np.float32)
    box = torch.tensor([toolkit.fit_box(fit, frame, size)])
    expected = torch.from_numpy(raw).log()[None, None]
    whole = expected if fit == "stretch" else toolkit.unfit(expected, box)
    found = edge.unfit(raw, fit, frame, size)
    np.testing.assert_allclose(found / found.max(), peak_map(whole[0, 0].numpy()), atol=1e-4)


@needs_node
def test_geometry_of_the_browser_equals_the_runners() -> None:
    raw = np.random.default_rng(1).uniform(0.1, 1, (16, 24)).astype(np.float32)
    found = node(f"""
        import {{ contentSize, placeOf, shareOf, unfit }} from "./fit.js";
        const raw = Float32Array.from({json.dumps(raw.ravel().tolist())});
        console.log(JSON.stringify({json.dumps(CASES)}.map((each) => [
            contentSize(...each), placeOf(...each), shareOf(...each), Array.from(unfit(raw, [16, 24], ...each)),
        ])));
    """)
    for (fit, frame, size), (content, place, share, whole) in zip(CASES, found, strict=True):
        assert tuple(content) == edge.content_size(fit, frame, size)
        top, left = ((new - old) // 2 for old, new in zip(content, size, strict=True))
        assert place == {"top": top, "left": left, "height": content[0], "width": content[1]}
        assert share == pytest.approx(min(1, content[0] * content[1] / (size[0] * size[1])))
        np.testing.assert_allclose(np.reshape(whole, (16, 24)), edge.unfit(raw, fit, frame, size), atol=1e-5)


def test_scene_cuts_are_found_in_letterboxed_frames() -> None:
    """The padding, more than half of the input, does not hide the cut."""
    black, light = np.zeros((160, 96, 3), np.uint8), np.full((160, 96, 3), 50, np.uint8)
    found = {}
    for share in (1.0, 96 / 224):
        cuts = edge.Cuts((160, 224))
        images = [edge.place(frame, (160, 224)).transpose(2, 0, 1) for frame in (black, black, light)]
        found[share] = [cuts(image, share) for image in images]
    assert found == {1.0: [False, False, False], 96 / 224: [False, False, True]}


# ---------------------------------------------------------------- files


def test_exported_file_states_its_fit(files: dict[str, Path], tmp_path: Path) -> None:
    metadata = EdgeModel(files["step"], threads=1).metadata
    assert metadata["fit"] in FITS
    assert metadata["format"] == 3
    export(model_with("stretch", (64, 96)), tmp_path / "stretch.onnx", batches=(1,))
    plain = EdgeModel(tmp_path / "stretch.onnx", threads=1)
    assert (plain.metadata["format"], plain.metadata["fit"], plain.fit) == (2, "stretch", "stretch")


def test_file_without_a_fit_stretches_and_an_unknown_one_is_refused(files: dict[str, Path], tmp_path: Path) -> None:
    for name, value in (("old", None), ("wrong", "squeeze")):
        model = without_checksum(files["step"])
        (entry,) = (each for each in model.metadata_props if each.key == "saldistill")
        said = {key: each for key, each in json.loads(entry.value).items() if key != "fit"}
        entry.value = json.dumps(said if value is None else said | {"fit": value})
        (tmp_path / f"{name}.onnx").write_bytes(model.SerializeToString())
    assert load_model(tmp_path / "old.onnx").network.fit == "stretch"
    with pytest.raises(UserError, match="fit: expected stretch, letterbox, crop; export the model again"):
        load_model(tmp_path / "wrong.onnx")


def test_calibration_reads_frames_with_the_fit(files: dict[str, Path], upright: Video, tmp_path: Path) -> None:
    shutil.copytree(upright.path, tmp_path / "videos" / "a")
    shutil.copytree(upright.path, tmp_path / "videos" / "b")
    model: Any = load_model(files["clip"]).network
    clips = read_calibration_clips(tmp_path / "videos", model, frames=2 * FRAMES, progress=False)
    (clip,) = clips.calibration
    frames = open_video(upright.path).read(range(FRAMES))
    expected = np.stack([edge.place(frame, model.size) for frame in frames]).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(clip, expected)
