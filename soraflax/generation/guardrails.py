"""Filters before and after: what a server will not make, or not show.

    guard = Guardrails((word_list(["nude"]),))
    guard.check("a red circle")             # before: the prompt, and the expanded one
    guard.check("a red circle", video)      # after: what became of it

A filter is a function `(text, video) -> reason or None`; `video` is None before there
is one. What is refused raises `RefusedError`, one line, which is logged, and of which a
command makes exit status 3. Guardrails are on for the page (`soraflax serve`) and off
for the library and the commands, where `--guard` names filters.

The filters here are examples of the interface. A list of words does not understand what
it reads: who serves a model that can make harm needs a classifier of their own.
"""

import dataclasses
import logging
import pathlib
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, runtime_checkable

from soraflax import extensions, media

GROUP = "soraflax.filters"
WORDS, CAPTIONS = "words", "captions"
_log = logging.getLogger(__name__)


class RefusedError(ValueError):
    """What a filter does not let pass; one line."""

    exit_status = 3


@runtime_checkable
class Filter(Protocol):
    """The reason not to make, or not to show, something; None to let it pass."""

    def __call__(self, text: str, video: media.Video | None) -> str | None: ...


@dataclasses.dataclass(frozen=True)
class Guardrails:
    """Filters that all must let a text and a video pass; none let everything pass.

    Attributes:
      filters: asked in order.
    """

    filters: tuple[Filter, ...] = ()

    def check(self, text: str, video: media.Video | None = None) -> None:
        """Refuse what a filter has a reason against, and log it.

        Args:
          text: a prompt, as given or expanded; may be empty.
          video: what was made of it; None before.

        Raises:
          RefusedError: naming the first reason.
          ValueError: a filter fails; nothing passes a filter that is broken.
        """
        for one in self.filters:
            try:
                reason = one(text, video)
            except Exception as error:
                raise ValueError(
                    f"filter {_name(one)} failed: {type(error).__name__}: {error}"
                ) from error
            if reason:
                what = "prompt" if video is None else "result"
                message = f"{what} refused: {' '.join(str(reason).split())}"
                _log.info("%s", message)
                raise RefusedError(message)


@dataclasses.dataclass(frozen=True)
class WordList:
    """Refuses texts that hold one of some words or phrases, whole and in any case.

    Attributes:
      words: as `normalised` gives them.
    """

    words: tuple[str, ...]

    def __call__(self, text: str, video: media.Video | None = None) -> str | None:
        del video
        found = _first(text, self.words)
        return f"its text holds {found!r}" if found else None


@dataclasses.dataclass(frozen=True)
class CaptionWords:
    """Refuses videos of which a captioner says one of some words.

    Attributes:
      caption: a video to its caption, such as a `Captioner`.
      words: as of `WordList`.
    """

    caption: Callable[[media.Video], str]
    words: tuple[str, ...]

    def __call__(self, text: str, video: media.Video | None = None) -> str | None:
        del text
        found = "" if video is None else _first(self.caption(video), self.words)
        return f"the captioner sees {found!r} in it" if found else None


def _first(text: str, words: Sequence[str]) -> str:
    """The first of `words` in a text; "" if there is none."""
    spaced = f" {normalised(text)} "
    return next((word for word in words if f" {word} " in spaced), "")


def normalised(text: str) -> str:
    """Words in lower case, without accents and marks, with one space between them."""
    plain = unicodedata.normalize("NFKD", text)
    plain = "".join(c for c in plain if not unicodedata.combining(c))
    return " ".join(re.findall(r"[^\W_]+", plain.casefold()))


def read_words(path: pathlib.Path) -> tuple[str, ...]:
    """Words or phrases of a file, a line each; `#` begins a comment.

    Raises:
      ValueError: it holds none, or is no UTF-8 text.
      OSError: it cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a text in UTF-8") from error
    return _listed((line.partition("#")[0] for line in lines), origin=str(path))


def word_list(words: Iterable[str]) -> WordList:
    """A filter of words or phrases.

    Raises:
      ValueError: there are none.
    """
    return WordList(_listed(words, origin="a word list"))


def _listed(words: Iterable[str], *, origin: str) -> tuple[str, ...]:
    found = tuple(dict.fromkeys(filter(None, map(normalised, words))))
    if not found:
        raise ValueError(f"{origin}: no words in it: give one a line")
    return found


def shipped_words() -> tuple[str, ...]:
    """The words that the page refuses by itself."""
    return read_words(pathlib.Path(__file__).parents[1] / "assets" / "refused.txt")


def load(names: Sequence[str], *, caption: Callable[[media.Video], str]) -> Guardrails:
    """Guardrails by the names of their filters.

    Args:
      names: 'words', the shipped list of words; 'captions', the same list against
        what the captioner says of a result; a file of words, `.txt`;
        `module:function`; or an entry point of `GROUP`.
      caption: for 'captions'.

    Raises:
      ExtensionError: there is no such filter.
      ValueError, OSError: a file of words that cannot be used.
    """

    def filter_of(name: str) -> Any:
        if name == WORDS:
            return WordList(shipped_words())
        if name == CAPTIONS:
            return CaptionWords(caption, shipped_words())
        if name.endswith(".txt"):
            return WordList(read_words(pathlib.Path(name)))
        return extensions.load(name, group=GROUP, known=(WORDS, CAPTIONS))

    return Guardrails(tuple(filter_of(name) for name in names))


def _name(one: Filter) -> str:
    return getattr(one, "__name__", type(one).__name__)
