"""Without the library c2pa: what is asked of it is refused, what others did is said."""

import sys

import numpy as np
import pytest

from soraflax import media
from soraflax.cli import main
from soraflax.generation import signing, verification


@pytest.fixture(autouse=True)
def without_the_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "c2pa", None)


def test_signing_names_the_extra(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for line, message in (
        ("--sign a.pem b.pem", "not installed: pip install 'soraflax[c2pa]'"),
        ("--sign a.pem b.pem --out x.mkv", ".mkv holds no content credentials: .mp4, "),
    ):
        status = main.main(["generate", "a circle", *line.split()])
        told = capsys.readouterr()
        assert status == 2 and message in told.err, told.err
        assert len(told.err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_credentials_that_are_not_read_are_said(tmp_path):
    path = tmp_path / "out.mp4"
    media.Video(np.zeros((3, 16, 16, 3), np.uint8), 8.0, {}).save(path)
    assert signing.read(path) is None
    assert verification.verify(path).credentials is None
    with open(path, "ab") as file:  # a box of no meaning with a store's first bytes
        file.write((8 + 16).to_bytes(4) + b"free" + signing._STORE)
    found = verification.verify(path)
    assert found.outcome == "unknown" and found.credentials == signing.Credentials()
    assert "credentials: not read: pip install 'soraflax[c2pa]'" in found.text
