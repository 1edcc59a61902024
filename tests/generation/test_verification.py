"""Files say that they were generated, and say so no more where they were changed."""

import json

import numpy as np
import pytest

from soraflax import media
from soraflax.generation import verification

RECORD = {
    "generator": "soraflax",
    "version": "0.1.0",
    "generated": True,
    "task": "edit",
    "prompt": "a large red circle",
    "seed": 3,
    "size": [16, 16],
    "frames": 3,
    "options": {"expansion": {"expander": "template", "prompt": "a circle"}},
    "inputs": {"clip": {"file": "in.mp4", "sha256": "f" * 64}},
    "checkpoint": {"transformer": "a" * 64},
}


def save(path, record, frames=3):
    pixels = np.random.default_rng(0).integers(0, 256, (frames, 16, 16, 3), np.uint8)
    return media.Video(pixels, 8.0, record).save(path)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".gif"])
def test_a_result_says_how_it_was_made(tmp_path, suffix):
    found = verification.verify(save(tmp_path / f"out{suffix}", RECORD))
    assert found.outcome == "generated" and found.record == RECORD
    lines = found.text.splitlines()
    assert lines[0].endswith("generated in part by soraflax 0.1.0")
    assert "  expanded from: a circle" in lines
    assert "  expanded by: template" in lines
    assert f"  clip: in.mp4 ({'f' * 12})" in lines
    assert json.loads(json.dumps(found.values))["outcome"] == "generated"


def test_a_recording_says_nothing(tmp_path):
    found = verification.verify(save(tmp_path / "clip.mp4", {"title": "x"}))
    assert found.outcome == "unknown" and "no record" in found.text


def test_a_record_beside_a_file_counts_and_must_agree(tmp_path):
    plain = save(tmp_path / "plain.mp4", {})
    beside = tmp_path / "plain.mp4.json"
    beside.write_text(json.dumps(RECORD))
    assert verification.verify(plain).outcome == "generated"
    out = save(tmp_path / "out.mp4", RECORD)
    (tmp_path / "out.mp4.json").write_text(json.dumps(RECORD | {"prompt": "a dog"}))
    found = verification.verify(out)
    assert found.outcome == "conflict"
    assert found.problems == ("out.mp4.json has other prompt",)


def test_a_record_of_another_video_is_a_conflict(tmp_path):
    found = verification.verify(save(tmp_path / "out.mp4", RECORD, frames=2))
    assert found.outcome == "conflict"
    assert "3 frames, this of 2" in found.text


def test_what_is_no_video_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(media.MediaError):
        verification.verify(tmp_path / "notes.txt")
    with pytest.raises(media.MediaError, match="no such file"):
        verification.verify(tmp_path / "none.mp4")
