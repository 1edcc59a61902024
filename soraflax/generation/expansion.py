"""Short prompts made longer: what was asked for stays, what was left open is said.

    expand("a red circle", seed=0)
    # 'a large red circle moves left on a white background'

Models are trained on detailed captions (`data_pipelines.worlds.captions`) and draw
best what is said in such words. `Template` needs no model. It is grounded: every word
of the prompt is kept, nothing that the prompt says is contradicted, and only what it
leaves open is added: a size, a colour, a motion, a background. Where it does not
understand a word beside a body, or a denial, it adds nothing there.

An expander is any function `(prompt, *, seed) -> str`: `load` finds a user's own.
`prompt_expander.PromptExpander` is a trained one, for which the template may stand in;
`expanded` says who it was.
"""

import dataclasses
import hashlib
import os
import re
from collections.abc import Collection, Sequence
from typing import Any, Protocol, runtime_checkable

from soraflax import extensions
from soraflax.generation import prompts

GROUP = "soraflax.expanders"
TEMPLATE = "template"
LEARNED = "learned"  # the shipped one

COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
SHAPES = ("circle", "square", "triangle", "star", "ring")
SIZES = ("small", "large")
MOTIONS = ("moves left", "moves right", "moves up", "moves down", "stays still")
BACKGROUNDS = ("black", "gray", "white", "navy", "tan", "mint")
# Common words for those of the world; replaced by them, and said.
SYNONYMS = {
    "ball": "circle",
    "dot": "circle",
    "disc": "circle",
    "disk": "circle",
    "box": "square",
    "block": "square",
    "cube": "square",
    "pyramid": "triangle",
    "donut": "ring",
    "doughnut": "ring",
    "hoop": "ring",
    "big": "large",
    "huge": "large",
    "little": "small",
    "tiny": "small",
    "violet": "purple",
    "grey": "gray",
}
_COUNTS = ("a", "an", "one", "the", "two", "three")
_PLURAL = ("two", "three")
_DENIALS = frozenset(("no", "not", "without", "never", "nothing", "none", "neither"))


@runtime_checkable
class Expander(Protocol):
    """A prompt to a longer one that asks for the same."""

    def __call__(self, prompt: str, *, seed: int) -> str: ...


@dataclasses.dataclass(frozen=True)
class Expansion:
    """What became of a prompt.

    Attributes:
      text: the longer prompt.
      expander: name of the expander that made it.
      digest: of its parameters; "" where it has none.
      asked: name of the expander that was asked, and made nothing of it; "" for none.
      reason: why it did not.
      notes: what of the prompt could not be read, a line each, as of `prompts`.
    """

    text: str
    expander: str
    digest: str = ""
    asked: str = ""
    reason: str = ""
    notes: tuple[str, ...] = ()

    def record(self, prompt: str) -> dict[str, Any]:
        """What the record of a video says of it; what is empty is left out.

        Args:
          prompt: as it was given.
        """
        values = dataclasses.asdict(self) | {"prompt": prompt}
        del values["text"], values["notes"]
        return {name: value for name, value in values.items() if value}


@runtime_checkable
class Substituted(Protocol):
    """An expander for which the template may stand in."""

    def expand(self, prompt: str, *, seed: int, name: str) -> Expansion:
        """The longer prompt, and who made it; `name` is that of the expander."""
        ...


@dataclasses.dataclass(frozen=True)
class Template:
    """The expander without a model.

    Attributes:
      words: that may be added, such as those of a model's training; empty for all.
      moving: whether motion is added; not to images.
      fresh: whether appearance is added: sizes, colours, a background. Not where they
        are those of a clip that the prompt goes with.
    """

    words: Collection[str] = ()
    moving: bool = True
    fresh: bool = True

    def __call__(self, prompt: str, *, seed: int = 0) -> str:
        """The longer prompt; the same for one prompt and seed.

        Args:
          prompt: any text; one without a body of the world stays as it is.
          seed: of what is added.
        """
        text = " ".join(prompt.split())
        tokens = _tokens(text)
        bodies = [n for n, token in enumerate(tokens) if _shape(token)]
        if not bodies or any(token.lower() in _DENIALS for token in tokens):
            return text
        draw = _Draw(text, seed)
        added: list[tuple[int, int, str]] = []
        for number in bodies:
            self._describe(tokens, number, draw=draw, added=added)
        for start, stop, words in sorted(added, reverse=True):
            tokens[start:stop] = words.split()
        tokens = _articles([worded(token) for token in tokens])
        longer = re.sub(r" ([,.;:!?])", r"\1", " ".join(tokens))
        return longer + self._background(tokens, draw)

    def _describe(
        self,
        tokens: Sequence[str],
        number: int,
        *,
        draw: "_Draw",
        added: list[tuple[int, int, str]],
    ) -> None:
        """Add what is unsaid of the body at index `number`: `(start, stop, words)`."""
        start = number
        while start and _adjective(tokens[start - 1]):
            start -= 1
        before = tokens[start - 1].lower() if start else ""
        known = {_common(token) for token in tokens[start:number]}
        # A word that is none of ours may be a size or a colour in other words.
        if self.fresh and (not start or before in _COUNTS or not before.isalpha()):
            article = "a " if not start or not before.isalpha() else ""
            size = "" if known & set(SIZES) else self._choose(draw, SIZES)
            colour = "" if known & set(COLOURS) else self._choose(draw, COLOURS)
            said = [t for t in tokens[start:number] if _common(t) in SIZES]
            rest = [t for t in tokens[start:number] if _common(t) not in SIZES]
            words = " ".join(filter(None, [size, *said, colour, *rest]))
            added.append((start, number, article + words))
        after = tokens[number + 1].lower() if number + 1 < len(tokens) else ""
        if self.moving and after in ("", ",", ".", ";", "and", "on", "over", "against"):
            motion = self._choose(draw, MOTIONS)
            if before in _PLURAL:
                motion = motion.replace("moves", "move").replace("stays", "stay")
            added.append((number + 1, number + 1, motion))

    def _background(self, tokens: Sequence[str], draw: "_Draw") -> str:
        said = {"background", "on", "over", "against", "in", "before", "behind", "."}
        if not self.fresh or said & {token.lower() for token in tokens}:
            return ""
        name = self._choose(draw, BACKGROUNDS)
        return f" on a {name} background" if name else ""

    def _choose(self, draw: "_Draw", options: Sequence[str]) -> str:
        """One of the options whose words may be added; "" if there is none."""
        known = [
            o for o in options if not self.words or set(o.split()) <= {*self.words}
        ]
        return draw(known) if known else ""


class _Draw:
    """Even draws that depend on a text and a seed alone."""

    def __init__(self, text: str, seed: int) -> None:
        self._name, self._count = f"{seed}/{text}", 0

    def __call__(self, options: Sequence[str]) -> str:
        self._count += 1
        name = f"{self._name}/{self._count}".encode("utf-8", "surrogatepass")
        number = int.from_bytes(hashlib.sha256(name).digest()[:8])
        return options[number % len(options)]


def _tokens(text: str) -> list[str]:
    """Words, and the marks between them, each by itself."""
    return re.findall(r"[^\s,.;:!?]+|[,.;:!?]", text)


def _singular(token: str) -> str:
    word = token.lower()
    single = word[:-2] if word.endswith("xes") else word.removesuffix("s")
    return single if single in SYNONYMS or single in SHAPES else word


def _common(token: str) -> str:
    """The world's word for it."""
    word = _singular(token)
    return SYNONYMS.get(word, word)


def worded(token: str) -> str:
    """The world's word for a common one; other words as they are."""
    return SYNONYMS.get(token.lower(), _plural(token))


def _plural(token: str) -> str:
    """The world's word for a body in the plural; other words as they are."""
    single = _singular(token)
    is_body = _common(token) in SHAPES and single != token.lower()
    return f"{_common(token)}s" if is_body else token


def _shape(token: str) -> bool:
    return _common(token) in SHAPES


def _adjective(token: str) -> bool:
    return _common(token) in (*SIZES, *COLOURS)


def _articles(tokens: list[str]) -> list[str]:
    """`a` before consonants, `an` before vowels."""
    after = [*tokens[1:], ""]
    return [
        ("an" if n[:1].lower() in {*"aeiou"} else "a")
        if t.lower() in ("a", "an")
        else t
        for t, n in zip(tokens, after, strict=True)
    ]


def load(name: str, template: Template) -> Expander:
    """An expander by its name.

    Args:
      name: 'template', 'learned', the folder of a trained expander, `module:function`,
        or an entry point of `GROUP`.
      template: what 'template' is, and what stands in for a trained one.

    Raises:
      ExtensionError: there is no such function.
      FileNotFoundError, ModelError: no expander in a folder, or a damaged one.
    """
    if name == TEMPLATE:
        return template
    if name == LEARNED or os.path.isdir(name):
        from soraflax.generation import prompt_expander  # which loads JAX

        folder = None if name == LEARNED else name
        return prompt_expander.PromptExpander.load(folder, template=template)
    return extensions.load(name, group=GROUP, known=(TEMPLATE, LEARNED))


def expanded(prompt: str, expander: Expander, *, seed: int, name: str) -> Expansion:
    """What an expander makes of a prompt; both are read as models read them.

    Args:
      prompt: that it is given, without what `prompts.readable` takes out.
      expander: any.
      seed: that it is given.
      name: of the expander, for errors and for what is returned.

    Raises:
      ValueError: an empty prompt; it fails, or gives anything but a text.
    """
    text, changes = prompts.readable(prompt)
    if not text:
        raise ValueError("the prompt is empty: say what a video shall show")
    try:
        made = _made(text, expander, seed=seed, name=name)
    except Exception as error:
        raise ValueError(
            f"expander {name!r} failed: {type(error).__name__}: {error}"
        ) from error
    longer: Any = made.text
    cleaned = prompts.readable(longer)[0] if isinstance(longer, str) else ""
    if not cleaned:
        raise ValueError(
            f"expander {name!r} gave {longer!r}: it must give a text that is not empty"
        )
    notes = tuple(f"prompt: {change}" for change in changes)
    return dataclasses.replace(made, text=cleaned, notes=notes)


def _made(text: str, expander: Expander, *, seed: int, name: str) -> Expansion:
    """What an expander makes of a text, and who it was in truth."""
    if isinstance(expander, Substituted):
        return expander.expand(text, seed=seed, name=name)
    return Expansion(expander(text, seed=seed), name)
