"""What drifts where a clip is extended four times in a row.

Clips of `FIRST` frames are made of prompts never trained on, and each is extended
forward `EXTENSIONS` times, as the task does by default: every piece is shown the end of
what is there. The judge reads every piece and holds it against the first:

    kept        share of clips in which it reads the same colour, shape, count    (1)
    speed       of the body, over that in the first piece; the median             (2)

The speed of a piece is the distance of the middles of its first and its second half,
over the time between them. (2) is of clips whose body moves at first, and that it would
not carry beyond the frame's edge before the piece is over if it went on evenly: those
of training never leave the frame, so that nothing is asked of a body that arrives.
Chance holds a piece against the first of all other clips; the ceiling is that of real
renders of the same length, evenly moving, through the autoencoder.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from data_pipelines.worlds import bodies, judge
from experiments.benchmarks.tasks import clips as shared
from experiments.plots import strips
from soraflax.generation import tasks

CLIPS, EXTENSIONS, FIRST = 24, 4, 9
KEPT = ("colour", "shape", "count")
MOVES = 0.1  # short sides a second, of a body whose speed is compared
MIN_KEPT, SPEED = 0.95, (0.67, 1.5)
SHOWN, PICTURE = 6, "drift.png"
# The side along which a body has room to go on.
SIZES = {
    **dict.fromkeys(("left", "right"), (96, 64)),
    **dict.fromkeys(("up", "down"), (64, 96)),
    "still": (64, 64),
}


@dataclasses.dataclass(frozen=True)
class Piece:
    """What is read of a piece of a clip.

    Attributes:
      looks: the values of `KEPT`; None where the judge sees nothing.
      velocity: of the largest body, in short sides a second; NaN where none is seen.
      middle: of the body at the end of the piece, in short sides.
      radius: of a disc of its area, in short sides.
    """

    looks: dict[str, Any]
    velocity: np.ndarray
    middle: np.ndarray
    radius: float

    @property
    def speed(self) -> float:
        """Short sides a second."""
        return float(np.hypot(*self.velocity))

    def stays_inside(self, seconds: float, *, extent: Sequence[float]) -> bool:
        """Whether even motion keeps the body within the frame for so long.

        Args:
          seconds: from the end of the piece.
          extent: width and height of the frame in short sides.
        """
        end = self.middle + self.velocity * seconds
        inside = (end >= self.radius) & (end <= np.asarray(extent) - self.radius)
        return bool(inside.all())


def read(piece: np.ndarray, *, fps: float) -> Piece:
    """A piece of a clip, uint8 `[T, H, W, 3]` of two frames or more."""
    found: dict[int, judge.Blob] = {}
    for blob in judge.blobs(piece):
        if blob.frame not in found or blob.area > found[blob.frame].area:
            found[blob.frame] = blob
    short, half = min(piece.shape[1:3]), len(piece) // 2
    stop = len(piece)
    first, second = (
        np.array([found[k].centre for k in span if k in found]).reshape(-1, 2) / short
        for span in (range(stop - 2 * half, stop - half), range(stop - half, stop))
    )
    nothing = np.full(2, np.nan)
    seen = len(first) > 0 and len(second) > 0
    velocity = (second.mean(0) - first.mean(0)) * fps / half if seen else nothing
    area = float(np.median([blob.area for blob in found.values()])) if seen else 0.0
    reading = judge.read(piece)
    return Piece(
        {name: reading.get(name) for name in KEPT},
        velocity,
        # The middle of the second half lies half of its frames before the end.
        second.mean(0) + velocity * (half - 1) / 2 / fps if seen else nothing,
        (area / np.pi) ** 0.5 / short,
    )


def cut(video: np.ndarray, *, new: int) -> list[np.ndarray]:
    """A clip's first piece, and those of `new` frames that extend it."""
    stops = range(FIRST, len(video) + 1, new)
    return [video[:FIRST], *(video[a:b] for a, b in itertools.pairwise(stops))]


def speeds(pieces: Sequence[Piece], *, extent: Sequence[float], seconds: float) -> Any:
    """(2) of every piece after the first; NaN where none is asked.

    Args:
      pieces: of a clip.
      extent: width and height of its frame in short sides.
      seconds: that a piece after the first lasts.
    """
    first = pieces[0]
    return [
        piece.speed / first.speed
        if first.speed >= MOVES and first.stays_inside(k * seconds, extent=extent)
        else float("nan")
        for k, piece in enumerate(pieces[1:], start=1)
    ]


@dataclasses.dataclass(frozen=True)
class Extended:
    """Clips that were extended, as they are read.

    Attributes:
      pieces: of every clip.
      speeds: (2) of every clip and every piece but the first.
    """

    pieces: list[list[Piece]]
    speeds: np.ndarray

    @classmethod
    def of(cls, videos: Sequence[np.ndarray], *, new: int, fps: float) -> "Extended":
        """Read clips, extended by `new` frames a piece."""
        pieces = [[read(part, fps=fps) for part in cut(v, new=new)] for v in videos]
        extents = [np.array(v.shape[2:0:-1]) / min(v.shape[1:3]) for v in videos]
        found = [
            speeds(some, extent=extent, seconds=new / fps)
            for some, extent in zip(pieces, extents, strict=True)
        ]
        return cls(pieces, np.array(found))

    def kept(self, name: str, piece: int, *, lucky: bool = False) -> float:
        """(1) of an attribute; against the first piece of all others for chance."""
        same = [
            some[piece].looks[name] == other[0].looks[name]
            for i, some in enumerate(self.pieces)
            for j, other in enumerate(self.pieces)
            if (i == j) != lucky
        ]
        return float(np.mean(same)) if same else float("nan")

    def speed(self, piece: int) -> tuple[float | None, int]:
        """(2), and of how many clips."""
        values = self.speeds[:, piece - 1]
        asked = values[~np.isnan(values)]
        return (float(np.median(asked)) if len(asked) else None), len(asked)


def extended(bench: shared.Bench, count: int) -> tuple[list[np.ndarray], list[str]]:
    """Clips of prompts and their four extensions; the prompts."""
    world = dataclasses.replace(shared.WORLD, holdout="only")
    asked = bodies.prompts(shared.SEED + bench.seed, bench.count or count, config=world)
    texts = [text for text, _ in asked]
    jobs = [
        bench.model.prompt(
            text,
            size=SIZES[truth["direction"]],
            frames=FIRST,
            fps=bench.fps,
            seed=bench.seed + index,
        )
        for index, (text, truth) in enumerate(asked)
    ]
    videos, _ = bench.complete(jobs, "drift, first pieces")
    context, new = bench.contexts()["forward"]
    for number in range(1, EXTENSIONS + 1):
        jobs = [
            bench.job(
                tasks.extend(
                    bench.model.grid,
                    video,
                    direction="forward",
                    frames=new,
                    context=min(context, FIRST),
                    fps=bench.fps,
                ),
                text,
                number * len(texts) + index,
            )
            for index, (video, text) in enumerate(zip(videos, texts, strict=True))
        ]
        videos, _ = bench.complete(jobs, f"drift, extension {number}")
    return videos, texts


def _real(bench: shared.Bench, *, frames: int) -> list[np.ndarray]:
    """Renders as long as the extended clips, through the autoencoder."""
    ratio = bench.model.grid.temporal_ratio
    longer = frames + -(frames - 1) % ratio
    clips = bench.clips(CLIPS, frames=longer)
    return [bench.reconstruct(clip.video)[:frames] for clip in clips]


def drift(bench: shared.Bench) -> Iterator[dict[str, Any]]:
    """A line for every piece after the first; a picture where the bench has a folder.

    The same of the first clips, of all pieces, is `PICTURE`.
    """
    videos, texts = extended(bench, CLIPS)
    if bench.pictures is not None:
        bench.pictures.mkdir(parents=True, exist_ok=True)
        rows = [
            strips.Row(video, np.arange(len(video)) < FIRST, label=text)
            for video, text in list(zip(videos, texts, strict=True))[:SHOWN]
        ]
        strips.sheet(bench.pictures / PICTURE, rows, frames=14, scale=1)
    new = bench.contexts()["forward"][1]
    made = Extended.of(videos, new=new, fps=bench.fps)
    real = _real(bench, frames=len(videos[0]))
    best = Extended.of(real, new=new, fps=bench.fps)
    for piece in range(1, EXTENSIONS + 1):
        kept = {name: made.kept(name, piece) for name in KEPT}
        speed, asked = made.speed(piece)
        yield {
            "figure": "drift",
            "piece": piece,
            "clips": len(videos),
            "kept": kept,
            "chance": {name: made.kept(name, piece, lucky=True) for name in KEPT},
            "real clips, decoded": {name: best.kept(name, piece) for name in KEPT},
            "speed over the first": speed,
            "of moving clips with room": asked,
            "speed of real clips, decoded": best.speed(piece)[0],
            "asked": f"each kept in {MIN_KEPT}, speed {SPEED[0]} to {SPEED[1]}",
            "ok": min(kept.values()) >= MIN_KEPT
            and speed is not None
            and SPEED[0] <= speed <= SPEED[1],
        }
