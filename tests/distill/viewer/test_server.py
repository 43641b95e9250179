import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from helpers.places import REPOSITORY
from helpers.waiting import wait_until

from distill.cli import main
from distill.errors import UserError
from distill.viewer import server
from distill.viewer.server import USUAL_PORT, listen

COMMAND = [sys.executable, "-u", "-m", "distill.cli.main", "view", "synthetic:0-48x72x128", "--no-browser"]


@pytest.mark.parametrize(
    ("number", "code", "text"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_command_serves_until_it_is_signalled(tmp_path: Path, number: int, code: int, text: str) -> None:
    log = tmp_path / "log"
    with log.open("w") as stdout:
        process = subprocess.Popen(
            [*COMMAND, "--model", "centre-prior", "--data", "synthetic:"],
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
    wait_until(lambda: "\n" in log.read_text(), process)
    line = r"Viewing synthetic:0-48x72x128 at (http://127\.0\.0\.1:[0-9]+) \(Ctrl-C stops\)\n"
    found = re.fullmatch(line, log.read_text())
    assert found
    with urllib.request.urlopen(f"{found[1]}/api/view") as answer:
        assert json.load(answer)["panels"] == ["frame", "ground truth", "centre-prior"]
    urllib.request.urlopen(f"{found[1]}/api/videos/0/frames/0/viewed").close()
    process.send_signal(number)
    error = process.communicate(timeout=60)[1]
    assert process.returncode == code
    assert error.splitlines()[-1] == f"saldistill: {text}", error
    assert "Traceback" not in error


def test_server_listens_on_the_loopback_interface_only() -> None:
    with listen(None) as listening:
        assert listening.getsockname()[0] == "127.0.0.1"


def test_usual_port_gives_way_to_a_free_one() -> None:
    with listen(None) as first, listen(None) as second:
        assert first.getsockname()[1] != second.getsockname()[1]
        assert second.getsockname()[1] != USUAL_PORT


def test_taken_port_is_one_sentence() -> None:
    with listen(None) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"--port {port}: is taken by another program; choose another port"):
            listen(port)


@pytest.mark.parametrize("port", ["0", "65536", "-1", "8o"])
def test_impossible_port_is_a_usage_error(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main.main(["view", "synthetic:0-48x72x128", "--port", port])
    assert exit_.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("saldistill view: error: argument --port: ")


def test_missing_package_is_one_sentence_with_the_pip_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "distill.viewer.server", raising=False)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert main.main(["view", "synthetic:0-48x72x128"]) == 2
    assert capsys.readouterr().err == (
        "saldistill: uvicorn: not installed, and this needs it; install it with: pip install 'saldistill[view]'\n"
    )


def test_missing_path_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["view", "no/such/path"]) == 2
    assert capsys.readouterr().err == (
        "saldistill: no/such/path: does not exist; expected a run folder, scores, a target store or a video\n"
    )


def test_browser_opens_on_a_desktop_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    assert not server.has_desktop()
    monkeypatch.setenv("DISPLAY", ":0")
    assert server.has_desktop()
