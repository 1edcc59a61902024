"""Held-out rows with their captions, and the same rows with one word replaced.

What `soraflax.evaluation.caption_gap` measures on. A kind of words, such as
`("left", "right", "up", "down")`, is replaced by turns: each word by the next, the last
by the first. Rows of all variants hold the same clips at the same places.
"""

import contextlib
import dataclasses
import re
from collections.abc import Mapping, Sequence

import numpy as np

from data_pipelines import latents as stored
from data_pipelines import pipeline, records, sources, transforms
from soraflax.ops import packing

Words = Mapping[str, Sequence[str]]


@dataclasses.dataclass(frozen=True)
class SwappedRows:
    """Batches of packed rows (numpy), tokens clean and normalised.

    Attributes:
      rows: with the clips' own captions.
      replaced: for each kind of words, the same rows with its words replaced.
    """

    rows: list[packing.Packed]
    replaced: dict[str, list[packing.Packed]]


def make_swapped_rows(
    config: pipeline.PackedDataConfig,
    words: Words,
    *,
    clips: int,
    latents: pipeline.LatentSource | None = None,
) -> SwappedRows:
    """The first clips of a split, in rows; those that cannot be read are left out.

    Args:
      config: latents, captions and rows; captions are never dropped here, and clips
        enter whole.
      words: kind to the words that take each other's place.
      clips: greatest number of clips.
      latents: already open latents, instead of those at `config.path`.

    Raises:
      ValueError: a clip larger than a row.
      FileNotFoundError: no dataset at `config.path`.
    """
    source = latents or stored.open_latents(config.path, config.split)
    transform = pipeline.make_transform(
        dataclasses.replace(
            config,
            captions=dataclasses.replace(config.captions, dropout=0.0),
            windows=0.0,
        ),
        source,
    )
    variants: dict[str, list[packing.Segment]] = {kind: [] for kind in ("", *words)}
    for index, record in sources.readable(source, range(min(clips, len(source)))):
        made = []
        for kind in variants:
            captions = dict(record.captions)
            if kind:
                captions = {k: swap(v, words[kind]) for k, v in captions.items()}
            with contextlib.suppress(records.DamagedRecordError):  # of its features
                made.append(_segment(transform, record, captions=captions, seed=index))
        if len(made) == len(variants):
            for segments, segment in zip(variants.values(), made, strict=True):
                segments.append(segment)
    places = _places(list(variants.values()), config.row)
    batches = {
        kind: _assemble(segments, places, config=config)
        for kind, segments in variants.items()
    }
    return SwappedRows(batches.pop(""), batches)


def swap(text: str, words: Sequence[str]) -> str:
    """The text with every one of `words`, or its plural, replaced by the next."""
    following = dict(zip(words, [*words[1:], words[0]], strict=True))
    pattern = r"\b(" + "|".join(map(re.escape, words)) + r")(s?)\b"
    return re.sub(pattern, lambda match: following[match[1]] + match[2], text)


def _segment(
    transform: transforms.LatentTransform,
    record: stored.LatentRecord,
    *,
    captions: Mapping[str, str],
    seed: int,
) -> packing.Segment:
    # The same random numbers for all variants: of several captions, the same is chosen.
    rng = np.random.default_rng(seed)
    return transform(record.latent, fps=record.fps, captions=captions, rng=rng)


def _places(
    variants: Sequence[Sequence[packing.Segment]], shape: packing.RowShape
) -> list[list[int]]:
    """Rows as the indices of their segments, in order; each fits in all variants."""
    rows: list[list[int]] = []
    tokens = text = 0
    for index in range(len(variants[0])):
        length = shape.aligned(len(variants[0][index]))
        longest = max(shape.aligned_text(len(v[index].text)) for v in variants)
        full = tokens + length > shape.tokens or text + longest > shape.text
        if not rows or full or len(rows[-1]) == shape.segments:
            rows.append([])
            tokens = text = 0
        rows[-1].append(index)
        tokens, text = tokens + length, text + longest
    return rows


def _assemble(
    segments: Sequence[packing.Segment],
    places: Sequence[Sequence[int]],
    *,
    config: pipeline.PackedDataConfig,
) -> list[packing.Packed]:
    """Batches of `config.rows` rows; the last is filled with empty ones."""
    rows = [[segments[index] for index in row] for row in places]
    rows += [[] for _ in range(-len(rows) % config.rows)]
    batches = [
        packing.assemble(rows[start : start + config.rows], config.row)
        for start in range(0, len(rows), config.rows)
    ]
    return [packing.stripe(batch, shards=config.shards) for batch in batches]
