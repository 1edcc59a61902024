"""Does a captioner say what it sees: captions of held-out clips, read by the grammar.

    python -m experiments.reports.captions [--captioner DIR] [--count 256]

Renders clips of the world whose combinations of attributes training never showed,
captions them, reads the captions back (`worlds.captions.parse`) and compares with the
ground truth. Prints one JSON line: for each attribute the share of clips where it is
right for every body, of those in which it is visible; the share of captions that equal
the world's own; the share that the grammar cannot read; and for each attribute of a
body the confusion table, `{truth: {said: bodies}}`.
"""

import argparse
import collections
import dataclasses
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from data_pipelines import caption_statistics
from data_pipelines.worlds import bodies, captions, judge
from experiments.benchmarks import measurement
from soraflax import media
from soraflax.cli import parser as cli
from soraflax.generation import captioner as captioners

OF_BODIES = ("colour", "shape", "size", "direction")
NOTHING = "(nothing)"


def measure(
    said: Sequence[str], clips: Sequence[bodies.RenderedClip]
) -> dict[str, Any]:
    """Accuracy and confusion of captions against the truth of their clips."""
    right: dict[str, list[bool]] = collections.defaultdict(list)
    confusion: dict[str, Any] = collections.defaultdict(
        lambda: collections.defaultdict(collections.Counter)
    )
    unreadable = 0
    for text, clip in zip(said, clips, strict=True):
        for name, agrees in caption_statistics.agreement(text, clip.truth).items():
            right[name].append(agrees)
        try:
            reading: dict[str, Any] = captions.parse(text)
        except ValueError:
            reading, unreadable = {"objects": []}, unreadable + 1
        _confuse(confusion, reading, truth=clip.truth["attributes"])
    exact = [t == c.captions["detailed"] for t, c in zip(said, clips, strict=True)]
    return {
        "accuracy": {
            name: round(sum(values) / len(values), 4) for name, values in right.items()
        },
        "clips": {name: len(values) for name, values in right.items()},
        "exact": round(sum(exact) / len(exact), 4),
        "unreadable": round(unreadable / len(said), 4),
        "confusion": {
            name: {k: dict(v) for k, v in t.items()} for name, t in confusion.items()
        },
    }


def _confuse(table: Any, reading: dict[str, Any], *, truth: dict[str, Any]) -> None:
    """Count what was said of every body, and of the clip."""
    table["count"][truth["count"]][reading.get("count", 0)] += 1
    table["background"][truth["background"]][reading.get("background", NOTHING)] += 1
    pairs = judge.match_objects(truth["objects"], reading["objects"])
    for index, item in enumerate(truth["objects"]):
        other = reading["objects"][pairs[index]] if index in pairs else {}
        for name in OF_BODIES:
            if name in item:
                table[name][item[name]][other.get(name, NOTHING)] += 1


def run(
    model: captioners.Captioner, *, variant: str, count: int, seed: int, beams: int
) -> dict[str, Any]:
    """`measure` of held-out clips of a dataset's seed, with three examples."""
    world = dataclasses.replace(bodies.VARIANTS[variant], holdout="only")
    # As data_pipelines.builders.world: held-out clips are of stream 2 seed + 1.
    clips = [bodies.render_clip(2 * seed + 1, n, config=world) for n in range(count)]
    videos = [media.Video(clip.video, clip.fps) for clip in clips]
    said = model(videos, beams=beams)
    examples = [
        {"said": text, "truth": clip.captions["detailed"]}
        for text, clip in list(zip(said, clips, strict=True))[:3]
    ]
    return measure(said, clips) | {"examples": examples}


def main(argv: Sequence[str] | None = None) -> int:
    parser = cli.Parser(
        prog="python -m experiments.reports.captions", description=__doc__
    )
    add = parser.add_argument
    add("--captioner", type=pathlib.Path, help="its folder (default: the shipped)")
    add("--variant", default="several", choices=list(bodies.VARIANTS))
    add("--count", type=cli.positive_int, default=256, help="held-out clips")
    add("--seed", type=int, default=21, help="of the dataset that it was trained on")
    add("--beams", type=cli.positive_int, default=1, help="hypotheses kept")
    options = parser.parse_args(argv)
    return cli.run_command("captions", lambda: _run(options), extra="data")


def _run(options: argparse.Namespace) -> None:
    model = captioners.Captioner.load(options.captioner)
    result = run(
        model,
        variant=options.variant,
        count=options.count,
        seed=options.seed,
        beams=options.beams,
    )
    about = {"variant": options.variant, "seed": options.seed, "beams": options.beams}
    print(json.dumps(about | result | measurement.environment()))


if __name__ == "__main__":
    sys.exit(main())
