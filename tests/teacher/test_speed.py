"""Fast execution compared with plain: fused attention with written-out attention, bf16 and compiled with float32.

python tests/teacher/test_speed.py [ROUNDS]    # both times of attention and their ratio
"""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parent.parent))  # for running as a program
sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from helpers.seeded_weights import fill, seeded

from distill.data.clips import Video
from distill.data.sets.find import find_videos
from distill.data.video.open import open_video
from distill.evaluation.metrics import cc
from distill.inference.settings import InferenceSettings
from distill.inference.sliding_window import slide
from distill.models.registry import create_model
from distill.training.losses import LOSSES
from teacher.weights import published_name

BAR = 1e-5


def attention_written_out(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None) -> Tensor:
    """Return softmax(q k^T / sqrt(d) + mask) v with one operation per matrix, as in the published code."""
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    if attn_mask is not None:
        scores = scores + attn_mask
    return scores.softmax(dim=-1) @ v


@contextmanager
def written_out() -> Iterator[list[tuple[int, ...]]]:
    """Replace `scaled_dot_product_attention`; yield the shapes of its queries."""
    fused, shapes = F.scaled_dot_product_attention, []

    def replacement(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        shapes.append(tuple(q.shape))
        return attention_written_out(q, k, v, attn_mask)

    F.scaled_dot_product_attention = replacement
    try:
        yield shapes
    finally:
        F.scaled_dot_product_attention = fused


def contrasted(name: str) -> nn.Module:
    """Return a model whose maps have contrast: its last convolution is not nearly zero."""
    model = create_model(name).network.eval()
    nn.init.normal_(model.decoder.fusion.conv3.weight, std=0.05)
    return model


def random_clip(model: nn.Module, batch_size: int = 1) -> Tensor:
    return torch.randint(0, 256, (batch_size, 3, model.num_frames, *model.size), dtype=torch.uint8)


@pytest.mark.parametrize("name", ["teacher/salfom:micro", "teacher/salfom:tiny"])
@torch.no_grad()
def test_fused_attention_equals_attention_written_out(name: str) -> None:
    model = contrasted(name)
    clip = random_clip(model, batch_size=2)
    fused = model(clip).exp()
    assert fused.std() > 100 * BAR
    with written_out() as shapes:
        plain = model(clip).exp()
    blocks = len(model.encoder.blocks)
    stages = [len(stage.blocks) for stage in (model.decoder.tcfe.a1, model.decoder.tcfe.a2)]  # a3's windows are 1
    assert len(shapes) == blocks + sum(stages)
    T, (H, W) = model.num_frames, model.size
    assert {shape[-2] for shape in shapes[:blocks]} == {T * H * W // 256}
    torch.testing.assert_close(fused, plain, rtol=0, atol=BAR)
    assert not torch.equal(fused, plain)  # otherwise nothing was replaced


@torch.no_grad()
def measure(rounds: int, *, name: str = "teacher/salfom", threads: int = 2) -> dict[str, list[float] | float]:
    """Time both kinds of attention in interleaved rounds after one warm-up, at batch 1 in float32; compare maps."""
    torch.manual_seed(0)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    model = contrasted(name)
    clip = random_clip(model)
    seconds: dict[str, list[float]] = {"fused": [], "written out": []}
    try:
        for index in range(rounds + 1):
            started = time.perf_counter()
            fused = model(clip)
            between = time.perf_counter()
            with written_out():
                plain = model(clip)
            ended = time.perf_counter()
            if index:
                seconds["fused"].append(between - started)
                seconds["written out"].append(ended - between)
    finally:
        torch.set_num_threads(before)
    ratio = float(np.median(np.array(seconds["written out"]) / np.array(seconds["fused"])))
    return {**seconds, "ratio": ratio, "difference": (fused.exp() - plain.exp()).abs().max().item()}


@pytest.mark.slow
def test_fused_attention_at_full_size_equals_attention_written_out() -> None:
    measured = measure(1)
    print(measured)
    assert measured["difference"] <= BAR


# --------------------------------------------------------------------------------------------- bf16 and compiled


@pytest.fixture(scope="module")
def video() -> Video:
    (found,) = find_videos("dhf1k", Path(__file__).parent.parent / "data" / "dhf1k", videos=["002"])
    return found


@pytest.fixture(scope="module")
def trained(video: Video) -> nn.Module:
    """The micro variant after 80 steps of KL - CC on a real video."""
    torch.manual_seed(0)
    model = create_model("teacher/salfom:micro").network.train()
    ends = np.random.default_rng(0).integers(16, 600, (80, 4))
    wanted = sorted({int(end) - back for end in ends.flat for back in range(model.num_frames)})
    frames = dict(zip(wanted, open_video(video.path).read(wanted, model.size), strict=True))
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
    for row in ends.tolist():
        clips = np.stack([[frames[end - 15 + j] for j in range(16)] for end in row])  # (B, T, H, W, 3)
        truth = np.stack([video.truth.density(end, model.map_size) for end in row])[:, None]
        maps = model(torch.from_numpy(clips).permute(0, 4, 1, 2, 3))
        loss = sum(LOSSES[name](maps, torch.from_numpy(truth)).mean() for name in ("kldiv", "cc"))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model.eval()


def every_30th_map(model: nn.Module, video: Video, **settings: str) -> np.ndarray:
    """Return the maps (n, h, w) of every 30th frame, each computed in its own batch."""
    batches = slide(model, video, range(0, 783, 30), InferenceSettings(batch_size=1, **settings))
    return np.concatenate([maps.exp().numpy() for _, maps in batches])


def test_maps_in_bf16_agree_with_float32(trained: nn.Module, video: Video) -> None:
    plain, half = every_30th_map(trained, video), every_30th_map(trained, video, precision="bf16")
    assert plain.std(axis=0).max() > 0.01  # it depends on the video
    assert not np.array_equal(plain, half)
    agreement = [cc(a, b) for a, b in zip(half, plain, strict=True)]
    assert min(agreement) > 0.999  # how bf16 products are rounded depends on the CPU: 0.99946 on an AMD EPYC


@pytest.mark.slow
def test_maps_of_compiled_model_agree_with_eager(trained: nn.Module, video: Video) -> None:
    plain = every_30th_map(trained, video)
    trained.compile()
    try:
        compiled = every_30th_map(trained, video)
        half = every_30th_map(trained, video, precision="bf16")
    finally:
        trained._compiled_call_impl = None
        torch.compiler.reset()
    np.testing.assert_allclose(compiled, plain, rtol=0, atol=BAR)
    assert min(cc(a, b) for a, b in zip(half, plain, strict=True)) > 0.9995


def test_logsigmoid_under_autocast_is_float32() -> None:
    model = contrasted("teacher/salfom:micro")
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        features = model.forward_features(random_clip(model))
        assert features["dfd"].dtype == torch.bfloat16  # autocast is active
        maps = model.forward_head(features)
        logits = model.decoder.fusion(features["sfd"], features["a3"], features["dfd"])
    assert logits.dtype == torch.bfloat16
    assert torch.equal(maps, F.logsigmoid(logits.float()))
    assert (maps != maps.bfloat16().float()).float().mean() > 0.5


@pytest.mark.slow
@torch.no_grad()
def test_full_size_map_in_bf16_agrees_with_float32() -> None:
    """The seeded weights of the golden test are untrained, and so not robust to rounding."""
    model = create_model("teacher/salfom").network
    fill(model, published_name)
    clip = seeded("clip", (1, 3, 16, 224, 224)) * model.std + model.mean
    plain = model(clip).exp()[0, 0]
    with torch.autocast("cpu", torch.bfloat16):
        half = model(clip).exp()[0, 0]
    error = (half - plain).abs()
    agreement = cc(half.numpy(), plain.numpy())
    print(f"bf16 against float32: largest error {error.max():.2e}, mean {error.mean():.2e}, CC {agreement:.6f}")
    assert error.max() < 0.05
    assert agreement > 0.999


if __name__ == "__main__":
    for key, value in measure(int(sys.argv[1]) if len(sys.argv) > 1 else 5).items():
        print(f"{key:<12} {value if isinstance(value, float) else [round(each, 2) for each in value]}")
