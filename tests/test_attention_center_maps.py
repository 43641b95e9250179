"""scripts/attention_center_maps.py: a folder of maps that other commands read, with a network that is known."""

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from helpers.places import REPOSITORY
from helpers.still_files import still_set

from distill.data.map_files import find_maps, read_maps

CENTRE = REPOSITORY.parent / "shared" / "models" / "attention-center" / "center.tflite"


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("maps_script", REPOSITORY / "scripts/attention_center_maps.py")
    assert spec
    assert spec.loader
    module, before = importlib.util.module_from_spec(spec), list(sys.path)
    spec.loader.exec_module(module)
    yield module
    sys.path[:] = before


@pytest.fixture
def red(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Replace the network by the red channel, which is tiny as the network's maps are; return its calls."""
    calls: list[int] = []

    def network(image: np.ndarray) -> np.ndarray:
        calls.append(1)
        return image[..., 0].astype(np.float32) * 1e-5

    monkeypatch.setattr(script, "open_network", lambda *_, **__: network)
    return calls


def test_maps_are_normalised_read_back_and_resumed(script: ModuleType, red: list[int], tmp_path: Path) -> None:
    stills, out, model = still_set(tmp_path / "stills"), tmp_path / "maps", tmp_path / "m.tflite"
    model.write_bytes(b"one")
    words = [str(model), f"stills:{stills}", "-o", str(out)]
    assert script.main(words) == 0
    places = find_maps(out)
    assert list(places) == ["a", "b", "c"]
    (levels,) = read_maps(places["a"], [0])
    assert levels.shape == (480, 640)
    assert levels.max() == 65535
    assert (np.diff(levels.mean(axis=0)[::40]) > 0).all()  # the pictures are brighter to the right
    (out / "b" / "0001.png").unlink()
    assert script.main(words) == 0
    assert len(red) == 4
    model.write_bytes(b"another")
    assert script.main(words) == 2
    assert json.loads((out / "maps.json").read_text())["tensor"] == "Sigmoid"


@pytest.mark.usefixtures("red")
def test_share_is_that_of_a_config(script: ModuleType, tmp_path: Path) -> None:
    stills, model = still_set(tmp_path / "stills"), tmp_path / "m.tflite"
    model.write_bytes(b"one")
    for number, share in enumerate((["0", "0.4"], ["0.4", "1"])):
        words = [str(model), f"stills:{stills}", "-o", str(tmp_path / f"maps{number}")]
        assert script.main([*words, "--share", *share]) == 0
    first, rest = (set(find_maps(tmp_path / f"maps{number}")) for number in (0, 1))
    assert (len(first), len(rest), first | rest) == (1, 2, {"a", "b", "c"})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["none.tflite", "synthetic:"], "no such file"),
        (["m.tflite", "stills"], "expected DATASET:ROOT"),
        (["m.tflite", "synthetic:"], "no still image"),
        (["m.tflite", "stills:stills", "--share", "1", "0"], "expected FROM below TO"),
    ],
)
def test_invalid_input_is_one_sentence(
    script: ModuleType,
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    still_set(tmp_path / "stills")
    Path("m.tflite").write_bytes(b"no network")
    assert script.main([*words, "-o", "maps"]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in error
    assert not Path("maps").exists()


def test_file_that_is_no_network_is_one_sentence(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("ai_edge_litert")
    (tmp_path / "m.tflite").write_bytes(b"no network")
    assert (
        script.main([str(tmp_path / "m.tflite"), f"stills:{still_set(tmp_path / 's')}", "-o", str(tmp_path / "o")])
        == 2
    )
    assert "cannot be read as a .tflite file" in capsys.readouterr().err


@pytest.mark.skipif(not CENTRE.is_file(), reason="the network of attention-center is not in ../shared/models")
def test_map_of_the_real_network_equals_that_without_xnnpack(script: ModuleType, tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert")
    words = [str(CENTRE), f"stills:{still_set(tmp_path / 'stills')}", "-o", str(tmp_path / "maps")]
    assert script.main([*words, "--share", "0", "0.4", "--check", "1"]) == 0
