import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.bars import closed_bars
from helpers.places import REPOSITORY
from helpers.stores import TinyTeacher, build_small, content, flip_byte
from PIL import Image

from distill.cli.main import main
from distill.data.sets import synthetic
from distill.errors import UserError
from distill.inference.settings import InferenceSettings
from distill.inference.sliding_window import slide
from distill.models.references import load_model
from distill.targets.build import build
from distill.targets.fingerprint import fingerprint
from distill.targets.info import info
from distill.targets.store import TargetStore
from distill.targets.verify import verify


def test_store_has_the_maps_of_the_sliding_window(tmp_path, videos):
    model = TinyTeacher()
    store = build_small(tmp_path / "store", videos, model, codec="exact", views=("plain", "flipped"), stride=2)
    assert store.complete
    for video in videos:
        for view in ("plain", "flipped"):
            passes = slide(
                model, video, video.frames, InferenceSettings(stride=2, batch_size=4), flipped=view == "flipped"
            )
            for frames, maps in passes:
                for frame, expected in zip(frames, maps, strict=True):
                    found = store.read(video.name, frame, view)
                    np.testing.assert_allclose(found, expected.numpy(), atol=1e-3, rtol=0)
    plain, flipped = store.read("one", 5), store.read("one", 5, "flipped")
    assert np.abs(plain - flipped).max() > 0.1
    assert np.abs(plain[:, ::-1] - flipped).max() > 0.1  # the map of a mirrored clip is not the mirrored map


def test_build_computes_only_the_frames_in_use(tmp_path, videos):
    store = build_small(tmp_path / "store", [replace(videos[0], frames=range(5, 8))])
    assert [frame for frame in range(14) if store.has("one", frame)] == [5, 6, 7]
    whole = build_small(tmp_path / "whole", videos)
    np.testing.assert_allclose(store.read("one", 6), whole.read("one", 6), atol=0.05)


def test_build_of_a_complete_store_changes_nothing(tmp_path, videos, caplog):
    build_small(tmp_path / "store", videos)
    before = content(tmp_path / "store")
    model = TinyTeacher()
    with caplog.at_level(logging.INFO):
        assert build_small(tmp_path / "store", videos, model).complete
    assert "already complete, 23 maps" in caplog.text
    assert model.calls == 0
    assert content(tmp_path / "store") == before


@pytest.mark.parametrize("call", [1, 2, 3, 5, 6])
def test_build_resumes_after_ctrl_c_with_identical_bytes(tmp_path, videos, caplog, call):
    build_small(tmp_path / "straight", videos)
    model = TinyTeacher()
    model.interrupt_at = call
    with pytest.raises(KeyboardInterrupt):
        build_small(tmp_path / "store", videos, model)
    assert "the same command resumes" in caplog.text
    store = TargetStore.open(tmp_path / "store")
    batches = [batch for batch in store.plan if store.has(batch.video, batch.frames[0])]
    assert len(batches) == call - 1
    assert not store.complete
    assert f"missing    {23 - store.count_committed()} maps" in str(info(store))
    again = TinyTeacher()
    assert build_small(tmp_path / "store", videos, again).complete
    assert again.calls == 7 - len(batches)
    assert content(tmp_path / "store") == content(tmp_path / "straight")


def test_progress_bar_of_a_shared_build_ends_at_its_total(tmp_path, videos, monkeypatch):
    class Shared(TinyTeacher):
        """At its first call, another process writes all shards that this one has not claimed."""

        def forward(self, clip):
            if not self.calls:
                with TargetStore.open(tmp_path / "store") as other:
                    for batches in other.missing():
                        for batch in batches:
                            other.commit(batch, np.zeros((len(batch.frames), *self.map_size), np.float32))
            return super().forward(clip)

    bars = closed_bars(monkeypatch)
    settings = InferenceSettings(batch_size=4)
    store = build(Shared().loaded(), videos, tmp_path / "store", settings, batches_per_shard=2)
    assert store.complete
    assert bars == [(23, 23)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"network": TinyTeacher(seed=1)}, r"teacher.arguments.seed was 0 and is now 1; teacher.weights was"),
        ({"stride": 2}, "input.stride was 1 and is now 2"),
        ({"precision": "bf16"}, 'input.precision was "fp32" and is now "bf16"'),
        ({"codec": "exact"}, "codec was 'log8' and is now 'exact'"),
        ({"views": ("plain", "flipped")}, "views was"),
        ({"videos": [synthetic.video("one", 1, (14, 36, 64))]}, "the videos or their frames differ, e.g. two"),
        ({"videos": [synthetic.video("one", 3, (14, 36, 64))]}, "videos.one.name was"),
        ({"videos": [synthetic.video("three", 1, (14, 36, 64))]}, "videos.three is not in the store"),
    ],
)
def test_build_into_a_store_with_another_fingerprint_or_plan_raises(tmp_path, videos, change, message):
    build_small(tmp_path / "store", videos)
    before = content(tmp_path / "store")
    with pytest.raises(UserError, match=message):
        build_small(tmp_path / "store", **{"videos": videos, **change})
    assert content(tmp_path / "store") == before


def test_fingerprint_depends_on_content_not_on_names(tmp_path, videos):
    model = TinyTeacher()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for frame in range(3):
            Image.new("RGB", (8, 8), (frame, 0, 0)).save(tmp_path / name / f"{frame}.png")

    def fingerprint_of(folder: str, content: bool = True):
        video = replace(videos[0], path=tmp_path / folder)
        return fingerprint(model.loaded(), 1, [video], precision="fp32", content=content)

    assert fingerprint_of("a") == fingerprint_of("b")
    assert "sha256" in fingerprint_of("a")["videos"]["one"]
    Image.new("RGB", (8, 8), (9, 0, 0)).save(tmp_path / "b" / "1.png")
    assert fingerprint_of("a") != fingerprint_of("b")
    assert "sha256" not in fingerprint_of("b", content=False)["videos"]["one"]
    with torch.no_grad():
        before = fingerprint_of("a")
        model.weight[0, 0, 0, 0, 0] += 1e-6
    assert fingerprint_of("a")["teacher"]["weights"] != before["teacher"]["weights"]


def test_build_of_two_videos_with_one_name_raises(tmp_path, videos):
    with pytest.raises(UserError, match="expected distinct names"):
        build_small(tmp_path / "store", [videos[0], videos[0]])


def test_info_describes_teacher_videos_and_progress(tmp_path, videos):
    text = str(info(build_small(tmp_path / "store", videos)))
    for part in ("teacher/tiny:base", "3 frames of 24x32, stride 1, fp32", "2, 23 frames; views: plain"):
        assert part in text
    for part in ("23 of 23, 12x16", "log8: 8 bits", "4 of 4 full", "bytes per pixel"):
        assert part in text
    assert "missing" not in text


@pytest.mark.parametrize(("codec", "views"), [("log8", ("plain", "flipped")), ("exact", ("plain",))])
def test_verify_of_an_intact_store_is_ok(tmp_path, videos, codec, views):
    store = build_small(tmp_path / "store", videos, codec=codec, views=views)
    report = verify(store, TinyTeacher().loaded(), videos, sample=12)
    assert report.ok
    assert 12 <= len(report.errors) < 16  # whole batches; the last one of a video is shorter
    assert report.kl_max < (1e-4 if codec == "log8" else 1e-8)
    assert all(each.cc > 0.999 and each.peak < 0.05 for each in report.errors)
    assert "all checksums match" in str(report)
    assert "they match" in str(report)
    assert verify(store, TinyTeacher().loaded(), videos, sample=12) == report


def test_verify_detects_a_flipped_byte_and_wrong_maps(tmp_path, videos):
    path = build_small(tmp_path / "store", videos).path
    shard = path / "shards" / "00001.shard"
    flip_byte(shard, 150)
    report = verify(path, TinyTeacher().loaded(), videos, sample=23)
    assert not report.ok
    assert "00001.shard" in str(report)
    assert 0 < len(report.errors) < 23
    flip_byte(shard, 150)

    store = TargetStore.open(path)
    with TargetStore.create(
        tmp_path / "wrong",
        fingerprint=store.fingerprint,
        videos={"one": range(14)},
        map_size=(12, 16),
    ) as wrong:
        for batches in wrong.missing():
            for batch in batches:
                wrong.commit(batch, np.stack([store.read("one", 13 - frame) for frame in batch.frames]))
    report = verify(wrong, TinyTeacher().loaded(), videos[:1], sample=8)
    assert report.damage == []
    assert not report.ok
    assert "THEY DO NOT MATCH" in str(report)
    assert verify(wrong, TinyTeacher().loaded(), videos[:1], sample=0).ok


def test_verify_of_an_incomplete_store_reports_progress(tmp_path, videos):
    model = TinyTeacher()
    model.interrupt_at = 3
    with pytest.raises(KeyboardInterrupt):
        build_small(tmp_path / "store", videos, model)
    report = verify(tmp_path / "store", TinyTeacher().loaded(), videos, sample=4)
    assert report.ok
    assert (report.committed, report.planned, len(report.errors)) == (8, 23, 4)
    assert "incomplete: 8 of 23 maps" in str(report)


def test_verify_with_another_teacher_raises(tmp_path, videos):
    path = build_small(tmp_path / "store", videos).path
    with pytest.raises(UserError, match=r"teacher\.weights was .* verify it with the teacher"):
        verify(path, TinyTeacher(seed=1).loaded(), videos)


def test_distill_accept_option_overrides_the_config(monkeypatch):
    seen = []
    monkeypatch.setattr("distill.training.train.train", lambda config, **_: seen.append(config.teacher.accept))
    for words in ([], ["--accept"]):
        assert main(["distill", str(REPOSITORY / "configs" / "distill" / "demo.yaml"), *words]) == 0
    assert seen == [False, True]


def test_stores_of_both_runtimes_have_one_fingerprint_and_the_same_maps(tmp_path, videos, graphs):
    model, stores = load_model("student/stream:micro"), []
    for runtime in ("pytorch", "onnx"):
        settings = InferenceSettings(batch_size=4, runtime=runtime)
        stores.append(build(model, videos, tmp_path / runtime, settings, codec="exact", progress=False))
    pytorch, onnx = stores
    assert [store.notes["runtime"] for store in stores] == ["PyTorch", "ONNX Runtime"]
    assert pytorch.fingerprint == onnx.fingerprint
    for frame in videos[0].frames:
        np.testing.assert_allclose(
            pytorch.read("one", frame), onnx.read("one", frame), atol=2e-3, rtol=0
        )  # float16
    assert verify(onnx.path, model, videos, sample=8).ok  # recomputed in PyTorch
    assert "runtime    ONNX Runtime" in str(info(onnx.path))
    again = build(model, videos, tmp_path / "onnx", InferenceSettings(batch_size=4), codec="exact", progress=False)
    assert again.notes["runtime"] == "ONNX Runtime"
