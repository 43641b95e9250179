"""Clips: which frames, what supervision, the same samples for any number of workers."""

import os
import pickle
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.places import REPOSITORY

from distill.data.clip_dataset import ClipDataset as Clips
from distill.data.clip_dataset import ClipSource
from distill.data.clip_reader import FrameCache, read_clip, read_truth
from distill.data.clips import ClipSpec as Spec
from distill.data.clips import Window
from distill.data.loader import make_loader
from distill.data.sets import synthetic
from distill.data.sets.find import find_videos
from distill.data.truth import PointsTruth
from distill.errors import UserError

SPEC = Spec(num_frames=4, size=(36, 64), target_frames=(3,), map_size=(18, 32))
THREE = Spec(num_frames=4, size=(36, 64), target_frames=(0, 1, 3), map_size=(18, 32), stride=2)


@pytest.fixture
def videos():
    return find_videos("synthetic", "", split="train")


def clips(videos, spec=SPEC, *, seed=0, flip=True, per_video=3, extras=(), in_memory=False):
    sources = [ClipSource(videos, per_video)]
    return Clips(sources, spec, seed=seed, flip=flip, extras=extras, in_memory=in_memory)


def same(first, second):
    assert first.keys() == second.keys()
    for key, value in first.items():
        assert torch.equal(value, second[key]) if isinstance(value, torch.Tensor) else value == second[key], key


def test_frames_of_a_clip():
    assert SPEC.frames(10, 30) == [7, 8, 9, 10]
    assert SPEC.frames(1, 30) == [0, 0, 0, 1]  # the first frame stands in for those before the start
    assert (SPEC.targets(10, 30), SPEC.offsets(30), SPEC.span(30)) == ([10], (0,), 4)
    assert THREE.frames(10, 30) == [4, 6, 8, 10]
    assert (THREE.targets(10, 30), THREE.targets(3, 30)) == ([4, 6, 10], [0, 0, 3])
    assert (THREE.offsets(30), THREE.span(30)) == ((-6, -4, 0), 7)


@pytest.mark.parametrize(
    ("fps", "frames", "span"), [(60, [4, 6, 8, 10], 7), (25, [8, 8, 9, 10], 3), (23.976, [8, 8, 9, 10], 3)]
)
def test_frames_of_a_clip_at_a_rate(fps, frames, span):
    spec = replace(SPEC, stride="30fps", target_frames=(1, 3))
    assert spec.frames(10, fps) == frames
    assert spec.targets(10, fps) == [frames[1], 10]
    assert (spec.span(fps), spec.offsets(fps)) == (span, (frames[1] - 10, 0))


def test_a_rate_is_each_video_s_own(videos):
    spec = replace(SPEC, stride="15fps")
    slow, fast = (replace(videos[0], fps=fps) for fps in (15.0, 60.0))
    for video, frames in ((slow, [17, 18, 19, 20]), (fast, [8, 12, 16, 20])):
        expected = FrameCache().read(video, frames, (36, 64)).transpose(3, 0, 1, 2)
        assert (read_clip(Window(video, 20), spec).numpy() == expected).all()
    both = [replace(slow, name="slow", frames=range(20, 48)), replace(fast, name="fast", frames=range(20, 48))]
    many = clips(both, replace(spec, target_frames=(0, 3)))
    apart = {sample["video"]: int(sample["frames"].diff()) for sample in map(many.__getitem__, range(12))}
    assert apart == {"slow": 3, "fast": 12}


def test_spec_of_a_model():
    model = SimpleNamespace(num_frames=16, size=[224, 384], target_frames=[15], map_size=(224, 384))
    assert Spec.of(model, stride=2) == Spec(16, (224, 384), (15,), (224, 384), 2)


def test_sample_has_what_its_docstring_says(videos):
    sample = clips(videos, THREE)[0]
    assert (sample["clip"].shape, sample["clip"].dtype) == ((3, 4, 36, 64), torch.uint8)
    for key in ("density", "fixations"):
        assert (sample[key].shape, sample[key].dtype) == ((3, 18, 32), torch.float32)
    assert sample["labelled"].tolist() == [True, True, True]
    assert sample["density"].sum(dim=(1, 2)).tolist() == pytest.approx([1, 1, 1], abs=1e-5)
    assert sample["fixations"].sum(dim=(1, 2)).tolist() == [synthetic.OBSERVERS] * 3
    assert (sample["frames"].shape, sample["frames"].dtype) == ((3,), torch.int64)
    assert isinstance(sample["video"], str)
    assert isinstance(sample["flipped"], bool)


def test_sample_is_a_function_of_seed_and_number(videos):
    first, second = clips(videos), clips(videos)
    order = [13, 2, 30, 2, 0]
    for i in order:
        same(first[i], second[i])
    windows = [first.window(i) for i in range(24)]
    assert [first.window(i) for i in reversed(range(24))] == windows[::-1]
    assert windows != [clips(videos, seed=1).window(i) for i in range(24)]
    assert windows[:12] != windows[12:]  # the second epoch is another one


def test_an_epoch_draws_from_every_video_as_often_as_asked(videos):
    dataset = Clips([ClipSource(videos[:2], 3), ClipSource(videos[2:], 1)], SPEC, seed=0, flip=False)
    assert len(dataset) == 8
    for epoch in range(3):
        names = [dataset.window(i).video.name for i in range(epoch * 8, epoch * 8 + 8)]
        assert sorted(names) == ["blob0"] * 3 + ["blob1"] * 3 + ["blob2", "blob3"]
    assert not any(dataset.window(i).flipped for i in range(40))


def test_ends_stay_in_the_frames_in_use(videos):
    video = replace(videos[0], frames=range(10, 13))
    dataset = clips([video])
    windows = [dataset.window(i) for i in range(200)]
    assert {w.end for w in windows} == {10, 11, 12}
    assert 60 < sum(w.flipped for w in windows) < 140


def test_flip_acts_on_everything_together(videos):
    video = videos[0]
    for spec in (SPEC, THREE):
        plain, mirrored = (
            {"clip": read_clip(w, spec), **read_truth(w, spec)}
            for w in (Window(video, 20), Window(video, 20, True))
        )
        for key in ("clip", "density", "fixations"):
            assert torch.equal(plain[key].flip(-1), mirrored[key]), key
            assert not torch.equal(plain[key], mirrored[key]), key
        assert torch.equal(plain["labelled"], mirrored["labelled"])


def test_gaze_follows_the_blob_in_the_clip(videos):
    """Clip, density and fixations speak of one place: the brightest pixels, under a flip too."""
    dataset = clips(videos)
    for i in range(12):
        sample = dataset[i]
        bright = sample["clip"][:, -1].float().sum(dim=0)
        peak = np.unravel_index(int(bright.argmax()), bright.shape)
        looked = np.unravel_index(int(sample["density"][0].argmax()), (18, 32))
        assert np.hypot(peak[0] / 36 - looked[0] / 18, peak[1] / 64 - looked[1] / 32) < 0.15


def test_labelled_needs_use_truth_and_a_fixation(tmp_path, videos):
    (tmp_path / "fixations.json").write_text("[[[1, 2]], [], [[-5, 3]], [[4, 5], [500, 500]], [[1, 1]]]")
    truth = PointsTruth(tmp_path / "fixations.json", (72, 128))
    spec = replace(SPEC, num_frames=1, target_frames=(0,))
    video = replace(videos[0], truth=truth, frames=range(4))

    def labelled(video, end):
        found = read_truth(Window(video, end), spec)
        assert bool(found["density"].any()) == bool(found["fixations"].any()) == bool(found["labelled"][0])
        return bool(found["labelled"][0])

    assert [labelled(video, end) for end in range(6)] == [True, False, False, True, False, False]
    assert labelled(replace(video, frames=range(6)), 4)
    assert not labelled(replace(video, truth=None), 0)


def test_extras_are_added(videos):
    seen = []

    def extra(window):
        seen.append(window)
        return {"teacher_clip": read_clip(window, THREE)}

    dataset = clips(videos, extras=[extra])
    sample = dataset[5]
    assert seen == [dataset.window(5)]
    assert torch.equal(sample["teacher_clip"], read_clip(dataset.window(5), THREE))


BATCHES = [[3, 1], [7, 20], [0, 11], [5, 5], [23]]


@pytest.mark.parametrize("workers", [1, 2])
def test_any_number_of_workers_gives_the_same_batches(videos, workers):
    alone = list(make_loader(clips(videos), BATCHES, workers=0))
    assert [len(batch["video"]) for batch in alone] == [2, 2, 2, 2, 1]
    loader = make_loader(clips(videos), BATCHES, workers=workers)
    for _ in range(2):  # the same workers serve a second round
        for one, other in zip(alone, loader, strict=True):
            same(one, other)


def test_workers_read_video_files_opened_before_the_fork(sample):
    dataset = clips(find_videos("dhf1k", sample, videos=["002"]), per_video=8)
    here = [dataset[i] for i in (0, 1)]
    (there,) = make_loader(dataset, [[0, 1]], workers=1)
    assert torch.equal(torch.stack([s["clip"] for s in here]), there["clip"])


def test_dataset_travels_to_a_fresh_process(videos):
    same(clips(videos)[3], pickle.loads(pickle.dumps(clips(videos)))[3])


@pytest.mark.parametrize("workers", [0, 1])
def test_unreadable_truth_is_one_sentence_from_any_worker(tmp_path, videos, workers):
    (tmp_path / "fixations.json").write_text("[[[1, 2")
    video = replace(videos[0], truth=PointsTruth(tmp_path / "fixations.json", (72, 128)))
    with pytest.raises(UserError, match=r"fixations\.json: cannot be read as JSON") as raised:
        list(make_loader(clips([video]), [[0]], workers=workers))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("workers", [0, 1])
def test_failure_names_the_video(videos, workers):
    def fail(window):
        raise KeyError("surprise")

    dataset = clips([replace(videos[0], name="the one")], extras=[fail])
    with pytest.raises(
        RuntimeError, match=r"video the one \(synthetic:0-48x72x128\), clip ending at frame \d+: KeyE"
    ):
        list(make_loader(dataset, [[0]], workers=workers))


def test_nothing_to_draw_from_is_refused(videos):
    for source in (ClipSource([], 5), ClipSource(videos, 0)):
        with pytest.raises(UserError, match="no clip"):
            Clips([source], SPEC, seed=0, flip=False)


def test_frame_store_keeps_within_its_bounds(videos):
    frame = 36 * 64 * 3
    store = FrameCache(max_open=2, max_bytes=5 * frame)
    for video in videos:
        pixels = store.read(video, [3, 1, 3, 2], (36, 64))
        assert (pixels == store.reader(video).read([3, 1, 3, 2], (36, 64))).all()
    assert len(store._readers) == 2
    assert store._bytes == sum(p.nbytes for p in store._frames.values()) <= 5 * frame
    kept = store.read(videos[-1], [1, 2, 3, 4], (36, 64))  # three kept, one new
    assert (kept == store.reader(videos[-1]).read([1, 2, 3, 4], (36, 64))).all()


def test_kept_frames_are_not_decoded_again(videos):
    store = FrameCache()
    asked = []
    reader = store.reader(videos[0])
    store._readers[str(videos[0].path)] = SimpleNamespace(
        read=lambda frames, size: asked.extend(frames) or reader.read(frames, size)
    )
    store.read(videos[0], [5, 6, 7, 7], (36, 64))
    store.read(videos[0], [6, 7, 8], (36, 64))
    store.read(videos[0], [6], (18, 32))
    assert asked == [5, 6, 7, 8, 6]


def test_whole_videos_are_decoded_once_and_give_the_same_clips(videos, monkeypatch):
    expected = [clips(videos[:3])[number] for number in range(12)]
    store = FrameCache()
    monkeypatch.setattr("distill.data.clip_reader.FRAME_CACHE", store)
    asked = []
    for video in videos[:3]:
        reader = store.reader(video)
        store._readers[str(video.path)] = SimpleNamespace(
            read=lambda frames, size, reader=reader: asked.append(frames) or reader.read(frames, size)
        )
    dataset = clips(videos[:3], in_memory=True)
    for number, sample in enumerate(expected):
        assert torch.equal(dataset[number]["clip"], sample["clip"])
    assert sorted(asked, key=len) == sorted((range(video.num_frames) for video in videos[:3]), key=len)


CTRL_C = """
import sys
from distill.data.loader import make_loader
from distill.data.sets.find import find_videos
from distill.data.clip_dataset import ClipDataset, ClipSource
from distill.data.clips import ClipSpec
dataset = ClipDataset([ClipSource(find_videos("synthetic", ""), 1)], ClipSpec(4, (36, 64), (3,), (18, 32)), seed=0, flip=True)
try:
    for number, _ in enumerate(make_loader(dataset, ([i] for i in range(10**9)), workers=2)):
        if number == 3:
            print("running", flush=True)
except KeyboardInterrupt:
    print("stopped by the main process")
"""  # noqa: E501


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="needs process groups")
def test_ctrl_c_prints_no_worker_traceback():
    """A terminal sends Ctrl-C to the whole group; only the main process may answer."""
    process = subprocess.Popen(
        [sys.executable, "-c", CTRL_C],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        cwd=REPOSITORY,
    )
    guard = threading.Timer(60, process.kill)
    guard.start()
    assert process.stdout is not None
    assert process.stdout.readline() == "running\n"
    os.killpg(process.pid, signal.SIGINT)
    out, errors = process.communicate()
    guard.cancel()
    assert out == "stopped by the main process\n"
    assert errors == ""
    assert process.returncode == 0
