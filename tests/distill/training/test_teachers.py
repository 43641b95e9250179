import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.model_cases import loaded
from helpers.stores import TinyTeacher, build_small
from torch import nn

from distill.data.augment import Box, Colour, Crop, Jitter, crop_maps
from distill.data.clip_dataset import ClipDataset, ClipSource
from distill.data.clips import ClipSpec, Window
from distill.data.loader import make_loader
from distill.data.sets import synthetic
from distill.data.video.open import open_video
from distill.errors import UserError
from distill.inference.settings import InferenceSettings
from distill.saliency import density
from distill.targets.store import TargetStore
from distill.training.config import RunConfig
from distill.training.objective import Objective
from distill.training.setup import build_clips, build_teachers
from distill.training.sources import training_sources, training_videos
from distill.training.teachers import CachedTeacher, OnlineTeacher, check_alignment
from distill.training.terms import LossSection

STUDENT = ClipSpec(num_frames=2, size=(16, 20), target_frames=(1,), map_size=(8, 10))


class Student(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.layer = nn.Conv3d(3, 1, (2, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1))

    def forward(self, clip):
        return self.layer(clip.float() / 255)[:, 0]  # (B, 1, h, w)


class DropoutTeacher(TinyTeacher):
    """A teacher whose maps would differ in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.5)

    def forward(self, clip):
        return self.dropout(super().forward(clip))


class Brightness(nn.Module):
    """A teacher whose map is the blurred brightness of its last frame."""

    num_frames, size, target_frames, map_size = 1, (36, 64), (0,), (36, 64)

    def forward(self, clip):
        return nn.functional.avg_pool2d(clip[:, :, -1].float().mean(dim=1, keepdim=True) / 20, 5, 1, 2)


def maps_of(teacher, batch):
    return teacher.begin(batch)().maps


def distillation(folder, data):
    return RunConfig.model_validate(
        {
            "out": str(folder / "run"),
            "model": {"name": "student/thtdnet"},
            "data": data,
            "teacher": {"store": str(folder / "store")},
            "losses": [{"name": "kldiv", "against": "teacher"}],
            "training": {"steps": 1},
        }
    )


@pytest.fixture
def videos():
    return [synthetic.video("one", 1, (14, 36, 64)), synthetic.video("two", 2, (9, 36, 64))]


def batch_of(videos, teacher, spec=STUDENT, count=6, **more):
    clips = ClipDataset(
        [ClipSource(videos, 10)], spec, seed=3, flip="flipped" in teacher.views, extras=[teacher.reader], **more
    )
    return next(iter(make_loader(clips, [list(range(count))], workers=0)))


def test_online_teacher_is_frozen_and_not_a_submodule(videos):
    model = DropoutTeacher().train()
    teacher = OnlineTeacher(model.loaded())
    batch = batch_of(videos, teacher)
    maps = maps_of(teacher, batch)
    assert maps.shape == (6, 1, 12, 16)
    assert maps.dtype == torch.float32
    assert not maps.requires_grad
    for _ in range(2):
        model.train().requires_grad_(True)
        torch.testing.assert_close(maps_of(teacher, batch), maps, rtol=0, atol=0)
        assert not model.training
        assert not any(parameter.requires_grad for parameter in model.parameters())

    student = Student()
    before = set(student.state_dict())
    student.teacher = teacher
    assert set(student.state_dict()) == before
    assert len(list(student.parameters())) == 2
    assert not isinstance(teacher, nn.Module)
    loss = (student(batch["clip"]).mean() - maps_of(teacher, batch).mean()) ** 2
    loss.backward()
    assert all(parameter.grad is not None for parameter in student.parameters())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_online_teacher_ignores_the_students_autocast(videos):
    batch = batch_of(videos, OnlineTeacher(TinyTeacher().loaded()))
    full = maps_of(OnlineTeacher(TinyTeacher().loaded()), batch)
    with torch.autocast("cpu", torch.bfloat16):  # the student's precision is not the teacher's
        torch.testing.assert_close(maps_of(OnlineTeacher(TinyTeacher().loaded()), batch), full, rtol=0, atol=0)
    half = maps_of(OnlineTeacher(TinyTeacher().loaded(), InferenceSettings(precision="bf16")), batch)
    assert half.dtype == torch.float32
    assert 1e-5 < (half - full).abs().max() < 0.1
    with pytest.raises(UserError, match="expected one of fp32, bf16, fp16, got 'fp8'"):
        OnlineTeacher(TinyTeacher().loaded(), InferenceSettings(precision="fp8"))


@pytest.mark.parametrize("flipped", [False, True])
def test_online_teacher_reads_its_own_clip(videos, flipped):
    teacher = OnlineTeacher(TinyTeacher().loaded(), InferenceSettings(stride=3))
    read = pickle.loads(pickle.dumps(teacher.reader))
    clip = read(Window(videos[0], 4, flipped))["teacher_clip"]
    pixels = open_video(videos[0].path).read([0, 1, 4], (24, 32))
    expected = torch.from_numpy(pixels).permute(3, 0, 1, 2)
    assert clip.dtype == torch.uint8
    assert torch.equal(clip, expected.flip(-1) if flipped else expected)


AUGMENTED = {"crop": Crop((0.3, 0.9), 1.3), "colour": Jitter(0.3, 0.3, 0.3)}


@pytest.mark.parametrize("more", [{}, AUGMENTED], ids=["whole", "augmented"])
@pytest.mark.parametrize("views", [("plain",), ("plain", "flipped")])
@pytest.mark.parametrize("stride", [2, "12fps"])
def test_cached_and_online_teacher_give_equal_losses_and_gradients(tmp_path, videos, views, stride, more):
    model = TinyTeacher()
    cached = CachedTeacher(
        build_small(tmp_path / "store", videos, model, codec="exact", views=views, stride=stride), STUDENT
    )
    online = OnlineTeacher(model.loaded(), InferenceSettings(stride=stride))
    assert cached.offsets(30) == online.offsets(30) == STUDENT.offsets(30) == (0,)
    assert cached.views == views
    assert online.views == ("plain", "flipped")
    online.views = views
    objective = Objective(
        [
            LossSection(name=name, against="teacher", temperature=temperature)
            for name, temperature in (("kldiv", 1), ("cc", 1), ("kldiv", 4))
        ]
    )
    losses, gradients, maps = [], [], []
    for teacher in (online, cached):
        batch = batch_of(videos, teacher, **more)
        assert ("flipped" in views) == bool(batch["flipped"].any())
        assert ("box" in batch) == bool(more)
        student = Student()
        maps.append(density(maps_of(teacher, batch)))
        output = {"teacher": teacher.begin(batch)()}
        result = objective(batch, student(batch["clip"]), output, objective.counts(batch))
        result.loss.backward()
        losses.append(result.terms)
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in student.parameters()]))
    torch.testing.assert_close(maps[1], maps[0], rtol=2e-3, atol=1e-7)
    assert losses[0].keys() == losses[1].keys()
    for name, value in losses[0].items():
        assert value != 0
        torch.testing.assert_close(losses[1][name], value, rtol=1e-3, atol=0)
    assert (gradients[0] - gradients[1]).norm() < 0.01 * gradients[0].norm()


@pytest.mark.parametrize("flipped", [False, True])
def test_teacher_sees_whole_frames_in_original_colours(videos, flipped):
    """Crop and colour change the student's clip only; the teacher's map is cropped afterwards."""
    teacher = OnlineTeacher(TinyTeacher().loaded())
    window = Window(videos[0], 9, flipped, Box(5, 10, 20, 30), Colour(0.7, 1.2, 0.5))
    clip = teacher.reader(window)["teacher_clip"]
    assert torch.equal(clip, teacher.reader(Window(videos[0], 9, flipped))["teacher_clip"])
    whole = maps_of(teacher, {"teacher_clip": clip[None]})
    shares = torch.tensor([window.box.shares((36, 64), flipped=flipped)])
    cut = maps_of(teacher, {"teacher_clip": clip[None], "box": shares})
    assert cut.shape == whole.shape
    torch.testing.assert_close(cut, crop_maps(whole, shares), rtol=0, atol=0)


def test_crop_shows_student_and_teacher_the_same_place(videos):
    """The peak of a brightness map, cropped, is at the bright blob of the cropped clip."""
    teacher = OnlineTeacher(loaded(Brightness()))
    spec = ClipSpec(num_frames=2, size=(36, 64), target_frames=(1,), map_size=(36, 64))
    batch = batch_of(videos, teacher, spec, count=16, crop=Crop((0.4, 0.7)))
    maps = maps_of(teacher, batch)
    assert batch["flipped"].any()
    seen = 0
    for clip, one in zip(batch["clip"], maps, strict=True):
        bright = nn.functional.avg_pool2d(clip[:, -1].float().mean(dim=0)[None], 5, 1, 2)[0]
        if bright.max() < 150:
            continue  # the blob is outside
        peaks = [np.unravel_index(int(each.argmax()), (36, 64)) for each in (bright, one[0])]
        assert np.hypot(*np.subtract(*peaks)) < 6
        seen += 1
    assert seen > 5


def test_cached_teacher_serves_any_target_frames(tmp_path, videos):
    store = build_small(tmp_path / "store", videos, codec="exact")
    spec = ClipSpec(num_frames=4, size=(16, 20), target_frames=(1, 3), map_size=(8, 10), stride=2)
    teacher = CachedTeacher(store, spec)
    assert teacher.offsets(30) == (-4, 0)
    maps = teacher.reader(Window(videos[1], 6))["teacher_map"]
    np.testing.assert_array_equal(maps.numpy(), np.stack([store.read("two", 2), store.read("two", 6)]))
    batch = batch_of(videos, teacher, spec)
    assert maps_of(teacher, batch).shape == (6, 2, 12, 16)


def test_workers_read_equal_maps(tmp_path, videos):
    teacher = CachedTeacher(build_small(tmp_path / "store", videos), STUDENT)
    clips = ClipDataset([ClipSource(videos, 10)], STUDENT, seed=3, flip=False, extras=[teacher.reader])
    here, there = (list(make_loader(clips, [[0, 1], [2, 3]], workers=workers)) for workers in (0, 2))
    for one, other in zip(here, there, strict=True):
        assert torch.equal(one["teacher_map"], other["teacher_map"])
        assert one["teacher_map"].shape == (2, 1, 12, 16)


def test_store_that_lacks_maps_is_refused(tmp_path, videos):
    teacher = CachedTeacher(build_small(tmp_path / "store", [replace(videos[0], frames=range(4, 14))]), STUDENT)
    teacher.require([replace(videos[0], frames=range(5, 9))])
    with pytest.raises(UserError, match=r"lacks 13 maps that this run needs, e\.g\. one, frame 1;"):
        teacher.require(videos)


def test_store_with_an_incomplete_view_is_refused_with_flips(tmp_path, videos):
    model = TinyTeacher()
    model.interrupt_at = 6  # after the four plain batches and the first of the four flipped ones
    with pytest.raises(KeyboardInterrupt):
        build_small(tmp_path / "store", videos[:1], model, views=("plain", "flipped"))
    teacher = CachedTeacher(TargetStore.open(tmp_path / "store"), STUDENT)
    teacher.require(videos[:1])
    with pytest.raises(UserError, match=r"10 maps .*, e\.g\. one, frame 5 \(flipped\)"):
        teacher.require(videos[:1], flip=True)
    build_small(tmp_path / "store", videos[:1], views=("plain", "flipped"))
    teacher.require(videos[:1], flip=True)


@pytest.mark.parametrize("flip", [True, False])
def test_run_requires_the_flipped_view_only_with_flips(tmp_path, flip):
    source = {"dataset": "synthetic", "videos": ["blob0"], "frames": [1, 14], "clips_per_video": 2}
    config = distillation(tmp_path, {"flip": flip, "train": [source]})
    sources = training_sources(config.data)
    model, found = TinyTeacher(), training_videos(sources)
    model.interrupt_at = 6  # after the four plain batches and the first of the four flipped ones
    with pytest.raises(KeyboardInterrupt):
        build_small(tmp_path / "store", found, model, views=("plain", "flipped"))
    if flip:
        with pytest.raises(UserError, match=r"\(flipped\)"):
            build_teachers(config, sources, STUDENT, torch.device("cpu"))
    else:
        assert build_teachers(config, sources, STUDENT, torch.device("cpu"))


@pytest.mark.parametrize("views", [("plain",), ("plain", "flipped")])
def test_clips_are_mirrored_only_if_the_store_has_the_view(tmp_path, videos, views, caplog):
    config = distillation(tmp_path, {"train": [{"dataset": "synthetic"}], "crop": {"area": [0.3, 0.9]}})
    sources = [ClipSource(videos, 20)]
    teacher = CachedTeacher(build_small(tmp_path / "store", videos, views=views), STUDENT)
    clips = build_clips(config, sources, STUDENT, [teacher])
    windows = [clips.window(number) for number in range(40)]
    assert any(window.flipped for window in windows) == ("flipped" in views)
    assert ("data.flip is off: the target store has no flipped view" in caplog.text) == ("flipped" not in views)
    alone = build_clips(config, sources, STUDENT)
    assert [window.box for window in windows] == [alone.window(number).box for number in range(40)]
    assert any(alone.window(number).flipped for number in range(40))


def test_mirror_pairs_mirrored_clips_with_mirrored_maps(tmp_path, videos):
    store = build_small(tmp_path / "plain", videos, codec="exact")
    teacher = CachedTeacher(store, STUDENT, mirror=True)
    teacher.require(videos, flip=True)
    clips = ClipDataset([ClipSource(videos, 20)], STUDENT, seed=0, flip=True, extras=[teacher.reader])
    flipped = 0
    for number in range(10):
        window, sample = clips.window(number), clips[number]
        stored = torch.from_numpy(store.read(window.video.name, window.end))
        assert torch.equal(sample["teacher_map"][0], stored.flip(-1) if window.flipped else stored)
        flipped += window.flipped
    assert 0 < flipped < 10
    both = build_small(tmp_path / "both", videos, codec="exact", views=("plain", "flipped"))
    own = CachedTeacher(both, STUDENT, mirror=True).reader(replace(window, flipped=True))["teacher_map"][0]
    assert torch.equal(own, torch.from_numpy(both.read(window.video.name, window.end, "flipped")))
    assert not torch.equal(own, torch.from_numpy(both.read(window.video.name, window.end)).flip(-1))


def test_describe_names_the_teacher(tmp_path, videos):
    assert (
        OnlineTeacher(TinyTeacher().loaded()).describe() == "teacher: teacher/tiny, computed online in fp32 on cpu"
    )
    described = CachedTeacher(build_small(tmp_path / "store", videos), STUDENT).describe()
    assert described == f"teacher: teacher/tiny, from {tmp_path / 'store'} (log8; views: plain)"


def test_different_target_frames_are_refused_and_named():
    check_alignment((-2, 0), [-2, 0])
    with pytest.raises(UserError, match=r"the teacher \[0\], the student \[-2, 0\]"):
        check_alignment((0,), (-2, 0))
    with pytest.raises(UserError, match="different frames"):
        check_alignment((0, 0), (0,))
