"""What tasks keep of what they are given: its pixels, its motion, its objects.

known    share of the given pixels that come back as they were, and do so from a
         lossless file as well
joins    equation (2) of `measures` where given and made frames meet, the
         median over clips; beside it that of the true continuation, decoded from
         its latent: no transformer could do better; and the pace of the new
         frames over the clip's own, beside that of the true clip, decoded
image    image-to-video: agreement of the judge's readings of image and video;
         beside it that of the true clip, all frames but the first decoded
"""

import dataclasses
import itertools
import pathlib
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from data_pipelines.worlds import bodies, judge
from experiments.benchmarks.tasks import clips as shared
from experiments.benchmarks.tasks import measures
from soraflax import media
from soraflax.generation import conditioning as givens
from soraflax.generation import tasks

KNOWN_CLIPS, JOIN_CLIPS, IMAGES = 3, 24, 36
MAX_RATIO, MIN_AGREEMENT = 1.5, 0.9
ATTRIBUTES = ("colour", "shape", "count")
MARGIN = 16  # pixels that outpainting adds on each side


@dataclasses.dataclass(frozen=True)
class Kept:
    """A task, and where the given pixels must be in its result.

    Attributes:
      given: the task.
      pixels: a video of the result's size.
      mask: `[T, H, W]` bool, where they are to be found.
    """

    given: givens.Conditioning
    pixels: np.ndarray
    mask: np.ndarray

    def share(self, video: np.ndarray) -> float:
        """Of the pixels that must be there, those that are."""
        if video.shape != self.pixels.shape:
            return 0.0
        same = (video == self.pixels).all(axis=-1)
        return float(np.mean(same[self.mask]))


def known(bench: shared.Bench) -> Iterator[dict[str, Any]]:
    """A line for every task that keeps something."""
    clips = bench.clips(KNOWN_CLIPS)
    table = [keeping(bench, clip.video) for clip in clips]
    cases = [case for row in table for case in row.values()]
    texts = [shared.caption(clip) for clip in clips for _ in table[0]]
    jobs = [
        bench.job(case.given, text, index)
        for index, (case, text) in enumerate(zip(cases, texts, strict=True))
    ]
    videos, _ = bench.complete(jobs, "known")
    for number, name in enumerate(table[0]):
        places = slice(number, None, len(table[0]))
        pairs = list(zip(cases[places], videos[places], strict=True))
        share = float(np.mean([case.share(video) for case, video in pairs]))
        filed = float(np.mean([case.share(_filed(video)) for case, video in pairs]))
        yield {
            "figure": "known",
            "task": name,
            "clips": len(clips),
            "pixels": int(sum(case.mask.sum() for case, _ in pairs)),
            "equal": share,
            "equal from a lossless file": filed,
            "asked": "both 1",
            "ok": share == filed == 1.0,
        }


def keeping(bench: shared.Bench, video: np.ndarray) -> dict[str, Kept]:
    """Every task that keeps something, on a clip, and what it must leave alone."""
    grid, fps, frames = bench.model.grid, bench.fps, len(video)
    height, width = video.shape[1:3]
    contexts, mirrored = bench.contexts(), video[:, :, ::-1]
    (ahead, more), (behind, earlier) = contexts["forward"], contexts["backward"]
    context, between = contexts["between"]
    cut = np.zeros(video.shape[:3], bool)
    cut[frames // 3 :, height // 5 : height // 2, width // 3 : -width // 5] = True
    padding = ((0, 0), (MARGIN, MARGIN), (MARGIN, MARGIN))
    size = (width + 2 * MARGIN, height + 2 * MARGIN)
    first, last = video[0], video[-1]
    how: Any = {"context": context, "frames": between, "fps": fps}
    extend: Any = {"fps": fps, "context": ahead, "frames": more}
    before: Any = {"fps": fps, "context": behind, "frames": earlier}
    still: Any = {"frames": frames, "fps": fps}
    return {
        "animate": Kept(
            tasks.animate(grid, first, **still), *_in_time(video[:1], frames - 1)
        ),
        "animate to a last frame": Kept(
            tasks.animate(grid, first, last=last, **still),
            *_in_time(video[:1], frames - 2, video[-1:]),
        ),
        "extend forward": Kept(
            tasks.extend(grid, video, direction="forward", **extend),
            *_in_time(video, more),
        ),
        "extend backward": Kept(
            tasks.extend(grid, video, direction="backward", **before),
            *_in_time(earlier, video),
        ),
        "loop": Kept(tasks.loop(grid, video, **how), *_in_time(video, between)),
        "connect": Kept(
            tasks.connect(grid, video, second=mirrored, **how),
            *_in_time(video, between, mirrored),
        ),
        "inpaint": Kept(tasks.inpaint(grid, video, mask=cut, fps=fps), video, ~cut),
        "outpaint": Kept(
            tasks.outpaint(grid, video, size=size, fps=fps),
            np.pad(video, (*padding, (0, 0))),
            np.pad(np.ones(video.shape[:3], bool), padding),
        ),
    }


def _in_time(*parts: np.ndarray | int) -> tuple[np.ndarray, np.ndarray]:
    """Given frames and numbers of made ones, as `pixels` and `mask` of `Kept`."""
    shape = next(part.shape[1:] for part in parts if isinstance(part, np.ndarray))
    pixels, mask = [], []
    for part in parts:
        made = isinstance(part, int)
        frames = np.zeros((part, *shape), np.uint8) if made else part
        pixels.append(frames)
        mask.append(np.full(frames.shape[:3], not made))
    return np.concatenate(pixels), np.concatenate(mask)


def _filed(video: np.ndarray) -> np.ndarray:
    """Written to a lossless file and read again."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "video.mkv"
        media.write_video(path, video, fps=8.0)
        return media.read_video(path).frames


@dataclasses.dataclass(frozen=True)
class Seam:
    """A join of a result.

    Attributes:
      name: of the join.
      before, after: frames of the result that meet, one given and one made.
      own: pace of the clip that the given one is of.
      made: frames of the result that are new.
    """

    name: str
    before: int
    after: int
    own: float
    made: slice

    def ratio(self, video: np.ndarray) -> float:
        """Of this join in a video."""
        return measures.join_ratio(video[self.before], video[self.after], own=self.own)

    def inside(self, video: np.ndarray) -> float:
        """Pace of the new frames over that of the clip: 1 if they move as it does."""
        return measures.pace(video[self.made]) / self.own


@dataclasses.dataclass(frozen=True)
class Joined:
    """A task that makes joins, what it is asked for, and where they are."""

    given: givens.Conditioning
    text: str
    seams: tuple[Seam, ...]


def joins(bench: shared.Bench) -> Iterator[dict[str, Any]]:
    """A line for every join, without a prompt and with, and every `refine_strength`.

    Without one there is no guidance either. The prompt is what the clip shows, of a
    transition what the second does.
    """
    clips = bench.clips(JOIN_CLIPS)
    cases = _joined(bench, clips)
    truth = _true_joins(bench, clips)
    ways = itertools.product(("none", "caption"), bench.refine_strengths)
    for prompt, refine_strength in ways:
        jobs = [
            bench.job(
                case.given,
                case.text if prompt == "caption" else "",
                index,
                refine_strength=refine_strength,
            )
            for index, case in enumerate(cases)
        ]
        videos, seconds = bench.complete(jobs, f"joins, refined at {refine_strength}")
        found: dict[str, list[float]] = {}
        steps: dict[str, list[float]] = {}
        inside: dict[str, list[float]] = {}
        for case, video in zip(cases, videos, strict=True):
            for seam in case.seams:
                moves = seam.own >= shared.STILL
                ratios = found.setdefault(seam.name, [])
                ratios += [seam.ratio(video)] if moves else []
                largest = steps.setdefault(seam.name, [])
                largest += [measures.largest_step(video) / seam.own] if moves else []
                own = inside.setdefault(seam.name, [])
                own += [seam.inside(video)] if moves else []
        for name, ratios in found.items():
            ratio = float(np.median(ratios))
            yield {
                "figure": "joins",
                "join": name,
                "prompt": prompt,
                "refine strength": refine_strength,
                "clips": len(ratios),
                "left out, too still": len(clips) - len(ratios),
                "ratio": ratio,
                "worst of ten": float(np.quantile(ratios, 0.9)),
                "largest step anywhere": float(np.median(steps[name])),
                "true continuation, decoded": truth[name.split()[-1]],
                "pace of new frames": float(np.median(inside[name])),
                "pace of the true clip, decoded": truth["inside"],
                "seconds": seconds / len(jobs),
                "asked": f"ratio <= {MAX_RATIO}",
                "ok": ratio <= MAX_RATIO,
            }


def _joined(bench: shared.Bench, clips: Sequence[bodies.RenderedClip]) -> list[Joined]:
    """Extended both ways, looped and connected with another: every clip."""
    cases = []
    for clip, other in zip(clips, partners(clips), strict=True):
        cases += [*_extended(bench, clip), *_between(bench, clip, other=other)]
    return cases


def _extended(bench: shared.Bench, clip: bodies.RenderedClip) -> list[Joined]:
    """The first part of a clip continued, and what comes before the last part."""
    grid, fps, contexts = bench.model.grid, bench.fps, bench.contexts()
    (ahead, more), (behind, earlier) = contexts["forward"], contexts["backward"]
    start, end = clip.video[:ahead], clip.video[-behind:]
    forward = tasks.extend(
        grid, start, direction="forward", frames=more, context=ahead, fps=fps
    )
    backward = tasks.extend(
        grid, end, direction="backward", frames=earlier, context=behind, fps=fps
    )
    first = Seam(
        "extend forward", ahead - 1, ahead, measures.pace(start), slice(ahead, None)
    )
    second = Seam(
        "extend backward", earlier - 1, earlier, measures.pace(end), slice(earlier)
    )
    text = shared.caption(clip)
    return [Joined(forward, text, (first,)), Joined(backward, text, (second,))]


def _between(
    bench: shared.Bench, clip: bodies.RenderedClip, *, other: bodies.RenderedClip
) -> list[Joined]:
    """A clip connected with another, and its first part looped.

    The part is as long as the piece that leads back, which can then keep its pace.
    """
    context, new = bench.contexts()["between"]
    how: Any = {"frames": new, "context": context, "fps": bench.fps}
    video, total, short = clip.video, len(clip.video), clip.video[: new + 1]
    own, theirs = measures.pace(video), measures.pace(other.video)
    back, made = slice(new + 1, None), slice(total, total + new)
    looped = tasks.loop(bench.model.grid, short, **how)
    joined = tasks.connect(bench.model.grid, video, second=other.video, **how)
    return [
        Joined(
            looped,
            shared.caption(clip),
            (
                Seam("loop, forward", new, new + 1, measures.pace(short), back),
                Seam(
                    "loop, last to first, backward", -1, 0, measures.pace(short), back
                ),
            ),
        ),
        Joined(
            joined,
            shared.caption(other),
            (
                Seam("connect, forward", total - 1, total, own, made),
                Seam("connect, backward", total + new - 1, total + new, theirs, made),
            ),
        ),
    ]


def partners(clips: Sequence[bodies.RenderedClip]) -> list[bodies.RenderedClip]:
    """For every clip the next one of its size, after the last the first."""
    found = []
    for index, clip in enumerate(clips):
        after = [*clips[index + 1 :], *clips[: index + 1]]
        found.append(next(c for c in after if c.video.shape == clip.video.shape))
    return found


def _true_joins(
    bench: shared.Bench, clips: Sequence[bodies.RenderedClip]
) -> dict[str, float | None]:
    """Median ratio where a clip goes over into itself decoded, and the reverse.

    `inside` is the median pace of the decoded clip over its own.
    """
    at = bench.contexts()["forward"][0]
    found: dict[str, list[float]] = {"forward": [], "backward": [], "inside": []}
    for clip in shared.moving(clips):
        video, own = clip.video, measures.pace(clip.video)
        decoded = bench.reconstruct(video)
        ahead = measures.join_ratio(video[at - 1], decoded[at], own=own)
        back = measures.join_ratio(decoded[at - 1], video[at], own=own)
        found["forward"].append(ahead)
        found["backward"].append(back)
        found["inside"].append(measures.pace(decoded) / own)
    return {name: float(np.median(values)) for name, values in found.items() if values}


def image(bench: shared.Bench) -> Iterator[dict[str, Any]]:
    """A line for colour, shape and count each."""
    clips = bench.clips(IMAGES)
    jobs = [
        bench.job(
            tasks.animate(
                bench.model.grid,
                clip.video[0],
                frames=len(clip.video),
                fps=bench.fps,
            ),
            shared.caption(clip),
            index,
        )
        for index, clip in enumerate(clips)
    ]
    videos, _ = bench.complete(jobs, "image")
    wanted = [judge.read(clip.video[:1]) for clip in clips]
    decoded = []
    for clip in clips:
        video = bench.reconstruct(clip.video)
        video[0] = clip.video[0]
        decoded.append(video)
    made, best = agreements(videos, wanted), agreements(decoded, wanted)
    for name in ATTRIBUTES:
        yield {
            "figure": "image",
            "attribute": name,
            "clips": len(clips),
            "agreement": made[name],
            "true clip, decoded": best[name],
            "asked": f"agreement >= {MIN_AGREEMENT}",
            "ok": made[name] >= MIN_AGREEMENT,
        }


def agreements(
    videos: Sequence[np.ndarray], wanted: Sequence[dict[str, Any]]
) -> dict[str, float]:
    """Share of videos in which the judge reads what is wanted, for each attribute."""
    found: dict[str, list[bool]] = {name: [] for name in ATTRIBUTES}
    for video, reading in zip(videos, wanted, strict=True):
        agrees = judge.agreement(judge.read(video), reading)
        for name in ATTRIBUTES:
            found[name].append(agrees.get(name, False))
    return {name: float(np.mean(values)) for name, values in found.items()}
