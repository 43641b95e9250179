"""The study of calibrations: shares of the gap, what is computed again, and its table."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.calibration_data import stills_at
from helpers.model_cases import loaded
from helpers.quantized_files import ClipModel, stream, write

from distill.calibration import study as module
from distill.calibration.study import Study, gap_share, run_study
from distill.errors import UserError
from distill.runtimes.export import export

CORNER = [(0.8, 0.8), (0.85, 0.75), (0.75, 0.85), (0.8, 0.75), (0.75, 0.75)]


def test_share_of_the_gap_is_exact_without_noise() -> None:
    student = np.array([1.0, 2.0, 3.0, 4.0])
    share, low, high = gap_share(student, student + 0.25, student + 1, ["a", "b", "c", "d"])
    assert (share, low, high) == pytest.approx((0.25, 0.25, 0.25))
    assert gap_share(student, student - 0.5, student + 1, list("abcd"))[0] == pytest.approx(-0.5)


def test_share_without_a_gap_is_undefined_and_its_interval_with_an_uncertain_one() -> None:
    student = np.zeros(4)
    assert np.isnan(gap_share(student, student + 1, student, list("abcd"))).all()
    assert np.isnan(gap_share(student, student + 1, student - 1, list("abcd"))).all()
    uncertain = np.array([3.0, -1.0, -1.0, 0.0])
    share, low, high = gap_share(student, student + 0.1, uncertain, list("abcd"))
    assert share == pytest.approx(0.4)
    assert np.isnan([low, high]).all()
    assert np.isnan(gap_share(student, student + 0.1, student + 1, ["a"] * 4)[1])


def test_study_computes_each_part_once_and_all_of_few_videos_in_one_draw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    student, reference = tmp_path / "student.onnx", tmp_path / "reference.onnx"
    write(stream(), student)
    export(loaded(ClipModel()), reference, mode="clip", batches=(1,))
    on, test = stills_at(tmp_path / "on", CORNER), stills_at(tmp_path / "test", CORNER[1:4])
    study = Study(str(student), str(reference), on, test, counts=(3, 50), seeds=2)
    text = run_study(study, tmp_path / "out", progress=False)
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert sorted(results["parts"]) == ["3/0", "3/1", "50/0"]
    assert results["parts"]["50/0"]["videos"] == 5
    assert all(part["better"] for part in results["parts"].values())
    assert (tmp_path / "out/results.md").read_text() == text
    assert "| calibrated on 50 videos, 1 of 1 draw better |" in text
    assert "50 videos: the data have 5, which were all used, in one draw." in text
    gains = [
        np.mean([row[2] for row in each.values()])
        for each in (results["student"], results["parts"]["50/0"]["scores"])
    ]
    assert gains[1] > gains[0] + 0.5

    def computed(*_: object, **__: object) -> None:
        raise AssertionError("a finished part was computed again")

    with monkeypatch.context() as patch:
        patch.setattr(module, "read_samples", computed)
        assert run_study(study, tmp_path / "out", progress=False) == text
    del results["parts"]["3/1"]
    (tmp_path / "out/results.json").write_text(json.dumps(results))
    calls = []
    real = module.calibrate_part
    monkeypatch.setattr(module, "calibrate_part", lambda *a, **k: calls.append(a[3]) or real(*a, **k))
    assert run_study(study, tmp_path / "out", progress=False) == text
    assert calls == [1]
    with pytest.raises(UserError, match=r"results\.json: belongs to a study of other models, data or frames"):
        run_study(Study(str(student), str(reference), on, test, every=4), tmp_path / "out", progress=False)
