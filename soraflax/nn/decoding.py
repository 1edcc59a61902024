"""Text from a model that predicts the next token: greedy, sampled, or by beams.

All three are one compiled loop. With h a hypothesis of a sequence, s(h) its score and
p(v | h) the probability of token v after it, every step extends each of W hypotheses,

    s(h v) = s(h) + log p(v | h),                                                 (1)

keeps the W best of a sequence, and ends a hypothesis at end-of-text, after which it has
one continuation, padding, at no cost. The result is the best by s(h) / length(h)^alpha
(arXiv:1609.08144, equation 14, without its constants). W = 1 is greedy decoding; with
`top_p` the token is drawn instead from the smallest set of tokens whose probabilities
add up to p (arXiv:1904.09751).

The model is a function: what it remembers of the tokens so far, its cache, is in its
own hands. Leaves of the cache that differ between hypotheses are `[R, W, ...]`.
"""

import dataclasses
import functools
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from soraflax.ops.attention import kernel as kernels

MAX_BEAMS = 64


@dataclasses.dataclass(frozen=True)
class DecodingConfig:
    """How a text is chosen.

    Attributes:
      max_length: most tokens of a text, end-of-text included.
      beams: W, hypotheses kept; 1 is greedy.
      top_p: probability of the set that tokens are drawn from, in (0, 1]; None draws
        none and takes the most probable.
      temperature: divisor of the logits that are drawn from.
      length_power: alpha; 0 compares the scores of texts of any length.
    """

    max_length: int = 64
    beams: int = 1
    top_p: float | None = None
    temperature: float = 1.0
    length_power: float = 1.0

    def __post_init__(self) -> None:
        if self.max_length < 1:
            raise ValueError(f"max_length {self.max_length}: use 1 or more")
        if not 1 <= self.beams <= MAX_BEAMS:
            nearest = min(max(self.beams, 1), MAX_BEAMS)
            raise ValueError(f"{self.beams} beams: use {nearest}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p {self.top_p}: use a number in (0, 1], as 0.9")
        if self.top_p is not None and self.beams > 1:
            raise ValueError(f"top_p with {self.beams} beams: use one of the two")
        if not self.temperature > 0:
            raise ValueError(f"temperature {self.temperature}: use a number above 0")


@runtime_checkable
class NextToken(Protocol):
    """One step of a model.

    Takes the tokens last chosen, `[R, W]`, their index in their texts, and the cache;
    gives logits `[R, W, V]` of the next ones, and the cache.
    """

    def __call__(
        self, tokens: Int[Array, "R W"], index: Int[Array, ""], cache: Any
    ) -> tuple[Float[Array, "R W V"], Any]: ...


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["ids", "score"],
    meta_fields=[],
)
@dataclasses.dataclass(frozen=True)
class Decoded:
    """The text of every sequence.

    Attributes:
      ids: `[R, T]` int32, ended by end-of-text unless it was cut at T; then padding.
      score: `[R]` float32, the sum of log probabilities (1).
    """

    ids: Any
    score: Any


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["index", "ids", "last", "score", "ended", "cache"],
    meta_fields=[],
)
@dataclasses.dataclass(frozen=True)
class _State:
    """Hypotheses: `ids` `[R, W, T]`, the others `[R, W]`, and the next `index`."""

    index: Any
    ids: Any
    last: Any
    score: Any
    ended: Any
    cache: Any


def decode(
    step: NextToken,
    cache: Any,
    *,
    active: Bool[Array, "R"],
    config: DecodingConfig,
    start: int,
    end: int,
    pad: int = 0,
    key: jax.Array | None = None,
) -> Decoded:
    """Texts of R sequences, in a loop that stops once all have ended.

    Args:
      step: the model.
      cache: its cache before the first token, for W hypotheses of every sequence.
      active: sequences that are wanted; of others the text is padding.
      config: how to choose.
      start: id that stands before the first token.
      end: id of end-of-text.
      pad: id of padding.
      key: PRNG key, where `config.top_p` is set.

    Raises:
      ValueError: `top_p` without a key.
    """
    if config.top_p is not None and key is None:
        raise ValueError("top_p draws tokens: give a PRNG key")

    def unfinished(state: _State) -> jax.Array:
        return (state.index < config.max_length) & ~jnp.all(state.ended)

    def extend(state: _State) -> _State:
        logits, cache = step(state.last, state.index, state.cache)
        log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
        log_p = _continuations(log_p, state.ended, pad=pad)
        if config.top_p is None or key is None:
            score, parent, token = _best(state.score[..., None] + log_p)
        else:
            parent, drawn = None, jax.random.fold_in(key, state.index)
            score, token = _draw(drawn, state, log_p=log_p, config=config, pad=pad)
        ids, ended, cache = _follow((state.ids, state.ended, cache), parent)
        ids = ids.at[:, :, state.index].set(token)
        ended = ended | (token == end)
        return _State(state.index + 1, ids, token, score, ended, cache)

    first = _first(active, cache, config=config, start=start, pad=pad)
    final = jax.lax.while_loop(unfinished, extend, first)
    return _best_of(final, active, config=config, pad=pad)


def _first(
    active: Bool[Array, "R"],
    cache: Any,
    *,
    config: DecodingConfig,
    start: int,
    pad: int,
) -> _State:
    """W hypotheses of every sequence, alike: the first of them alone counts."""
    shape = (active.shape[0], config.beams)
    score = jnp.where(jnp.arange(config.beams) == 0, 0.0, kernels.MASK_VALUE)
    return _State(
        index=jnp.int32(0),
        ids=jnp.full((*shape, config.max_length), pad, jnp.int32),
        last=jnp.full(shape, start, jnp.int32),
        score=jnp.broadcast_to(score, shape).astype(jnp.float32),
        ended=jnp.broadcast_to(~active[:, None], shape),
        cache=cache,
    )


def _best_of(
    final: _State, active: Bool[Array, "R"], *, config: DecodingConfig, pad: int
) -> Decoded:
    """The best hypothesis of every sequence."""
    length = jnp.sum(final.ids != pad, axis=-1, dtype=jnp.float32)
    length = jnp.maximum(length, 1.0)
    best = jnp.argmax(final.score / length**config.length_power, axis=-1)[:, None]
    ids = jnp.take_along_axis(final.ids, best[..., None], axis=1)[:, 0]
    score = jnp.take_along_axis(final.score, best, axis=1)[:, 0]
    return Decoded(ids, jnp.where(active, score, 0.0))


def _continuations(
    log_p: Float[Array, "R W V"], ended: Bool[Array, "R W"], *, pad: int
) -> Float[Array, "R W V"]:
    """Log probabilities: of what has ended padding alone, of others anything else."""
    is_pad = jnp.arange(log_p.shape[-1]) == pad
    after = jnp.where(is_pad, 0.0, kernels.MASK_VALUE)
    going_on = jnp.where(is_pad, kernels.MASK_VALUE, log_p)
    return jnp.where(ended[..., None], after, going_on)


def _best(
    total: Float[Array, "R W V"],
) -> tuple[Float[Array, "R W"], Int[Array, "R W"] | None, Int[Array, "R W"]]:
    """Scores, parents and tokens of the W best of W V continuations."""
    rows, width, size = total.shape
    if width == 1:
        token = jnp.argmax(total, axis=-1).astype(jnp.int32)
        return jnp.max(total, axis=-1), None, token
    score, flat = jax.lax.top_k(total.reshape(rows, width * size), width)
    return score, flat // size, (flat % size).astype(jnp.int32)


def _follow(tree: Any, parent: Int[Array, "R W"] | None) -> Any:
    """Leaves `[R, W, ...]` of each hypothesis's parent."""
    if parent is None:
        return tree

    def take(x: jax.Array) -> jax.Array:
        return jax.vmap(lambda rows, index: rows[index])(x, parent)

    return jax.tree.map(take, tree)


def _draw(
    key: jax.Array,
    state: _State,
    *,
    log_p: Float[Array, "R W V"],
    config: DecodingConfig,
    pad: int,
) -> tuple[Float[Array, "R W"], Int[Array, "R W"]]:
    """Scores and tokens, of the smallest set whose probabilities reach `top_p`."""
    scaled = log_p / config.temperature
    order = jnp.argsort(-scaled, axis=-1)
    ranked = jnp.take_along_axis(scaled, order, axis=-1)
    p = jax.nn.softmax(ranked)
    # The mass before a token: the most probable one is always in the set.
    before = jnp.cumsum(p, axis=-1) - p
    kept = jnp.where(before < (config.top_p or 1.0), ranked, kernels.MASK_VALUE)
    place = jax.random.categorical(key, kept, axis=-1)
    token = jnp.take_along_axis(order, place[..., None], axis=-1)[..., 0]
    token = jnp.where(state.ended, pad, token).astype(jnp.int32)
    chosen = jnp.take_along_axis(log_p, token[..., None], axis=-1)
    return state.score + chosen[..., 0], token
