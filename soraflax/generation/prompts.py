"""Make any text a prompt that a model can read, and say what was changed.

Nothing is changed silently but white space: captions in training have single spaces
between words, so every run of it, newlines and tabs included, becomes one space. What
may trick or break a reader or a terminal is taken out: control characters, and those
that turn the direction of the text around them (Unicode Bidi_Control). Letters of any
script, emoji and what joins them stay. A text that is too long is cut at its end.
"""

import dataclasses
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence

from soraflax import tokenizer

# Property Bidi_Control of the Unicode Character Database.
_DIRECTION = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e")
_DIRECTION |= frozenset("\u2066\u2067\u2068\u2069")
_WHITE = frozenset("\t\n\v\f\r\x85")
_REPLACEMENT = "\ufffd"
_NAMED = 4  # characters that a note names


@dataclasses.dataclass(frozen=True)
class Cleaned:
    """A text that a model reads whole.

    Attributes:
      text: encodes to `tokens` + 1 ids, the last of them end-of-text.
      tokens: ids that the text takes; 0 for the empty one, which guides nothing.
      dropped: tokens of the text before it was cut, less `tokens`; 0 if it is whole.
      notes: what was changed or cannot be read, a line each.
    """

    text: str
    tokens: int
    dropped: int = 0
    notes: tuple[str, ...] = ()


def clean(
    text: str,
    *,
    vocabulary: tokenizer.Tokenizer,
    text_length: int,
    name: str = "prompt",
) -> Cleaned:
    """The part of a text that a model can read.

    Args:
      text: anything, such as an argument of a command whose bytes are not UTF-8.
      vocabulary: the model's.
      text_length: most ids of a text, end-of-text included, at least 1.
      name: what the notes call the text.
    """
    changed, notes = readable(text)
    if text and not changed:
        notes.append("nothing to read in it, so it counts as empty")
    cut, tokens, total = _fitting(changed, vocabulary, text_length=text_length)
    unknown = int((vocabulary.encode(cut) == vocabulary.unknown_id).sum())
    lines = [f"{name}: {note}" for note in notes]
    if total > tokens:
        lines.append(f"{name} of {total:,} tokens: the first {tokens:,} are used")
    if unknown:
        lines.append(
            f"{name}: {unknown:,} of {tokens:,} tokens are unknown to the model"
        )
    return Cleaned(cut, tokens, total - tokens, tuple(lines))


def readable(text: str) -> tuple[str, list[str]]:
    """The text without what no model should see, and notes of what that was.

    Captions are read so too (`data_pipelines`): what a model learns from is what it can
    be asked for. A text that was read so does not change again.
    """
    kept, broken, control, direction = [], 0, [], []
    for character in text:
        if character in _WHITE:
            kept.append(" ")
        elif (category := unicodedata.category(character)) == "Cs":
            broken += 1
            kept.append(_REPLACEMENT)
        elif category == "Cc":
            control.append(character)
        elif character in _DIRECTION:
            direction.append(character)
        else:
            kept.append(character)
    notes = []
    if broken:
        notes.append(f"{broken:,} bytes or surrogates that are no text became U+FFFD")
    if control:
        notes.append(f"control characters removed: {_names(control)}")
    if direction:
        notes.append(f"direction control characters removed: {_names(direction)}")
    return " ".join("".join(kept).split()), notes


def _names(characters: Iterable[str]) -> str:
    """The first few different ones by code point, and how many in all."""
    characters = list(characters)
    distinct = list(dict.fromkeys(characters))
    named = [f"U+{ord(character):04X}" for character in distinct[:_NAMED]]
    more = ["..."] if len(distinct) > _NAMED else []
    return f"{', '.join(named + more)} ({len(characters):,} in all)"


def _fitting(
    text: str, vocabulary: tokenizer.Tokenizer, *, text_length: int
) -> tuple[str, int, int]:
    """A prefix of the text that fits, its tokens, and those of the whole text.

    It ends between words, but where these are few and long, as in scripts that do not
    part them. It is found by its own encodings, each about as long as what fits,
    because the decoded prefix of an encoding need not encode to itself: ids may end
    within a character, and vocabularies that normalise do not give a text back.
    """
    total, limit = len(vocabulary.encode(text)) - 1, text_length - 1
    if total <= limit:
        return text, total, total

    def tokens(end: int) -> int:
        return len(vocabulary.encode(text[:end].rstrip())) - 1

    words = [match.start() for match in re.finditer(" ", text)] + [len(text)]
    word = _last(words, lambda end: tokens(end) <= limit)
    end = words[word] if word is not None else 0
    if 2 * tokens(end) < limit:
        # Whole words fill less than half: go on into the next one, letter by letter.
        letters = range(end + 1, words[0 if word is None else word + 1])
        letter = _last(letters, lambda end: tokens(end) <= limit)
        end = letters[letter] if letter is not None else end
    return text[:end].rstrip(), tokens(end), total


def _last(ends: Sequence[int], fits: Callable[[int], bool]) -> int | None:
    """Index of an end that fits, near the first that does not; None if there is none.

    Doubles its steps and then halves them, so that no end far beyond is looked at.
    """
    good, bad = -1, 1
    while bad <= len(ends) and fits(ends[bad - 1]):
        good, bad = bad - 1, 2 * bad
    bad = min(bad - 1, len(ends))
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if fits(ends[middle]) else (good, middle)
    return good if good >= 0 else None
