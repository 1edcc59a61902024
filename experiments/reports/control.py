"""Control: an image animated so that each body, and the camera, does what is said.

    python -m experiments.reports.control [--quick] [--output report]

A model is trained on one to three bodies under a camera that pans or stands (`bodies`,
variant `directed`), mostly from a given first frame, and animates first frames of clips
that it never saw. Nothing in a first frame says what will move: the words alone do. The
judge finds each body by its colour and shape, takes the camera's motion out, and reads

    obeyed        the share of bodies that move as their words say                (1)
    undisturbed   of bodies that are to stay still, those that do                 (2)
    camera        the share of clips whose camera pans, or stands, as is said     (3)

A body that is not found again is not obeyed. Chance holds every clip against the words
of all others, the ceiling is real renders through the autoencoder.

First frames of one body are also animated along a drawn path (`generation.paths`), with
no word of motion; the model was not trained for that:

    path     distance from where the path ends to where the body is in the last
             frame, in short sides; chance is a body that stays                   (4)
    kept     the share of those clips whose body still has its colour and shape   (5)
"""

import dataclasses
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from data_pipelines.worlds import bodies, captions, judge
from experiments import demo
from experiments.plots import strips
from experiments.reports import scoreboard, worlds
from experiments.scaling import sweep
from soraflax.generation import generator, paths, tasks

NAME = "control"
CLAIM = "An image is animated as words say: each body, and the camera."
PATH_LENGTHS = (0.25, 0.5)  # short sides
MASKS = {
    "first_frame": 0.7,
    **dict.fromkeys(("prefix", "suffix", "both_ends", "frames", "boxes"), 0.0),
}
RECIPE = worlds.WorldRecipe(
    "bodies",
    variant="directed",
    autoencoder_steps=0,
    flags=tuple(f"--config.loss.mask_rates.{k}={v}" for k, v in MASKS.items()),
)


def motions(
    reading: Mapping[str, Any], bodies_asked: Sequence[Mapping[str, Any]]
) -> list[str | None]:
    """The direction of every body, found by its colour and shape; None if it is not."""
    looks = [{k: body[k] for k in ("colour", "shape")} for body in bodies_asked]
    found = reading.get("objects", [])
    pairs = judge.match_objects(looks, found)
    moved: list[str | None] = []
    for index, look in enumerate(looks):
        body = found[pairs[index]] if index in pairs else {}
        same = all(body.get(key) == value for key, value in look.items())
        moved.append(body.get("direction") if same else None)
    return moved


def figures(
    videos: Sequence[np.ndarray],
    clips: Sequence[bodies.RenderedClip],
    *,
    decoded: Sequence[np.ndarray] = (),
) -> list[scoreboard.Figure]:
    """(1) to (3); the first decides."""
    asked = [clip.truth["attributes"]["objects"] for clip in clips]
    readings = [judge.read(video) for video in videos]
    moved = [motions(r, some) for r, some in zip(readings, asked, strict=True)]
    words = [[body["direction"] for body in some] for some in asked]
    best = [judge.read(video) for video in decoded]
    real = [motions(r, some) for r, some in zip(best, asked, strict=False)]

    def obeyed(some: Sequence[Sequence[str | None]], *, still: bool) -> list[bool]:
        return [
            motion == word
            for motions_, words_ in zip(some, words, strict=False)
            for motion, word in zip(motions_, words_, strict=True)
            if word == "still" or not still
        ]

    def chance(*, still: bool) -> float:
        """Of every motion against all words of other clips."""
        right = [
            motion == word
            for i, motions_ in enumerate(moved)
            for j, words_ in enumerate(words)
            if i != j
            for motion in motions_
            for word in words_
            if word == "still" or not still
        ]
        return float(np.mean(right)) if right else float("nan")

    def average(values: Sequence[bool]) -> float | None:
        return float(np.mean(values)) if values else None

    pans = [clip.truth["pan"] for clip in clips]
    seen = [reading["pan"] for reading in readings]
    others = [a == b for i, a in enumerate(seen) for j, b in enumerate(pans) if i != j]
    return [
        scoreboard.share(
            "bodies that obey",
            obeyed(moved, still=False),
            chance=chance(still=False),
            ceiling=average(obeyed(real, still=False)),
        ),
        scoreboard.share(
            "bodies that stay still as said",
            obeyed(moved, still=True),
            chance=chance(still=True),
            ceiling=average(obeyed(real, still=True)),
        ),
        scoreboard.share(
            "camera obeys",
            [a == b for a, b in zip(seen, pans, strict=True)],
            chance=float(np.mean(others)) if others else float("nan"),
            ceiling=average(
                [r["pan"] == pan for r, pan in zip(best, pans, strict=False)]
            ),
        ),
    ]


def held_out(recipe: worlds.WorldRecipe) -> list[bodies.RenderedClip]:
    """Held-out videos in which every body moves plainly, in a way the pixels hold."""
    clips = worlds.held_out(recipe, image_share=0.0)
    return [clip for clip in clips if clip.truth["visible"]["direction"]]


def animated(
    model: generator.Generator,
    clips: Sequence[bodies.RenderedClip],
    *,
    recipe: worlds.WorldRecipe,
) -> list[np.ndarray]:
    """Every clip's first frame, animated by its caption."""
    jobs = [
        generator.Job(
            tasks.animate(
                model.grid, clip.video[0], frames=len(clip.video), fps=clip.fps
            ),
            clip.captions["detailed"],
            seed=index,
        )
        for index, clip in enumerate(clips)
    ]
    sampling = generator.SamplingConfig(recipe.solver_steps, recipe.guidance)
    return [np.asarray(video) for video in model(jobs, sampling)]


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A path that is asked for, in pixels, of the one body of a clip."""

    clip: bodies.RenderedClip
    path: tuple[paths.Point, paths.Point]


def drawn(clips: Sequence[bodies.RenderedClip], *, seed: int = 0) -> list[Drawn]:
    """A straight path for every clip of one body that lies wholly within the frame."""
    random = np.random.default_rng(seed)
    made = []
    for clip in clips:
        if len(clip.truth["objects"]) != 1:
            continue
        body = clip.truth["objects"][0]
        start = np.array([body["x"][0], body["y"][0]])
        half = np.array([body["width"][0], body["height"][0]]) / 2 + 2
        size = np.array([clip.truth["width"], clip.truth["height"]])
        for _ in range(200):
            angle = random.uniform(0, 2 * np.pi)
            length = random.uniform(*PATH_LENGTHS) * size.min()
            end = start + length * np.array([np.cos(angle), np.sin(angle)])
            if (end >= half).all() and (end <= size - half).all():
                a, b = (tuple(float(v) for v in point) for point in (start, end))
                made.append(Drawn(clip, ((a[0], a[1]), (b[0], b[1]))))
                break
    return made


def along_paths(
    model: generator.Generator, asked: Sequence[Drawn], *, recipe: worlds.WorldRecipe
) -> list[np.ndarray]:
    """First frames animated along their paths, with captions of images."""
    jobs = []
    for index, one in enumerate(asked):
        clip = one.clip
        still = tasks.animate(
            model.grid, clip.video[0], frames=len(clip.video), fps=clip.fps
        )
        words = captions.short([clip.truth["objects"][0] | {"verb": None}])
        moving = paths.along(still, [one.path])
        jobs.append(generator.Job(moving, words, seed=index))
    sampling = generator.SamplingConfig(recipe.solver_steps, recipe.guidance)
    return [np.asarray(video) for video in model(jobs, sampling)]


def path_figures(
    videos: Sequence[np.ndarray],
    asked: Sequence[Drawn],
    *,
    decoded: Sequence[np.ndarray] = (),
) -> list[scoreboard.Figure]:
    """(4) and (5); the ceiling is the dragged clips through the autoencoder."""

    def read(some: Sequence[np.ndarray]) -> tuple[list[float], list[bool]]:
        away, kept = [], []
        for video, one in zip(some, asked, strict=False):
            last = [b for b in judge.blobs(video) if b.frame == len(video) - 1]
            short = min(video.shape[1:3])
            body = max(last, key=lambda blob: blob.area, default=None)
            if body is not None:
                gap = np.subtract(body.centre, one.path[-1])
                away.append(float(np.hypot(*gap)) / short)
            reading = judge.read(video[-3:])
            truth = one.clip.truth["attributes"]
            kept.append(all(reading.get(k) == truth[k] for k in ("colour", "shape")))
        return away, kept

    (away, kept), (best, real) = read(videos), read(decoded)
    stays = [
        float(np.hypot(*np.subtract(*one.path))) / min(one.clip.video.shape[1:3])
        for one in asked
    ]
    return [
        scoreboard.mean(
            "path: distance of the body from the path's end",
            away,
            chance=float(np.mean(stays)) if stays else None,
            ceiling=float(np.mean(best)) if best else None,
            better="low",
        ),
        scoreboard.share(
            "path: the body keeps its colour and shape",
            kept,
            ceiling=float(np.mean(real)) if real else None,
        ),
    ]


def measure_paths(
    model: generator.Generator,
    clips: Sequence[bodies.RenderedClip],
    *,
    recipe: worlds.WorldRecipe,
    picture: pathlib.Path,
) -> list[scoreboard.Figure]:
    """Figures of drawn paths, and their picture: made clips above dragged ones."""
    asked = drawn(clips)
    if not asked:
        return path_figures([], [])
    videos = along_paths(model, asked, recipe=recipe)
    crude = [
        paths.drag(one.clip.video[0], [one.path], frames=len(one.clip.video))
        for one in asked
    ]
    encoder = model.model.autoencoder
    decoded = [demo.reconstruct(encoder, video) for video in crude]
    rows = []
    for one, video, rough in list(zip(asked, videos, crude, strict=True))[:5]:
        (x, y), (to_x, to_y) = one.path
        first = np.arange(len(video)) == 0
        label = f"from {x:.0f},{y:.0f} to {to_x:.0f},{to_y:.0f}"
        rows.append(strips.Row(video, first, label=label))
        rows.append(strips.Row(rough, ~np.zeros(len(rough), bool)))
    strips.sheet(picture, rows, frames=8, scale=1)
    return path_figures(videos, asked, decoded=decoded)


def make(
    output: pathlib.Path,
    *,
    config: worlds.WorldRecipe,
    run: sweep.Run = sweep.train_here,
) -> scoreboard.Claim:
    """The claim, from data to figures.

    Raises:
      ValueError: no held-out clip moves plainly.
    """
    recipe, folder = config, output / NAME
    folder.mkdir(parents=True, exist_ok=True)
    workdir = worlds.train(recipe, folder / "bodies", run=run)
    model = generator.Generator.load(workdir)
    clips = held_out(recipe)
    if not clips:
        raise ValueError(f"none of {recipe.prompts} clips moves plainly; give more")
    videos = animated(model, clips, recipe=recipe)
    decoded = worlds.reconstructions(model.model.autoencoder, clips)
    rows = []
    for video, clip in list(zip(videos, clips, strict=True))[:5]:
        first = np.arange(len(video)) == 0
        rows.append(strips.Row(video, first, label=clip.captions["detailed"]))
        rows.append(strips.Row(clip.video, ~np.zeros(len(clip.video), bool)))
    strips.sheet(folder / "clips.png", rows, frames=8, scale=1)
    of_paths = measure_paths(model, clips, recipe=recipe, picture=folder / "paths.png")
    return scoreboard.Claim(
        NAME,
        CLAIM,
        "",
        (*figures(videos, clips, decoded=decoded), *of_paths),
        pictures=(
            ("clips.png", "grey: given; blue: made; below each the clip it is of"),
            (
                "paths.png",
                "along a drawn path; below each the dragged clip it began as",
            ),
        ),
        notes=(
            "drawn paths are no conditioning that training draws: a dragged clip is "
            f"noised to {paths.STRENGTH} and denoised",
            f"{len(clips)} of {recipe.prompts} held-out clips move plainly enough",
            *worlds.training_notes(recipe),
        ),
        flops=worlds.training_flops(workdir),
    )


def main(argv: Sequence[str] | None = None) -> int:
    return scoreboard.run_claim(
        NAME, make, full=RECIPE, quick=RECIPE.quick(), doc=__doc__, argv=argv
    )


if __name__ == "__main__":
    sys.exit(main())
