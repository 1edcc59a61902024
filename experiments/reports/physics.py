"""Physics: is a law of motion learnt, or are the clips of training remembered?

    python -m experiments.reports.physics [--quick] [--output report]

The protocol of PhyWorld (arXiv:2411.02385), whose training code was never released, on
this repository's bodies: one disc in even motion. A *combination* is a colour, a bin of
radii and a bin of speeds. Models are trained on growing sets of combinations, each set
holding the one before, and for growing compute, to continue the first frames of a clip
(no words say how fast or how large). They are tested on clips

    in            of combinations of training
    new           of combinations that no set holds, whose colour, radius and speed do
                  occur in the largest set
    out, speed    faster or slower than any clip of training
    out, radius   larger or smaller

and the judge's own blobs are held against the truth over the frames that were made:

    velocity      |v - v_true|, short sides per second, v from the ends of the track (1)
    radius        |r - r_true| in short sides, the mean over frames                  (2)
    colour        distance of the body's colour in levels, the mean over frames      (3)

A clip whose body is lost has none of these and counts as *lost*. Chance of (1) is a
body that stands where it was last given; of (2) and (3), which are given, it is every
clip held against the truth of all others of its test. The ceiling is real renders
through the autoencoder.
"""

import dataclasses
import functools
import itertools
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.figure
import numpy as np

from data_pipelines.worlds import bodies, captions, draw, judge, palette, scenes, truth
from experiments import json_values
from experiments.plots import strips
from experiments.reports import budgets, scoreboard, worlds
from experiments.scaling import sweep
from soraflax.generation import generator, tasks

NAME = "physics"
CLAIM = "Models of video learn how bodies move, beyond the combinations they saw."
COLOURS = ("red", "yellow", "green", "cyan", "blue", "purple")
RADII = ((0.10, 0.13), (0.13, 0.16), (0.16, 0.19))
SPEEDS = ((0.08, 0.13), (0.13, 0.18), (0.18, 0.23), (0.23, 0.27))
OUT_RADII = ((0.07, 0.085), (0.21, 0.225))
OUT_SPEEDS = ((0.02, 0.05), (0.31, 0.34))
TESTS = ("in", "new", "out, speed", "out, radius")
ERRORS = ("velocity", "radius", "colour")
SIZE, FPS, FRAMES, MARGIN = 64, 8.0, 17, 0.03
# Only the beginning of a clip is ever known, which is what the tests ask for.
MASKS = {
    "prefix": 0.9,
    **dict.fromkeys(("first_frame", "suffix", "both_ends", "frames", "boxes"), 0.0),
}

Range = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Combination:
    """What a clip is drawn from; radii in short sides, speeds in those per second."""

    colour: str
    radius: Range
    speed: Range


@dataclasses.dataclass(frozen=True)
class PhysicsConfig:
    """Sizes of the report.

    Attributes:
      combinations: numbers of training combinations, growing.
      budget: FLOPs of the first rung.
      rungs: compute of each rung over that.
      held_out: combinations that no set holds.
      clips: training clips of every set.
      tests: clips of each test.
      rows: packed rows of a batch.
      context: frames that are given.
      steps: solver steps.
      size: argument of the configuration; 'tiny' for tests.
    """

    combinations: tuple[int, ...] = (4, 12, 36)
    budget: float = 1.5e12
    rungs: tuple[int, ...] = (1, 4, 16, 32)
    held_out: int = 18
    clips: int = 6000
    tests: int = 48
    rows: int = 16
    context: int = 5
    steps: int = 20
    size: str = "small"


QUICK = PhysicsConfig(
    combinations=(4, 12),
    budget=2.5e12,
    rungs=(1,),
    clips=300,
    tests=12,
    rows=8,
    steps=10,
)


def combinations(config: PhysicsConfig) -> tuple[list[Combination], list[Combination]]:
    """Training combinations, of which a set is the first so many, and held-out ones.

    They lie in an order in which every colour, radius and speed soon occurs.

    Raises:
      ValueError: more are asked for than there are.
    """
    every = [Combination(*c) for c in itertools.product(COLOURS, RADII, SPEEDS)]
    random = np.random.default_rng(0)
    shuffled = [every[i] for i in random.permutation(len(every))]
    left, known = shuffled[: config.held_out], shuffled[config.held_out :]
    if max(config.combinations) > len(known):
        raise ValueError(
            f"{max(config.combinations)} combinations: use {len(known)} or fewer, "
            f"{config.held_out} of {len(every)} are held out"
        )
    ordered: list[Combination] = []
    while known:
        seen = {value for c in ordered for value in dataclasses.astuple(c)}
        best = max(known, key=lambda c: len(set(dataclasses.astuple(c)) - seen))
        known.remove(best)
        ordered.append(best)
    return ordered, left


def choices_of_tests(config: PhysicsConfig, count: int) -> dict[str, list[Combination]]:
    """The combinations of each test of a model that was trained on `count`."""
    ordered, left = combinations(config)
    return {
        "in": ordered[:count],
        "new": left,
        "out, speed": [
            dataclasses.replace(c, speed=speed)
            for c in ordered[:count]
            for speed in OUT_SPEEDS
        ],
        "out, radius": [
            dataclasses.replace(c, radius=radius, speed=SPEEDS[0])
            for c in ordered[:count]
            for radius in OUT_RADII
        ],
    }


def render(
    stream: int, index: int, *, choices: Sequence[Combination]
) -> bodies.RenderedClip:
    """Clip `index` of a stream: a disc that moves evenly and stays inside."""
    draws = bodies.Draws(stream, index, purpose=2)
    chosen = draws.choice(choices)
    radius, speed = draws.uniform(*chosen.radius), draws.uniform(*chosen.speed)
    direction = draws.choice(("left", "right", "up", "down"))
    heading = np.array(palette.DIRECTIONS[direction])
    travel = heading * speed * (FRAMES - 1) / FPS
    low = radius + MARGIN + np.maximum(-travel, 0)
    high = 1 - radius - MARGIN - np.maximum(travel, 0)
    x, y = (draws.uniform(a, b) for a, b in zip(low, high, strict=True))
    body = scenes.Body(
        colour=chosen.colour,
        shape="circle",
        size="small" if radius < RADII[1][0] else "large",
        direction=direction,
        radius=radius,
        position=(x, y),
        velocity=(float(heading[0] * speed), float(heading[1] * speed)),
    )
    scene = scenes.Scene(SIZE, SIZE, FRAMES, FPS, "white", (body,))
    motion = scenes.simulate(scene)
    video, seen = draw.render(scene, motion)
    told = truth.describe(scene, motion, seen=seen)
    told |= {"radius": radius, "velocity": list(body.velocity)}
    named = [told["objects"][0] | {"verb": None}]
    text = captions.short(named).replace(f"{body.size} ", "")  # "a red circle"
    return bodies.RenderedClip(video, FPS, {"short": text, "detailed": text}, told)


def data(folder: pathlib.Path, count: int, *, config: PhysicsConfig) -> pathlib.Path:
    """Latents of clips of the first `count` combinations, made where there are none."""
    choices = combinations(config)[0][:count]
    held_out = max(2, min(64, config.clips // 10))

    def clips(stream: int, number: int) -> Iterator[bodies.RenderedClip]:
        for index in range(number):
            yield render(stream, index, choices=choices)

    return budgets.rendered_data(
        folder,
        f"physics-{count}",
        clips={"train": clips(0, config.clips), "validation": clips(1, held_out)},
        about={"combinations": [dataclasses.asdict(c) for c in choices]},
        size=config.size,
    )


@dataclasses.dataclass(frozen=True)
class Track:
    """The body over the frames that were made, in short sides and levels.

    Attributes:
      velocity: (1)'s v, of x and y.
      radius: the mean over frames.
      colour: the mean over frames.
    """

    velocity: np.ndarray
    radius: float
    colour: np.ndarray

    def error(self, clip: bodies.RenderedClip) -> dict[str, float]:
        """(1) to (3) against a clip's truth."""
        colour = palette.COLOURS[clip.truth["attributes"]["colour"]]
        away = np.subtract(self.velocity, clip.truth["velocity"])
        return {
            "velocity": float(np.hypot(*away)),
            "radius": abs(self.radius - clip.truth["radius"]),
            "colour": float(np.linalg.norm(np.subtract(self.colour, colour))),
        }


def track(video: np.ndarray, *, given: int) -> Track | None:
    """The largest blob of every frame from the last given one on.

    None where the body is lost: the last frame, or a third of all, has none.
    """
    largest: dict[int, judge.Blob] = {}
    for blob in judge.blobs(video):
        if blob.frame >= given - 1:
            known = largest.get(blob.frame)
            if known is None or blob.area > known.area:
                largest[blob.frame] = blob
    frames = sorted(largest)
    count = len(video) - given + 1
    if len(frames) < max(2, 2 * count // 3) or frames[-1] != len(video) - 1:
        return None
    short = min(video.shape[1:3])
    time = (frames[-1] - frames[0]) / FPS
    ends = [np.array(largest[i].centre) / short for i in (frames[0], frames[-1])]
    made = [largest[i] for i in frames if i >= given]
    return Track(
        velocity=(ends[1] - ends[0]) / time,
        radius=float(np.mean([np.sqrt(b.area / np.pi) / short for b in made])),
        colour=np.mean([b.colour for b in made], axis=0),
    )


def continued(
    model: generator.Generator,
    clips: Sequence[bodies.RenderedClip],
    *,
    config: PhysicsConfig,
) -> list[np.ndarray]:
    """Every clip, its given frames continued; guidance would need words that tell."""
    given = config.context
    jobs = [
        generator.Job(
            tasks.extend(
                model.grid,
                clip.video[:given],
                direction="forward",
                frames=FRAMES - given,
                context=given,
                fps=FPS,
            ),
            clip.captions["short"],
            seed=index,
        )
        for index, clip in enumerate(clips)
    ]
    sampling = generator.SamplingConfig(config.steps, guidance=1.0)
    return [np.asarray(video) for video in model(jobs, sampling)]


def figures(
    name: str,
    videos: Sequence[np.ndarray],
    *,
    clips: Sequence[bodies.RenderedClip],
    decoded: Sequence[np.ndarray],
    given: int,
) -> list[scoreboard.Figure]:
    """(1) to (3) of a test, and the share of clips whose body is lost."""
    read = functools.partial(track, given=given)
    tracks = [read(video) for video in videos]
    real = [read(video) for video in decoded]

    def errors(some: Sequence[Track | None], *, own: bool) -> list[dict[str, float]]:
        return [
            one.error(clip)
            for i, one in enumerate(some)
            for j, clip in enumerate(clips)
            if one is not None and (i == j) == own
        ]

    rows = {
        "own": errors(tracks, own=True),
        "chance": errors(tracks, own=False),
        "real": errors(real, own=True),
    }

    def average(side: str, error: str) -> float | None:
        values = [row[error] for row in rows[side]]
        return float(np.mean(values)) if values else None

    standing = float(np.mean([np.hypot(*clip.truth["velocity"]) for clip in clips]))
    made = [
        scoreboard.mean(
            f"{name}: {error} error",
            [row[error] for row in rows["own"]],
            chance=standing if error == "velocity" else average("chance", error),
            ceiling=average("real", error),
            better="low",
        )
        for error in ERRORS
    ]
    lost = [one is None for one in tracks]
    best = float(np.mean([one is None for one in real]))
    return [*made, scoreboard.share(f"{name}: lost", lost, ceiling=best, better="low")]


def train(
    folder: pathlib.Path,
    count: int,
    *,
    rung: int,
    config: PhysicsConfig,
    run: sweep.Run = sweep.train_here,
) -> pathlib.Path:
    """The model of a number of combinations and a rung; its work folder."""
    where = folder / f"combinations-{count:02d}"
    where.mkdir(parents=True, exist_ok=True)
    return budgets.train(
        where / f"rung-{rung:02d}",
        data(where, count, config=config),
        budget=rung * config.budget,
        rows=config.rows,
        flags=[f"--config.loss.mask_rates.{k}={v}" for k, v in MASKS.items()],
        size=config.size,
        run=run,
    )


def measure(
    model: generator.Generator, count: int, *, config: PhysicsConfig
) -> tuple[dict[str, list[scoreboard.Figure]], list[strips.Row]]:
    """Figures of every test of a model, and a row of truth and of video for each."""
    found, rows = {}, []
    for stream, (test, choices) in enumerate(choices_of_tests(config, count).items()):
        clips = [
            render(100 + stream, index, choices=choices)
            for index in range(config.tests)
        ]
        videos = continued(model, clips, config=config)
        decoded = worlds.reconstructions(model.model.autoencoder, clips)
        found[test] = figures(
            test, videos, clips=clips, decoded=decoded, given=config.context
        )
        given = np.arange(FRAMES) < config.context
        rows.append(strips.Row(videos[0], given, label=f"{test}: continued"))
        rows.append(strips.Row(clips[0].video, ~np.zeros(FRAMES, bool), label="truth"))
    return found, rows


def make(
    output: pathlib.Path,
    *,
    config: PhysicsConfig,
    run: sweep.Run = sweep.train_here,
) -> scoreboard.Claim:
    """The claim, from nothing; velocity in new combinations decides.

    The figures of the page are of the largest set and the last rung; `physics.json`
    and `physics.png` have all.
    """
    folder = output / NAME
    folder.mkdir(parents=True, exist_ok=True)
    table: list[dict[str, Any]] = []
    last: dict[str, list[scoreboard.Figure]] = {}
    rows: list[strips.Row] = []
    spent = 0.0
    for count, rung in itertools.product(config.combinations, config.rungs):
        workdir = train(folder, count, rung=rung, config=config, run=run)
        spent += worlds.training_flops(workdir)
        model = generator.Generator.load(workdir)
        last, rows = measure(model, count, config=config)
        table += [
            {"combinations": count, "rung": rung, "test": test}
            | dataclasses.asdict(figure)
            for test, some in last.items()
            for figure in some
        ]
    json_values.write(folder / "physics.json", table)
    strips.sheet(folder / "clips.png", rows, frames=9, scale=1)
    curves(folder / "physics.png", table, config=config)
    ordered = [f for test in ("new", "in", *TESTS[2:]) for f in last[test]]
    of = f"{max(config.combinations)} combinations at {max(config.rungs)}x compute"
    return scoreboard.Claim(
        NAME,
        CLAIM,
        "",
        tuple(ordered),
        pictures=(
            ("physics.png", "errors over the number of combinations, a line per rung"),
            ("clips.png", f"{of}: grey frames are given, blue ones made"),
        ),
        notes=(
            f"the figures are of {of}; the table of all is physics.json",
            "even motion alone: collisions and falling bodies are not trained",
            "one training seed of each",
        ),
        flops=spent,
    )


def curves(
    path: pathlib.Path, table: Sequence[dict[str, Any]], *, config: PhysicsConfig
) -> None:
    """Errors over the number of combinations: a panel per test, a line per rung."""
    figure = matplotlib.figure.Figure((11, 7), layout="constrained")
    panels = figure.subplots(len(ERRORS), len(TESTS), sharex=True, sharey="row")
    for (i, error), (j, test) in itertools.product(enumerate(ERRORS), enumerate(TESTS)):
        panel = panels[i, j]
        for k, rung in enumerate(config.rungs):
            rows = [
                row
                for row in table
                if row["rung"] == rung and row["name"] == f"{test}: {error} error"
            ]
            x = [row["combinations"] for row in rows]
            value, low, high = (
                np.array([row[key] for row in rows], float)
                for key in ("value", "low", "high")
            )
            bars = np.abs(np.stack([value - low, high - value]))
            panel.errorbar(x, value, bars, fmt="o-", color=f"C{k}", label=f"{rung}x")
            if rung == config.rungs[-1]:
                for key, style in (("chance", ":"), ("ceiling", "--")):
                    level = [np.nan if r[key] is None else r[key] for r in rows]
                    panel.plot(x, level, style, color="black", label=key)
        panel.grid(visible=True, linewidth=0.2)
        if i == 0:
            panel.set_title(test)
        if j == 0:
            panel.set_ylabel(f"{error} error")
    for panel in panels[-1]:
        panel.set_xlabel("training combinations")
    panels[0, 0].legend(fontsize="x-small")
    figure.savefig(path, dpi=100)


def main(argv: Sequence[str] | None = None) -> int:
    return scoreboard.run_claim(
        NAME, make, full=PhysicsConfig(), quick=QUICK, doc=__doc__, argv=argv
    )


if __name__ == "__main__":
    sys.exit(main())
