"""Short prompts and the detailed captions that they could mean, without any video.

    pair(0, 4, config=bodies.VARIANTS["full"])
    # Pair(short='red ring', long='a small red ring moves up on a navy background')

A detailed caption of a world is drawn, and words of it are left out: a colour alone may
stay, a colour and a shape, a direction, a count, a background. What stays is what the
short prompt asks for (`soraflax.generation.grounding` reads it back). Rows of pairs
train a prompt expander: tokens are ids of short prompts, text is of the long ones.
"""

import dataclasses
import functools
from typing import Any

from data_pipelines import elastic, packing, reading
from data_pipelines.worlds import bodies
from soraflax import tokenizer
from soraflax.generation import grounding
from soraflax.nn import captioner
from soraflax.ops import packing as packed_rows

STREAM = 2**31  # batches; nobody trains to the end
_KEPT = (0.2, 0.5, 0.8)  # probability of a word to stay, of a prompt
_OPEN = (*grounding.ANYTHING[1:], "")  # nouns of bodies whose shape is left open


@dataclasses.dataclass(frozen=True)
class Pair:
    """A short prompt, what it asks for, and a detailed caption that keeps it."""

    short: str
    long: str
    asked: grounding.Reading


@dataclasses.dataclass(frozen=True)
class PairDataConfig:
    """Rows of pairs.

    Attributes:
      variant: of the world whose captions they are, a name in `bodies.VARIANTS`.
      rows: rows per batch, for each host.
      row: capacity of a row; `segments` pairs are dealt to each.
      prompt_length: most tokens of a short prompt, end-of-text included.
      text_length: most tokens of a long one.
      seed: of the pairs.
      read: prefetching; `buffer` counts batches.
    """

    variant: str = "full"
    rows: int = 4
    row: packed_rows.RowShape = dataclasses.field(
        default_factory=lambda: packed_rows.RowShape(128, 224, 12)
    )
    prompt_length: int = 48
    text_length: int = 64
    seed: int = 0
    read: reading.ReadConfig = dataclasses.field(
        default_factory=lambda: reading.ReadConfig(threads=1, buffer=4)
    )

    def __post_init__(self) -> None:
        if self.variant not in bodies.VARIANTS:
            known = ", ".join(bodies.VARIANTS)
            raise ValueError(f"variant {self.variant!r}: known: {known}")
        if self.rows < 1:
            raise ValueError(f"rows {self.rows}: use 1 or more")
        packing.check_fits(self.prompt_length, self.text_length, shape=self.row)

    def world(self, *, holdout: str) -> bodies.WorldConfig:
        """The world, with or without its held-out combinations."""
        return dataclasses.replace(bodies.VARIANTS[self.variant], holdout=holdout)


def pair(seed: int, index: int, *, config: bodies.WorldConfig) -> Pair:
    """Pair `index` of a stream.

    Raises:
      ValueError: no words fit the config.
    """
    ((long, _),) = bodies.prompts(_stream(seed, index), 1, config=config)
    whole = grounding.read(long)
    assert whole is not None
    draws = bodies.Draws(seed, index, purpose=2)
    kept = draws.choice(_KEPT)
    alone = len(whole.subjects) == 1
    subjects = tuple(_fewer(s, draws, kept=kept, alone=alone) for s in whole.subjects)
    said = whole.background if draws.chance(kept / 2) else None
    if said and draws.chance(0.1):
        subjects = ()
    asked = grounding.Reading(subjects, said)
    return Pair(_worded(asked, draws), long, asked)


def _stream(seed: int, index: int) -> int:
    """A seed of prompts for every pair, apart from those of other uses."""
    return (1 + seed) * 2**40 + index


def _fewer(
    subject: grounding.Subject, draws: bodies.Draws, *, kept: float, alone: bool
) -> grounding.Subject:
    """A subject of which words were left out; a count of one only where it is alone."""
    names = ("size", "colour", "shape", "motion")
    dropped: dict[str, Any] = {n: None for n in names if not draws.chance(kept)}
    if alone and subject.count == 1 and draws.chance(0.3):
        dropped["count"] = None
    return dataclasses.replace(subject, **dropped)


def _worded(asked: grounding.Reading, draws: bodies.Draws) -> str:
    """One of the ways to say it."""
    text = grounding.say(asked)
    for noun in ("something", "things", "thing"):
        open_noun = draws.choice(_OPEN)
        if noun == "something":
            bare = text.replace(" something", "").replace("something ", "")
            text = bare if not open_noun and bare != text else text
        elif open_noun:
            new = open_noun + "s" * noun.endswith("s")
            text = text.replace(f" {noun}", f" {new}")
    if draws.chance(0.1):
        text = text.replace(" move", " that move").replace(" stay", " that stay")
    return text


@dataclasses.dataclass(frozen=True)
class PairBatches:
    """Random access to batches; item k of all hosts is a function of (seed, k).

    Attributes:
      config: pairs and rows.
      holdout: 'exclude' for training, 'only' for what it never shows.
      host: index of this host and number of hosts.
    """

    config: PairDataConfig
    holdout: str = "exclude"
    host: elastic.HostShard = dataclasses.field(default_factory=elastic.HostShard)

    def __len__(self) -> int:
        return STREAM

    def __getitem__(self, index: int) -> packed_rows.Packed:
        first = (index * self.host.count + self.host.index) * self.config.rows
        rows = [self._row(first + n) for n in range(self.config.rows)]
        return packed_rows.assemble(rows, self.config.row)

    def _row(self, number: int) -> list[packed_rows.Segment]:
        """As many pairs of a row's share of the stream as the row holds."""
        shape, row = self.config.row, list[packed_rows.Segment]()
        tokens, text = shape.tokens, shape.text
        for place in range(shape.segments):
            segment = self._segment(number * shape.segments + place)
            tokens -= shape.aligned(len(segment))
            text -= shape.aligned_text(len(segment.text))
            if min(tokens, text) < 0:
                break
            row.append(segment)
        return row

    def _segment(self, index: int) -> packed_rows.Segment:
        config, vocabulary = self.config, _vocabulary()
        drawn = pair(config.seed, index, config=config.world(holdout=self.holdout))
        return captioner.text_segment(
            vocabulary.encode(drawn.short, max_length=config.prompt_length),
            vocabulary.encode(drawn.long, max_length=config.text_length),
        )


def make_batches(
    config: PairDataConfig, *, host: elastic.HostShard
) -> elastic.StepBatches:
    """Endless batches of `rows` packed rows (numpy) for training, resumable."""
    batches = PairBatches(config, host=host)
    dataset = reading.StreamIterDataset(batches, config.read)
    return elastic.StepBatches(
        iter(reading.read_ahead(dataset, config.read)),
        clips=lambda index: [f"batch {index} of pairs"],
        batch=config.rows * host.count,
    )


@functools.cache
def _vocabulary() -> tokenizer.Tokenizer:
    return tokenizer.Tokenizer.embedded()
