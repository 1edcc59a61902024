"""Captions that are added stand beside a dataset's own, of clips and of latents."""

from pathlib import Path

import numpy as np
import pytest

from data_pipelines import added_captions, latents, records, transforms
from tests.data_pipelines import clip_data


@pytest.fixture
def clips(tmp_path):
    return clip_data.write_clips(tmp_path / "clips", train=3, validation=1)


def add(path, name, texts):
    facts = {"n": 1}
    return Path(
        added_captions.write(path, name, captions=texts.items(), statistics=facts)
    )


def test_readers_see_them_and_training_chooses_by_rates(clips):
    add(clips, "theirs", {f"clip-{n}": f"theirs {n}" for n in range(4)})
    for split in ("train", "validation"):
        for clip in records.open_dataset(clips, split):
            number = clip.id.rpartition("-")[2]
            assert clip.captions == {
                "short": f"clip {number}",
                "detailed": f"this is clip {number}",
                "theirs": f"theirs {number}",
            }
    (clip, *_) = records.open_dataset(clips)
    config = transforms.CaptionConfig(
        names=("short", "theirs"), weights=(0.25, 0.75), dropout=0.0
    )
    rng = np.random.default_rng(0)
    drawn = [
        transforms.choose_caption(clip.captions, config, rng=rng) for _ in range(400)
    ]
    assert {*drawn} == {"clip 0", "theirs 0"}
    assert 0.65 < np.mean([text == "theirs 0" for text in drawn]) < 0.85
    Path(added_captions.path_of(clips, "theirs")).unlink()
    assert "theirs" not in records.open_dataset(clips)[0].captions


def test_windows_of_latents_share_their_clips_caption(clips, tmp_path):
    path = tmp_path / "latents"
    config = latents.LatentCacheConfig(
        fit=transforms.FitConfig(max_tokens=100, max_frames=5), windows=2, batch=4
    )
    latents.cache_latents(clips, path, encoder=clip_data.encoder(), config=config)
    add(path, "theirs", {"clip-0": "of both"})
    add(path, "ones", {"clip-0#1": "of one"})
    said = {r.id: r.captions for r in latents.open_latents(path)}
    assert said["clip-0#0"]["theirs"] == said["clip-0#1"]["theirs"] == "of both"
    assert said["clip-0#1"]["ones"] == "of one" and "ones" not in said["clip-0#0"]
    assert "theirs" not in said["clip-1"]


@pytest.mark.parametrize("line", ["{", '{"id": 3, "caption": "x"}', '["a", "b"]'])
def test_damaged_captions_are_named(clips, line):
    path = add(clips, "theirs", {"clip-0": "x"})
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(records.DatasetError, match=r"theirs\.jsonl: line 2 is not"):
        records.open_dataset(clips)


@pytest.mark.parametrize("name", ["", "a/b", "..", "x" * 80])
def test_a_name_that_is_none_is_refused(clips, name):
    with pytest.raises(records.DatasetError, match="caption source"):
        add(clips, name, {})
