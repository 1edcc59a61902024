"""What a prompt asks for, read word by word, and whether a longer one keeps it.

    asked = read("two red balls over a navy background")
    keeps(asked, read("two small red circles stay still on a navy background"))  # True

A prompt is subjects, between commas and "and", and a background. A subject is a bag of
words: a count, a size, a colour, a shape or "something", a motion, each at most once
and any of them alone ("red", "moves left"). A prompt with any other word, a denial
among them, is not read: of it nobody can say that it is kept.
"""

import dataclasses
import re

from soraflax.generation import expansion

ANYTHING = ("something", "thing", "object", "shape")  # bodies of a shape left open
_COUNTS = {"a": 1, "an": 1, "one": 1, "the": 1, "two": 2, "three": 3}
_FILLERS = ("that", "which", "is", "are")
_DIRECTIONS = ("left", "right", "up", "down")
WORDS = (
    *("two", "three", "and", *expansion.SIZES, *expansion.COLOURS),
    *(shape + plural for shape in expansion.SHAPES for plural in ("", "s")),
    *("moves", "move", "still", *_DIRECTIONS, *expansion.BACKGROUNDS),
)
_MOVES = re.compile(rf"\b(?:moves?|moving) ({'|'.join(_DIRECTIONS)})\b")
_STAYS = re.compile(r"\b(?:(?:stays?|staying) )?still\b")
_BACKGROUND = re.compile(
    r"(?:(?:^| )(?:on|over|against) (?:an? )?|^)"
    rf"({'|'.join(expansion.BACKGROUNDS)}) background$"
)


@dataclasses.dataclass(frozen=True)
class Subject:
    """One body, or several alike; what is None was left open.

    Attributes:
      count: of bodies, 1 to 3.
      size, colour, shape: words of the world.
      motion: a direction, or 'still'.
    """

    count: int | None = None
    size: str | None = None
    colour: str | None = None
    shape: str | None = None
    motion: str | None = None


@dataclasses.dataclass(frozen=True)
class Reading:
    """What a prompt says.

    Attributes:
      subjects: in the order of the prompt.
      background: its colour, or None.
    """

    subjects: tuple[Subject, ...]
    background: str | None = None


def read(text: str) -> Reading | None:
    """What a text asks for; None where a word of it is not understood."""
    text = plain(text).removesuffix(".")
    found = _BACKGROUND.search(text)
    background = found[1] if found else None
    text = (text[: found.start()] if found else text).strip()
    if not text and background:
        return Reading((), background)
    subjects = [_subject(piece) for piece in re.split(r", (?:and )?| and ", text)]
    understood = tuple(subject for subject in subjects if subject is not None)
    if len(understood) < len(subjects):
        return None
    return Reading(understood, background)


def plain(text: str) -> str:
    """A text in lower case, with the world's words for common ones."""
    words = (expansion.worded(word) for word in re.findall(r"[^\s,.;]+|[,.;]", text))
    words = ("a" if _COUNTS.get(w.lower()) == 1 else w.lower() for w in words)
    return re.sub(r" ([,.;])", r"\1", " ".join(words))


def keeps(asked: Reading, made: Reading) -> bool:
    """Whether everything that was asked for is said, and nothing else in its place."""
    if asked.background not in (None, made.background):
        return False
    if not asked.subjects:
        return True
    if len(asked.subjects) != len(made.subjects):
        return False
    return all(
        value in (None, getattr(other, name))
        for subject, other in zip(asked.subjects, made.subjects, strict=True)
        for name, value in dataclasses.asdict(subject).items()
    )


def still(asked: Reading, made: Reading) -> Reading:
    """`made` without motions that were not asked for, as images have none."""
    if len(asked.subjects) != len(made.subjects):
        return made
    pairs = zip(asked.subjects, made.subjects, strict=True)
    subjects = (dataclasses.replace(m, motion=a.motion) for a, m in pairs)
    return dataclasses.replace(made, subjects=tuple(subjects))


def say(reading: Reading) -> str:
    """The text of a reading; `read` gives it back."""
    phrases = [_say(subject) for subject in reading.subjects]
    subjects = " and ".join(filter(None, [", ".join(phrases[:-1]), *phrases[-1:]]))
    background = f"on a {reading.background} background" if reading.background else ""
    return " ".join(filter(None, [subjects, background]))


def _say(subject: Subject) -> str:
    several = (subject.count or 1) > 1
    count = {1: ["a"], 2: ["two"], 3: ["three"]}.get(subject.count or 0, [])
    noun = subject.shape or ("thing" if count else "something")
    looks = filter(None, (subject.size, subject.colour))
    words = [*count, *looks, noun + "s" * several]
    if subject.motion == "still":
        words.append("stay still" if several else "stays still")
    elif subject.motion:
        words.append(f"{'move' if several else 'moves'} {subject.motion}")
    return " ".join(words)


def _subject(text: str) -> Subject | None:
    """A piece of a prompt; None where it is not understood, or says a thing twice."""
    said: dict[str, int | str] = {}
    text = _STAYS.sub("@still", _MOVES.sub(r"@\1", text))
    for word in text.split():
        if word in _FILLERS:
            continue
        kind, value = _kind(word)
        if kind in said:
            return None
        said[kind] = value
    several = said.get("count", 1) != 1
    plural, single = said.pop("plural", None), said.pop("noun", None)
    if "unknown" in said or (plural and single) or several != (plural is not None):
        return None
    noun = plural or single
    if not noun and (not said or "count" in said):  # "a small", of "a small, red ring"
        return None
    shape = {} if noun is None or noun in ANYTHING else {"shape": noun}
    return Subject(**said | shape)  # pyright: ignore[reportArgumentType]


def _kind(word: str) -> tuple[str, int | str]:
    """What a word is of: a field of `Subject`, 'noun', 'plural' or 'unknown'."""
    nouns = (*expansion.SHAPES, *ANYTHING)
    if word in _COUNTS:
        return "count", _COUNTS[word]
    if word in expansion.SIZES:
        return "size", word
    if word in expansion.COLOURS:
        return "colour", word
    if word.startswith("@"):
        return "motion", word[1:]
    if word in nouns:
        return "noun", word
    if word.removesuffix("s") in nouns:
        return "plural", word.removesuffix("s")
    return "unknown", word
