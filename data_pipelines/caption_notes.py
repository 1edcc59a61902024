"""What training will not see of captions, said before it begins."""

from collections.abc import Iterator, Sequence

from data_pipelines import pipeline, records, sources, text_features, transforms
from soraflax.generation import prompts

MAX_CLIPS = 10_000  # of a dataset that are looked at; of more, as many spread evenly
_WHOLE = 2**30  # tokens; no caption has so many


def caption_notes(
    sources: Sequence[pipeline.LatentSource],
    captions: transforms.CaptionConfig,
    *,
    encode: pipeline.Encode | None = None,
) -> list[str]:
    """Lines that count the captions that are cut, and those that are cleaned.

    Args:
      sources: open latent datasets.
      captions: choice and length of captions.
      encode: as in `pipeline.make_dataset`.
    """
    encode = encode or pipeline.embedded_encode()
    clips = total = changed = cut = longest = 0
    for shown in _shown(sources, captions):
        clips += 1
        for text in shown:
            readable, notes = prompts.readable(text)
            length = len(encode(readable, _WHOLE))
            total, changed = total + 1, changed + bool(notes)
            cut, longest = cut + (length > captions.max_length), max(longest, length)
    lines = []
    of_all = f"of {total:,} captions of {clips:,} clips"
    if clips < sum(map(len, sources)):
        of_all += f" (of {sum(map(len, sources)):,}, looked at evenly)"
    if cut:
        lines.append(
            f"captions: {cut:,} {of_all} are longer than {captions.max_length} tokens "
            f"(data.captions.max_length): their ends are not read; the longest has "
            f"{longest:,}"
        )
    if changed:
        lines.append(
            f"captions: {changed:,} {of_all} hold controls or broken characters, which "
            "are removed as from prompts"
        )
    return lines


def check_embedded(
    sources: Sequence[pipeline.LatentSource],
    captions: transforms.CaptionConfig,
    *,
    features: str,
) -> None:
    """Refuse features that lack a caption which training may draw.

    Args:
      sources: open latent datasets; of each `MAX_CLIPS` clips are looked at.
      captions: choice of captions.
      features: directory of the features; none of them is read, only their keys.

    Raises:
      DatasetError: with the number of those that are missing, and one of them.
    """
    store = text_features.open_features(features)
    texts = {
        prompts.readable(text)[0]
        for shown in _shown(sources, captions)
        for text in shown
    }
    missing = sorted(text for text in texts if text not in store)
    if missing:
        start = missing[0] if len(missing[0]) <= 40 else missing[0][:37] + "..."
        raise records.DatasetError(
            f"{store.path}: has no features of {len(missing):,} of {len(texts):,} "
            f"captions, such as {start!r}; embed the datasets that training reads: "
            "python -m data_pipelines.embed"
        )


def _shown(
    opened: Sequence[pipeline.LatentSource], captions: transforms.CaptionConfig
) -> Iterator[list[str]]:
    """The captions that training may show of clips of every source."""
    for source in opened:
        step = -(-len(source) // MAX_CLIPS)
        for _, record in sources.readable(source, range(0, len(source), step)):
            shown = transforms.shown_captions(record.captions, captions)
            yield list(shown.values())
