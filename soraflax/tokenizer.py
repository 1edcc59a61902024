"""Text to token ids and back (sentencepiece).

The embedded vocabulary is a small unigram model with byte fallback: any text encodes,
and decodes to itself. Published vocabularies of the T5 family (`spiece.model`) load the
same way, and give the ids of transformers' `T5Tokenizer`, with one exception: names of
control pieces (`</s>`, `<extra_id_3>`) that stand in a text are letters like others
here, and no commands. Padding is id 0; every encoding ends with one end-of-text id, so
that the empty text, which stands for "no caption", is `[eos]`.

Wan's pipelines clean captions before they are encoded (`clean`). That is a property of
a `Tokenizer`, as ids depend on it.
"""

import dataclasses
import functools
import hashlib
import html
import os
import re
import warnings
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

PAD = 0
# Unicode's white space; what Python counts besides, ftfy would remove.
_SPACES = re.compile(r"[^\S\x1c-\x1f]+")
_NO_FTFY = (
    "captions beyond ASCII are cleaned without ftfy, as diffusers does where it is "
    "missing too: pip install 'soraflax[clean]' to mend curled quotes and wrongly "
    "decoded text as well"
)


class TokenizerError(ValueError):
    """A vocabulary that cannot be read, or a text that is too long; one line."""


@dataclasses.dataclass(frozen=True)
class Encoded:
    """Token ids of a text that may have been cut.

    Attributes:
      ids: int32, the last of them end-of-text.
      dropped: tokens that did not fit; 0 if the text is whole.
    """

    ids: Int[np.ndarray, "m"]
    dropped: int


def clean(text: str) -> str:
    """A caption as Wan's pipelines clean it (diffusers' `prompt_clean`).

    Wrongly decoded text is mended by ftfy, where it is installed (the extra `clean`);
    without it, which a warning says once, the rest is done alone: HTML's entities are
    read, twice, and white space becomes single spaces, with none at the ends.
    """
    fix_text = _fix_text()
    if fix_text is not None:
        text = fix_text(text)
    elif not text.isascii():
        _warn_without_ftfy()
    text = html.unescape(html.unescape(text)).strip()
    return _SPACES.sub(" ", text).strip()


class Tokenizer:
    """A sentencepiece vocabulary; equal and picklable by its model bytes.

    Attributes:
      model: the serialised vocabulary.
      cleaned: whether a text is cleaned (`clean`) before it is encoded.
      vocab_size: number of ids.
      pad_id: id of padding, always 0.
      eos_id: id of end-of-text, which ends every encoding.
      unknown_id: id of a piece that the vocabulary does not have; one with byte
        fallback, as the embedded one, never gives it.
    """

    pad_id = PAD

    def __init__(
        self, model: bytes, *, name: str = "vocabulary", cleaned: bool = False
    ) -> None:
        """Read a vocabulary.

        Raises:
          TokenizerError: not a sentencepiece model, or one without an end-of-text id
            or with another padding id than 0.
        """
        processor = _processor_class()()
        try:
            processor.LoadFromSerializedProto(model)
        except (RuntimeError, OSError) as error:
            raise TokenizerError(f"{name}: not a sentencepiece model") from error
        self.model = model
        self.cleaned = cleaned
        self._processor = processor
        self.vocab_size: int = processor.vocab_size()
        self.eos_id: int = processor.eos_id()
        self.unknown_id: int = processor.unk_id()
        if not self.vocab_size:
            raise TokenizerError(f"{name}: not a sentencepiece model")
        if self.eos_id < 0 or processor.pad_id() != PAD:
            raise TokenizerError(
                f"{name}: its end-of-text id is {self.eos_id} and its padding id "
                f"{processor.pad_id()}; needed are one and 0, as in the T5 family"
            )

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], *, cleaned: bool = False
    ) -> "Tokenizer":
        """Read a `.model` file, such as a published `spiece.model`.

        Raises:
          TokenizerError: the file is missing or not such a vocabulary.
        """
        try:
            model = Path(path).read_bytes()
        except OSError as error:
            cause = (error.strerror or str(error)).lower()
            raise TokenizerError(f"{os.fspath(path)}: {cause}") from error
        return cls(model, name=str(path), cleaned=cleaned)

    @classmethod
    def embedded(cls) -> "Tokenizer":
        """The vocabulary that ships with the package (1024 pieces)."""
        return cls(_embedded_model(), name="embedded vocabulary")

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of the vocabulary, and of whether texts are cleaned."""
        return hashlib.sha256(self.model + b"cleaned" * self.cleaned).hexdigest()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the vocabulary as a `.model` file."""
        Path(path).write_bytes(self.model)

    def encode(
        self, text: str, *, max_length: int | None = None
    ) -> Int[np.ndarray, "m"]:
        """int32 ids of the whole text; at least one, the last of them end-of-text.

        Raises:
          TokenizerError: the text needs more than `max_length` ids; `encode_prefix`
            cuts instead, and says by how much.
        """
        text = clean(text) if self.cleaned else text
        ids = np.asarray([*self._processor.EncodeAsIds(text), self.eos_id], np.int32)
        if max_length is not None and len(ids) > max_length:
            start = text if len(text) <= 40 else text[:37] + "..."
            raise TokenizerError(
                f"text of {len(ids)} tokens, at most {max_length} fit: {start!r}"
            )
        return ids

    def encode_prefix(self, text: str, *, max_length: int) -> Encoded:
        """`encode`, but a long text is cut; the result says how many tokens were lost.

        Raises:
          TokenizerError: `max_length` is below 1.
        """
        if max_length < 1:
            raise TokenizerError(f"max_length={max_length}: use 1 or more")
        ids = self.encode(text)
        dropped = max(0, len(ids) - max_length)
        if dropped:
            ids = np.append(ids[: max_length - 1], ids[-1:])
        return Encoded(ids, dropped)

    def decode(self, ids: Sequence[int | np.integer] | Int[np.ndarray, "m"]) -> str:
        """The text of ids; stops at end-of-text, skips padding.

        Raises:
          TokenizerError: an id is not in the vocabulary.
        """
        text_ids: list[int] = []
        for token in np.asarray(ids, np.int64).tolist():
            if not 0 <= token < self.vocab_size:
                raise TokenizerError(f"id {token} is not in 0..{self.vocab_size - 1}")
            if token == self.eos_id:
                break
            if token != PAD:
                text_ids.append(token)
        return self._processor.DecodeIds(text_ids) if text_ids else ""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tokenizer) and other.digest == self.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __reduce__(self) -> tuple[Any, ...]:
        return functools.partial(Tokenizer, cleaned=self.cleaned), (self.model,)


@functools.cache
def _embedded_model() -> bytes:
    asset = resources.files("soraflax") / "assets" / "vocabulary.model"
    return asset.read_bytes()


@functools.cache
def _fix_text() -> Callable[[str], str] | None:
    try:
        import ftfy  # pyright: ignore[reportMissingImports]
    except ImportError:
        return None
    return ftfy.fix_text


@functools.cache
def _warn_without_ftfy() -> None:
    warnings.warn(_NO_FTFY, stacklevel=4)


def _processor_class() -> Any:
    try:
        import sentencepiece
    except ImportError as error:
        raise ImportError(
            "the tokenizer needs sentencepiece: pip install 'soraflax[train]'"
        ) from error
    return sentencepiece.SentencePieceProcessor
