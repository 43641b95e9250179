"""Mixing sources in one epoch by clips per video or by ratio, and the config of a data section."""

from collections import Counter
from dataclasses import replace

import pytest
from pydantic import ValidationError

from distill.data.augment import Crop, Jitter
from distill.data.clip_dataset import ClipDataset, ClipSource
from distill.data.clips import ClipSpec
from distill.data.loader import make_loader
from distill.data.sets import synthetic
from distill.errors import UserError
from distill.training.config import RunConfig, load_config, save_config
from distill.training.setup import build_clips
from distill.training.sources import training_sources, warn_of_trained_frames

SPEC = ClipSpec(num_frames=2, size=(18, 32), target_frames=(1,), map_size=(9, 16))


def videos(kind, count, labelled=True):
    found = [synthetic.video(f"{kind}{seed}", seed, (6, 18, 32)) for seed in range(count)]
    return found if labelled else [replace(video, truth=None) for video in found]


def names(dataset, epoch):
    return [dataset.window(number).video.name for number in range(epoch * len(dataset), (epoch + 1) * len(dataset))]


@pytest.mark.parametrize(("ratio", "count"), [(1, 6), (0.5, 3), (2, 12), (3.4, 20)])
def test_ratio_counts_clips_rather_than_videos(ratio, count):
    sources = [ClipSource(videos("a", 2), 3), ClipSource(videos("b", 5, False), ratio=ratio)]
    dataset = ClipDataset(sources, SPEC, seed=0, flip=True)
    assert len(dataset) == 6 + count
    for epoch in range(3):
        found = Counter(name[0] for name in names(dataset, epoch))
        assert found == {"a": 6, "b": count}


def test_videos_of_a_ratio_take_turns_across_epochs():
    dataset = ClipDataset(
        [ClipSource(videos("a", 3)), ClipSource(videos("b", 7), ratio=1)], SPEC, seed=0, flip=True
    )
    drawn = [[name for name in names(dataset, epoch) if name[0] == "b"] for epoch in range(7)]
    counts = Counter(name for epoch in drawn for name in epoch)
    assert set(counts.values()) == {3}  # 7 epochs of 3 clips are 3 rounds of 7 videos
    assert len({name for epoch in drawn[:2] for name in epoch}) == 6
    assert len({tuple(sorted(epoch)) for epoch in drawn}) > 1
    assert all(
        Counter(name for name in names(dataset, epoch) if name[0] == "a") == {"a0": 1, "a1": 1, "a2": 1}
        for epoch in range(7)
    )


def test_mixed_samples_are_a_function_of_seed_and_index():
    def make(seed=0):
        sources = [
            ClipSource(videos("a", 2), 2),
            ClipSource(videos("b", 5), ratio=2),
            ClipSource(videos("c", 4), ratio=0.5),
        ]
        return ClipDataset(sources, SPEC, seed=seed, flip=True)

    forwards, backwards = make(), make()
    windows = [forwards.window(number) for number in range(60)]
    assert [backwards.window(number) for number in reversed(range(60))] == windows[::-1]
    assert [make(1).window(number) for number in range(60)] != windows
    first = [window.video.name[0] for window in windows[:14]]
    assert first != sorted(first)  # the sources are shuffled together


def test_sources_with_a_ratio_have_independent_orders():
    same = videos("b", 6)
    dataset = ClipDataset(
        [ClipSource(videos("a", 6)), ClipSource(same, ratio=1), ClipSource(same, ratio=1)], SPEC, seed=0, flip=False
    )
    assert dataset._in_turn(1, 0, 6) != dataset._in_turn(2, 0, 6)
    assert sorted(video.name for video in dataset._in_turn(1, 0, 6)) == [f"b{i}" for i in range(6)]


def test_labelled_and_unlabelled_samples_share_a_batch():
    sources = [ClipSource(videos("a", 2), 3), ClipSource(videos("b", 3, labelled=False), ratio=1)]
    dataset = ClipDataset(sources, SPEC, seed=0, flip=True)
    (batch,) = make_loader(dataset, [list(range(12))], workers=0)
    labelled = batch["labelled"][:, 0].tolist()
    assert labelled == [name[0] == "a" for name in batch["video"]]
    assert sum(labelled) == 6
    sums = batch["density"].sum(dim=(1, 2, 3)).tolist()
    assert sums == pytest.approx([float(each) for each in labelled], abs=1e-5)


def test_only_sources_with_a_ratio_are_refused():
    with pytest.raises(UserError, match="without a ratio"):
        ClipDataset([ClipSource(videos("a", 2), ratio=1)], SPEC, seed=0, flip=True)


# ---------------------------------------------------------------------------------------------------- the config


def config(tmp_path, **data):
    sources = [{"dataset": "synthetic", "videos": ["blob0", "blob1"], "clips_per_video": 2}]
    return RunConfig.model_validate(
        {
            "out": str(tmp_path / "run"),
            "model": {"name": "student/thtdnet"},
            "data": {"train": sources, **data},
            "losses": [{"name": "kldiv"}],
            "training": {"steps": 1},
        }
    )


def test_config_sets_sources_stride_crop_and_colour(tmp_path):
    labelled = {"dataset": "synthetic", "videos": ["blob0", "blob1"], "clips_per_video": 2}
    run = config(
        tmp_path,
        train=[labelled, {"dataset": "synthetic", "videos": ["blob2"], "ratio": 0.5}],
        stride="12.5 fps",
        crop={"area": [0.3, 0.9], "stretch": 1.2},
        colour={"contrast": 0.2},
    )
    assert run.data.stride == "12.5fps"
    dataset = build_clips(run, training_sources(run.data), SPEC)
    assert len(dataset) == 6
    assert (dataset.crop, dataset.colour) == (Crop((0.3, 0.9), 1.2), Jitter(0, 0.2, 0))
    save_config(run, tmp_path / "run.yaml")
    assert load_config(tmp_path / "run.yaml") == run


def test_crop_and_colour_are_off_by_default(tmp_path):
    run = config(tmp_path)
    dataset = build_clips(run, training_sources(run.data), SPEC)
    assert dataset.crop is dataset.colour is None
    assert dataset.flip


def test_short_videos_are_counted_with_their_own_frame_rates(tmp_path, caplog):
    caplog.set_level("INFO", logger="distill")
    run = config(tmp_path)
    slow, fast = (replace(video, fps=fps) for video, fps in zip(videos("a", 2), (10.0, 60.0), strict=True))
    build_clips(run, [ClipSource([slow, fast])], replace(SPEC, stride="10fps"))
    assert "1 of 2 training videos are shorter than a clip (7 frames)" in caplog.text


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"stride": 0}, "data.stride.*expected a positive number of frames, or a rate such as 30fps, got 0"),
        ({"stride": "fast"}, "got 'fast'"),
        ({"crop": {"area": [0.0, 0.5]}}, "data.crop.*expected an area"),
        ({"crop": {"area": [0.9, 0.5]}}, "data.crop.*expected an area"),
        ({"crop": {"stretch": 0.5}}, "data.crop.stretch"),
        ({"colour": {"hue": 0.5}}, "data.colour.hue"),
        ({"colour": {"contrast": 1.5}}, "data.colour.contrast"),
        ({"train": [{"dataset": "synthetic", "ratio": 1}]}, "every source has a ratio"),
        (
            {"train": [{"dataset": "synthetic"}, {"dataset": "synthetic", "ratio": 1, "clips_per_video": 2}]},
            "give one of 'clips_per_video' and 'ratio'",
        ),
        ({"train": [{"dataset": "synthetic"}, {"dataset": "synthetic", "ratio": 0}]}, "data.train.1.ratio"),
    ],
)
def test_invalid_data_section_is_refused(tmp_path, data, message):
    with pytest.raises(ValidationError) as raised:
        config(tmp_path, **data)
    assert raised.match(message.replace(".*", r"[\s\S]*"))


def test_scored_frames_that_are_trained_on_are_reported(caplog):
    one, two, three = videos("a", 3)
    first, second = replace(one, frames=range(3)), replace(two, frames=(0, 5))
    warn_of_trained_frames(
        [ClipSource([first]), ClipSource([second])], [replace(one, frames=(3, 4, 5)), three], "x"
    )
    assert not caplog.records  # other frames of the same video, as the demo scores
    warn_of_trained_frames([ClipSource([first]), ClipSource([second])], [replace(two, frames=(5,)), three], "data")
    (record,) = caplog.records
    assert record.getMessage() == (
        "data: trains on frames of 1 of the 2 videos to score (a1), whose scores will be too high; choose other "
        "videos, frames or shares"
    )
