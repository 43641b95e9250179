"""`saldistill evaluate` as a user meets it: what may be scored, what is printed, what lies in the folder."""

import json
from pathlib import Path

import pytest
from helpers.places import REPOSITORY
from PIL import Image

from distill.cli import main
from distill.cli.grammar import METRICS, PROTOCOLS, build_parser
from distill.data.sets.find import find_videos
from distill.data.video import synthetic
from distill.errors import UserError
from distill.evaluation.evaluate import INFO_GAIN_BASELINES
from distill.evaluation.metrics import METRICS as SCORED
from distill.evaluation.protocols import PROTOCOLS as KNOWN
from distill.evaluation.references import same_scene

SAMPLE = REPOSITORY / "tests" / "data" / "dhf1k"
FEW = ["synthetic:", "--split", "test", "--every", "12"]


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    code = main.main(["evaluate", *map(str, words)])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


@pytest.fixture
def maps(tmp_path: Path) -> Path:
    """Maps of the test videos: where they are bright."""
    for video in find_videos("synthetic", "", split="test"):
        reader = synthetic.SyntheticReader(str(video.path))
        (tmp_path / "maps" / video.name).mkdir(parents=True)
        for frame, pixels in enumerate(reader.read(range(video.num_frames), (36, 64))):
            Image.fromarray(pixels).convert("L").save(tmp_path / "maps" / video.name / f"{frame + 1:04d}.png")
    return tmp_path / "maps"


def test_the_help_names_what_there_is() -> None:
    assert set(METRICS) == set(SCORED)
    assert set(PROTOCOLS) == set(KNOWN)
    parsed = build_parser().parse_args(["evaluate", "model", "data"])
    assert parsed.protocol == "official"
    assert parsed.over == INFO_GAIN_BASELINES[0]


def test_baselines_the_ceiling_and_a_folder_of_maps(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, maps: Path, tmp_path: Path
) -> None:
    out = tmp_path / "scores"
    words = ["centre-prior", maps, "observers", *FEW, "--metrics", "nss,cc", "-o", out]
    with caplog.at_level("INFO"):
        code, printed, _ = run(capsys, *words)
    assert code == 0
    for line in ("centre-prior", str(maps), "observers (random halves of points)", f"{maps} minus centre-prior"):
        assert any(each.startswith(line) for each in printed.splitlines())
    assert caplog.text.count("8 frames in") == 4  # the ceiling is scored both ways
    assert "a second, scored by 1 process" in caplog.text
    folders = [out / "centre-prior", out / str(maps).strip("/").replace("/", "_"), out / "observers"]
    for folder in folders:
        assert {"scores.json", "scores.csv", "videos.csv"} <= {path.name for path in folder.iterdir()}
    prior, looking, ceiling = (json.loads((folder / "scores.json").read_text()) for folder in folders)
    assert prior["per_video"]["nss"] < looking["per_video"]["nss"] < ceiling["per_video"]["nss"] + 1
    difference = json.loads((folders[1] / "difference.json").read_text())
    assert difference["per_video"]["nss"] == pytest.approx(looking["per_video"]["nss"] - prior["per_video"]["nss"])
    assert not (folders[0] / "difference.json").exists()
    assert "<html" in (out / "report.html").read_text()
    code, _, told = run(capsys, *words)
    assert code == 2
    assert "exists already" in told


def test_one_model_has_the_folder_to_itself(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, printed, _ = run(capsys, "centre-prior", *FEW, "--protocol", "ntire2026", "-o", tmp_path / "new")
    assert code == 0
    assert "mean over 2 videos *" in printed
    summary = json.loads((tmp_path / "new" / "scores.json").read_text())
    assert summary["average"] == "per_video"
    assert summary["how"]["protocol"] == "ntire2026"
    assert list(summary["per_video"]) == ["auc_judd", "cc", "sim", "nss"]


def test_videos_of_one_scene_count_as_one(capsys: pytest.CaptureFixture[str]) -> None:
    apart = run(capsys, "centre-prior", *FEW)[1]
    together = run(capsys, "centre-prior", *FEW, "--scenes", "blob*")[1]
    assert "95% over 2 recordings" in apart
    assert "95%" not in together
    assert "no intervals" in together


def test_scenes_are_patterns_of_names() -> None:
    videos = find_videos("synthetic", "", split="all")
    grouped = same_scene(videos, ["blob[01]", "blob*2"])
    assert [video.recording for video in grouped[:4]] == ["blob[01]", "blob[01]", "blob*2", videos[3].recording]
    with pytest.raises(UserError, match="no video is called Vidyo"):
        same_scene(videos, ["Vidyo*"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["centre-prior", *FEW, "--metrics", "psnr"], "expected some of auc_judd"),
        (["centre-prior", "centre-prior", *FEW, "-o", "out"], "name each model once"),
        (["centre-prior", *FEW, "--scenes", "Vidyo*"], "no video is called Vidyo*"),
        (["observers", f"dhf1k:{SAMPLE}", "--videos", "068"], "no ground truth in 068"),
        (["nobody", *FEW], "nobody: no model, run folder"),
        ([SAMPLE / "annotation", *FEW], "neither a run nor predicted maps"),
        ([SAMPLE / "video", *FEW], "there are no maps of video blob6"),
    ],
)
def test_mistakes_are_one_sentence(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, printed, told = run(capsys, *words)
    assert code == 2
    assert printed == ""
    assert message in told
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_is_neither_run_nor_maps(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, _, told = run(capsys, tmp_path, *FEW)
    assert code == 2
    assert "neither a run nor predicted maps" in told


@pytest.mark.parametrize(
    "option", [["--protocol", "mit300"], ["--seed", "-1"], ["--workers", "0"], ["--over", "x"]]
)
def test_wrong_options_are_2(capsys: pytest.CaptureFixture[str], option: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run(capsys, "centre-prior", *FEW, *option)
    assert ended.value.code == 2
