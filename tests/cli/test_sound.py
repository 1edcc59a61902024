"""Commands that keep a clip's frames keep its sound over them, or say why not."""

import json
import pathlib

import numpy as np
import pytest

from soraflax import media
from tests.cli import conftest
from tests.media import test_sound

SECONDS = 8 / 24


@pytest.fixture
def clips(place):
    """`c.mkv`, with sound at 24 frames a second; `mute.mkv`, without; and others."""
    sound = media.PlacedSound(test_sound.CLIP, SECONDS)
    for name, sounds in (("c.mkv", [sound]), ("mute.mkv", [])):
        frames = conftest.squares(8)
        media.write_frames(name, frames, fps=24.0, sounds=sounds)
    mask = np.zeros((1, 16, 32, 3), np.uint8)
    mask[:, :, :16] = 255
    media.write_video("m.png", mask, fps=1.0)
    raw = test_sound.pcm(pathlib.Path("raw_sound.mkv"))
    raw_sound = [media.PlacedSound(raw, SECONDS)]
    media.write_frames("raw.mkv", conftest.squares(8), fps=24.0, sounds=raw_sound)
    return place


def times(path):
    return [time for time, _ in test_sound.packets(pathlib.Path(path))]


WHOLE = len(range(0, 333, 23))  # packets of the clip


@pytest.mark.parametrize(
    ("line", "starts", "silent"),
    [
        ("extend c.mkv --frames 4 --context 5", [0.0], True),
        ("extend c.mkv --direction backward --frames 6", [6 / 24], True),
        ("loop c.mkv --frames 4 --context 4", [0.0], True),
        ("connect c.mkv c.mkv --frames 4 --context 4", [0.0, 12 / 24], True),
        ("connect mute.mkv c.mkv --frames 4 --context 4", [12 / 24], True),
        ("edit c.mkv a", [0.0], False),
        ("inpaint c.mkv --mask m.png", [0.0], False),
        ("outpaint c.mkv --size 48x16", [0.0], False),
        ("upscale c.mkv --size 64x32", [0.0], False),
    ],
)  # fmt: skip
def test_sound_is_kept_over_the_frames_of_a_clip(run, clips, line, starts, silent):
    status, _, told = run(f"{line} --out out.mkv")
    assert status == 0, told
    assert [("have none" in text) for text in told] == [True] * silent
    found = times("out.mkv")
    assert len(found) == WHOLE * len(starts)
    np.testing.assert_allclose(found[::WHOLE], starts, atol=2e-3)
    record = json.loads(pathlib.Path("out.mkv.json").read_text())
    assert len(record["notes"]) == len(told)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("extend c.mkv --frames 4 --context 5 --no-audio --out out.mkv", None),
        ("extend mute.mkv --frames 4 --context 5 --out out.mkv", None),
        ("loop c.mkv --frames 4 --context 4 --out out.gif", "a .gif has none of aac"),
        ("edit c.mkv a --fps 12 --out out.mkv", "12 frames per second are not its own"),
        ("edit raw.mkv a --out out.mp4", "a .mp4 has none of pcm_u8: use .mkv"),
    ],
)
def test_sound_that_is_left_out_is_said(run, clips, line, says):
    status, (path,), told = run(line)
    assert status == 0
    assert len(told) == (says is not None)
    assert says is None or ("its sound is left out" in told[0] and says in told[0])
    assert path.endswith(".gif") or times(path) == []


def test_only_one_of_two_unlike_sounds_is_kept(run, clips):
    status, _, told = run("connect c.mkv raw.mkv --frames 4 --context 4 --out out.mkv")
    assert status == 0
    assert "raw.mkv: its sound is left out: it is coded otherwise" in told[0]
    assert "c.mkv: the sound is kept over its frames" in told[1]
    assert len(times("out.mkv")) == WHOLE


def test_a_video_whose_sound_is_damaged_is_made_without(run, clips, monkeypatch):
    def damaged(path):
        raise media.MediaError(f"{path}: sound: invalid data")

    monkeypatch.setattr(media, "find_sound", damaged)
    status, _, told = run("edit c.mkv a --out out.mkv")
    assert (status, times("out.mkv")) == (0, [])
    assert told[0].endswith("c.mkv: sound: invalid data: its sound is left out")


def test_the_command_in_the_record_makes_the_same_sound(run, clips):
    for flag in ("", " --no-audio"):
        assert run(f"edit c.mkv a --out out.mkv{flag}")[0] == 0
        record = json.loads(pathlib.Path("out.mkv.json").read_text())
        assert ("--no-audio" in record["command"]) == bool(flag)
