"""A captioner: latents of any size in, packed, and the words of every one out.

With `reads='text'` the same network reads other words instead: a short caption in, a
detailed one out. A token of such a row is the id of a word, embedded as the decoder's.

An encoder reads the patches of a packed row (`ops.packing`), a decoder writes the
caption of each segment, a token at a time. With LN a layer norm with a learned scale,

    encoder    x += attention(LN x, LN x),    x += mlp(LN x)                      (1)
    decoder    y += causal attention(LN y, LN y)                                  (2)
               y += attention(LN y, x),       y += mlp(LN y)                      (3)
    logits     W LN(y)                                                            (4)

Attention stays inside a segment in all three; that of (2) sees no later token besides.
The encoder's is rotary over time, height and width, the decoder's over the index in the
caption. A caption is read shifted by one: padding stands before its first token.

`caption_decoding` runs (2) to (4) a token at a time, with the keys and values of the
tokens before it in a cache.
"""

import dataclasses
import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int

from soraflax import sharding
from soraflax.nn import layers, transformer
from soraflax.ops import attention, packing, rope

START = 0  # id before the first token of a caption, that of padding

KeysValues = tuple[Float[Array, "B M H K"], Float[Array, "B M H K"]]


@dataclasses.dataclass(frozen=True)
class CaptionerConfig:
    """Sizes of a captioner.

    Attributes:
      latent_channels: z, channels of the latents it reads; 1 of text.
      vocabulary: number of token ids.
      reads: 'latents', or 'text', whose tokens are ids (`text_segment`).
      patch: latent frames, rows and columns of a patch.
      width: features of both residual streams.
      heads: heads of every attention; divides the width.
      mlp: hidden size of the MLPs.
      encoder_depth: layers of the encoder.
      decoder_depth: layers of the decoder.
      theta: base of the rotary frequencies, of both.
      qk_bias_init: initial bias of the encoder's queries and keys
        (`transformer.Attention`).
      dtype: compute dtype.
      attention: as in `attention.attention`; None chooses.
      attention_block: tokens in a block of attention.
      remat: a name in `transformer.REMAT_POLICIES`.
    """

    latent_channels: int
    vocabulary: int
    patch: tuple[int, int, int] = (1, 2, 2)
    width: int = 128
    heads: int = 4
    mlp: int = 512
    encoder_depth: int = 4
    decoder_depth: int = 2
    theta: float = 100.0
    qk_bias_init: float = 0.0
    dtype: str = "float32"
    attention: str | None = None
    attention_block: int = 128
    remat: str = "none"
    reads: Literal["latents", "text"] = "latents"

    def __post_init__(self) -> None:
        transformer.check_remat(self.remat)
        if self.reads == "text" and self.patch_size != 1:
            raise ValueError(
                f"latent_channels {self.latent_channels}, patch {self.patch}: a token "
                "of text is one id; use 1 and (1, 1, 1)"
            )
        for name in ("encoder_depth", "decoder_depth", "latent_channels", "vocabulary"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)}: use 1 or more")
        if self.width % self.heads or (self.width // self.heads) % 2:
            step = 2 * self.heads
            nearest = max(step, round(self.width / step) * step)
            raise ValueError(
                f"width {self.width} does not divide into {self.heads} heads of an "
                f"even size; nearest that does: {nearest}"
            )

    @property
    def head_size(self) -> int:
        """Features of a head."""
        return self.width // self.heads

    @property
    def patch_size(self) -> int:
        """P, numbers in a token."""
        t, h, w = self.patch
        return t * h * w * self.latent_channels


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["self_attention", "cross_attention"],
    meta_fields=[],
)
@dataclasses.dataclass(frozen=True)
class Plans:
    """Attention plans of the decoder: within captions, and from them to tokens."""

    self_attention: Any
    cross_attention: Any


class EncoderLayer(nn.Module):
    """Equation (1).

    Attributes:
      config: sizes.
    """

    config: CaptionerConfig

    @nn.compact
    def __call__(
        self, x: Float[Array, "B N D"], plan: Any, angles: Float[Array, "B N half"]
    ) -> tuple[Float[Array, "B N D"], None]:
        c = self.config
        dtype = layers.compute_dtype(c.dtype)
        h = layers.LayerNorm(affine=True, name="attention_norm")(x)
        x = x + transformer.Attention(
            c.heads,
            dtype,
            c.attention,
            qk_bias_init=c.qk_bias_init,
            name="attention",
        )(h, h, plan=plan, angles=angles)
        h = layers.LayerNorm(affine=True, name="mlp_norm")(x)
        x = x + transformer.MLP(c.mlp, dtype, name="mlp")(h)
        return sharding.constrain(x, "batch", "tokens", "embed"), None


class CachedAttention(nn.Module):
    """Attention whose keys and values may have been computed before.

    Attributes:
      config: sizes.
      key_axis: logical name of the axis of keys.
    """

    config: CaptionerConfig
    key_axis: str = "text"

    def setup(self) -> None:
        linear = functools.partial(
            layers.Linear,
            self.config.width,
            dtype=layers.compute_dtype(self.config.dtype),
            kernel_init=layers.xavier,
        )
        self.q, self.k, self.v = (linear(axes=("embed", "heads")) for _ in range(3))
        self.out = linear(axes=("heads", "embed"))
        self.q_norm, self.k_norm = (layers.RMSNorm("heads") for _ in range(2))

    def keys_values(
        self,
        context: Float[Array, "B M D"],
        angles: Float[Array, "B M half"] | None = None,
    ) -> KeysValues:
        """What `context` is attended to by; rotary where `angles` are given."""
        k = self._split_heads(self.k_norm(self.k(context)), self.key_axis)
        v = self._split_heads(self.v(context), self.key_axis)
        return (k if angles is None else rope.apply_rope(k, angles)), v

    def __call__(
        self,
        x: Float[Array, "B N D"],
        keys_values: KeysValues,
        *,
        plan: Any,
        angles: Float[Array, "B N half"] | None = None,
        implementation: str | None = None,
    ) -> Float[Array, "B N D"]:
        """Attention of `x` to them."""
        q = self._split_heads(self.q_norm(self.q(x)), "text")
        if angles is not None:
            q = rope.apply_rope(q, angles)
        k, v = keys_values
        y = attention.attention(
            q,
            k,
            v,
            plan=plan,
            implementation=implementation,
            round_products=layers.compute_dtype(self.config.dtype) == layers.ROUNDED,
        )
        return self.out(y.reshape(x.shape))

    def _split_heads(self, x: jax.Array, axis: str) -> jax.Array:
        c = self.config
        x = x.reshape(*x.shape[:-1], c.heads, c.head_size)
        return sharding.constrain(x, "batch", axis, "heads", None)


class DecoderLayer(nn.Module):
    """Equations (2) and (3).

    Attributes:
      config: sizes.
    """

    config: CaptionerConfig

    def setup(self) -> None:
        c = self.config
        norm = functools.partial(layers.LayerNorm, affine=True)
        self.self_norm, self.cross_norm, self.mlp_norm = norm(), norm(), norm()
        self.self_attention = CachedAttention(c)
        self.cross_attention = CachedAttention(c, key_axis="tokens")
        self.mlp = transformer.MLP(c.mlp, layers.compute_dtype(c.dtype))

    def __call__(
        self,
        y: Float[Array, "B M D"],
        features: Float[Array, "B N D"],
        angles: Float[Array, "B M half"],
        plans: Plans,
    ) -> tuple[Float[Array, "B M D"], None]:
        """Whole captions at once; None beside the result, as `nn.scan` wants it."""
        h = self.self_norm(y)
        y = y + self.self_attention(
            h,
            self.self_attention.keys_values(h, angles),
            plan=plans.self_attention,
            angles=angles,
            implementation=self.config.attention,
        )
        y = self._read(y, self.memory(features), plans=plans)
        return sharding.constrain(y, "batch", "text", "embed"), None

    def memory(self, features: Float[Array, "B N D"]) -> KeysValues:
        """Keys and values of what the encoder made."""
        return self.cross_attention.keys_values(features)

    def step(
        self,
        y: Float[Array, "B Q D"],
        cache: Any,
        *,
        memory: Any,
        index: Int[Array, ""],
        angles: Float[Array, "B Q half"],
        plans: Plans,
    ) -> tuple[Float[Array, "B Q D"], Any]:
        """One token of each of Q captions.

        Args:
          y: the token of every caption.
          cache: keys and values of the tokens before it, `[B Q, T, H, K]`.
          memory: keys and values of the encoder's features, `[B, N, H, K]`.
          index: of the token in its caption.
          angles: of the index.
          plans: one query for each caption, within its cache; and to the tokens.

        Returns:
          The stream after the layer, and the cache with this token.
        """
        rows, count, width = y.shape
        h = self.self_norm(y)
        new = self.self_attention.keys_values(h, angles)
        cache = jax.tree.map(
            lambda old, x: jax.lax.dynamic_update_slice_in_dim(
                old, x.reshape(rows * count, 1, *x.shape[2:]), index, axis=1
            ),
            cache,
            new,
        )
        alone = self.self_attention(
            h.reshape(rows * count, 1, width),
            cache,
            plan=plans.self_attention,
            angles=angles.reshape(rows * count, 1, -1),
            implementation="reference",
        )
        return self._read(y + alone.reshape(y.shape), memory, plans=plans), cache

    def _read(self, y: jax.Array, memory: KeysValues, *, plans: Plans) -> jax.Array:
        """Equation (3)."""
        y = y + self.cross_attention(
            self.cross_norm(y),
            memory,
            plan=plans.cross_attention,
            implementation=self.config.attention,
        )
        return y + self.mlp(self.mlp_norm(y))


class Captioner(nn.Module):
    """Packed latents to the next token of every caption.

    Attributes:
      config: sizes.
    """

    config: CaptionerConfig

    def setup(self) -> None:
        c = self.config
        dtype = layers.compute_dtype(c.dtype)
        self.patches = layers.Linear(
            c.width, axes=(None, "embed"), dtype=dtype, kernel_init=layers.xavier
        )
        self.words = layers.Embed(c.vocabulary, c.width)
        self.encoder = self._stack(EncoderLayer, c.encoder_depth)
        self.decoder = self._stack(DecoderLayer, c.decoder_depth)
        self.features_norm = layers.LayerNorm(affine=True)
        self.text_norm = layers.LayerNorm(affine=True)
        self.next_word = layers.Linear(
            c.vocabulary, axes=("embed", "vocab"), use_bias=False, dtype=dtype
        )

    def _stack(self, layer: Any, depth: int) -> nn.Module:
        return transformer.scan(transformer.remat(layer, self.config.remat), depth)(
            self.config
        )

    def __call__(self, packed: packing.Packed) -> Float[Array, "B M V"]:
        """Logits of every token of `packed.text`, each from the tokens before it.

        Args:
          packed: rows of clean, normalised latent tokens, with captions as ids. Their
            noise levels are not read.
        """
        return self.logits(
            shifted(packed.text, packed.text_segments),
            packed.text_segments,
            features=self.encode(packed),
            plans=self.plans(packed.text_segments, packed),
        )

    def plans(
        self, captions: Int[Array | np.ndarray, "B M"], packed: packing.Packed
    ) -> Plans:
        """Plans of text whose captions are the segments `captions` of `packed`."""
        make_plan = functools.partial(
            attention.make_plan,
            captions,
            block=self.config.attention_block,
            heads=self.config.heads,
        )
        return Plans(
            make_plan(captions, key_axis="text", causal=True),
            make_plan(packed.segments),
        )

    def encode(self, packed: packing.Packed) -> Float[Array, "B N D"]:
        """Features of every token, equation (1)."""
        c = self.config
        plan = attention.make_plan(
            packed.segments, packed.segments, block=c.attention_block, heads=c.heads
        )
        angles = rope.rope_angles(packed.positions, c.head_size, theta=c.theta)
        present = (packed.segments > 0)[..., None]
        tokens = jnp.where(present, packed.tokens, 0)
        if c.reads == "text":
            x = self.words(tokens[..., 0].astype(jnp.int32))
        else:
            x = self.patches(tokens)
        x, _ = self.encoder(
            sharding.constrain(x, "batch", "tokens", "embed"), plan, angles
        )
        return self.features_norm(x)

    def logits(
        self,
        ids: Int[Array | np.ndarray, "B M"],
        captions: Int[Array | np.ndarray, "B M"],
        *,
        features: Float[Array, "B N D"],
        plans: Plans,
    ) -> Float[Array, "B M V"]:
        """Equations (2) to (4).

        Args:
          ids: tokens that are read, shifted by one.
          captions: an id of every caption, 0 where padded; equal ones contiguous.
          features: of `encode`.
          plans: of these captions and of the tokens.
        """
        angles = text_angles(text_positions(captions), self.config)
        y = sharding.constrain(self.words(jnp.asarray(ids)), "batch", "text", "embed")
        y, _ = self.decoder(y, features, angles, plans)
        return self.head(y)

    def head(self, y: Float[Array, "*batch D"]) -> Float[Array, "*batch V"]:
        """Equation (4), float32."""
        return self.next_word(self.text_norm(y)).astype(jnp.float32)

    def embed(self, ids: Int[Array, "*batch"]) -> Float[Array, "*batch D"]:
        """The embedding of tokens."""
        return self.words(ids)


def text_segment(
    read: Int[np.ndarray, "n"], caption: Int[np.ndarray, "m"]
) -> packing.Segment:
    """Text that is read, and the caption that is written of it, before packing."""
    return packing.Segment(
        tokens=np.asarray(read, np.float32)[:, None],  # exact below 2**24
        positions=np.pad(
            np.arange(len(read), dtype=np.float32)[:, None], [(0, 0), (0, 2)]
        ),
        cond_mask=np.zeros(len(read), bool),
        text=caption,
    )


def shifted(
    ids: Int[Array | np.ndarray, "B M"], segments: Int[Array | np.ndarray, "B M"]
) -> Int[Array, "B M"]:
    """What the decoder reads: the token before each of its caption, or `START`."""
    before = jnp.pad(jnp.asarray(ids), ((0, 0), (1, 0)), constant_values=START)[:, :-1]
    return jnp.where(text_positions(segments) > 0, before, START)


def text_positions(segments: Int[Array | np.ndarray, "B M"]) -> Int[Array, "B M"]:
    """The index of every token in its caption."""
    segments = jnp.asarray(segments)
    index = jnp.broadcast_to(jnp.arange(segments.shape[1]), segments.shape)
    before = jnp.pad(segments, ((0, 0), (1, 0)), constant_values=-1)[:, :-1]
    first = jnp.where(segments != before, index, 0)
    return index - jax.lax.cummax(first, axis=1)


def text_angles(
    index: Int[Array, "*batch M"], config: CaptionerConfig
) -> Float[Array, "*batch M half"]:
    """Rotary angles of indices, along the time axis alone."""
    time = jnp.asarray(index, jnp.float32)
    positions = jnp.stack([time, jnp.zeros_like(time), jnp.zeros_like(time)], -1)
    return rope.rope_angles(positions, config.head_size, theta=config.theta)


VARIANTS: dict[str, CaptionerConfig] = {
    "tiny": CaptionerConfig(
        latent_channels=4,
        vocabulary=1024,
        width=32,
        heads=2,
        mlp=64,
        encoder_depth=1,
        decoder_depth=2,
    ),
    # Reads the latents of the shipped model, and ships beside it.
    "small": CaptionerConfig(
        latent_channels=16,
        vocabulary=1024,
        width=96,
        heads=4,
        mlp=384,
        encoder_depth=3,
        decoder_depth=2,
        qk_bias_init=2.0,
    ),
    "base": CaptionerConfig(
        latent_channels=16,
        vocabulary=1024,
        width=512,
        heads=8,
        mlp=2048,
        encoder_depth=8,
        decoder_depth=6,
        dtype="bfloat16",
    ),
    # Make short prompts longer (`generation.prompt_expander`).
    "expander": CaptionerConfig(
        1, 1024, patch=(1, 1, 1), reads="text", width=96, mlp=384, encoder_depth=2
    ),
    "expander_tiny": CaptionerConfig(
        1, 1024, patch=(1, 1, 1), reads="text", width=32, mlp=64, encoder_depth=1
    ),
}
