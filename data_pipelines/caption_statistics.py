"""What many captions are like: lengths, repetition, duplicates, and whether they hold.

With w the words of a caption and g its runs of three words,

    repetition       1 - distinct g / g, the mean over captions                   (1)
    duplicates       share of captions whose w another has, in the same order     (2)
    near duplicates  share whose set of words another has, in any order           (3)

Where clips have a ground truth (a procedural world), each attribute's accuracy is the
share of captions from which the world's grammar reads it rightly.
"""

import collections
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from data_pipelines.worlds import captions as grammar
from data_pipelines.worlds import judge
from soraflax.pretrained import training_data

ATTRIBUTES = ("colour", "shape", "size", "direction", "count", "background")


def agreement(text: str, truth: Mapping[str, Any]) -> dict[str, bool]:
    """Whether a caption says each attribute of a clip rightly, of those that show.

    Args:
      text: any caption; one that the grammar cannot read says nothing.
      truth: of a clip of a world.
    """
    try:
        reading: dict[str, Any] = grammar.parse(text)
    except ValueError:
        reading = {"objects": []}
    agrees = judge.agreement(reading, truth["attributes"])
    return {
        name: bool(agrees[name])
        for name in ATTRIBUTES
        if name in agrees and truth["visible"].get(name, True)
    }


def measure(
    captions: Sequence[str], truths: Iterable[Mapping[str, Any]] = ()
) -> dict[str, Any]:
    """Statistics of captions, as JSON values.

    Args:
      captions: at least one.
      truths: ground truth of each clip; that of a world has `attributes`.

    Raises:
      ValueError: no captions.
    """
    if not captions:
        raise ValueError("no captions: statistics need at least one")
    words = [training_data.words_of(text) for text in captions]
    lengths = np.array([len(w) for w in words])
    said = [tuple(w) for w in words if w]
    held: dict[str, list[bool]] = collections.defaultdict(list)
    for text, truth in zip(captions, truths, strict=False):
        if "attributes" in truth:
            for name, right in agreement(text, truth).items():
                held[name].append(right)
    return {
        "captions": len(captions),
        "empty": int(np.sum(lengths == 0)),
        "words": {
            "mean": round(float(lengths.mean()), 3),
            "least": int(lengths.min()),
            "median": float(np.median(lengths)),
            "greatest": int(lengths.max()),
        },
        "repetition": round(float(np.mean([_repetition(w) for w in words])), 4),
        "duplicates": _shared(said),
        "near_duplicates": _shared([frozenset(w) for w in said]),
        "accuracy": {
            name: round(float(np.mean(right)), 4) for name, right in held.items()
        },
    }


def _repetition(words: Sequence[str]) -> float:
    """Equation (1) of one caption."""
    runs = list(zip(words, words[1:], words[2:], strict=False))
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def _shared(keys: Sequence[Any]) -> float:
    """The share of keys that occur more than once."""
    counts = collections.Counter(keys)
    return round(sum(n for n in counts.values() if n > 1) / max(1, len(keys)), 4)
