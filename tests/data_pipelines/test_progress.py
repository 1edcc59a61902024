"""Bars: plain lines in a log, one that is drawn over on a terminal."""

import io
import sys

import pytest

from data_pipelines import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def _shown(stream: io.StringIO, patch: pytest.MonkeyPatch) -> str:
    patch.setattr(sys, "stderr", stream)
    assert list(progress.bar([1, 2, 3], what="clips", unit="clip")) == [1, 2, 3]
    with progress.bar(total=3, what="latents") as bar:
        bar.update(3)
    return stream.getvalue()


def test_short_work_leaves_nothing_in_a_log(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _shown(io.StringIO(), monkeypatch) == ""


def test_long_work_leaves_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "FIRST", 1e-9)
    monkeypatch.setattr(progress, "EVERY", 0.0)
    text = _shown(io.StringIO(), monkeypatch)
    assert "\r" not in text and "\x1b" not in text
    lines = text.splitlines()
    assert any(line.startswith("clips: 100%") for line in lines)
    assert any(line.startswith("latents: 100%") for line in lines)
    assert all(lines)


def test_a_terminal_has_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "\r" in _shown(Terminal(), monkeypatch)
