"""Framing: squares cut what the truth says, and the whole subject decides."""

import dataclasses
import pathlib
from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image

from data_pipelines import records
from data_pipelines.worlds import bodies, judge
from experiments.reports import budgets, framing
from tests.generation import tiny

CONFIG = dataclasses.replace(framing.QUICK, clips=4, held_out=2, prompts=2, steps=2)


def _clip(index: int, size: tuple[int, int]) -> bodies.RenderedClip:
    world = dataclasses.replace(framing.WORLD, sizes=(size,))
    return bodies.render_clip(5, index, config=world)


def test_a_square_cuts_what_the_truth_says() -> None:
    clips = [_clip(index, (96, 64)) for index in range(24)]
    cut = [framing.is_cut(clip) for clip in clips]
    assert 4 < sum(cut) < 20
    squares = [framing.square(clip) for clip in clips]
    assert {clip.video.shape[1:3] for clip in squares} == {(64, 64)}
    read = [judge.read(clip.video).get("framing") == "cut" for clip in squares]
    assert np.mean([a == b for a, b in zip(cut, read, strict=True)]) > 0.9
    whole = [_clip(index, (64, 64)) for index in range(4)]
    assert not any(framing.is_cut(clip) for clip in whole)


def _verdict(
    native: Sequence[np.ndarray], squares: Sequence[np.ndarray]
) -> bool | None:
    size = (96, 64)
    found = framing.figures(
        {"native": {size: list(native)}, "square": {size: list(squares)}},
        real={size: list(native)},
        expected=[{}] * len(native),
    )
    return found[0].shown


def test_it_is_shown_only_where_the_subject_is_whole_more_often() -> None:
    clips = [_clip(index, (96, 64)) for index in range(30)]
    whole = [clip.video for clip in clips]
    cut = [
        np.repeat(np.repeat(framing.square(clip).video, 2, axis=1), 2, axis=2)
        for clip in clips
    ]
    assert _verdict(whole, cut) is True
    assert _verdict(whole, whole) is False and _verdict(cut, whole) is False


def test_both_policies_see_the_same_clips_in_other_frames(
    tmp_path: pathlib.Path,
) -> None:
    """And a model of each is asked for, of the same FLOPs."""
    asked = []

    def run(words: Sequence[str]) -> int:
        asked.append(dict(word[2:].split("=", 1) for word in words))
        return 2

    sizes, captions = {}, {}
    for policy in framing.POLICIES:
        where = tmp_path / policy
        latents = framing.data(where, policy, config=CONFIG)
        clips = records.open_dataset(where / "dataset", "train")
        sizes[policy] = {(clip.width, clip.height) for clip in clips[:]}
        captions[policy] = [clip.captions["detailed"] for clip in clips[:]]
        assert framing.data(where, policy, config=CONFIG) == latents
        with pytest.raises(ValueError, match="the same command tries it again"):
            budgets.train(
                where / "video",
                latents,
                budget=1e10,
                rows=2,
                flags=["--config.seed=3"],
                run=run,
            )
    assert sizes["square"] == {(64, 64)} and len(sizes["native"]) > 1
    assert captions["square"] == captions["native"]
    native, square = (int(words["config.train.steps"]) for words in asked)
    assert square >= native >= 2 and asked[0]["config.seed"] == "3"


def test_the_claim_of_untrained_models(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = tiny.save(tmp_path)
    (saved / "metrics.jsonl").write_text('{"step": 2, "training_flops": 7.0}\n')
    monkeypatch.setattr(budgets, "train", lambda *_, **__: saved)
    monkeypatch.setattr(framing, "data", lambda where, *_, **__: where)
    claim = framing.make(tmp_path, config=CONFIG)
    assert claim.verdict == "not shown" and claim.flops == 14.0
    assert len(claim.figures) == 1 + 3 * 2 * 2
    assert "square crops cut the body" in claim.notes[0]
    by_name = {figure.name: figure for figure in claim.figures}
    assert by_name["96x64 native: subject whole"].ceiling is not None
    with Image.open(tmp_path / "framing" / "framing.png") as picture:
        assert picture.width > 6 * 96
