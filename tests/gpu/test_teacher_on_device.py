"""The online teacher on a GPU: its own stream, its own device, and agreement with a target store."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.devices import CUDA, DEVICES, NEEDS_CUDA

from distill.benchmark.kernels import overlap, profile_kernels
from distill.data.clip_dataset import ClipDataset, ClipSource
from distill.data.clips import ClipSpec
from distill.data.loader import make_loader
from distill.data.sets import synthetic
from distill.inference.settings import InferenceSettings
from distill.models.registry import create_model
from distill.saliency import density
from distill.targets.build import build
from distill.training.losses import kldiv
from distill.training.teachers import CachedTeacher, OnlineTeacher, Role, TeacherOutput
from distill.training.train import to_device

WAIT = 300_000_000
"""Clock cycles of a kernel that only waits: about 0.2 s."""


@contextmanager
def no_host_sync(device: str) -> Iterator[None]:
    """Raise an error if an operation within the block waits for the GPU."""
    if device == "cuda":
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        if device == "cuda":
            torch.cuda.set_sync_debug_mode("default")


def teacher_on(device: str, **options: Any) -> OnlineTeacher:
    torch.manual_seed(3)
    return OnlineTeacher(create_model("teacher/salfom:micro"), InferenceSettings(device=device), **options)


def batch_on(device: str, teacher: OnlineTeacher, count: int = 3) -> dict[str, Any]:
    videos = [synthetic.video("one", 1, (24, 36, 64))]
    clips = ClipDataset([ClipSource(videos, 4)], teacher.spec, seed=0, flip=False, extras=[teacher.reader])
    batch = next(iter(make_loader(clips, [list(range(count))], workers=0)))
    return dict(to_device(batch, torch.device(device)))


def assert_equal(one: TeacherOutput, other: TeacherOutput) -> None:
    assert torch.equal(one.maps, other.maps)
    assert torch.equal(one.present, other.present)
    assert one.features.keys() == other.features.keys()
    assert all(torch.equal(value, other.features[name]) for name, value in one.features.items())


@pytest.mark.parametrize("device", DEVICES)
def test_own_stream_gives_the_result_of_the_current_stream(device: str) -> None:
    teacher = teacher_on(device, features=("encoder", "a3"))
    batch = batch_on(device, teacher)
    assert (teacher.stream is not None) == (device == "cuda")
    found = teacher.begin(batch)()
    teacher.stream = None
    assert_equal(found, teacher.begin(batch)())


@pytest.mark.parametrize("device", DEVICES)
def test_output_is_the_same_while_the_device_does_other_work(device: str) -> None:
    """No tensor is read before it is ready."""
    teacher = teacher_on(device, features=("encoder", "a3"))
    batch = batch_on(device, teacher)
    wanted, host = teacher.begin(batch)(), batch["teacher_clip"].cpu()
    side = 2048 if device == "cuda" else 64
    work = torch.randn(side, side, device=device)
    for _ in range(20 if device == "cuda" else 2):
        finish = teacher.begin({**batch, "teacher_clip": host.to(device, non_blocking=True)})
        for _ in range(5):
            work = (work @ work).softmax(-1)
        assert_equal(finish(), wanted)


@pytest.mark.parametrize("device", DEVICES)
def test_starting_the_teacher_does_not_wait_for_the_device(device: str) -> None:
    teacher = teacher_on(device)
    batch = batch_on(device, teacher)
    teacher.begin(batch)()
    with no_host_sync(device):
        output = teacher.begin(batch)()
    assert torch.isfinite(output.maps).all()


@pytest.mark.parametrize("device", [CUDA])
def test_teacher_and_student_run_at_the_same_time(device: str) -> None:
    """Both are queued behind a kernel that waits, so that the speed of queueing does not matter."""
    teacher, student = teacher_on(device), create_model("teacher/salfom:micro").network.to(torch.device(device))
    batch = batch_on(device, teacher)
    finished: list[TeacherOutput] = []

    def step() -> None:
        torch.cuda._sleep(WAIT)
        finish = teacher.begin(batch)
        student(batch["clip"]).sum().backward()
        finished.append(finish())

    step()
    found = profile_kernels(step, torch.device(device))
    kernels = [kernel for kernel in found.kernels if "spin" not in kernel.name]
    streams = {kernel.stream for kernel in kernels}
    assert len(streams) == 2, f"expected kernels in two streams, got {streams}"
    assert overlap(kernels, streams.pop()) > 0
    assert_equal(finished[0], finished[1])


@pytest.mark.parametrize(
    ("student", "teacher"),
    [("cpu", "cpu"), *(pytest.param(*pair, marks=NEEDS_CUDA) for pair in (("cpu", "cuda"), ("cuda", "cpu")))],
)
def test_teacher_may_lie_on_another_device(student: str, teacher: str) -> None:
    there = teacher_on(teacher, features=("encoder",))
    batch = batch_on(student, there)
    output = there.begin(batch)()
    assert {each.device.type for each in (output.maps, output.present, *output.features.values())} == {student}
    wanted = teacher_on("cpu", features=("encoder",)).begin(to_device(batch, torch.device("cpu")))()
    torch.testing.assert_close(output.maps.cpu(), wanted.maps, atol=1e-4, rtol=0)
    torch.testing.assert_close(output.features["encoder"].cpu(), wanted.features["encoder"], atol=1e-3, rtol=0)


@pytest.mark.parametrize("device", DEVICES)
def test_teacher_of_some_clips_leaves_the_others_empty(device: str) -> None:
    teacher = teacher_on(device, role=Role(sources=frozenset({0})))
    batch = batch_on(device, teacher)
    whole = teacher.begin(batch)()
    present = batch["teacher_present"].clone()
    present[1] = False
    part = teacher.begin({**batch, "teacher_present": present})()
    torch.testing.assert_close(part.maps[0], whole.maps[0], atol=1e-5, rtol=0)
    assert (part.maps[1] == 0).all()
    assert part.maps.device.type == device
    nothing = teacher.begin({**batch, "teacher_present": torch.zeros_like(present)})()
    assert (nothing.maps == 0).all()


@pytest.mark.parametrize("device", DEVICES)
def test_cached_maps_equal_online_ones(device: str, tmp_path: Path) -> None:
    teacher = teacher_on(device)
    videos = [synthetic.video("one", 1, (24, 36, 64))]
    settings = InferenceSettings(device=device, batch_size=5)
    store = build(teacher.model, videos, tmp_path / "store", settings, progress=False)
    cached = CachedTeacher(store, ClipSpec.of(teacher.network))
    readers: list[Callable[..., Any]] = [teacher.reader, cached.reader]
    clips = ClipDataset([ClipSource(videos, 4)], teacher.spec, seed=0, flip=False, extras=readers)
    batch = to_device(next(iter(make_loader(clips, [[0, 1, 2]], workers=0))), torch.device(device))
    online, stored = teacher.begin(batch)(), cached.begin(batch)()
    assert stored.maps.device.type == device
    assert (kldiv(stored.maps, density(online.maps)) < 1e-4).all()  # the codec's error
