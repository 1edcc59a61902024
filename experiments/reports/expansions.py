"""Does a longer prompt still ask for the same: what an expander keeps of 1,000 prompts.

    python -m experiments.reports.expansions [--expander EXPANDER] [--count 1000]

Short prompts of the world are drawn with what they ask for (`data_pipelines.
prompt_pairs`), of combinations that training never showed; incomplete ones are among
them, a colour alone or a direction. Each is made longer, and the long prompt is read by
the world's own grammar (`worlds.captions.parse`), not by the expander's. Prints one
JSON line: the share of prompts of which every attribute is kept, the share of
attributes, the prompts that contradict one, those in which every body has all of its
attributes, and those that a trained expander left to the template.
"""

import argparse
import dataclasses
import itertools
import json
import logging
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from data_pipelines import prompt_pairs
from data_pipelines.worlds import bodies, captions
from experiments.benchmarks import measurement
from soraflax.cli import parser as cli
from soraflax.generation import expansion, grounding, prompt_expander

_OPEN = {noun + plural for noun in grounding.ANYTHING for plural in ("", "s")}
FIELDS = {"size": "size", "colour": "colour", "shape": "shape", "motion": "direction"}


def compare(asked: grounding.Reading, longer: str) -> dict[str, int]:
    """Attributes that were asked for, of them kept and contradicted, and completeness.

    Bodies are compared in order; a body too few or too many contradicts the count.
    """
    said = _said(longer)
    wanted = [s for s in asked.subjects for _ in range(s.count or 1)]
    pairs = [
        (value, (item or {}).get(FIELDS[name]))
        for subject, item in itertools.zip_longest(wanted, said["objects"])
        for name, value in (dataclasses.asdict(subject).items() if subject else ())
        if name in FIELDS and value is not None
    ]
    if asked.background is not None:
        pairs.append((asked.background, said.get("background")))
    if any(subject.count is not None for subject in asked.subjects):
        pairs.append((len(wanted), len(said["objects"])))
    return {
        "asked": len(pairs),
        "kept": sum(wish == found for wish, found in pairs),
        "contradicted": sum(found not in (wish, None) for wish, found in pairs),
        "complete": int(
            bool(said["objects"]) and all(len(item) == 4 for item in said["objects"])
        ),
    }


def _said(longer: str) -> Mapping[str, Any]:
    """What a long prompt says; the world's grammar has no bodies of an open shape."""
    text = longer.replace(" that ", " ")
    try:
        if not {*re.findall(r"[a-z]+", text.lower())} & _OPEN:
            return captions.parse(text)
    except ValueError:
        pass
    reading = grounding.read(longer) or grounding.Reading(())
    objects = [
        {FIELDS[k]: v for k, v in dataclasses.asdict(s).items() if k in FIELDS and v}
        for s in reading.subjects
        for _ in range(s.count or 1)
    ]
    return {"objects": objects, "background": reading.background}


def measure(
    expander: expansion.Expander, pairs: Sequence[prompt_pairs.Pair]
) -> dict[str, Any]:
    """`compare` of all pairs, as shares; the seed of each prompt is its number."""
    longer = [expander(pair.short, seed=n) for n, pair in enumerate(pairs)]
    rows = [compare(p.asked, text) for p, text in zip(pairs, longer, strict=True)]
    asked, kept = (sum(row[name] for row in rows) for name in ("asked", "kept"))
    examples = [
        {"short": p.short, "long": t} for p, t in zip(pairs, longer, strict=True)
    ]
    return {
        "prompts": len(rows),
        "attributes_kept": round(kept / max(asked, 1), 4),
        "all_kept": round(sum(r["kept"] == r["asked"] for r in rows) / len(rows), 4),
        "contradicting_prompts": sum(row["contradicted"] > 0 for row in rows),
        "complete": round(sum(row["complete"] for row in rows) / len(rows), 4),
        "examples": examples[:5],
    }


class _Drafts:
    """The first draft of a trained expander, unchecked, for comparison."""

    def __init__(self, expander: prompt_expander.PromptExpander) -> None:
        self._expander = expander

    def __call__(self, prompt: str, *, seed: int) -> str:
        return self._expander.candidates(prompt, seed=seed)[0]


def run(name: str, *, count: int, seed: int) -> dict[str, Any]:
    """`measure` of an expander by its name, of `count` held-out prompts."""
    world = dataclasses.replace(bodies.VARIANTS["full"], holdout="only")
    pairs = [prompt_pairs.pair(seed, n, config=world) for n in range(count)]
    expander = expansion.load(name, expansion.Template())
    if not isinstance(expander, prompt_expander.PromptExpander):
        return measure(expander, pairs)
    logging.getLogger(prompt_expander.__name__).setLevel(logging.ERROR)
    found = [
        expander.propose(pair.short, seed=n)[0] is None for n, pair in enumerate(pairs)
    ]
    return measure(expander, pairs) | {
        "by_the_template": sum(found),
        "drafts": measure(_Drafts(expander), pairs),
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = cli.Parser(
        prog="python -m experiments.reports.expansions", description=__doc__
    )
    add = parser.add_argument
    add("--expander", default=expansion.TEMPLATE, help="a name, as of soraflax expand")
    add("--count", type=cli.positive_int, default=1000, help="held-out prompts")
    add("--seed", type=int, default=1, help="of the prompts")
    options = parser.parse_args(argv)
    return cli.run_command("expansions", lambda: _run(options), extra="data")


def _run(options: argparse.Namespace) -> None:
    result = run(options.expander, count=options.count, seed=options.seed)
    about = {"expander": options.expander, "seed": options.seed}
    print(json.dumps(about | result | measurement.environment()))


if __name__ == "__main__":
    sys.exit(main())
