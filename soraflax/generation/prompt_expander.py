"""A trained prompt expander: short captions in, detailed ones out, all checked.

    expander = soraflax.PromptExpander.load(folder)
    expander("red", seed=0)   # 'a large red star moves up on a tan background'

`CANDIDATES` long prompts are drawn at once by the captioner's decoder, which reads the
short one instead of a clip. The first that keeps what was asked for (`grounding`) is
taken: everything that the prompt says is said again, and nothing in its place. Where a
prompt cannot be read, or no candidate keeps it, the template expands it; a line in the
log (`soraflax.generation.prompt_expander`) says so.
"""

import dataclasses
import functools
import logging
import os
from typing import Any

import jax
import numpy as np

from soraflax import tokenizer
from soraflax.generation import expansion, grounding
from soraflax.nn import caption_decoding, decoding
from soraflax.nn import captioner as networks
from soraflax.ops import packing
from soraflax.pretrained import expanders

CANDIDATES = 16
TOP_P = 0.95
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class PromptExpander:
    """A trained expander, and the template that stands in for it.

    Attributes:
      model: its parameters, sizes and vocabulary.
      template: what is added where it has nothing; its `words` and `moving` bind the
        model too. Beside a clip (`fresh` False) the template expands alone.
    """

    model: expanders.ExpanderModel
    template: expansion.Template = dataclasses.field(default_factory=expansion.Template)

    @classmethod
    def load(
        cls,
        folder: str | os.PathLike[str] | None = None,
        *,
        template: expansion.Template | None = None,
    ) -> "PromptExpander":
        """Read a trained expander; arguments and errors of `load_expander`."""
        model = expanders.load_expander(folder)
        return cls(model, template or expansion.Template())

    def __call__(self, prompt: str, *, seed: int = 0) -> str:
        """The longer prompt; the same for one prompt and seed.

        Args:
          prompt: any text; one that cannot be read is expanded by the template.
          seed: of what is drawn.
        """
        return self.expand(prompt, seed=seed, name=expansion.LEARNED).text

    def expand(self, prompt: str, *, seed: int, name: str) -> expansion.Expansion:
        """The longer prompt, and whether this or the template made it.

        Args:
          prompt, seed: as of `__call__`.
          name: by which this is known.
        """
        text = " ".join(prompt.split())
        longer, reason = self.propose(text, seed=seed)
        if longer is not None:
            return expansion.Expansion(longer, name, digest=self.model.digest)
        _log.warning("expanded by the template: %s", reason)
        return expansion.Expansion(
            self.template(text, seed=seed),
            expansion.TEMPLATE,
            asked=name,
            reason=reason,
        )

    def propose(self, text: str, *, seed: int) -> tuple[str | None, str]:
        """The first candidate that keeps what was asked for; or None, and why."""
        asked = grounding.read(text)
        if asked is None:
            return None, f"{_brief(text)} has words that are not understood"
        if not self.template.fresh:
            return None, "it goes with a clip, whose looks are not the prompt's to say"
        try:
            candidates = self.candidates(text, seed=seed)
        except tokenizer.TokenizerError as error:
            return None, str(error)
        for made in map(grounding.read, candidates):
            if made is None or not grounding.keeps(asked, made):
                continue
            longer = grounding.say(
                made if self.template.moving else grounding.still(asked, made)
            )
            if self._known(longer, text):
                return longer, ""
        return None, f"no candidate keeps {_brief(text)}"

    def candidates(self, text: str, *, seed: int = 0) -> list[str]:
        """What the network writes of a text, `CANDIDATES` draws, unchecked.

        Raises:
          TokenizerError: a text longer than those of its training.
        """
        model = self.model
        ids = model.tokenizer.encode(
            grounding.plain(text), max_length=model.config.prompt_length
        )
        segment = networks.text_segment(ids, np.array([networks.START], np.int32))
        shape = packing.RowShape(model.config.prompt_length, 1, 1)
        packed = packing.assemble([[segment]] * CANDIDATES, shape)
        config = decoding.DecodingConfig(
            max_length=model.config.text_length, top_p=TOP_P
        )
        made = _decode(
            self._params,
            packed,
            jax.random.key(seed % 2**32),
            self._allowed(text),
            model.config.network,
            config,
            model.tokenizer.eos_id,
        )
        return [model.tokenizer.decode(row) for row in np.asarray(made.ids)]

    def _allowed(self, prompt: str) -> np.ndarray:
        """`[V]`, false for words that the model to be prompted does not know.

        The prompt's own may be said again.
        """
        pieces = self.model.tokenizer
        allowed = np.ones(pieces.vocab_size, bool)
        if not self.template.words:
            return allowed
        known = {*self.template.words, *_words(grounding.plain(prompt))}
        for word in {*grounding.WORDS} - known:
            ids = pieces.encode(word)
            if len(ids) == 2:  # one piece and end-of-text
                allowed[ids[0]] = False
        return allowed

    def _known(self, longer: str, prompt: str) -> bool:
        """Whether all that was added are words of the model to be prompted."""
        words = {*self.template.words, *_words(grounding.plain(prompt)), "and"}
        return not self.template.words or {*_words(longer)} <= words

    @functools.cached_property
    def _params(self) -> Any:
        return jax.device_put(self.model.params)


def _brief(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}...")


def _words(text: str) -> list[str]:
    return text.replace(",", " ").split()


@functools.partial(jax.jit, static_argnums=(4, 5, 6))
def _decode(
    params: Any,
    packed: packing.Packed,
    key: jax.Array,
    allowed: jax.Array,
    sizes: networks.CaptionerConfig,
    config: decoding.DecodingConfig,
    end: int,
) -> decoding.Decoded:
    return caption_decoding.decode(
        params,
        packed,
        config=sizes,
        decoding_config=config,
        end=end,
        key=key,
        allowed=allowed,
    )
