"""The sliding window, compared with a naive loop; outputs of `predict`; overlays."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from helpers.model_cases import loaded
from helpers.places import REPOSITORY
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from distill.data.video.open import open_video
from distill.data.windows import ClipFrames, window_of
from distill.errors import UserError
from distill.inference.overlay import colour_map, overlay, resize_map
from distill.inference.predict import predict
from distill.inference.settings import InferenceSettings
from distill.inference.sliding_window import slide
from distill.saliency import peak_map

REAL_VIDEO = REPOSITORY / "tests" / "data" / "dhf1k" / "video" / "002.AVI"


class FakeReader:
    """A video of seeded noise that counts how often each frame is decoded."""

    def __init__(self, num_frames: int = 23, size: tuple[int, int] = (12, 16)) -> None:
        self.num_frames, self.size, self.fps = num_frames, size, 25.0
        self.pixels = np.random.default_rng(0).integers(0, 256, (num_frames, *size, 3), dtype=np.uint8)
        self.decoded: Counter[int] = Counter()

    def read(self, frames: Sequence[int], size: tuple[int, int] | None = None) -> np.ndarray:
        assert size in (None, self.size)
        self.decoded.update(frames)
        return self.pixels[list(frames)]


class SmallModel(nn.Module):
    """A clip network that depends on every frame, pixel and channel; batch norm and dropout reveal the mode."""

    def __init__(self, num_frames: int = 5, targets: tuple[int, ...] = (4,)) -> None:
        super().__init__()
        self.num_frames, self.size, self.target_frames, self.map_size = num_frames, (12, 16), targets, (6, 8)
        generator = torch.Generator().manual_seed(1)
        self.spatial = nn.Conv3d(3, 4, 3, padding=1)
        self.temporal = nn.Linear(num_frames, len(targets))
        self.norm, self.dropout = nn.BatchNorm3d(4), nn.Dropout(0.5)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) / 4
        self.batches: list[int] = []

    def forward(self, clip: Tensor) -> Tensor:
        self.batches.append(len(clip))
        x = clip.float() / 255 if clip.dtype == torch.uint8 else clip
        x = self.dropout(self.norm(self.spatial(x))).mean(1)  # (B, T, H, W)
        x = self.temporal(x.movedim(1, -1)).movedim(-1, 1)  # (B, N, H, W)
        return F.logsigmoid(F.avg_pool2d(x, 2))


def collect(batches: Iterator[tuple[list[int], Tensor]]) -> dict[int, Tensor]:
    return {frame: one for frames, maps in batches for frame, one in zip(frames, maps, strict=True)}


def naive(model: SmallModel, reader: FakeReader, end: int, stride: int, flipped: bool = False) -> Tensor:
    """Return the maps (N, h, w) of one window, computed without batching or caching."""
    model.eval()
    clip = [
        reader.pixels[min(max(end - (model.num_frames - 1 - j) * stride, 0), reader.num_frames - 1)]
        for j in range(model.num_frames)
    ]
    clip = np.stack([image[:, ::-1] if flipped else image for image in clip])  # (T, H, W, 3)
    with torch.no_grad():
        return model(torch.from_numpy(clip.copy()).permute(3, 0, 1, 2)[None])[0]


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("batch_size", [1, 4, 50])
@pytest.mark.parametrize("stride", [1, 2])
def test_slide_equals_naive_loop_on_every_frame(stride: int, batch_size: int, flipped: bool) -> None:
    model, reader = SmallModel(), FakeReader()
    maps = collect(
        slide(model, reader, range(23), InferenceSettings(stride=stride, batch_size=batch_size), flipped=flipped)
    )
    assert list(maps) == list(range(23))
    for frame, one in maps.items():
        torch.testing.assert_close(one, naive(model, reader, frame, stride, flipped)[0], rtol=0, atol=1e-6)


def test_slide_flipped_equals_slide_on_mirrored_video() -> None:
    model, reader, mirrored = SmallModel(), FakeReader(), FakeReader()
    mirrored.pixels = mirrored.pixels[:, :, ::-1].copy()
    flipped, plain = (collect(slide(model, r, range(9), flipped=f)) for r, f in ((reader, True), (mirrored, False)))
    assert all(torch.equal(flipped[frame], plain[frame]) for frame in range(9))


@pytest.mark.parametrize("frames", [range(23), range(7, 20), range(0, 23, 3), [20, 3, 11, 4]])
@pytest.mark.parametrize("stride", [1, 2])
def test_slide_decodes_each_needed_frame_once(frames: Sequence[int], stride: int) -> None:
    model, reader = SmallModel(), FakeReader()
    list(slide(model, reader, frames, InferenceSettings(stride=stride, batch_size=3)))
    needed = {max(frame - j * stride, 0) for frame in frames for j in range(5)}
    assert reader.decoded == dict.fromkeys(needed, 1)


def test_slide_on_one_batch_is_bit_identical() -> None:
    model, reader = SmallModel(), FakeReader()
    everything = list(slide(model, reader, range(23), InferenceSettings(batch_size=4)))
    assert [frames for frames, _ in everything] == [list(range(23))[i : i + 4] for i in range(0, 23, 4)]
    for frames, maps in everything:
        ((again, alone),) = slide(model, reader, frames, InferenceSettings(batch_size=4))
        assert again == frames
        assert torch.equal(alone, maps)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("targets", [(0, 1, 2, 3, 4), (3, 4), (0, 2, 4), (0, 3, 4)])
def test_slide_with_several_maps_per_clip_covers_each_frame_once(targets: tuple[int, ...], stride: int) -> None:
    model, reader = SmallModel(targets=targets), FakeReader()
    batches = list(slide(model, reader, range(23), InferenceSettings(stride=stride, batch_size=30)))
    maps = collect(iter(batches))
    assert sum(len(frames) for frames, _ in batches) == 23 == len(maps)
    some = collect(slide(model, reader, range(5, 23, 4), InferenceSettings(stride=stride, batch_size=2)))
    for frame, one in maps.items():
        window = window_of(frame, 23, targets, length=5, stride=stride)
        assert window.frames[targets[window.target]] == frame
        clip = torch.from_numpy(reader.pixels[list(window.frames)]).permute(3, 0, 1, 2)[None]
        with torch.no_grad():
            expected = model.eval()(clip)[0, window.target]
        torch.testing.assert_close(one, expected, rtol=0, atol=1e-6)
        if frame in some:
            torch.testing.assert_close(some[frame], one, rtol=0, atol=1e-6)


def test_slide_with_n_maps_per_clip_needs_one_nth_of_the_clips() -> None:
    model = SmallModel(targets=(0, 1, 2, 3, 4))
    list(slide(model, FakeReader(num_frames=20), range(20), InferenceSettings(batch_size=10)))
    assert model.batches == [2, 2]


def test_window_of_follows_stride_and_repeats_end_frames() -> None:
    assert window_of(0, 100, (4,), length=5).frames == (0, 0, 0, 0, 0)
    assert window_of(3, 100, (4,), length=5, stride=2).frames == (0, 0, 0, 1, 3)
    assert window_of(50, 100, (4,), length=5, stride=3).frames == (38, 41, 44, 47, 50)
    assert window_of(99, 100, (2,), length=5).frames == (97, 98, 99, 99, 99)


def test_slide_with_flipped_first_frames_equals_tased_net() -> None:
    """Compare with TASED-Net's loop, where each reversed window also predicts its first frame."""
    windows: dict[int, list[int]] = {}
    T, snippet = 5, []
    for index in range(23):
        snippet.append(index)
        if index >= T - 1:
            windows[index] = list(snippet)
            if index < 2 * T - 2:
                windows[index - T + 1] = snippet[::-1]
            del snippet[0]
    model, reader = SmallModel(), FakeReader()
    maps = collect(slide(model, reader, range(23), InferenceSettings(batch_size=4, first_frames="flip")))
    assert list(maps) == list(range(23)) == sorted(windows)
    repeated = collect(slide(model, reader, range(23), InferenceSettings(batch_size=4)))
    for frame, one in maps.items():
        assert window_of(frame, 23, (4,), length=T, first_frames="flip").frames == tuple(windows[frame])
        clip = torch.from_numpy(reader.pixels[windows[frame]]).permute(3, 0, 1, 2)[None]
        with torch.no_grad():
            torch.testing.assert_close(one, model.eval()(clip)[0, 0], rtol=0, atol=1e-6)
        assert torch.allclose(one, repeated[frame], atol=1e-6) == (frame >= T - 1)
    assert reader.decoded == dict.fromkeys(range(23), 2)  # once per call of slide


def test_window_of_flipped_first_frames_stays_inside_the_video() -> None:
    assert window_of(1, 100, (4,), length=5, stride=3, first_frames="flip").frames == (13, 10, 7, 4, 1)
    assert window_of(0, 3, (4,), length=5, first_frames="flip").frames == (2, 2, 2, 1, 0)
    assert window_of(4, 100, (0, 1, 2, 3, 4), length=5, first_frames="flip") == ClipFrames((0, 1, 2, 3, 4), 4)
    window = window_of(3, 100, (3, 4), length=5, first_frames="flip")  # its block of two would start at -1
    assert window == ClipFrames((7, 6, 5, 4, 3), 4 - 3)


def test_slide_runs_in_evaluation_mode_and_restores_the_mode() -> None:
    model, reader = SmallModel().train(), FakeReader()
    model.norm.eval()  # like a frozen module
    statistics = model.norm.running_mean.clone()
    maps = collect(slide(model, reader, range(6)))
    assert model.training
    assert model.dropout.training
    assert not model.norm.training
    assert torch.equal(model.norm.running_mean, statistics)
    torch.testing.assert_close(maps[5], naive(model, reader, 5, 1)[0], rtol=0, atol=1e-6)


def test_slide_maps_can_be_training_targets() -> None:
    """Tensors created in inference mode would raise here."""
    ((_, maps),) = slide(SmallModel(), FakeReader(), range(4))
    weight = torch.ones((), requires_grad=True)
    (weight * maps).sum().backward()
    assert weight.grad is not None
    assert maps.dtype == torch.float32


def test_slide_in_bf16_differs_slightly_from_fp32() -> None:
    model, reader = SmallModel(), FakeReader()
    plain, half = (
        collect(slide(model, reader, range(8), InferenceSettings(precision=p))) for p in ("fp32", "bf16")
    )
    assert half[7].dtype == torch.float32
    assert 0 < max((plain[f] - half[f]).abs().max() for f in range(8)) < 0.05


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"frames": [3, 23]}, "frame 24 does not exist: the video has 23 frames"),
        ({"frames": [-1]}, "frame 0 does not exist"),
        ({"batch_size": 0}, "batch_size: expected at least 1, got 0"),
        ({"stride": 0}, "stride: expected"),
        ({"stride": None}, "stride: expected a stride, got None"),
        ({"precision": "int8"}, "precision: expected one of fp32, bf16, fp16, got 'int8'"),
        ({"first_frames": "mirror"}, "first_frames: expected one of repeat, flip, got 'mirror'"),
    ],
)
def test_slide_with_invalid_settings_is_refused(settings: dict, message: str) -> None:
    frames = settings.pop("frames", [1, 2])
    with pytest.raises(UserError, match=message):
        list(slide(SmallModel(), FakeReader(), frames, InferenceSettings(**settings)))


def test_slide_with_nan_weights_is_refused() -> None:
    model = SmallModel()
    model.temporal.bias.data.fill_(float("nan"))
    with pytest.raises(UserError, match="frame 1: the model's map contains NaN or infinity"):
        list(slide(model, FakeReader(), range(3)))


# ------------------------------------------------------------------------------------------ predict and overlay


@pytest.fixture
def frames_folder(tmp_path: Path) -> Path:
    """Return a folder of nine frames of odd size with a moving bright square."""
    folder = tmp_path / "frames"
    folder.mkdir()
    for index in range(9):
        image = np.full((37, 51, 3), 40, dtype=np.uint8)
        image[10:20, 4 * index : 4 * index + 10] = 220
        Image.fromarray(image).save(folder / f"{index + 1}.png")
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def grey(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.mode == "L"
        return np.asarray(image)


def decode(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def test_predict_writes_every_frame_to_video_and_maps(tmp_path: Path, frames_folder: Path) -> None:
    model = SmallModel()
    done = predict(
        loaded(model),
        frames_folder,
        InferenceSettings(batch_size=4),
        out=tmp_path / "o.mp4",
        maps=tmp_path / "maps",
        progress=False,
    )
    assert done.frames == 9
    assert "9 frames" in str(done)
    assert decode(tmp_path / "o.mp4").shape == (9, 38, 52, 3)
    assert names(tmp_path / "maps") == [f"{index:04d}.png" for index in range(1, 10)]
    expected = collect(slide(model, open_video(frames_folder), range(9), InferenceSettings(batch_size=4)))
    for index in (0, 8):
        image = grey(tmp_path / "maps" / f"{index + 1:04d}.png")
        wanted = 255 * resize_map(peak_map(expected[index].numpy()), (37, 51))
        np.testing.assert_allclose(image, wanted, atol=0.51)


def test_predict_on_real_video_writes_every_map(tmp_path: Path) -> None:
    done = predict(
        loaded(SmallModel()), REAL_VIDEO, InferenceSettings(batch_size=64), maps=tmp_path / "maps", progress=False
    )
    assert done.frames == 783
    assert grey(tmp_path / "maps" / "0783.png").shape == (360, 640)


def test_predict_keeps_existing_outputs_without_overwrite(tmp_path: Path, frames_folder: Path) -> None:
    out, maps = tmp_path / "o.mp4", tmp_path / "maps"
    out.write_bytes(b"mine")
    with pytest.raises(UserError, match=r"o\.mp4: the overlay video already exists; .*--overwrite"):
        predict(loaded(SmallModel()), frames_folder, out=out, progress=False)
    maps.mkdir()
    (maps / "0001.png").write_bytes(b"mine")
    (maps / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="maps: the folder of maps already exists"):
        predict(loaded(SmallModel()), frames_folder, maps=maps, progress=False)
    assert out.read_bytes() == (maps / "0001.png").read_bytes() == b"mine"
    predict(loaded(SmallModel()), frames_folder, out=out, maps=maps, overwrite=True, progress=False)
    assert len(decode(out)) == 9
    assert grey(maps / "0001.png").shape == (37, 51)
    assert (maps / "notes.txt").read_text() == "mine"
    assert names(tmp_path) == ["frames", "maps", "o.mp4"]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, RuntimeError])
def test_predict_interrupted_leaves_no_output(
    tmp_path: Path, frames_folder: Path, monkeypatch: pytest.MonkeyPatch, stop: type[BaseException]
) -> None:
    model = SmallModel()
    run = model.forward

    def stopping(clip: Tensor) -> Tensor:
        if len(model.batches) == 2:
            raise stop
        return run(clip)

    monkeypatch.setattr(model, "forward", stopping)
    with pytest.raises(stop):
        predict(
            loaded(model),
            frames_folder,
            InferenceSettings(batch_size=3),
            out=tmp_path / "o.mp4",
            maps=tmp_path / "maps",
            progress=False,
        )
    assert names(tmp_path) == ["frames"]


def test_predict_with_invalid_input_is_refused(tmp_path: Path, frames_folder: Path) -> None:
    for arguments, message in (
        ({}, "nothing to write"),
        ({"out": frames_folder}, "is the input video"),
        ({"out": tmp_path / "o.gif"}, "o.gif"),
        ({"out": tmp_path, "overwrite": True}, "is a folder"),
        ({"maps": REAL_VIDEO, "overwrite": True}, "is a file"),
        ({"maps": tmp_path / "maps", "out": tmp_path / "maps" / "o.mp4"}, "is inside .*maps, the folder for maps"),
    ):
        with pytest.raises(UserError, match=message):
            predict(loaded(SmallModel()), frames_folder, progress=False, **arguments)
    with pytest.raises(UserError, match="nowhere"):
        predict(loaded(SmallModel()), tmp_path / "nowhere.mp4", out=tmp_path / "o.mp4", progress=False)
    assert names(tmp_path) == ["frames"]


def test_overlay_changes_only_salient_pixels() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    assert np.array_equal(overlay(frame, np.zeros((5, 5), np.float32)), frame)
    saliency = np.zeros((40, 60), np.float32)
    saliency[10:20, 30:40] = 1
    painted = overlay(frame, saliency)
    outside = saliency == 0
    assert np.array_equal(painted[outside], frame[outside])
    assert (painted[~outside] != frame[~outside]).any()
    assert frame[~outside].std() * 0.2 < painted[~outside].std()  # the background shows through the hottest spot


def test_inferno_matches_matplotlib_colours() -> None:
    assert colour_map("inferno").shape == (256, 3)
    expected = [[0.37281, 0.11883, 3.53583], [187.599165, 55.05603, 84.212475], [252.03231, 254.58282, 164.45562]]
    np.testing.assert_allclose(colour_map("inferno")[[0, 128, 255]], expected, rtol=1e-6)


def test_overlay_brightness_increases_with_saliency() -> None:
    frame = np.full((1, 256, 3), 60, dtype=np.uint8)
    painted = overlay(frame, np.linspace(0, 1, 256, dtype=np.float32)[None])
    luma = painted[0].astype(float) @ (0.2126, 0.7152, 0.0722)
    assert (np.diff(luma[64:]) > -1).all()
    assert luma[-1] > 150
