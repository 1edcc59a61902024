"""A minute of video: what drifts while it goes on, and what memory it takes.

    python -m experiments.reports.minute [--checkpoint VIDEO] [--quick]

Clips of held-out prompts are made a minute long at 24 frames a second, in windows that
each begin with the end of the one before (`generation.windows`), a window of all clips
at a time: they share packed rows, and the first is decoded as it is made. The judge
reads every second, and holds it against the first two:

    count, colour, shape   whether it reads the same; *identity* is all three       (1)
    levels                 of the background's colour, their mean difference        (2)

A figure is of the last ten seconds, the mean over a clip and then over clips, for
bodies that were asked to stay still and for those that were asked to move. Chance holds
a clip against the first seconds of all others, the ceiling is real renders of the same
length (bodies that stand, or bounce between walls) through the autoencoder. Beside them
stands the memory of the process after 10 s and at the end, and one clip enlarged to
1088 lines (1080 is no multiple of 16) tile by tile. `drift.png` has (1) over time,
`minute.json` every reading.
"""

import collections
import dataclasses
import pathlib
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.figure
import numpy as np

from data_pipelines import progress
from data_pipelines.worlds import bodies, judge
from experiments import demo, json_values
from experiments.plots import strips
from experiments.reports import scoreboard
from soraflax import process_memory
from soraflax.autoencoding import decoding, streaming
from soraflax.generation import generator, tasks
from soraflax.pretrained import models

NAME = "minute"
CLAIM = "Videos of up to a minute stay what they began as."
SAME = ("count", "colour", "shape")
FIRST = 2  # seconds that all others are held against


@dataclasses.dataclass(frozen=True)
class MinuteConfig:
    """Sizes of the report.

    Attributes:
      seconds: length of a clip.
      fps: frames per second.
      clips: clips whose body stays still, and as many whose body moves.
      real: real renders of each kind, for the ceiling.
      tail: last seconds that figures are of.
      size: width and height.
      steps: solver steps.
      guidance: guidance scale.
      large: width and height of the enlarged clip.
      large_frames: its length.
      large_steps: its solver steps.
      strength: of the noise that it is made anew from.
      tile: height and width of its tiles.
    """

    seconds: int = 60
    fps: float = 24.0
    clips: int = 6
    real: int = 2
    tail: int = 10
    size: tuple[int, int] = (64, 64)
    steps: int = 20
    guidance: float = 2.0
    large: tuple[int, int] = (1920, 1088)
    large_frames: int = 17
    large_steps: int = 8
    strength: float = 0.3
    tile: tuple[int, int] = (64, 96)


QUICK = MinuteConfig(
    seconds=5,
    clips=1,
    real=1,
    tail=2,
    steps=4,
    large=(256, 144),
    large_frames=5,
    large_steps=3,
)


@dataclasses.dataclass(frozen=True)
class Drift:
    """What the judge reads of a clip.

    Attributes:
      first: of its first seconds.
      seconds: of every second.
      shown: a few of its frames.
      memory: resident bytes of the process after every second.
    """

    first: dict[str, Any]
    seconds: list[dict[str, Any]]
    shown: np.ndarray
    memory: list[int]

    def same(self, other: "Drift") -> dict[str, np.ndarray]:
        """(1) and (2) of every second, against the first seconds of `other`."""
        found = {
            name: np.array(
                [second[name] == other.first[name] for second in self.seconds]
            )
            for name in SAME
        }
        found["identity"] = np.all([found[name] for name in SAME], axis=0)
        levels = np.array([second["levels"] for second in self.seconds])
        found["levels"] = np.abs(levels - other.first["levels"]).mean(1)
        return {name: values.astype(float) for name, values in found.items()}


def read(frames: np.ndarray) -> dict[str, Any]:
    """What is compared, of frames `[T, H, W, 3]`; None where the judge sees nothing."""
    reading = judge.read(frames)
    levels = np.median(frames, axis=(0, 1, 2)).astype(float).tolist()
    return {name: reading.get(name) for name in SAME} | {"levels": levels}


def follow(frames: Iterable[np.ndarray], *, fps: float, bar: Any = None) -> Drift:
    """Read a clip that comes frame by frame; no more than a second of it is held.

    Raises:
      ValueError: fewer frames than the first seconds have.
    """
    first: dict[str, Any] = {}
    seconds, shown, memory = [], [], []
    beginning: list[np.ndarray] = []
    for part in _seconds(frames, round(fps)):
        if len(beginning) < FIRST:
            beginning.append(part)
            first = read(np.concatenate(beginning))
        seconds.append(read(part))
        shown.append(part[0])
        memory.append(process_memory.resident_bytes())
        if bar is not None:
            bar.update()
    if len(seconds) < FIRST:
        raise ValueError(f"{len(seconds)} second(s): use more than {FIRST}")
    kept = strips.chosen(len(shown), 7)
    return Drift(first, seconds, np.stack([shown[i] for i in kept]), memory)


def _seconds(frames: Iterable[np.ndarray], count: int) -> Iterator[np.ndarray]:
    part = []
    for frame in frames:
        part.append(frame)
        if len(part) == count:
            yield np.stack(part)
            part = []


def prompts(config: MinuteConfig, *, still: bool) -> list[str]:
    """Held-out prompts of one body that stays still, or moves."""
    every = bodies.VARIANTS["demo"].directions
    directions = tuple(name for name in every if (name == "still") == still)
    world = dataclasses.replace(
        bodies.VARIANTS["demo"], holdout="only", directions=directions
    )
    asked = bodies.prompts(demo.HELD_OUT_SEED, config.clips, config=world)
    return [text for text, _ in asked]


def generated(
    model: generator.Generator,
    texts: Sequence[str],
    *,
    seeds: Sequence[int],
    config: MinuteConfig,
) -> list[Drift]:
    """Clips of prompts, a window of all of them at a time, in shared rows.

    The first is decoded and read while they are made, the others after it, from their
    latents.
    """
    step = model.grid.frame_step
    frames = 1 + step * round(config.seconds * config.fps / step)
    sampling = dataclasses.replace(
        model.sampling, steps=config.steps, guidance=config.guidance
    )
    jobs = [
        model.prompt(text, size=config.size, frames=frames, fps=config.fps, seed=seed)
        for seed, text in zip(seeds, texts, strict=True)
    ]
    stream = model.stream([model.canvas(job) for job in jobs], sampling)
    found = []
    total = len(jobs) * config.seconds
    with progress.bar(what="videos", total=total, unit="s") as bar:
        for latents in parted(stream, len(jobs)):
            chunks = decoding.decode_stream(model.model.autoencoder, latents)
            made = (frame for chunk in chunks for frame in chunk)
            found.append(follow(made, fps=config.fps, bar=bar))
    return found


def parted(
    stream: Iterator[tuple[int, np.ndarray]], count: int
) -> list[Iterator[np.ndarray]]:
    """A stream of numbered parts as a stream for each number, which may be read alone.

    What comes for the others meanwhile waits for them.
    """
    waiting: list[collections.deque[np.ndarray]] = [
        collections.deque() for _ in range(count)
    ]

    def own(number: int) -> Iterator[np.ndarray]:
        while True:
            while waiting[number]:
                yield waiting[number].popleft()
            part = next(stream, None)
            if part is None:
                return
            waiting[part[0]].append(part[1])

    return [own(number) for number in range(count)]


def real(
    encoder: models.AutoencoderModel, *, config: MinuteConfig, still: bool
) -> list[Drift]:
    """Renders as long as the clips, through the autoencoder chunk by chunk."""
    every = bodies.VARIANTS["demo"].directions
    ratio = encoder.config.temporal_ratio
    world = dataclasses.replace(
        bodies.VARIANTS["demo"],
        image_share=0.0,
        sizes=(config.size,),
        fps=(config.fps,),
        frames=(1 + ratio * round(config.seconds * config.fps / ratio),),
        directions=tuple(name for name in every if (name == "still") == still),
        bounce=1.0,
    )
    found = []
    for index in range(config.real):
        clip = bodies.render_clip(demo.HELD_OUT_SEED, index, config=world)
        levels = (frame.astype(np.float32) / 127.5 - 1.0 for frame in clip.video)
        latents = streaming.encode(encoder, levels)
        chunks = decoding.decode_stream(encoder, latents)
        frames = (frame for chunk in chunks for frame in chunk)
        found.append(follow(frames, fps=config.fps))
    return found


def with_body(drifts: Sequence[Drift]) -> list[Drift]:
    """Clips whose body was seen at first: what is empty stays what it was."""
    return [drift for drift in drifts if drift.first["count"] == 1]


def shares(drifts: Sequence[Drift]) -> dict[str, np.ndarray]:
    """(1) of every second: shares of the clips whose body was seen, where any was."""
    read = [drift.same(drift) for drift in with_body(drifts)]
    names = (*SAME, "identity") if read else ()
    return {name: np.mean([one[name] for one in read], axis=0) for name in names}


def figures(
    kind: str,
    drifts: Sequence[Drift],
    *,
    ceiling: Sequence[Drift],
    others: Sequence[Drift],
    tail: int,
) -> list[scoreboard.Figure]:
    """(1) and (2) of the last seconds of clips whose body was seen at first.

    Args:
      kind: of clip, for the names.
      drifts: the clips.
      ceiling: real renders.
      others: clips that chance is of.
      tail: last seconds that count.
    """
    seen = with_body(drifts)

    def last(name: str, one: Drift, *, first: Drift) -> float:
        return float(one.same(first)[name][-tail:].mean())

    made = []
    for name in ("identity", *SAME, "levels"):
        chance = [last(name, d, first=o) for d in seen for o in others if o is not d]
        best = [last(name, drift, first=drift) for drift in ceiling]
        made.append(
            scoreboard.mean(
                f"{kind}: {name} in the last {tail} s",
                [last(name, drift, first=drift) for drift in seen],
                chance=float(np.mean(chance)) if chance else None,
                ceiling=float(np.mean(best)) if best else None,
                better="low" if name == "levels" else "high",
            )
        )
    return made


def draw(
    path: pathlib.Path,
    drifts: dict[str, list[Drift]],
    *,
    renders: dict[str, list[Drift]],
) -> None:
    """(1) over time of clips whose body was seen: full lines, real renders dashed."""
    figure = matplotlib.figure.Figure((9, 3.2), layout="constrained")
    panels = figure.subplots(1, len(drifts), sharey=True, squeeze=False)[0]
    for panel, (kind, own) in zip(panels, drifts.items(), strict=True):
        for index, name in enumerate((*SAME, "identity")):
            for drawn, style in ((own, "-"), (renders[kind], "--")):
                share = shares(drawn).get(name)
                if share is not None:
                    label = name if style == "-" else None
                    panel.plot(share, style, color=f"C{index}", label=label)
        title = f"bodies that {kind}, {len(with_body(own))} of {len(own)} seen"
        panel.set(title=title, xlabel="second", ylim=(-0.03, 1.03))
        panel.grid(visible=True, linewidth=0.2)
    panels[0].set_ylabel("share of clips that read as at first")
    panels[0].legend(fontsize="small")
    figure.savefig(path, dpi=110)


def enlarge(
    model: generator.Generator, path: pathlib.Path, *, config: MinuteConfig
) -> str:
    """A clip made small and enlarged in tiles, its picture, and what is noted of it."""
    (text,) = prompts(dataclasses.replace(config, clips=1), still=False)
    width, height = config.large
    side = model.grid.patch_sides[1]
    small = (round(64 * width / height / side) * side, 64)
    sampling = dataclasses.replace(
        model.sampling, steps=config.steps, guidance=config.guidance
    )
    job = model.prompt(text, size=small, frames=config.large_frames)
    (clip,) = model([job], sampling)
    start = time.perf_counter()
    larger = tasks.upscale(
        model.grid,
        clip,
        size=config.large,
        strength=config.strength,
        fps=job.conditioning.fps,
    )
    windows = dataclasses.replace(model.windows, tile=config.tile)
    tiled = dataclasses.replace(sampling, steps=config.large_steps, windows=windows)
    (video,) = model([generator.Job(larger, text)], tiled)
    seconds = time.perf_counter() - start
    again = tasks.resize(video, small)
    given = np.zeros(len(clip), bool)
    rows = [
        strips.Row(clip, given, f"{text}: {small[0]}x{small[1]}", scale=2.0),
        strips.Row(
            tasks.resize(video, (2 * small[0], 2 * small[1])),
            given,
            f"enlarged to {width}x{height}, shown smaller",
        ),
    ]
    strips.sheet(path, rows, frames=5, scale=1)
    seen, before = (
        {name: value for name, value in read(x).items() if name in SAME}
        for x in (again, clip)
    )
    peak = process_memory.peak_bytes() / 2**20
    return (
        f"{width}x{height}, {len(video)} frames in tiles of {config.tile[1]}x"
        f"{config.tile[0]}, {config.large_steps} steps: {seconds:.0f} s, peak memory "
        f"of the process {peak:.0f} MiB; the judge reads {seen}, and read {before} "
        "before"
    )


def make(
    output: pathlib.Path, model: generator.Generator, *, config: MinuteConfig
) -> scoreboard.Claim:
    """The claim of a trained model; identity of bodies that stay still decides."""
    folder = output / NAME
    folder.mkdir(parents=True, exist_ok=True)
    kinds = {"stay still": True, "move": False}
    texts = [text for still in kinds.values() for text in prompts(config, still=still)]
    seeds = [*range(config.clips)] * len(kinds)
    every = generated(model, texts, seeds=seeds, config=config)
    drifts = {
        kind: every[i * config.clips : (i + 1) * config.clips]
        for i, kind in enumerate(kinds)
    }
    encoder = model.model.autoencoder
    renders = {
        kind: real(encoder, config=config, still=still) for kind, still in kinds.items()
    }
    found = [
        figure
        for kind, some in drifts.items()
        for figure in figures(
            kind, some, ceiling=renders[kind], others=every, tail=config.tail
        )
    ]
    draw(folder / "drift.png", drifts, renders=renders)
    rows = [
        strips.Row(
            some[0].shown, np.zeros(len(some[0].shown), bool), f"asked to {kind}"
        )
        for kind, some in drifts.items()
    ]
    strips.sheet(folder / "frames.png", rows, frames=7, scale=1)
    values = {
        kind: [
            {"first": d.first, "seconds": d.seconds, "memory": d.memory} for d in some
        ]
        for kind, some in drifts.items()
    }
    json_values.write(folder / "minute.json", values)
    unread = sum(drift.first["count"] != 1 for drift in every)
    return scoreboard.Claim(
        NAME,
        CLAIM,
        "",
        tuple(found),
        pictures=(
            ("frames.png", "seven frames, evenly spaced from first second to last"),
            ("drift.png", "full lines: generated; dashed: real, after the autoencoder"),
            ("large.png", "a clip, and the same enlarged tile by tile"),
        ),
        notes=(
            f"{unread} of {len(every)} clips show no body at first and are left out",
            _memory_note(every[0], config),
            enlarge(model, folder / "large.png", config=config),
            *_training_notes(model),
            "a body that moves evenly for a minute must leave the frame",
        ),
    )


def _training_notes(model: generator.Generator) -> list[str]:
    """How far a minute is from what the model was trained on, where that is known."""
    known = model.model.config.trained_on
    if known is None:
        return []
    rates = "to".join(f" {rate:g} " for rate in sorted(set(known.fps)))
    return [
        f"the model was trained at{rates}frames a second, on clips of at most "
        f"{known.frames[1]} frames"
    ]


def _memory_note(drift: Drift, config: MinuteConfig) -> str:
    """Resident memory while the first clip is read, and all are made."""
    early = min(10, len(drift.memory) - 1)
    before, after = (drift.memory[i] / 2**20 for i in (early, -1))
    return (
        f"memory of the process when {early} s of all clips are made {before:.0f} MiB, "
        f"when {config.seconds} s are {after:.0f} MiB: {after - before:+.1f} MiB"
    )


def main(argv: Sequence[str] | None = None) -> int:
    return scoreboard.run_of_model(
        NAME, make, full=MinuteConfig(), quick=QUICK, doc=__doc__, argv=argv
    )


if __name__ == "__main__":
    sys.exit(main())
