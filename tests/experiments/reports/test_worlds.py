"""Reports of worlds: real renders are shown, noise is not; training is resumed."""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from PIL import Image

from experiments.reports import (
    emergence_blocks,
    emergence_canvas,
    emergence_room,
    scoreboard,
    worlds,
)
from soraflax.pretrained import shipped
from tests.experiments.reports import untrained

REPORTS = {
    "room": (emergence_room, "camera"),
    "canvas": (emergence_canvas, "trace that stays"),
    "blocks": (emergence_blocks, "direction"),
}


def _clips(world: str, *, count: int = 6, **fields: Any) -> list[Any]:
    recipe = worlds.WorldRecipe(world, prompts=count)
    return worlds.held_out(recipe, sizes=((64, 64),), frames=(17,), **fields)


def _verdict(world: str, clips: Sequence[Any], videos: Sequence[np.ndarray]) -> str:
    report, deciding = REPORTS[world]
    real = [clip.video for clip in clips]
    figures = worlds.shares(videos, clips, world=world, decoded=real)
    figures += report.figures(videos, clips, real)
    figures.sort(key=lambda figure: figure.name != deciding)
    assert figures[0].name == deciding
    return scoreboard.Claim(world, "", "", tuple(figures), machine="").verdict


@pytest.mark.parametrize("world", list(REPORTS))
def test_a_perfect_model_is_shown_and_noise_is_not(world: str) -> None:
    fields = {"image_share": 0.0} if world == "room" else {}
    clips = _clips(world, count=10, **fields)  # of few, noise may be right by luck
    assert _verdict(world, clips, [clip.video for clip in clips]) == "shown"
    random = np.random.default_rng(0)
    noise = [random.integers(0, 255, c.video.shape, np.uint8) for c in clips]
    assert _verdict(world, clips, noise) != "shown"


def test_what_is_measured_beside_the_words_tells_worse_from_better() -> None:
    clips = _clips("room", image_share=0.0, cameras=("orbits left", "pans right"))
    real = [clip.video for clip in clips]
    random = np.random.default_rng(0)
    torn = [random.integers(0, 255, video.shape, np.uint8) for video in real]
    (good,), (bad,) = (emergence_room.figures(v, clips, real) for v in (real, torn))
    assert good.value < 0.6 and bad.value > 0.8
    strokes = _clips("canvas", actions=("stroke",))
    wiped = [clip.video.copy() for clip in strokes]
    for video in wiped:
        video[-1] = video[0]
    stays, area = emergence_canvas.figures(wiped, strokes, wiped)
    assert stays.value == 0.0 and area.value < 0.1


def test_the_game_is_named_or_not() -> None:
    clips = _clips("blocks")
    named = emergence_blocks.with_game(clips, named=True)
    silent = emergence_blocks.with_game(clips, named=False)
    assert all(c.captions["detailed"].endswith("in a block game") for c in named)
    assert not any("game" in clip.captions["detailed"] for clip in silent)


def test_stages_are_trained_in_order_once_and_a_failure_is_told(
    tmp_path: pathlib.Path,
) -> None:
    recipe = worlds.WorldRecipe("canvas", size="tiny", clips=4, steps=2)
    ran: list[list[str]] = []

    def run(words: Sequence[str]) -> int:
        ran.append(list(words))
        if len(ran) == 2:
            return 2
        workdir = pathlib.Path(words[-1].partition("=")[2])
        workdir.mkdir()
        (workdir / "result.json").write_text("{}")
        return 0

    with pytest.raises(ValueError, match="video of canvas failed"):
        worlds.train(recipe, tmp_path, run=run)
    assert worlds.train(recipe, tmp_path, run=run) == tmp_path / "video"
    assert [words[0] for words in ran] == [
        "--config=autoencoder_small:tiny",
        "--config=bodies:tiny",
        "--config=bodies:tiny",
    ]
    assert f"--config.autoencoder={tmp_path / 'autoencoder'}" in ran[1]


def test_the_quick_form_trains_the_shipped_model_on(tmp_path: pathlib.Path) -> None:
    recipe = worlds.WorldRecipe("canvas", flags=("--config.seed=3",))
    full = worlds.stages(recipe, tmp_path)
    assert list(full) == ["autoencoder", "video"]
    assert f"--config.autoencoder={tmp_path / 'autoencoder'}" in full["video"]
    assert worlds.training_notes(recipe) == []
    quick = recipe.quick()
    (words,) = worlds.stages(quick, tmp_path).values()
    assert words[:2] == [
        "--config=bodies_longer",
        f"--config.base={shipped.folder()}",
    ]
    assert f"--config.train.steps={quick.steps}" in words
    assert words[-1] == "--config.seed=3"
    # Its averages forget where it began.
    (decay,) = (word for word in words if "ema_decay" in word)
    assert float(decay.partition("=")[2]) ** quick.steps < 1e-3
    assert f"for {quick.steps} steps" in worlds.training_notes(quick)[0]


def test_the_picture_has_generated_clips_above_real_ones(
    tmp_path: pathlib.Path,
) -> None:
    clips = _clips("canvas")
    videos = [np.zeros_like(clip.video) for clip in clips]
    worlds.draw(tmp_path / "clips.png", videos, clips=clips, shown=2)
    with Image.open(tmp_path / "clips.png") as picture:
        pixels = np.asarray(picture)
    assert (pixels == 0).all(-1).sum() >= 2 * 8 * 64 * 64


def test_a_claim_is_made_of_an_untrained_model(tmp_path: pathlib.Path) -> None:
    """From data to figures and picture; training leaves a tiny model behind."""
    recipe = worlds.WorldRecipe(
        "canvas", clips=4, prompts=2, solver_steps=2, guidance=1.0
    )
    claim = worlds.make_claim(
        "emergence_canvas",
        claim=emergence_canvas.CLAIM,
        recipe=recipe,
        folder=tmp_path,
        extra=emergence_canvas.figures,
        deciding="trace that stays",
        run=untrained.Command(),
    )
    assert (
        claim.figures[0].name == "trace that stays" and claim.flops == untrained.FLOPS
    )
    assert {"action", "colour"} <= {figure.name for figure in claim.figures}
    assert all(figure.ceiling is not None for figure in claim.figures[1:])
    assert (tmp_path / "clips.png").is_file()
    claim.save(tmp_path)
    assert scoreboard.read(tmp_path).verdict == claim.verdict
