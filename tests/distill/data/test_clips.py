"""Clips: frames, ground truth, samples, workers and the frame cache."""

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

from distill.data.clip_dataset import ClipDataset, ClipSource
from distill.data.clip_reader import FrameCache, read_clip, read_truth
from distill.data.clips import ClipSpec, Window
from distill.data.loader import make_loader
from distill.data.sets import synthetic
from distill.data.sets.find import find_videos
from distill.data.truth import PointsTruth
from distill.errors import UserError

SPEC = ClipSpec(num_frames=4, size=(36, 64), target_frames=(3,), map_size=(18, 32))
THREE = ClipSpec(num_frames=4, size=(36, 64), target_frames=(0, 1, 3), map_size=(18, 32), stride=2)


@pytest.fixture
def videos():
    return find_videos("synthetic", "", split="train")


def clips(videos, spec=SPEC, *, seed=0, flip=True, per_video=3, **more):
    return ClipDataset([ClipSource(videos, per_video)], spec, seed=seed, flip=flip, **more)


def assert_same(first, second):
    assert first.keys() == second.keys()
    for key, value in first.items():
        assert torch.equal(value, second[key]) if isinstance(value, torch.Tensor) else value == second[key], key


def record_reads(cache, video, reads):
    """Append the frames of each read of a video's reader to a list."""
    reader = cache.reader(video)
    cache._readers[str(video.path)] = SimpleNamespace(
        read=lambda frames, size: reads.append(list(frames)) or reader.read(frames, size)
    )


# ---------------------------------------------------------------- frames of a clip


@pytest.mark.parametrize(
    ("spec", "end", "fps", "frames", "targets", "offsets", "span"),
    [
        (SPEC, 10, 30, [7, 8, 9, 10], [10], (0,), 4),
        (SPEC, 1, 30, [0, 0, 0, 1], [1], (0,), 4),  # the first frame is repeated
        (THREE, 10, 30, [4, 6, 8, 10], [4, 6, 10], (-6, -4, 0), 7),
        (THREE, 3, 30, [0, 0, 1, 3], [0, 0, 3], (-6, -4, 0), 7),
        (replace(SPEC, stride="30fps", target_frames=(1, 3)), 10, 60, [4, 6, 8, 10], [6, 10], (-4, 0), 7),
        (replace(SPEC, stride="30fps", target_frames=(1, 3)), 10, 25, [8, 8, 9, 10], [8, 10], (-2, 0), 3),
        (replace(SPEC, stride="30fps", target_frames=(1, 3)), 10, 23.976, [8, 8, 9, 10], [8, 10], (-2, 0), 3),
    ],
)
def test_frames_targets_offsets_and_span_of_a_clip(spec, end, fps, frames, targets, offsets, span):
    assert (spec.frames(end, fps), spec.targets(end, fps)) == (frames, targets)
    assert (spec.offsets(fps), spec.span(fps)) == (offsets, span)


def test_rate_is_converted_with_the_frame_rate_of_each_video(videos):
    spec = replace(SPEC, stride="15fps")
    slow, fast = (replace(videos[0], fps=fps) for fps in (15.0, 60.0))
    for video, frames in ((slow, [17, 18, 19, 20]), (fast, [8, 12, 16, 20])):
        expected = FrameCache().read(video, frames, (36, 64)).transpose(3, 0, 1, 2)
        assert (read_clip(Window(video, 20), spec).numpy() == expected).all()
    both = [replace(slow, name="slow", frames=range(20, 48)), replace(fast, name="fast", frames=range(20, 48))]
    dataset = clips(both, replace(spec, target_frames=(0, 3)))
    distances = {sample["video"]: int(sample["frames"].diff()) for sample in map(dataset.__getitem__, range(12))}
    assert distances == {"slow": 3, "fast": 12}


def test_spec_of_a_model_copies_its_attributes():
    model = SimpleNamespace(num_frames=16, size=[224, 384], target_frames=[15], map_size=(224, 384))
    assert ClipSpec.of(model, stride=2) == ClipSpec(16, (224, 384), (15,), (224, 384), 2)


# ---------------------------------------------------------------- samples


def test_sample_has_the_documented_tensors(videos):
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


def test_sample_is_a_function_of_seed_and_index(videos):
    first, second = clips(videos), clips(videos)
    for i in (13, 2, 30, 2, 0):
        assert_same(first[i], second[i])
    assert_same(first[3], pickle.loads(pickle.dumps(clips(videos)))[3])
    windows = [first.window(i) for i in range(24)]
    assert [first.window(i) for i in reversed(range(24))] == windows[::-1]
    assert windows != [clips(videos, seed=1).window(i) for i in range(24)]
    assert windows[:12] != windows[12:]  # the second epoch differs


def test_epoch_draws_clips_per_video_from_each_source(videos):
    dataset = ClipDataset([ClipSource(videos[:2], 3), ClipSource(videos[2:], 1)], SPEC, seed=0, flip=False)
    assert len(dataset) == 8
    for epoch in range(3):
        names = [dataset.window(i).video.name for i in range(epoch * 8, epoch * 8 + 8)]
        assert sorted(names) == ["blob0"] * 3 + ["blob1"] * 3 + ["blob2", "blob3"]
    assert not any(dataset.window(i).flipped for i in range(40))


@pytest.mark.parametrize("source", [ClipSource([], 5), ClipSource(find_videos("synthetic", ""), 0)])
def test_sources_without_clips_are_refused(source):
    with pytest.raises(UserError, match="no clip"):
        ClipDataset([source], SPEC, seed=0, flip=False)


def test_clips_end_at_the_frames_in_use_and_half_are_mirrored(videos):
    dataset = clips([replace(videos[0], frames=range(10, 13))])
    windows = [dataset.window(i) for i in range(200)]
    assert {w.end for w in windows} == {10, 11, 12}
    assert 60 < sum(w.flipped for w in windows) < 140


@pytest.mark.parametrize("spec", [SPEC, THREE])
def test_mirroring_applies_to_clip_and_ground_truth(videos, spec):
    plain, mirrored = (
        {"clip": read_clip(w, spec), **read_truth(w, spec)}
        for w in (Window(videos[0], 20), Window(videos[0], 20, True))
    )
    for key in ("clip", "density", "fixations"):
        assert torch.equal(plain[key].flip(-1), mirrored[key]), key
        assert not torch.equal(plain[key], mirrored[key]), key
    assert torch.equal(plain["labelled"], mirrored["labelled"])


def test_density_follows_the_blob_in_the_clip(videos):
    dataset = clips(videos)
    for i in range(12):
        sample = dataset[i]
        bright = sample["clip"][:, -1].float().sum(dim=0)
        peak = np.unravel_index(int(bright.argmax()), bright.shape)
        looked = np.unravel_index(int(sample["density"][0].argmax()), (18, 32))
        assert np.hypot(peak[0] / 36 - looked[0] / 18, peak[1] / 64 - looked[1] / 32) < 0.15


def test_labelled_frame_is_in_use_and_has_a_fixation_inside(tmp_path, videos):
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


def test_extras_are_added_to_the_sample(videos):
    dataset = clips(videos, extras=[lambda window: {"end": torch.tensor(window.end)}])
    assert dataset[5]["end"] == dataset.window(5).end


# ---------------------------------------------------------------- workers


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_do_not_depend_on_the_number_of_workers(videos, workers):
    batches = [[3, 1], [7, 20], [0, 11], [5, 5], [23]]
    expected = list(make_loader(clips(videos), batches, workers=0))
    assert [len(batch["video"]) for batch in expected] == [2, 2, 2, 2, 1]
    loader = make_loader(clips(videos), batches, workers=workers)
    for _ in range(2):  # the workers persist
        for one, other in zip(expected, loader, strict=True):
            assert_same(one, other)


def test_workers_read_video_files_opened_before_the_fork(sample):
    dataset = clips(find_videos("dhf1k", sample, videos=["002"]), per_video=8)
    here = [dataset[i] for i in (0, 1)]
    (there,) = make_loader(dataset, [[0, 1]], workers=1)
    assert torch.equal(torch.stack([s["clip"] for s in here]), there["clip"])


@pytest.mark.parametrize("workers", [0, 1])
def test_unreadable_ground_truth_is_a_one_line_user_error(tmp_path, videos, workers):
    (tmp_path / "fixations.json").write_text("[[[1, 2")
    video = replace(videos[0], truth=PointsTruth(tmp_path / "fixations.json", (72, 128)))
    with pytest.raises(UserError, match=r"fixations\.json: cannot be read as a list of fixations") as raised:
        list(make_loader(clips([video]), [[0]], workers=workers))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("workers", [0, 1])
def test_unexpected_error_names_the_video_and_frame(videos, workers):
    def fail(window):
        raise KeyError("surprise")

    dataset = clips([replace(videos[0], name="the one")], extras=[fail])
    message = r"video the one \(synthetic:0-48x72x128\), clip ending at frame \d+: KeyE"
    with pytest.raises(RuntimeError, match=message):
        list(make_loader(dataset, [[0]], workers=workers))


CTRL_C = """
from distill.data.clip_dataset import ClipDataset, ClipSource
from distill.data.clips import ClipSpec
from distill.data.loader import make_loader
from distill.data.sets.find import find_videos
spec = ClipSpec(4, (36, 64), (3,), (18, 32))
dataset = ClipDataset([ClipSource(find_videos("synthetic", ""), 1)], spec, seed=0, flip=True)
try:
    for number, _ in enumerate(make_loader(dataset, ([i] for i in range(10**9)), workers=2)):
        if number == 3:
            print("running", flush=True)
except KeyboardInterrupt:
    print("stopped by the main process")
"""


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="needs process groups")
def test_ctrl_c_prints_no_traceback_of_a_worker():
    """A terminal sends Ctrl-C to the whole process group; only the main process may handle it."""
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-c", CTRL_C], start_new_session=True, cwd=REPOSITORY, **streams)
    timer = threading.Timer(60, process.kill)
    timer.start()
    assert process.stdout.readline() == "running\n"
    os.killpg(process.pid, signal.SIGINT)
    out, errors = process.communicate()
    timer.cancel()
    assert (out, errors, process.returncode) == ("stopped by the main process\n", "", 0)


# ---------------------------------------------------------------- the frame cache


def test_frame_cache_stays_within_its_limits(videos):
    frame = 36 * 64 * 3
    cache = FrameCache(max_open=2, max_bytes=5 * frame)
    for video in videos:
        pixels = cache.read(video, [3, 1, 3, 2], (36, 64))
        assert (pixels == cache.reader(video).read([3, 1, 3, 2], (36, 64))).all()
    assert len(cache._readers) == 2
    assert cache._bytes == sum(p.nbytes for p in cache._frames.values()) <= 5 * frame
    kept = cache.read(videos[-1], [1, 2, 3, 4], (36, 64))  # three cached, one new
    assert (kept == cache.reader(videos[-1]).read([1, 2, 3, 4], (36, 64))).all()


def test_cached_frames_are_not_decoded_again(videos):
    cache, reads = FrameCache(), []
    record_reads(cache, videos[0], reads)
    for frames, size in (([5, 6, 7, 7], (36, 64)), ([6, 7, 8], (36, 64)), ([6], (18, 32))):
        cache.read(videos[0], frames, size)
    assert reads == [[5, 6, 7], [8], [6]]


def test_videos_in_memory_are_decoded_once_and_give_the_same_clips(videos, monkeypatch):
    expected = [clips(videos[:3])[number] for number in range(12)]
    cache, reads = FrameCache(), []
    monkeypatch.setattr("distill.data.clip_reader.FRAME_CACHE", cache)
    for video in videos[:3]:
        record_reads(cache, video, reads)
    dataset = clips(videos[:3], in_memory=True)
    for number, sample in enumerate(expected):
        assert torch.equal(dataset[number]["clip"], sample["clip"])
    assert reads == [list(range(48))] * 3


def test_batch_over_the_memory_limits_is_refused():
    spec = ClipSpec(32, (224, 384), (31,), (224, 384))
    spec.check_batch(500, "training.batch_size")
    with pytest.raises(UserError, match=r"training.batch_size: bytes of 1000 clips .*: 8,257,536,000 is over"):
        spec.check_batch(1000, "training.batch_size")
    with pytest.raises(UserError, match=r"model: bytes of a clip of 16 frames .*: 3,221,225,472 is over"):
        ClipSpec(16, (8192, 8192), (15,), (2048, 2048)).check_batch(1, "training.batch_size")


@pytest.mark.parametrize(("clips_per_video", "ratio"), [(10**8, 0.5), (10**6, 1000.0)])
def test_epoch_over_the_limit_of_clips_is_refused(videos, clips_per_video, ratio):
    sources = [ClipSource(videos, clips_per_video), ClipSource(videos, ratio=ratio)]
    with pytest.raises(UserError, match=r"clips of an epoch: .* is over the limit of 20,000,000"):
        ClipDataset(sources, SPEC, seed=0, flip=False)
