"""`saldistill evaluate`: what it accepts, prints and writes."""

import json
from pathlib import Path

import pytest
from helpers.places import SAMPLE
from PIL import Image

from distill.cli import main
from distill.data.sets.find import find_videos
from distill.data.video import synthetic
from distill.errors import UserError
from distill.evaluation.references import same_scene

FEW = ["synthetic:", "--split", "test", "--every", "12"]


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    code = main.main(["evaluate", *map(str, words)])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


@pytest.fixture
def maps(tmp_path: Path) -> Path:
    """A folder of maps of the test videos: their brightness."""
    for video in find_videos("synthetic", "", split="test"):
        reader = synthetic.SyntheticReader(str(video.path))
        (tmp_path / "maps" / video.name).mkdir(parents=True)
        for frame, pixels in enumerate(reader.read(range(video.num_frames), (36, 64))):
            Image.fromarray(pixels).convert("L").save(tmp_path / "maps" / video.name / f"{frame + 1:04d}.png")
    return tmp_path / "maps"


def test_several_models_are_scored_compared_and_saved(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, maps: Path, tmp_path: Path
) -> None:
    out = tmp_path / "scores"
    words = ["centre-prior", maps, "observers", *FEW, "--metrics", "nss,cc", "-o", out]
    with caplog.at_level("INFO"):
        code, printed, _ = run(capsys, *words)
    assert code == 0
    for start in ("centre-prior", str(maps), "observers (random halves of points)", f"{maps} minus centre-prior"):
        assert any(line.startswith(start) for line in printed.splitlines())
    assert caplog.text.count("8 frames in") == 4  # observers are scored both ways
    folders = [out / "centre-prior", out / str(maps).strip("/").replace("/", "_"), out / "observers"]
    for folder in folders:
        assert {"scores.json", "scores.csv", "videos.csv"} <= {path.name for path in folder.iterdir()}
    prior, bright, ceiling = (
        json.loads((folder / "scores.json").read_text())["per_video"]["nss"] for folder in folders
    )
    assert prior < bright < ceiling + 1
    difference = json.loads((folders[1] / "difference.json").read_text())
    assert difference["per_video"]["nss"] == pytest.approx(bright - prior)
    assert not (folders[0] / "difference.json").exists()
    assert "<html" in (out / "report.html").read_text()
    code, _, err = run(capsys, *words)
    assert code == 2
    assert "already exists" in err


def test_one_model_writes_into_the_folder_itself(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, printed, _ = run(capsys, "centre-prior", *FEW, "--protocol", "ntire2026", "-o", tmp_path / "new")
    assert code == 0
    assert "mean over 2 videos *" in printed
    summary = json.loads((tmp_path / "new" / "scores.json").read_text())
    assert summary["average"] == "per_video"
    assert summary["how"]["protocol"] == "ntire2026"
    assert list(summary["per_video"]) == ["auc_judd", "cc", "sim", "nss"]


def test_videos_of_one_scene_count_as_one_recording(capsys: pytest.CaptureFixture[str]) -> None:
    apart = run(capsys, "centre-prior", *FEW)[1]
    together = run(capsys, "centre-prior", *FEW, "--scenes", "blob*")[1]
    assert "95% over 2 recordings" in apart
    assert "95%" not in together
    assert "no intervals" in together


def test_same_scene_groups_videos_by_the_first_matching_pattern() -> None:
    videos = find_videos("synthetic", "", split="all")
    grouped = same_scene(videos, ["blob[01]", "blob*2"])
    assert [video.recording for video in grouped[:4]] == ["blob[01]", "blob[01]", "blob*2", videos[3].recording]
    with pytest.raises(UserError, match="Vidyo"):
        same_scene(videos, ["Vidyo*"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["centre-prior", "centre-prior", *FEW, "-o", "out"], "name each model once"),
        (["centre-prior", *FEW, "--scenes", "Vidyo*"], "Vidyo*"),
        (["observers", f"dhf1k:{SAMPLE}", "--videos", "068"], "no ground truth in 068"),
        (["nobody", *FEW], "nobody: no model, run folder"),
        (["empty", *FEW], "neither a run folder nor predicted maps"),
        ([SAMPLE / "annotation", *FEW], "neither a run folder nor predicted maps"),
        ([SAMPLE / "video", *FEW], "no maps of video blob6"),
    ],
)
def test_invalid_input_is_refused_before_anything_is_written(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    code, printed, err = run(capsys, *words)
    assert (code, printed) == (2, "")
    assert message in err
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_model_named_like_a_parent_folder_is_refused(
    capsys: pytest.CaptureFixture[str], maps: Path, tmp_path: Path
) -> None:
    code, _, err = run(capsys, "centre-prior", "..", *FEW, "-o", tmp_path / "out")
    assert code == 2
    assert "the name '..' cannot become a path in" in err
