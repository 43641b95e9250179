"""Arguments of `cache build --engine ray` that are refused before a cluster is used."""

import socket
import sys

import pytest

from distill.cli.main import main

RAY = ["cache", "build", "@distill/demo", "--engine", "ray"]


@pytest.mark.parametrize("words", [["--address", "auto"], ["--cpus-per-worker", "2"]])
def test_option_of_ray_without_the_engine_is_refused(words, capsys):
    assert main(["cache", "build", "@distill/demo", *words]) == 2
    assert capsys.readouterr().err == f"saldistill: {words[0]}: needs the workers of a cluster; add --engine ray\n"


def test_missing_ray_is_named_with_its_extra(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(RAY) == 2
    assert "ray: not installed, and this needs it; install it with: pip install 'saldistill[ray]'" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize("address", ["nowhere", "ray://10.0.0.1:10001", "10.0.0.1:99999", "10.0.0.1:port"])
def test_address_of_another_form_is_refused(address, capsys):
    assert main([*RAY, "--address", address]) == 2
    assert f"saldistill: --address {address}: expected auto, or HOST:PORT" in capsys.readouterr().err


def test_address_where_nothing_listens_is_refused(capsys):
    with socket.socket() as unused:  # bound, but not listening
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        assert main([*RAY, "--address", address]) == 2
    assert f"--address {address}: no Ray cluster can be reached there (Connection refused)" in (
        capsys.readouterr().err
    )
