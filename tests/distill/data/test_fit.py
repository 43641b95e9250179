"""Fit: where frames lie in a network's input, and maps of whole frames from raw maps of the input."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.model_cases import loaded
from torch import Tensor, nn

from distill import saliency
from distill.data.augment import Box, Colour
from distill.data.clip_dataset import ClipDataset, ClipSource
from distill.data.clip_reader import read_clip, read_fit_box
from distill.data.clips import ClipSpec, Window
from distill.data.fit import FITS, MAX_ASPECT, content_size, fit_box, fit_of, place, unfit, unfit_features
from distill.data.sets import synthetic
from distill.data.video.open import open_video
from distill.errors import UserError
from distill.inference.settings import InferenceSettings
from distill.inference.sliding_window import slide
from distill.models.registry import create_model
from distill.saliency import peak_map
from distill.targets.build import build
from distill.targets.fingerprint import fingerprint
from distill.targets.store import TargetStore
from distill.training.heads import Learner
from distill.training.teachers import ClipReader, OnlineTeacher
from student import edge

SIZE = (36, 64)
UPRIGHT = "synthetic:3-6x160x96"


def upright(path: str = UPRIGHT):
    return replace(synthetic.video("upright", 3), path=Path(path), num_frames=6, size=(160, 96), frames=range(6))


class Bright(nn.Module):
    """Two frames in, the log of the last one's mean colour out: a map that shows what the network saw."""

    num_frames, size, target_frames, map_size = 2, SIZE, (1,), SIZE
    no_gradient, encoder_layers = (), ()

    def __init__(self, fit: str = "letterbox") -> None:
        super().__init__()
        self.fit = fit
        self.scale = nn.Parameter(torch.ones(()))

    def forward_features(self, clip: Tensor) -> dict[str, Tensor]:
        return {"pixels": clip.float() * self.scale}

    def forward_head(self, features: dict[str, Tensor]) -> Tensor:
        return features["pixels"][:, :, -1].mean(1, keepdim=True).clamp_min(1).log()

    def forward(self, clip: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(clip))


# ---------------------------------------------------------------- geometry


@pytest.mark.parametrize(
    ("fit", "frame", "expected"),
    [
        ("stretch", (160, 96), (36, 64)),
        ("letterbox", (360, 640), (36, 64)),
        ("letterbox", (160, 96), (36, 22)),  # 21.6
        ("letterbox", (480, 640), (36, 48)),
        ("letterbox", (100, 1000), (6, 64)),  # 6.4
        ("letterbox", (1, 100_000), (1, 64)),
        ("letterbox", (100_000, 1), (36, 1)),
        ("crop", (360, 640), (36, 64)),
        ("crop", (480, 640), (48, 64)),
        ("crop", (160, 96), (107, 64)),  # 106.7
        ("crop", (100, 1000), (36, 360)),
        ("crop", (1, 100_000), (36, 64 * MAX_ASPECT)),
    ],
)
def test_content_size_keeps_the_aspect_ratio(fit: str, frame: tuple[int, int], expected: tuple[int, int]) -> None:
    assert content_size(fit, frame, SIZE) == expected


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("frame", [(160, 96), (480, 640), (90, 301), (36, 64)])
def test_box_is_where_place_puts_the_content(fit: str, frame: tuple[int, int]) -> None:
    content = content_size(fit, frame, SIZE)
    image = torch.arange(1, content[0] * content[1] + 1).reshape(1, *content)
    placed = place(image, SIZE)
    assert placed.shape == (1, *SIZE)
    top, left, height, width = (
        round(share * side) for share, side in zip(fit_box(fit, frame, SIZE), (*SIZE, *SIZE), strict=True)
    )
    assert (height, width) == content
    for row, column in ((0, 0), (content[0] // 2, content[1] // 2), (content[0] - 1, content[1] - 1)):
        if 0 <= row + top < SIZE[0] and 0 <= column + left < SIZE[1]:
            assert placed[0, row + top, column + left] == image[0, row, column]
    if fit == "letterbox":
        assert abs(2 * top + height - SIZE[0]) <= 1  # centred
        assert abs(2 * left + width - SIZE[1]) <= 1
        padding = placed.clone()
        padding[:, top : top + height, left : left + width] = 128
        assert (padding == 128).all()
    if fit == "stretch":
        assert torch.equal(placed, image)


def test_network_without_a_fit_stretches() -> None:
    assert FITS == edge.FITS
    assert fit_of(nn.Identity()) == "stretch"


@pytest.mark.parametrize("name", ["student/stream:micro", "student/thtdnet:tiny", "teacher/salfom:micro"])
def test_models_take_a_fit_and_stretch_by_default(name: str) -> None:
    with torch.device("meta"):
        assert create_model(name).network.fit == "stretch"
        model = create_model(name, fit="letterbox")
    assert (model.network.fit, ClipSpec.of(model.network).fit) == ("letterbox", "letterbox")
    assert model.identity["arguments"] == {"fit": "letterbox"}
    with pytest.raises(UserError, match=r"fit 'squeeze': expected one of stretch, letterbox, crop"):
        create_model(name, fit="squeeze")


# ---------------------------------------------------------------- maps


def test_unfit_cuts_the_content_out_of_the_map() -> None:
    raw = torch.full((1, 1, *SIZE), -3.0)
    raw[..., 20, 25] = 0.0  # in the content
    raw[..., 20, 2] = 5.0  # in the padding
    box = fit_box("letterbox", (160, 96), SIZE)  # 36 x 22, left 21
    density = saliency.density(unfit(raw, torch.tensor([box])))
    assert density.shape == (1, 1, *SIZE)
    assert density.sum() == pytest.approx(1)
    row, column = np.unravel_index(int(density.argmax()), SIZE)
    assert row == 20
    assert (column + 0.5) * 22 / 64 == pytest.approx(4.5, abs=0.5)


@pytest.mark.parametrize("fit", ["letterbox", "crop"])
def test_unfit_is_exact_for_a_linear_map_inside_the_input(fit: str) -> None:
    frame = (160, 96)
    top, _, height, _ = box = fit_box(fit, frame, SIZE)
    rows = (torch.arange(SIZE[0]) + 0.5) / SIZE[0]
    raw = (1 + rows)[:, None].expand(SIZE).log()[None, None]
    whole = unfit(raw, torch.tensor([box]))[0, 0].exp()
    places = top + height * (torch.arange(SIZE[0]) + 0.5) / SIZE[0]
    seen = (places > 0.02) & (places < 0.98)
    ratio = whole[seen, 0] / (1 + places[seen])
    torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio), atol=0, rtol=1e-5)
    if fit == "crop":
        assert (whole[(places < 0) | (places > 1)] < 1e-30).all()
        assert (places < 0).any()


def test_padding_gets_no_gradient_and_the_invisible_part_no_pull() -> None:
    for fit in ("letterbox", "crop"):
        raw = torch.randn(1, 1, *SIZE, requires_grad=True)
        box = fit_box(fit, (160, 96), SIZE)
        log_density = saliency.log_density(unfit(raw, torch.tensor([box])))
        target = torch.full(SIZE, 1 / (SIZE[0] * SIZE[1]))
        (-(target * log_density).sum()).backward()
        assert raw.grad is not None
        assert torch.isfinite(raw.grad).all()
        assert raw.grad.abs().sum() > 0
        assert raw.grad.sum() == pytest.approx(0, abs=1e-6)
        if fit == "letterbox":
            left, width = round(box[1] * 64), round(box[3] * 64)
            assert not raw.grad[..., : left - 1].any()
            assert not raw.grad[..., left + width + 1 :].any()


def test_unfit_of_extreme_and_broken_maps() -> None:
    box = torch.tensor([fit_box("letterbox", (160, 96), SIZE)])
    steep = torch.zeros(1, 1, *SIZE)
    steep[..., 0] = 1e4  # all of the mass is in the padding
    assert torch.isfinite(unfit(steep, box)).all()
    assert torch.isnan(unfit(torch.full((1, 1, *SIZE), float("nan")), box)).all()
    assert unfit(torch.zeros(1, 1, *SIZE, dtype=torch.bfloat16), box).dtype == torch.float32


def test_unfit_features_keeps_their_shape() -> None:
    box = torch.tensor([fit_box("letterbox", (160, 96), SIZE)]).expand(2, 4)
    for shape in ((2, 3, 9, 16), (2, 3, 5, 9, 16)):
        features = torch.randn(shape)
        found = unfit_features(features, box)
        assert found.shape == shape
        half = unfit_features(features.bfloat16(), box)
        torch.testing.assert_close(half, unfit_features(features.bfloat16().float(), box), atol=0, rtol=0)


# ---------------------------------------------------------------- reading


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("flipped", [False, True])
def test_clip_shows_the_content_of_the_reader(fit: str, flipped: bool) -> None:
    video, spec = upright(), ClipSpec(2, SIZE, (1,), SIZE, fit=fit)
    clip = read_clip(Window(video, 3, flipped), spec)
    content = open_video(video.path).read([2, 3], content_size(fit, video.size, SIZE)).transpose(3, 0, 1, 2)
    content = content[..., ::-1].copy() if flipped else content
    assert torch.equal(clip, place(torch.from_numpy(content), SIZE))


def test_random_crops_are_fitted_and_padding_keeps_its_colour() -> None:
    video, spec = upright(), ClipSpec(2, SIZE, (1,), SIZE, fit="letterbox")
    window = Window(video, 3, box=Box(10, 5, 120, 60), colour=Colour(1.3, 0.8, 0.5))
    clip, found = read_clip(window, spec), read_fit_box(window, spec)["fit_box"]
    assert found.tolist() == pytest.approx(fit_box("letterbox", (120, 60), SIZE))
    assert (clip[..., :22] == 128).all()  # 18 of 64 columns
    assert (clip[..., 23:41].float().std(dim=(1, 2, 3)) > 1).all()
    assert read_fit_box(window, replace(spec, fit="stretch")) == {}


def test_samples_of_several_sizes_carry_their_boxes() -> None:
    videos = [upright(), synthetic.video("wide", 1)]
    samples = ClipDataset([ClipSource(videos, 2)], ClipSpec(2, SIZE, (1,), SIZE, fit="crop"), seed=0, flip=True)
    boxes = {samples[n]["video"]: samples[n]["fit_box"].tolist() for n in range(4)}
    assert boxes["upright"] == pytest.approx(fit_box("crop", (160, 96), SIZE))
    assert boxes["wide"] == pytest.approx(fit_box("crop", videos[1].size, SIZE))
    plain = ClipDataset([ClipSource(videos, 2)], ClipSpec(2, SIZE, (1,), SIZE), seed=0, flip=True)
    assert "fit_box" not in plain[0]
    assert torch.equal(plain[0]["density"], samples[0]["density"])  # the truth is that of the whole frame


# ---------------------------------------------------------------- everything agrees


@pytest.mark.parametrize("fit", ["letterbox", "crop"])
@pytest.mark.parametrize("flipped", [False, True])
def test_training_prediction_teacher_and_store_agree(fit: str, flipped: bool, tmp_path: Path) -> None:
    video, network = upright(), Bright(fit)
    spec = ClipSpec.of(network)
    ((_, slid),) = slide(network, video, range(6), flipped=flipped)
    windows = [Window(video, end, flipped) for end in range(6)]
    clips = torch.stack([read_clip(window, spec) for window in windows])
    boxes = torch.stack([read_fit_box(window, spec)["fit_box"] for window in windows])
    trained, _ = Learner(network)(clips, boxes)
    torch.testing.assert_close(trained[:, 0].detach(), slid, atol=1e-5, rtol=0)

    reader = ClipReader(spec)
    parts = [reader(window) for window in windows]
    batch = {key: torch.stack([part[key] for part in parts]) for key in parts[0]}
    online = OnlineTeacher(loaded(network), InferenceSettings(), features=["pixels"]).begin(batch)()
    torch.testing.assert_close(online.maps[:, 0], slid, atol=1e-5, rtol=0)
    seen = online.features["pixels"][:, :, -1].mean(1)  # (6, H, W), of the whole frame
    if fit == "letterbox":
        same = np.corrcoef(seen.flatten(), slid.exp().flatten())[0, 1]
        assert same > 0.98

    views = ("plain", "flipped")
    settings = InferenceSettings(batch_size=4)
    model = loaded(network)
    store: TargetStore = build(
        model, [video], tmp_path / "store", settings, codec="exact", views=views, progress=False
    )
    for frame in range(6):
        stored = store.read("upright", frame, views[flipped])
        np.testing.assert_allclose(peak_map(stored), peak_map(slid[frame].numpy()), atol=1e-4)


def test_streaming_student_agrees_between_training_and_prediction() -> None:
    torch.manual_seed(0)
    network = create_model("student/stream:micro", fit="letterbox", num_frames=6).network.eval()
    network.decoder.head.weight.data *= 100
    video, spec = upright(), ClipSpec.of(network)
    ((_, slid),) = slide(network, video, range(6))
    clip = read_clip(Window(video, 5), spec)[None]
    with torch.no_grad():
        maps, _ = Learner(network)(clip, read_fit_box(Window(video, 5), spec)["fit_box"][None])
    torch.testing.assert_close(maps[0].exp(), slid.exp(), atol=1e-4, rtol=0)
    assert slid.exp().std() > 1e-4


def test_map_of_a_frame_of_the_inputs_aspect_ratio_hardly_depends_on_the_fit() -> None:
    video = replace(upright("synthetic:3-6x72x128"), size=(72, 128))
    maps = [next(iter(slide(Bright(fit), video, [4])))[1] for fit in FITS]
    densities = [saliency.density(each) for each in maps]
    torch.testing.assert_close(densities[1], densities[0], atol=1e-6, rtol=0)
    torch.testing.assert_close(densities[2], densities[0], atol=1e-6, rtol=0)


def test_fingerprints_of_fits_differ_and_stretch_keeps_the_old_one() -> None:
    prints = [fingerprint(loaded(Bright(fit)), 1, [upright()], precision="fp32") for fit in FITS]
    assert "fit" not in prints[0]["input"]
    assert [each["input"].get("fit") for each in prints[1:]] == ["letterbox", "crop"]
    arguments = [
        fingerprint(create_model("student/stream:micro", **given), 1, [], precision="fp32")["teacher"]["arguments"]
        for given in ({}, {"fit": "crop"})
    ]
    assert arguments == [{}, {"fit": "crop"}]
