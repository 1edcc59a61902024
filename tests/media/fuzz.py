"""Damaged files: each is read whole or refused in one line, soon.

    python -m tests.media.fuzz --mutations 10000 --seed 0 --keep build/fuzz

Mutation `i` is a function of (seed, i) alone: a small file of `samples` or of
tests/data/faults with bits flipped, bytes set to extremes, ranges cut out, doubled or
taken from another file, or its end cut off. It fails where

    the decoder crashes or raises anything but a `MediaError`,
    no frame comes within the deadline,
    a message has more than one line,
    a full read gives other frames than were probed,
    fewer frames than there were are read, without a note, of a file that is not whole.

A damaged file is whole where no reader can tell it from one that was made so. That is a
gif of which images are gone, since nothing in it counts them: each of its blocks has
the kind and the length of one that was there. They are counted by themselves.
"""

import argparse
import collections
import dataclasses
import pathlib
import sys
import tempfile
from collections.abc import Sequence

import numpy as np
import tqdm

from soraflax import media
from soraflax.media import guard
from tests.media import samples

FAULTS = pathlib.Path(__file__).parents[1] / "data" / "faults"
LIMITS = guard.Limits(seconds=30.0, memory=2 * 2**30)
_MAX_PIXELS = 2**22
_EXTREMES = (0, 1, 0x7F, 0x80, 0xFF)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a mutation; `problem` is empty where nothing is wrong."""

    kind: str
    problem: str = ""


def seeds() -> dict[str, bytes]:
    """Whole small files by their names."""
    frames, small = samples.moving(8), samples.moving(6, 16, 16)
    clear = samples.clear_but_red(small)
    fragments = {"movflags": "frag_keyframe+empty_moov"}
    tiles = [samples.moving(1, 64, 64)[0]] * 4
    made = {
        "h264.mp4": samples.h264(frames),
        "fragments.mp4": samples.h264(
            frames, options=samples.X264 | {"g": "4"}, muxer=fragments
        ),
        "h264.mkv": samples.h264(frames, container="matroska"),
        "ffv1.mkv": samples.encode(small),
        "mpeg4.avi": samples.encode(
            frames, container="avi", codec="mpeg4", pixel_format="yuv420p"
        ),
        "vp9.webm": samples.encode(
            frames, container="webm", codec="libvpx-vp9", pixel_format="yuv420p"
        ),
        "tiles.heic": samples.heic(tiles, grid=(2, 2, 100, 90)),
        "still.jpg": samples.picture("jpeg"),
        "still.png": samples.picture("png"),
        "still.avif": samples.picture("avif"),
    }
    for kind in ("gif", "png", "webp", "avif"):
        made[f"animation.{kind}"] = samples.animation(kind, clear)
    kept = sorted(p for p in FAULTS.iterdir() if p.suffix != ".md")
    return made | {path.name: path.read_bytes() for path in kept}


def mutate(files: Sequence[bytes], *, seed: int, index: int) -> tuple[int, bytes]:
    """A damaged file: the index of what it was, and its bytes."""
    rng = np.random.default_rng((seed, index))
    which = int(rng.integers(len(files)))
    data = bytearray(files[which])
    if rng.random() < 0.2:
        return which, bytes(data[: int(rng.integers(len(data)))])
    for _ in range(int(rng.integers(1, 6))):
        # Half of all damage is near the start, where headers are.
        end = min(len(data), 512) if rng.random() < 0.5 else len(data)
        at = int(rng.integers(max(1, end)))
        length = int(rng.integers(1, 64))
        match int(rng.integers(5)):
            case 0:
                data[at : at + 1] = bytes([data[at] ^ 1 << int(rng.integers(8))])
            case 1:
                count = int(rng.choice([1, 2, 4]))
                data[at : at + count] = bytes([int(rng.choice(_EXTREMES))]) * count
            case 2:
                del data[at : at + length]
            case 3:
                data[at:at] = data[at : at + length]
            case _:
                other = files[int(rng.integers(len(files)))]
                start = int(rng.integers(len(other)))
                data[at : at + length] = other[start : start + length]
        if len(data) < 16:
            break
    return which, bytes(data)


def check(path: pathlib.Path, *, frames: int, original: bytes) -> Outcome:
    """Read a damaged file that was one of so many frames."""
    try:
        found = guard.probe(path, max_pixels=_MAX_PIXELS, limits=LIMITS)
        if min(found.height, found.width) > 1:
            with guard.open_frames(
                path, max_pixels=_MAX_PIXELS, limits=LIMITS
            ) as stream:
                shown = sum(1 for _ in stream)
            if shown != found.frames:
                return Outcome("failed", f"{shown} frames, probed {found.frames}")
    except media.MediaError as error:
        message = str(error)
        for sign in ("decoder crashed", "no frame within"):
            if sign in message:
                return Outcome("failed", message)
        if "\n" in message:
            return Outcome("failed", f"more than one line: {message!r}")
        return Outcome("refused")
    if found.frames >= frames:
        return Outcome("read")
    if found.notes:
        return Outcome("read as fewer frames, with a note")
    if is_whole(original, path.read_bytes()):
        return Outcome("read as fewer frames, as which it is whole")
    return Outcome("failed", f"read as {found.frames} of {frames} frames")


def is_whole(original: bytes, damaged: bytes) -> bool:
    """Whether a damaged file is what another, shorter one would be."""
    if original[:4] != b"GIF8":
        return False
    parts = {(part[:1], len(part)) for part in _gif_parts(original)}
    return all((part[:1], len(part)) in parts for part in _gif_parts(damaged))


def _gif_parts(data: bytes) -> list[bytes]:
    """The blocks of a gif, as specified; what is none is one part to the end."""

    def colours(flags: int) -> int:
        return 3 << (flags & 7) + 1 if flags & 0x80 else 0

    at = 13 + colours(data[10])
    parts = [data[:at]]
    while at < len(data):
        start = at
        if data[at] == 0x2C and at + 9 < len(data):
            at += 11 + colours(data[at + 9])
        elif data[at] == 0x21:
            at += 2
        else:
            return [*parts, data[at:]]
        while at < len(data) and data[at]:
            at += 1 + data[at]
        at += 1
        parts.append(data[start:at])
    return parts


def run(
    mutations: int, *, seed: int = 0, keep: pathlib.Path | None = None, first: int = 0
) -> tuple[collections.Counter[str], list[str]]:
    """Outcomes of so many mutations by their kind, and a line for each failure."""
    files = seeds()
    names, data = list(files), list(files.values())
    frames = [media.probe(one).frames for one in data]
    outcomes: collections.Counter[str] = collections.Counter()
    failures = []
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "file"
        numbers = range(first, first + mutations)
        for index in tqdm.tqdm(numbers, desc="fuzzing", disable=None):
            which, damaged = mutate(data, seed=seed, index=index)
            path.write_bytes(damaged)
            outcome = check(path, frames=frames[which], original=data[which])
            outcomes[outcome.kind] += 1
            if outcome.problem:
                failures.append(f"{index} ({names[which]}): {outcome.problem}")
                if keep is not None:
                    keep.mkdir(parents=True, exist_ok=True)
                    (keep / f"{seed}-{index}-{names[which]}").write_bytes(damaged)
    guard.stop()
    return outcomes, failures


def main(argv: Sequence[str] | None = None) -> int:
    """The command; 1 where a mutation failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--mutations", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=pathlib.Path, default=pathlib.Path("build/fuzz"))
    args = parser.parse_args(argv)
    outcomes, failures = run(
        args.mutations, seed=args.seed, keep=args.keep, first=args.first
    )
    print("\n".join(failures))
    print(", ".join(f"{count} {kind}" for kind, count in outcomes.most_common()))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
