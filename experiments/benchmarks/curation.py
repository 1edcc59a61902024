"""Curation: how well each detector tells, and how fast near duplicates are found.

    python -m experiments.benchmarks.curation --only detectors --clips VIDEOS
    python -m experiments.benchmarks.curation --only search
    python -m experiments.benchmarks.curation --only memory --count 10000
    python -m experiments.benchmarks.curation --only workers --count 2000
    python -m experiments.benchmarks.curation --only film --clips VIDEOS

`workers` compares two processes with one, which wants two free cores; `memory` the peak
of a process for so many files with that for a tenth of them (with `--cache DIR` a
second run decodes nothing, and writes the shards anew); `film` curates one file of
many shots, which are encoded from the frames that were measured, and again from frames
that are decoded anew, to the same bytes.

The labelled clips are made from the procedural world and, with `--clips`, from a folder
of real ones: shots put end to end, copies that were scaled, brightened, compressed
and shortened, frames that repeat with noise, borders.
"""

import argparse
import dataclasses
import io
import json
import math
import pathlib
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from data_pipelines import storage, transforms
from data_pipelines.curate import (
    curation,
    cutting,
    decisions,
    duplicates,
    observation,
    probing,
    runners,
    scoring,
    settings,
    shards,
)
from data_pipelines.worlds import bodies
from experiments.benchmarks import measurement
from soraflax import media

Line = measurement.Line
Frames = UInt8[np.ndarray, "T H W 3"]
WORKERS_BOUND, MEMORY_BOUND = 1.7, 1.1
DETECTORS = ("cuts", "static", "borders", "duplicates")
_FRAMES, _SIDE = 32, 192
_WORLD = bodies.WorldConfig(
    frames=(17, 25),
    sizes=((96, 64), (64, 96), (64, 64)),
    image_share=0.0,
    directions=("left", "right", "up", "down"),
)
# Show what another file of the folder shows.
_AGAIN = ("testsrc2_vp9.webm", "testsrc2_odd_height_and_width_vp9.mp4")
_DEFAULTS = settings.CurationSettings()


@dataclasses.dataclass(frozen=True)
class Shot:
    """Frames without a cut, that move.

    Attributes:
      name: of where they come from.
      frames: `[T, H, W, 3]`.
      fps: frames per second.
    """

    name: str
    frames: Frames
    fps: float


def world_shots(count: int, seed: int = 0) -> list[Shot]:
    """Clips of the world in which something moves."""
    clips = (bodies.render_clip(seed, i, config=_WORLD) for i in range(count))
    return [Shot(f"world {i}", c.video, c.fps) for i, c in enumerate(clips)]


def real_shots(folder: pathlib.Path) -> list[Shot]:
    """The first frames of every video in a folder, at most `_SIDE` pixels a side."""
    shots = []
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in media.SUFFIXES or path.name in _AGAIN:
            continue
        video = media.read_video(path, max_frames=_FRAMES)
        if len(video) < 12:
            continue
        scale = min(1.0, _SIDE / max(video.size))
        width, height = (max(2, round(scale * s) // 2 * 2) for s in video.size)
        frames = transforms.resize(video.frames, height, width=width)
        shots.append(Shot(path.name, frames, video.fps))
    return shots


def observed(frames: Frames, fps: float) -> observation.Observation:
    """What curation sees of frames, after they were encoded."""
    data = media.Video(frames, fps).encode(".mp4")
    decoded = media.decode(data)
    stream = media.FrameStream(
        name="labelled",
        frames=len(decoded),
        height=decoded.frames.shape[1],
        width=decoded.frames.shape[2],
        fps=fps,
        pixels=iter(decoded.frames),
    )
    return observation.observe(stream, _DEFAULTS.probe)


@dataclasses.dataclass
class Tally:
    """Right and wrong answers of a detector."""

    hits: int = 0
    false_alarms: int = 0
    misses: int = 0
    wrong: list[str] = dataclasses.field(default_factory=list)

    def add(self, name: str, *, found: bool, true: bool) -> None:
        self.hits += found and true
        self.false_alarms += found and not true
        self.misses += true and not found
        if found != true:
            self.wrong.append(name)

    @property
    def precision(self) -> float:
        return self.hits / max(1, self.hits + self.false_alarms)

    @property
    def recall(self) -> float:
        return self.hits / max(1, self.hits + self.misses)

    def line(self, detector: str) -> Line:
        return {
            "detector": detector,
            "precision": round(self.precision, 4),
            "recall": round(self.recall, 4),
            "positives": self.hits + self.misses,
            "wrong": self.wrong[:20],
        }


def cut_tally(shots: Sequence[Shot], rng: np.random.Generator) -> Tally:
    """Each shot alone, with a flash, and three at a time end to end."""
    tally = Tally()
    for shot in shots:
        _count_cuts(tally, shot.frames, name=shot.name, cuts=[])
        flash = shot.frames.copy()
        flash[len(flash) // 2] = 255 - (255 - flash[len(flash) // 2]) // 4
        _count_cuts(tally, flash, name=f"{shot.name}, flash", cuts=[])
    for _ in shots:
        parts = [shots[i] for i in rng.choice(len(shots), 3, replace=False)]
        height, width = parts[0].frames.shape[1:3]
        pieces, cuts = [], []
        for part in parts:
            length = int(rng.integers(8, len(part.frames) + 1))
            piece = transforms.resize(part.frames[:length], height, width=width)
            cuts.append(sum(map(len, pieces)))
            pieces.append(piece)
        name = " | ".join(part.name for part in parts)
        _count_cuts(tally, np.concatenate(pieces), name=name, cuts=cuts[1:])
    return tally


def _count_cuts(
    tally: Tally, frames: Frames, *, name: str, cuts: Sequence[int]
) -> None:
    found = set(cutting.find_cuts(observed(frames, 12.0), _DEFAULTS.cut))
    for at in sorted(found | set(cuts)):
        tally.add(f"{name} at {at}", found=at in found, true=at in cuts)


def still_tally(shots: Sequence[Shot], rng: np.random.Generator) -> Tally:
    """Shots that move, and their frames standing still, with noise, or at last."""
    tally = Tally()
    bounds = {n: _DEFAULTS.bounds[n] for n in ("motion", "frozen")}

    def count(name: str, frames: Frames, *, true: bool) -> None:
        seen = observed(frames, 12.0)
        values = scoring.scores(seen, 0, last=seen.frames - 1)
        found = scoring.rejection(values, bounds) is not None
        tally.add(
            f"{name} {values['motion']} {values['frozen']}", found=found, true=true
        )

    for shot in shots:
        count(shot.name, shot.frames, true=False)
        still = np.repeat(shot.frames[:1], len(shot.frames), axis=0)
        noise = rng.normal(0, rng.choice([0.0, 1.0, 2.0]), still.shape)
        noisy = np.clip(still + noise + 0.5, 0, 255).astype(np.uint8)
        count(f"{shot.name}, still", noisy, true=True)
        stops = shot.frames.copy()
        stops[len(stops) // 5 :] = stops[len(stops) // 5]
        count(f"{shot.name}, stops", stops, true=True)
    return tally


def border_tally(shots: Sequence[Shot], rng: np.random.Generator) -> Tally:
    """Shots as they are, and with black above and below, or beside."""
    tally = Tally()
    for shot in shots:
        for kind in ("none", "above and below", "beside"):
            frames = shot.frames.copy()
            part = float(rng.uniform(0.04, 0.2))
            if kind == "beside":
                frames = frames.swapaxes(1, 2).copy()
            if kind != "none":
                rows = max(3, round(part * frames.shape[1]))
                frames[:, :rows] = frames[:, -rows:] = rng.integers(0, 8)
            if kind == "beside":
                frames = frames.swapaxes(1, 2).copy()
            seen = observed(frames, 12.0)
            values = scoring.scores(seen, 0, last=seen.frames - 1)
            limit = {"borders": _DEFAULTS.bounds["borders"]}
            found = scoring.rejection(values, limit) is not None
            tally.add(
                f"{shot.name}, {kind} {part:.2f}: {values['borders']}",
                found=found,
                true=kind != "none",
            )
    return tally


def copies(shot: Shot) -> Iterator[tuple[str, Frames]]:
    """A shot as others upload it again."""
    frames = shot.frames
    height, width = frames.shape[1:3]
    even = tuple(max(32, round(0.6 * s) // 2 * 2) for s in (height, width))
    yield "smaller", transforms.resize(frames, even[0], width=even[1])
    bright = np.clip(frames * 0.85 + 20, 0, 255).astype(np.uint8)
    yield "brighter", bright
    yield "compressed", np.stack([_compressed(frame) for frame in frames])
    yield "shorter", frames[: max(8, 2 * len(frames) // 3)]


def _compressed(frame: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H W 3"]:
    out = io.BytesIO()
    Image.fromarray(frame).save(out, "JPEG", quality=35)
    return np.asarray(Image.open(out).convert("RGB"))


def duplicate_tally(shots: Sequence[Shot]) -> Tally:
    """Every shot, and after them their copies, as one set."""
    clips = [(shot.name, shot.name, shot.frames) for shot in shots]
    for shot in shots:
        clips += [(f"{shot.name}, {n}", shot.name, f) for n, f in copies(shot)]
    seen = [observed(frames, 12.0) for _, _, frames in clips]
    values, clip, sample = [], [], []
    for number, found in enumerate(seen):
        good = np.flatnonzero(duplicates.worth_hashing(found.samples))
        values.append(duplicates.hashes(found.samples)[good])
        clip += [number] * len(good)
        sample += good.tolist()
    hashed = duplicates.ClipHashes(
        np.concatenate(values),
        np.array(clip, np.int64),
        np.array(sample, np.int64),
        [(number,) for number in range(len(clips))],
    )
    rejected = duplicates.near_duplicates(
        hashed, _DEFAULTS.duplicates, picture=lambda c, s: seen[c].samples[s]
    )
    tally = Tally()
    for number, (name, origin, _) in enumerate(clips):
        found = number in rejected
        right = found and clips[rejected[number][0]][1] == origin
        tally.add(name, found=found, true=number >= len(shots))
        if found and number >= len(shots) and not right:
            tally.wrong.append(f"{name} taken for {clips[rejected[number][0]][0]}")
    return tally


def detector_lines(
    shots: Sequence[Shot], detectors: Sequence[str] = DETECTORS, *, seed: int = 0
) -> Iterator[Line]:
    """Precision and recall of every detector."""
    rng = np.random.default_rng(seed)
    tallies: dict[str, Callable[[], Tally]] = {
        "cuts": lambda: cut_tally(shots, rng),
        "static": lambda: still_tally(shots, rng),
        "borders": lambda: border_tally(shots, rng),
        "duplicates": lambda: duplicate_tally(shots),
    }
    for name in detectors:
        start = time.perf_counter()
        line = tallies[name]().line(name)
        yield line | {"seconds": round(time.perf_counter() - start, 1)}


def search_line(count: int, seed: int = 0) -> Line:
    """Near duplicates among so many random hashes, a tenth of them near another.

    Of a copy, up to 7 of the 64 bits are turned. `false` are the pairs found beside
    those, `chance` how many pairs of random hashes are that near.
    """
    rng = np.random.default_rng(seed)
    copies_of = count // 10
    values = rng.integers(0, 2**64, count - copies_of, dtype=np.uint64)
    order = np.argsort(rng.random((copies_of, 64)), axis=1)[:, :7]
    turned = rng.integers(0, 8, copies_of)
    bits = np.uint64(1) << order.astype(np.uint64)
    bits[np.arange(7) >= turned[:, None]] = 0
    changed = values[:copies_of] ^ np.bitwise_or.reduce(bits, axis=1)
    everything = np.concatenate([values, changed])
    start = time.perf_counter()
    pairs = duplicates.near_pairs(everything, 7)
    seconds = time.perf_counter() - start
    planted = (pairs[:, 1] - len(values)) == pairs[:, 0]
    near = sum(math.comb(64, bits) for bits in range(8)) / 2**64
    return {
        "search": count,
        "seconds": round(seconds, 1),
        "recall": round(int(planted.sum()) / copies_of, 6),
        "false": int((~planted).sum()),
        "chance": round(near * count * (count - 1) / 2, 1),
    }


def synthetic_files(folder: pathlib.Path, count: int) -> pathlib.Path:
    """So many different files of 5 frames of 32 x 32, from few encodings.

    A free box at the end of an mp4 makes its bytes its own.
    """
    folder.mkdir()
    rng = np.random.default_rng(0)
    kinds = []
    for _ in range(16):
        coarse = rng.integers(0, 256, (5, 4, 4, 3)).astype(np.uint8)
        frames = coarse.repeat(8, axis=1).repeat(8, axis=2)
        kinds.append(media.Video(frames, 8.0).encode(".mp4"))
    for number in range(count):
        tail = b"\0\0\0\x10free" + number.to_bytes(8, "big")
        (folder / f"{number:06d}.mp4").write_bytes(kinds[number % 16] + tail)
    return folder


def file_line(count: int, workers: int, *, cache: str | None = None) -> Line:
    """Files a second of the steps that map over files, and memory.

    What `cache` holds is not decoded again; its shards are written anew.
    """
    if cache:
        shutil.rmtree(pathlib.Path(cache, "shards"), ignore_errors=True)
    with tempfile.TemporaryDirectory() as name:
        folder = synthetic_files(pathlib.Path(name) / "files", count)
        job = curation.CurationJob(
            pattern=f"{folder}/*.mp4",
            output=f"{name}/data",
            store=storage.Store(cache or f"{name}/store"),
            keep_uncaptioned=True,
        )
        rules = settings.CurationSettings(
            duplicates=settings.DuplicateSettings(near=False)
        )
        start = time.perf_counter()
        info = curation.curate(job, rules, runner=runners.Local(workers))
        seconds = time.perf_counter() - start
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    return {
        "files": count,
        "workers": workers,
        "decoded": info["ran"].get("probe", 0),
        "clips": sum(info["splits"].values()),
        "files a second": round(count / seconds, 2),
        "peak MiB": round(memory, 1),
    }


def worker_line(count: int) -> Line:
    """How many times as fast two processes curate as one."""
    one, two = (file_line(count, workers)["files a second"] for workers in (1, 2))
    ratio = two / one
    return {
        "figure": "workers",
        "files": count,
        "files a second": [one, two],
        "ratio": round(ratio, 2),
        "ok": ratio >= WORKERS_BOUND,
    }


def memory_line(count: int, *, cache: str | None = None) -> Line:
    """Peak of a fresh process for so many files, over that for a tenth of them."""
    peaks, decoded = [], []
    for files in (count // 10, count):
        words = ["--only", "files", "--count", str(files), "--workers", "1"]
        words += ["--cache", cache] if cache else []
        name = "experiments.benchmarks.curation"
        run = subprocess.run(
            [sys.executable, "-m", name, *words],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        line = json.loads(run.stdout.splitlines()[-1])
        peaks.append(line["peak MiB"])
        decoded.append(line["decoded"])
    ratio = peaks[1] / peaks[0]
    return {
        "figure": "memory",
        "files": [count // 10, count],
        "decoded": decoded,
        "peak MiB": peaks,
        "ratio": round(ratio, 3),
        "ok": ratio <= MEMORY_BOUND,
    }


def film_line(shots: Sequence[Shot], *, height: int = 360) -> Line:
    """Seconds for one file of these shots, its frames at hand and decoded again."""
    width, rules = height * 16 // 9 // 2 * 2, settings.CurationSettings()
    pieces = [transforms.resize(s.frames, height, width=width) for s in shots]
    film = media.Video(np.concatenate(pieces), 24.0)
    seconds, made = [], []
    with tempfile.TemporaryDirectory() as name:
        path = film.save(pathlib.Path(name, "film.mp4"))
        for held in (film.frames.nbytes, 0):
            store = storage.Store(f"{name}/{held}")
            measure = probing.FileStep(store, rules.probe, rules.cut, held=held)
            write = shards.ShardStep(store, rules.probe, rules.shards)
            start = time.perf_counter()
            row = measure({"name": path.name, "path": str(path)})
            clips = [decisions.clip_of(row, shot) for shot in row["shots"]]
            entries = [{**dataclasses.asdict(clip), "captions": {}} for clip in clips]
            place = {"store": store, "folder": pathlib.Path(name)}
            (plan,) = shards.plan_shards(entries, rules.shards, **place)
            made.append(write(plan)["sha256"])
            seconds.append(round(time.perf_counter() - start, 2))
    return {
        "figure": "film",
        "size": f"{width}x{height}",
        "frames": len(film.frames),
        "shots": len(entries),
        "seconds": seconds,
        "ratio": round(seconds[0] / seconds[1], 2),
        "ok": made[0] == made[1] and len(entries) > 1,
    }


def lines(args: argparse.Namespace) -> Iterator[Line]:
    """What was asked for, in order."""
    if "detectors" in args.only:
        shots = world_shots(args.worlds)
        shots += real_shots(args.clips) if args.clips else []
        yield from detector_lines(shots)
    if "film" in args.only:
        found = real_shots(args.clips) if args.clips else world_shots(args.worlds)
        yield film_line(found) | measurement.environment()
    if "search" in args.only:
        yield search_line(args.hashes)
    if "files" in args.only:
        yield file_line(args.count, args.workers, cache=args.cache)
    if "workers" in args.only:
        yield worker_line(args.count)
    if "memory" in args.only:
        yield memory_line(args.count, cache=args.cache)


def _parser() -> argparse.ArgumentParser:
    parser = measurement.make_parser("curation", __doc__)
    add = parser.add_argument
    parts = ("detectors", "search", "files")
    more = (*parts, "workers", "memory", "film")
    add("--only", nargs="+", choices=more, default=parts, help="parts to measure")
    add("--clips", type=pathlib.Path, help="folder of real clips")
    add("--worlds", type=int, default=20, help="clips of the world")
    add("--hashes", type=int, default=1_000_000, help="hashes to search")
    add("--count", type=int, default=1000, help="files to curate")
    add("--cache", help="of files and memory: what is measured is kept there")
    add("--workers", type=int, default=1, help="processes that decode")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command; its exit status."""
    args = _parser().parse_args(argv)
    return measurement.run_benchmark("curation", lambda: lines(args))


if __name__ == "__main__":
    sys.exit(main())
