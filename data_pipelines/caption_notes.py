"""What training will not see of captions, said before it begins."""

from collections.abc import Sequence

from data_pipelines import pipeline, transforms
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
    for source in sources:
        step = -(-len(source) // MAX_CLIPS)
        for index in range(0, len(source), step):
            clips += 1
            shown = transforms.shown_captions(source[index].captions, captions)
            for text in shown.values():
                readable, notes = prompts.readable(text)
                length = len(encode(readable, _WHOLE))
                total, changed = total + 1, changed + bool(notes)
                cut, longest = (
                    cut + (length > captions.max_length),
                    max(longest, length),
                )
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
