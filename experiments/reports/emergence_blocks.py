"""Digital worlds: the player follows the words, and the world follows the player.

    python -m experiments.reports.emergence_blocks [--quick] [--output report]

A model is trained on the world `blocks` and prompted with held-out combinations, once
with the caption that names the game and once without. The judge reads the player's way
and the blocks that broke; `blocks_judge.dynamics` holds every clip against the rules of
the simulator on the clip's own map. Chance of the rules is that of clips whose frames
are put into a random order.
"""

import dataclasses
import pathlib
import sys
from collections.abc import Sequence

import numpy as np

from data_pipelines.worlds import blocks, blocks_judge, bodies
from experiments.reports import scoreboard, worlds
from soraflax.generation import generator

NAME = "emergence_blocks"
CLAIM = "A game is played: the player follows a policy, the world its dynamics."
RECIPE = worlds.WorldRecipe("blocks")


def figures(
    videos: Sequence[np.ndarray],
    clips: Sequence[bodies.RenderedClip],
    decoded: Sequence[np.ndarray],
) -> list[scoreboard.Figure]:
    """Dynamics of generated clips beside shuffled ones and real renders."""
    del clips
    random = np.random.default_rng(0)
    shuffled = [video[random.permutation(len(video))] for video in videos]
    rows = {
        side: [blocks_judge.dynamics(video) for video in some]
        for side, some in (("own", videos), ("chance", shuffled), ("real", decoded))
    }
    names = {
        "consistent": "tiles that stay what they are or are broken from beside",
        "follows": "steps in which the world moves as one",
    }
    return [
        scoreboard.mean(
            text,
            [row[key] for row in rows["own"]],
            chance=float(np.nanmean([row[key] for row in rows["chance"]])),
            ceiling=float(np.nanmean([row[key] for row in rows["real"]])),
        )
        for key, text in names.items()
    ]


def with_game(
    clips: Sequence[bodies.RenderedClip], *, named: bool
) -> list[bodies.RenderedClip]:
    """The same clips with captions that name the game, or do not."""
    return [
        dataclasses.replace(
            clip,
            captions=clip.captions
            | {
                "detailed": f"{clip.captions['short']} {blocks.GAME}"
                if named
                else clip.captions["short"]
            },
        )
        for clip in clips
    ]


def compare(
    model: generator.Generator,
    clips: Sequence[bodies.RenderedClip],
    *,
    recipe: worlds.WorldRecipe,
) -> list[scoreboard.Figure]:
    """Shares of the direction, with the caption that names the game and without."""
    made = []
    for named in (True, False):
        asked = with_game(clips, named=named)
        videos = worlds.generate(model, asked, recipe=recipe)
        for figure in worlds.shares(videos, asked, world="blocks"):
            words = "with" if named else "without"
            name = f"{figure.name}, {words} the game's name"
            made.append(dataclasses.replace(figure, name=name))
    return made


def make(
    output: pathlib.Path, *, config: worlds.WorldRecipe = RECIPE
) -> scoreboard.Claim:
    """The claim, from data to figures."""
    claim = worlds.make_claim(
        NAME,
        claim=CLAIM,
        recipe=config,
        folder=output / NAME,
        extra=figures,
        deciding="direction",
    )
    model = generator.Generator.load(output / NAME / "blocks" / "video")
    both = compare(model, worlds.held_out(config), recipe=config)
    return dataclasses.replace(claim, figures=(*claim.figures, *both))


def main(argv: Sequence[str] | None = None) -> int:
    return scoreboard.run_claim(
        NAME, make, full=RECIPE, quick=RECIPE.quick(), doc=__doc__, argv=argv
    )


if __name__ == "__main__":
    sys.exit(main())
