"""The captions that a captioner writes for packed clips, a token at a time.

With a cache a step computes one token of every caption: the keys and values of those
before it are kept, and those of the clips are computed once. `recompute`, its slow
definition, runs the whole decoder over every caption again at each step.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from soraflax.nn import captioner, decoding
from soraflax.ops import attention, packing
from soraflax.ops.attention import kernel as kernels


def decode(
    params: Any,
    packed: packing.Packed,
    *,
    config: captioner.CaptionerConfig,
    decoding_config: decoding.DecodingConfig,
    end: int,
    key: jax.Array | None = None,
    allowed: Bool[Array, "V"] | None = None,
    implementation: str = "cache",
) -> decoding.Decoded:
    """Captions of every segment: ids `[B S, T]`, all padding where there is none.

    Args:
      params: of a `captioner.Captioner`.
      packed: rows of clean, normalised latent tokens; their text is not read.
      config: sizes.
      decoding_config: how to choose words.
      end: id of end-of-text.
      key: PRNG key, where words are drawn.
      allowed: tokens that may be written; None for all.
      implementation: 'cache', or 'recompute', its slow definition.

    Raises:
      ValueError: an unknown implementation, or `top_p` without a key.
    """
    steps = {"cache": _cached_step, "recompute": _recomputed_step}
    if implementation not in steps:
        raise ValueError(
            f"unknown implementation {implementation!r}; known: {', '.join(steps)}"
        )
    slots = jnp.arange(1, packed.max_segments + 1)
    present = jnp.any(packed.segments[:, None, :] == slots[:, None], axis=-1)
    step, cache = steps[implementation](
        params, packed, config=config, decoding_config=decoding_config
    )
    return decoding.decode(
        step if allowed is None else functools.partial(_among, step, allowed),
        cache,
        active=present.reshape(-1),
        config=decoding_config,
        start=captioner.START,
        end=end,
        key=key,
    )


def _among(
    step: decoding.NextToken,
    allowed: Bool[Array, "V"],
    tokens: jax.Array,
    index: jax.Array,
    cache: Any,
) -> tuple[Any, Any]:
    """The step of a model that writes no other tokens than those allowed."""
    logits, cache = step(tokens, index, cache)
    return jnp.where(allowed, logits, kernels.MASK_VALUE), cache


def _cached_step(
    params: Any,
    packed: packing.Packed,
    *,
    config: captioner.CaptionerConfig,
    decoding_config: decoding.DecodingConfig,
) -> tuple[decoding.NextToken, Any]:
    """A step that computes one token, and its empty cache."""
    module, layer = captioner.Captioner(config), captioner.DecoderLayer(config)
    apply = functools.partial(module.apply, {"params": params})
    stacked = params["decoder"]
    weights = [
        {"params": jax.tree.map(lambda x, n=n: x[n], stacked)}
        for n in range(config.decoder_depth)
    ]
    features: Any = apply(packed, method="encode")
    memories = [layer.apply(w, features, method="memory") for w in weights]
    rows, queries = _queries(packed, decoding_config)
    batch, count = queries.shape
    length = decoding_config.max_length
    cross = attention.make_plan(
        queries, packed.segments, block=config.attention_block, heads=config.heads
    )
    empty = jnp.zeros((batch * count, length, config.heads, config.head_size))

    def step(tokens: jax.Array, index: jax.Array, cache: Any) -> tuple[Any, Any]:
        y: Any = apply(tokens.reshape(batch, count), method="embed")
        angles = captioner.text_angles(jnp.full((batch, count), index), config)
        own = _own_plan(index, rows=batch * count, length=length)
        caches = []
        for weight, memory, old in zip(weights, memories, cache, strict=True):
            flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), old)
            made: Any = layer.apply(
                weight,
                y,
                flat,
                memory=memory,
                index=index,
                angles=angles,
                plans=captioner.Plans(own, cross),
                method="step",
            )
            y, new = made
            caches.append(jax.tree.map(lambda x: x.reshape(*rows, *x.shape[1:]), new))
        logits: Any = apply(y, method="head")
        return logits.reshape(*rows, -1), caches

    shaped = empty.reshape(*rows, *empty.shape[1:])
    return step, [(shaped, shaped)] * config.decoder_depth


def _own_plan(
    index: Int[Array, ""], *, rows: int, length: int
) -> attention.AttentionPlan:
    """From one token of each caption to those so far: a segment of its cache.

    What is to come is padding.
    """
    so_far = jnp.where(jnp.arange(length) <= index, 1, 0)
    so_far = jnp.broadcast_to(so_far, (rows, length))
    return attention.make_plan(jnp.ones((rows, 1), jnp.int32), so_far)


def _recomputed_step(
    params: Any,
    packed: packing.Packed,
    *,
    config: captioner.CaptionerConfig,
    decoding_config: decoding.DecodingConfig,
) -> tuple[decoding.NextToken, Any]:
    """A step that computes all tokens of all captions, whose cache is their ids."""
    apply = functools.partial(captioner.Captioner(config).apply, {"params": params})
    features = apply(packed, method="encode")
    rows, queries = _queries(packed, decoding_config)
    batch, count = queries.shape
    length = decoding_config.max_length
    own = jnp.repeat(jnp.arange(1, count + 1), length)
    own = jnp.broadcast_to(own, (batch, count * length))
    plans = captioner.Plans(
        attention.make_plan(
            own, own, block=config.attention_block, heads=config.heads, causal=True
        ),
        attention.make_plan(
            jnp.repeat(queries, length, axis=1),
            packed.segments,
            block=config.attention_block,
            heads=config.heads,
        ),
    )

    def step(tokens: jax.Array, index: jax.Array, cache: Any) -> tuple[Any, Any]:
        ids = cache.at[:, :, index].set(tokens)
        logits: Any = apply(
            ids.reshape(batch, count * length),
            own,
            features=features,
            plans=plans,
            method="logits",
        )
        logits = logits.reshape(*rows, length, -1)
        return jax.lax.dynamic_index_in_dim(logits, index, axis=2, keepdims=False), ids

    return step, jnp.full((*rows, length), captioner.START, jnp.int32)


def _queries(
    packed: packing.Packed, config: decoding.DecodingConfig
) -> tuple[tuple[int, int], Int[Array, "B Q"]]:
    """`(B S, W)`, and the segment of each of the S W captions written for a row."""
    batch, segments = packed.segments.shape[0], packed.max_segments
    slots = jnp.repeat(jnp.arange(1, segments + 1), config.beams)
    rows = (batch * segments, config.beams)
    return rows, jnp.broadcast_to(slots, (batch, segments * config.beams))
