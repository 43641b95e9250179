"""The runner that needs no PyTorch: alone in a process, the same maps as the network, and clear refusals."""

import importlib
import struct
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from distill.data.video import VideoWriter, open_video
from distill.export import export
from student import edge
from student.edge import EdgeModel, Stream

ROOT = Path(__file__).parents[2]
REAL_VIDEO = ROOT / "tests" / "data" / "dhf1k" / "video" / "002.AVI"


class SmallModel(nn.Module):
    """Eight frames in, one map of the last or another: cheap."""

    num_frames, size, map_size = 8, (16, 24), (8, 12)

    def __init__(self, target: int = 7) -> None:
        super().__init__()
        self.target_frames = (target,)
        generator = torch.Generator().manual_seed(0)
        self.mix = nn.Conv3d(3, 1, (8, 3, 3), padding=(0, 1, 1))
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator)

    def forward(self, clip: Tensor) -> Tensor:
        values = clip.float() / 255 if clip.dtype == torch.uint8 else clip
        return F.logsigmoid(F.avg_pool2d(self.mix(values).squeeze(2), 2))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("edge") / "student.onnx"
    export(SmallModel(), path)
    return path


@pytest.fixture(scope="module")
def middle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that predicts the third frame before the last."""
    path = tmp_path_factory.mktemp("edge") / "middle.onnx"
    export(SmallModel(target=4), path)
    return path


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first 40 frames of the real video."""
    path = tmp_path_factory.mktemp("edge") / "short.mp4"
    with VideoWriter(path, (360, 640), 30) as writer:
        writer.write(open_video(REAL_VIDEO).read(range(40)))
    return path


def frames(count: int, size: tuple[int, int] = (16, 24)) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, *size, 3), dtype=np.uint8)


def peak(log_saliency: Tensor) -> np.ndarray:
    return (log_saliency - log_saliency.amax((-2, -1), keepdim=True)).exp().detach().numpy()


def test_the_model_says_what_it_is_and_gives_the_network_s_maps(exported: Path) -> None:
    model = EdgeModel(exported, threads=1)
    assert (model.num_frames, model.size, model.target_frames, model.map_size) == (8, (16, 24), (7,), (8, 12))
    assert model.metadata["output"]["values"] == "peak"
    clip = frames(16).reshape(2, 8, 16, 24, 3).transpose(0, 4, 1, 2, 3)
    maps = model(clip)
    assert (maps.dtype, maps.shape) == (np.float32, (2, 1, 8, 12))
    np.testing.assert_allclose(maps, peak(SmallModel()(torch.from_numpy(clip.copy()))), atol=1e-5)


@pytest.mark.parametrize(("values", "input_type"), [("log", "float32"), ("sigmoid", "uint8")])
def test_other_exports_give_maps_in_the_same_range(tmp_path: Path, values: str, input_type: str) -> None:
    export(SmallModel(), tmp_path / "s.onnx", values=values, input_type=input_type)
    clip = frames(8).transpose(3, 0, 1, 2)[None]
    log_saliency = SmallModel()(torch.from_numpy(clip.copy())).detach()
    expected = log_saliency.exp().numpy() if values == "sigmoid" else peak(log_saliency)
    np.testing.assert_allclose(EdgeModel(tmp_path / "s.onnx")(clip), expected, atol=1e-5)


@pytest.mark.parametrize("stride", [1, 2])
def test_a_stream_gives_each_frame_the_map_of_its_window_from_the_first_on(exported: Path, stride: int) -> None:
    stream, video = Stream(EdgeModel(exported), stride), frames(20)
    assert stream.delay == 0
    for _ in range(2):  # after a reset, as new
        for now in range(20):
            window = video[[max(now - (7 - j) * stride, 0) for j in range(8)]]
            expected = peak(SmallModel()(torch.from_numpy(window.transpose(3, 0, 1, 2)[None].copy())))
            np.testing.assert_allclose(stream(video[now]), expected[0, 0], atol=1e-5)
        stream.reset()


def test_a_model_of_an_earlier_frame_pairs_each_frame_with_its_own_map(middle: Path) -> None:
    stream, video = Stream(EdgeModel(middle)), frames(10)
    assert stream.delay == 3
    shown: list[tuple[np.ndarray, np.ndarray]] = []
    seconds = edge.run(stream, video, lambda frame, saliency: shown.append((frame, saliency)))
    assert len(shown) == 10
    assert len(seconds) == 13
    for index, (frame, saliency) in enumerate(shown):
        assert np.array_equal(frame, video[index])
        window = video[np.clip(np.arange(index - 4, index + 4), 0, 9)]
        expected = peak(SmallModel()(torch.from_numpy(window.transpose(3, 0, 1, 2)[None].copy())))
        np.testing.assert_allclose(saliency, expected[0, 0], atol=1e-5)


@pytest.mark.parametrize("missing", [(), ("av",), ("av", "cv2")])
def test_resizing_agrees_with_pillow_whatever_is_installed(
    monkeypatch: pytest.MonkeyPatch, missing: tuple[str, ...]
) -> None:
    if "av" in missing and "cv2" not in missing:
        pytest.importorskip("cv2")
    monkeypatch.setattr(edge, "_modules", dict.fromkeys(missing))
    rows, columns = np.mgrid[:90, :160]
    waves = [127 + 120 * np.sin(rows / a) * np.cos(columns / b) for a, b in ((9, 15), (14, 8), (20, 30))]
    frame = np.stack(waves, axis=2).astype(np.uint8)
    for size in ((32, 48), (180, 200)):
        wanted = np.asarray(Image.fromarray(frame).resize(size[::-1], Image.Resampling.BICUBIC)).astype(int)
        got = edge.resize(frame, size)
        assert got.shape == (*size, 3)
        assert np.abs(got - wanted).mean() < (0.6 if missing == ("av", "cv2") else 4)
    assert edge.resize(frame, (90, 160)) is frame


@pytest.fixture
def bare(tmp_path: Path, exported: Path) -> Path:
    """A folder with copies of edge.py and the model, in which PyTorch and the project cannot be imported."""
    for name in ("torch", "distill", "teacher", "student", "onnx", "matplotlib", "scipy"):
        (tmp_path / f"{name}.py").write_text(f"raise ImportError('{name} was imported')")
    (tmp_path / "edge.py").write_bytes(Path(edge.__file__).read_bytes())
    (tmp_path / "student.onnx").write_bytes(exported.read_bytes())
    return tmp_path


def command(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "edge.py", *map(str, arguments)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def test_it_runs_alone_on_a_real_video(bare: Path, short: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        subprocess.run([sys.executable, "-c", "import torch"], cwd=bare, check=True, capture_output=True)
    done = command(bare, "student.onnx", short, "-o", "overlay.mp4", "--threads", 1)
    assert (done.returncode, done.stderr) == (0, "")
    assert "40 frames in" in done.stdout
    assert "p99" in done.stdout
    with av.open(str(bare / "overlay.mp4")) as container:
        sizes = [(frame.height, frame.width) for frame in container.decode(video=0)]
    assert sizes == [(360, 640)] * 40


def test_it_runs_on_a_folder_of_images_in_numeric_order(bare: Path) -> None:
    (bare / "frames").mkdir()
    for index in range(12):
        Image.fromarray(np.full((33, 45, 3), 20 * index, np.uint8)).save(bare / "frames" / f"f{index}.png")
    _, video = edge.open_video(bare / "frames")
    assert [int(frame.mean()) for frame in video] == [20 * index for index in range(12)]
    done = command(bare, "student.onnx", "frames", "-o", "odd.mp4")
    assert (done.returncode, done.stderr) == (0, "")
    assert "12 frames in" in done.stdout
    with av.open(str(bare / "odd.mp4")) as container:
        assert len(list(container.decode(video=0))) == 12


def test_opencv_reads_and_writes_where_there_is_no_pyav(
    tmp_path: Path, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("cv2")
    monkeypatch.setattr(edge, "_modules", {"av": None})
    (tmp_path / "frames").mkdir()
    for index in range(5):
        Image.fromarray(np.full((32, 48, 3), (200, 40 * index, 10), np.uint8)).save(
            tmp_path / "frames" / f"{index}.png"
        )
    _, video = edge.open_video(tmp_path / "frames")
    assert [tuple(frame[0, 0]) for frame in video] == [(200, 40 * index, 10) for index in range(5)]
    assert edge.main([str(exported), str(tmp_path / "frames"), "-o", str(tmp_path / "o.mp4")]) == 0
    assert len(list(edge.open_video(tmp_path / "o.mp4")[1])) == 5
    assert edge.open_video(REAL_VIDEO)[0] == 30


def test_a_video_that_stops_leaves_a_playable_overlay(
    bare: Path, exported: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for error, code in ((KeyboardInterrupt(), 130), (ValueError("the camera went away"), 2)):

        def video(error: BaseException = error) -> object:
            yield from frames(6, (32, 48))
            yield from frames(1, (24, 30))  # another resolution
            raise error

        monkeypatch.setattr(edge, "open_video", lambda path, video=video: (25.0, video()))
        out = bare / f"{code}.mp4"
        assert edge.main([str(exported), "camera", "-o", str(out)]) == code
        assert "7 frames in" in capsys.readouterr().out
        with av.open(str(out)) as container:
            assert len(list(container.decode(video=0))) == 7


@pytest.mark.parametrize(
    ("matrix", "turns"), [((0, 1, -1, 0, 32, 0), -1), ((-1, 0, 0, -1, 64, 32), 2), ((0, -1, 1, 0, 0, 64), 1)]
)
@pytest.mark.parametrize("missing", [(), ("av",)])
def test_a_video_that_lies_on_its_side_is_shown_upright(
    tmp_path: Path,
    exported: Path,
    monkeypatch: pytest.MonkeyPatch,
    missing: tuple[str, ...],
    matrix: tuple[int, ...],
    turns: int,
) -> None:
    if missing:
        pytest.importorskip("cv2")
    stored = np.zeros((32, 64, 3), np.uint8)
    stored[:16, :32] = 255  # the top left quarter
    with VideoWriter(tmp_path / "phone.mp4", (32, 64), 25) as writer:
        for _ in range(4):
            writer.write(stored)
    content = bytearray((tmp_path / "phone.mp4").read_bytes())
    a, b, c, d, x, y = (value << 16 for value in matrix)  # the file's display matrix, as a phone writes it
    struct.pack_into(">9i", content, content.find(b"tkhd") + 44, a, b, 0, c, d, 0, x, y, 1 << 30)
    (tmp_path / "phone.mp4").write_bytes(content)

    monkeypatch.setattr(edge, "_modules", dict.fromkeys(missing))
    seen = list(edge.open_video(tmp_path / "phone.mp4")[1])
    assert len(seen) == 4
    for frame in seen:
        upright = np.rot90(stored, turns)
        assert frame.shape == upright.shape
        assert np.abs(frame.astype(int) - upright).mean() < 8
    assert edge.main([str(exported), str(tmp_path / "phone.mp4"), "-o", str(tmp_path / "o.mp4")]) == 0
    assert open_video(tmp_path / "o.mp4").size == upright.shape[:2]


def test_a_video_that_is_cut_off_is_named_and_what_is_written_plays(
    tmp_path: Path, exported: Path, short: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = short.read_bytes()  # its index stands in front, so that it opens when it is cut
    (tmp_path / "cut.mp4").write_bytes(content[: len(content) * 6 // 10])
    assert edge.main([str(exported), str(tmp_path / "cut.mp4"), "-o", str(tmp_path / "o.mp4")]) == 2
    said = capsys.readouterr()
    assert "cut.mp4: the video is cut off or damaged: it should have 40 frames and" in said.err
    assert len(said.err.splitlines()) == 1
    assert "frames in" in said.out
    with av.open(str(tmp_path / "o.mp4")) as container:
        written = len(list(container.decode(video=0)))
    assert 10 < written < 38
    assert f"and {written} can be decoded" in said.err


def test_places_of_an_avi_that_repeat_a_frame_are_not_missing(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "gaps.avi"), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuvj420p"
        for index in range(20):
            frame = av.VideoFrame.from_ndarray(np.full((32, 48, 3), 10 * index, np.uint8), format="rgb24")
            frame.pts = index * 2  # every second place stays empty
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with av.open(str(tmp_path / "gaps.avi")) as container:
        assert container.streams.video[0].frames == 39
    assert len(list(edge.open_video(tmp_path / "gaps.avi")[1])) == 20


def test_frames_that_an_editor_cut_away_are_not_missing(tmp_path: Path, short: Path) -> None:
    with av.open(str(short)) as before, av.open(str(tmp_path / "trimmed.mp4"), "w") as after:
        stream = after.add_stream_from_template(before.streams.video[0])
        for packet in before.demux(video=0):
            if packet.dts is not None:
                packet.pts -= round(10 / 30 / packet.time_base)  # the first 10 frames before time 0
                packet.dts -= round(10 / 30 / packet.time_base)
                packet.stream = stream
                after.mux(packet)
    assert len(list(edge.open_video(tmp_path / "trimmed.mp4")[1])) == 30


def test_what_the_system_refuses_is_one_sentence(
    tmp_path: Path,
    exported: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(edge, "open_video", lambda path: (25.0, iter(frames(3, (32, 48)))))

    class Full(edge.Writer):
        def close(self) -> None:
            super().close()
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(edge, "Writer", Full)
    assert edge.main([str(exported), "camera", "-o", str(tmp_path / "o.mp4")]) == 2
    assert capsys.readouterr().err == f"edge.py: {tmp_path / 'o.mp4'}: No space left on device\n"


def test_the_overlay_is_the_toolkit_s(exported: Path) -> None:
    toolkit = importlib.import_module("distill.predict")
    frame = frames(1, (40, 60))[0]
    saliency = np.random.default_rng(1).random((40, 60), np.float32)
    ours, theirs = edge.overlay(frame, saliency), toolkit.overlay(frame, saliency)
    difference = np.abs(ours.astype(int) - theirs)
    assert difference.max() <= 16  # nine colours instead of 256
    assert difference.mean() < 2


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        (np.zeros((1, 3, 8, 16, 25), np.uint8), r"\(batch, 3, 8, 16, 24\).*got uint8 of shape \(1, 3, 8, 16, 25\)"),
        (np.zeros((1, 3, 8, 16, 24), np.float32), "got float32"),
        (np.zeros((3, 8, 16, 24), np.uint8), "got uint8 of shape"),
        (np.zeros((0, 3, 8, 16, 24), np.uint8), r"shape \(0, 3"),
    ],
)
def test_a_wrong_clip_is_named(exported: Path, clip: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EdgeModel(exported)(clip)


@pytest.mark.parametrize("shape", [(16, 24), (16, 24, 4), (0, 24, 3)])
def test_grey_alpha_and_empty_frames_are_named(exported: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"a frame is uint8 RGB of shape \(height, width, 3\)"):
        Stream(EdgeModel(exported))(np.zeros(shape, np.uint8))


def test_a_file_of_something_else_is_named(tmp_path: Path, exported: Path) -> None:
    with pytest.raises(ValueError, match="no such file"):
        EdgeModel(tmp_path / "nowhere.onnx")
    (tmp_path / "text.onnx").write_text("hello")
    with pytest.raises(ValueError, match=r"text\.onnx: ONNX Runtime cannot load it"):
        EdgeModel(tmp_path / "text.onnx")
    tensor = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "g",
        [tensor],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
    )
    other = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(other, tmp_path / "other.onnx")
    with pytest.raises(ValueError, match=r"other\.onnx: an ONNX file of something else"):
        EdgeModel(tmp_path / "other.onnx")
    model = onnx.load(exported)
    for text, message in (("{}", "metadata is broken"), ('{"format": 9, "mode": "clip"}', "metadata is broken")):
        model.metadata_props[0].value = text
        onnx.save(model, tmp_path / "broken.onnx")
        with pytest.raises(ValueError, match=message):
            EdgeModel(tmp_path / "broken.onnx")
    later = onnx.load(exported)
    later.metadata_props[0].value = later.metadata_props[0].value.replace('"format": 1', '"format": 2')
    onnx.save(later, tmp_path / "later.onnx")
    with pytest.raises(ValueError, match=r"written in format 2.*the same version"):
        EdgeModel(tmp_path / "later.onnx")


def test_the_command_names_the_mistake(bare: Path, exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (bare / "mine.mp4").write_bytes(b"mine")
    (bare / "empty").mkdir()
    for arguments, message in (
        (("nowhere.onnx", REAL_VIDEO), "nowhere.onnx: no such file"),
        ((exported, "nowhere.mp4"), "nowhere.mp4: no such video file or folder"),
        ((exported, bare / "empty"), "no image in this folder"),
        ((exported, bare / "edge.py"), "cannot be opened as a video"),
        ((exported, REAL_VIDEO, "-o", bare / "mine.mp4"), "mine.mp4: exists already"),
        ((exported, REAL_VIDEO, "-o", bare / "nodir" / "x.mp4"), "there is no folder"),
        ((exported, REAL_VIDEO, "-o", bare / "mine.mp4" / "x.mp4"), "there is no folder"),
        ((exported, REAL_VIDEO, "-o", bare / "o.strange"), "o.strange: cannot be written as a video"),
        ((exported, REAL_VIDEO, "--stride", 0), "stride must be at least 1"),
    ):
        assert edge.main([str(argument) for argument in arguments]) == 2
        said = capsys.readouterr().err
        assert message in said
        assert len(said.splitlines()) == 1
    assert (bare / "mine.mp4").read_bytes() == b"mine"
