"""The diffusion transformer: packed rows in, one prediction per patch out.

Wan's transformer (arXiv:2503.20314, section 4.2; shapes of its published models below)
with a noise level per token instead of one per clip. With t a level of the row's table,

    f(t)       = [cos(1000 t w), sin(1000 t w)],   w_i = 10000^(-i / (F/2))       (1)
    e(t)       = Linear(SiLU(Linear(f(t))))                                       (2)
    modulation = Linear(SiLU(e(t)))                 shared by all blocks, 6 D     (3)
    x          = Linear(tokens),   text = Linear(GELU(Linear(text)))              (4)
    prediction = Linear(LN(x) (1 + scale) + shift), [shift, scale] = table + e(t) (5)

Two options that Wan does not have. With `input_skip` the head adds what is linear in
its own input,

    prediction += gain * tokens,   gain = Linear(SiLU(e(t)))      one per number  (6)

so that the residual stream need not carry a copy of the noise: for Gaussian data (6)
alone is the best prediction (arXiv:2206.00364, appendix B.6, where the gain is fixed).
With `pooled_text` a segment's text reaches every block through the modulation as well
(as in arXiv:2403.03206, section 4),

    e(t)       += Linear(mean of the segment's text)                              (7)

(1) to (3) run in float32 on the table of levels, which has two entries per segment.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from soraflax import sharding
from soraflax.nn import layers, text_encoder, transformer
from soraflax.ops import attention, packing, rope

CACHE = "cache"
ATTENTION: dict[str, str | None] = {
    "auto": None,
    "reference": "reference",
    "blocks": "blocks",
    "splash": "splash",
    "triton": "triton",
}


@dataclasses.dataclass(frozen=True)
class DiTConfig:
    """Sizes of a diffusion transformer.

    Attributes:
      latent_channels: z, channels of the latent.
      patch: time, height and width of a patch.
      width: D, features of the residual stream.
      depth: number of blocks.
      heads: number of heads; divides `width` into heads of even size.
      mlp: hidden size of the MLPs.
      text_width: features of the text that comes in.
      text: sizes of the text encoder trained with the model; None where text comes as
        features.
      frequency_width: F of equation (1).
      theta: base of the rotary frequencies.
      gate_init: initial value of the gates of a block. 0 is adaLN-Zero, for long
        training; with 1 every block contributes from the first step, which pays in
        short training.
      qk_bias_init: initial bias of queries and keys in the last head, rising to it from
        0 in the first; above 0, near tokens attend to each other from the first step,
        which pays in short training too.
      input_skip: whether the head adds equation (6).
      pooled_text: whether the modulation has equation (7).
      dtype: 'float32' or 'bfloat16' (`layers.compute_dtype`); parameters are float32.
      remat: a name in `transformer.REMAT_POLICIES`.
      attention: 'auto', or an implementation of `attention.attention`.
      attention_block: tokens in a block of an attention plan.
    """

    latent_channels: int
    patch: tuple[int, int, int]
    width: int
    depth: int
    heads: int
    mlp: int
    text_width: int
    text: text_encoder.TextEncoderConfig | None = None
    frequency_width: int = 256
    theta: float = 10000.0
    gate_init: float = 0.0
    qk_bias_init: float = 0.0
    input_skip: bool = False
    pooled_text: bool = False
    dtype: str = "float32"
    remat: str = "none"
    attention: str = "auto"
    attention_block: int = 128

    def __post_init__(self) -> None:
        transformer.check_remat(self.remat)
        _check_choice("dtype", self.dtype, known=("float32", "bfloat16"))
        _check_choice("attention", self.attention, known=ATTENTION)
        for field in ("latent_channels", "width", "depth", "mlp", "text_width"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} {getattr(self, field)}: use 1 or more")
        if min(self.patch) < 1:
            nearest = tuple(max(1, size) for size in self.patch)
            raise ValueError(f"patch {self.patch}: use {nearest}")
        if self.attention_block < 1:
            raise ValueError(f"attention_block {self.attention_block}: use 1 or more")
        if self.frequency_width < 2:
            raise ValueError(f"frequency_width {self.frequency_width}: use 2 or more")
        _check_heads(self.width, self.heads)
        if self.text is not None and self.text.width != self.text_width:
            raise ValueError(
                f"text_width {self.text_width} is not the width {self.text.width} of "
                f"the text encoder; use {self.text.width}"
            )
        if self.frequency_width % 2:
            raise ValueError(
                f"frequency_width {self.frequency_width} is odd; use "
                f"{self.frequency_width - 1} or {self.frequency_width + 1}"
            )

    @property
    def patch_size(self) -> int:
        """P, numbers in a patch."""
        return math.prod(self.patch) * self.latent_channels


def _check_choice(field: str, value: str, *, known: Any) -> None:
    if value not in known:
        raise ValueError(f"unknown {field} {value!r}; known: {', '.join(known)}")


def _check_heads(width: int, heads: int) -> None:
    """Refuse heads that do not divide the width into even sizes."""
    if heads > 0 and width % (2 * heads) == 0:
        return
    legal = [h for h in range(1, width // 2 + 1) if width % (2 * h) == 0]
    if not legal:
        raise ValueError(f"width {width} has no heads of even size; use {width + 1}")
    nearest = min(legal, key=lambda h: abs(h - heads))
    raise ValueError(
        f"{heads} heads do not divide width {width} into heads of even size; "
        f"nearest number of heads that do: {nearest}"
    )


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["self_attention", "cross_attention", "text"],
    meta_fields=[],
)
@dataclasses.dataclass(frozen=True)
class Plans:
    """The attention plans of a batch of rows, shared by all layers.

    Attributes:
      self_attention: tokens to tokens.
      cross_attention: tokens to text.
      text: text to text; None where text comes as features.
    """

    self_attention: Any
    cross_attention: Any
    text: Any


def make_plans(packed: packing.Packed, config: DiTConfig) -> Plans:
    """The attention plans of a batch; once per step, outside of the layers."""
    plan = functools.partial(attention.make_plan, block=config.attention_block)
    segments = jnp.asarray(packed.segments)
    text = jnp.asarray(packed.text_segments)
    ids = jnp.issubdtype(packed.text.dtype, jnp.integer)
    return Plans(
        plan(segments, segments, heads=config.heads),
        plan(segments, text, key_axis="text"),
        plan(text, text) if ids else None,
    )


def frequencies(
    levels: Float[Array | np.ndarray, "*batch"], width: int
) -> Float[Array, "*batch width"]:
    """Equation (1): float32 features of noise levels in [0, 1]; `width` is F."""
    half = width // 2
    rates = jnp.exp(jnp.arange(half, dtype=jnp.float32) * (-math.log(10000.0) / half))
    angles = 1000.0 * levels.astype(jnp.float32)[..., None] * rates
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


class LevelEmbedding(nn.Module):
    """Equations (2) and (3), and (7) where there is pooled text, in float32.

    Attributes:
      width: D.
      frequency_width: F.
    """

    width: int
    frequency_width: int

    @nn.compact
    def __call__(
        self,
        levels: Float[Array | np.ndarray, "B L"],
        pooled: Float[Array, "B L E"] | None = None,
    ) -> tuple[Float[Array, "B L D"], Float[Array, "B L 6 D"]]:
        """`e` and the modulation of every level; `pooled` is the mean text of (7)."""
        linear = functools.partial(layers.Linear, self.width)
        e = linear(axes=(None, "mlp"), name="in")(
            frequencies(levels, self.frequency_width)
        )
        e = linear(axes=("mlp", "embed"), name="out")(jax.nn.silu(e))
        if pooled is not None:
            e = e + linear(axes=(None, "embed"), name="pooled")(pooled)
        modulation = layers.Linear(
            6 * self.width,
            axes=("embed", "mlp"),
            kernel_init=layers.zeros,
            name="projection",
        )(jax.nn.silu(e))
        modulation = modulation.reshape(*levels.shape, 6, self.width)
        return (
            sharding.constrain(e, "batch", None, "embed"),
            sharding.constrain(modulation, "batch", None, None, "embed"),
        )


class TextProjection(nn.Module):
    """The text half of equation (4).

    Attributes:
      width: D.
      dtype: compute dtype.
    """

    width: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, text: Float[Array, "B M E"]) -> Float[Array, "B M D"]:
        linear = functools.partial(layers.Linear, self.width, dtype=self.dtype)
        y = jax.nn.gelu(linear(axes=(None, "mlp"), name="in")(text), approximate=True)
        y = linear(axes=("mlp", "embed"), name="out")(y)
        return sharding.constrain(y, "batch", "text", "embed")


class Head(nn.Module):
    """Equation (5), and (6) with `input_skip`. The prediction starts at zero.

    Attributes:
      features: P.
      input_skip: whether equation (6) is added.
      dtype: compute dtype.
    """

    features: int
    input_skip: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B N D"],
        e: Float[Array, "B L D"],
        *,
        level_ids: Int[Array, "B N"],
        tokens: Float[Array, "B N P"],
    ) -> Float[Array, "B N P"]:
        table = self.param(
            "modulation",
            sharding.named(layers.zeros, None, "embed"),
            (2, x.shape[-1]),
            jnp.float32,
        ).astype(jnp.float32)
        x = transformer.modulate(
            x, table[0] + e, scale=table[1] + e, level_ids=level_ids
        )
        linear = functools.partial(
            layers.Linear,
            self.features,
            axes=("embed", None),
            kernel_init=layers.zeros,
        )
        y = linear(dtype=self.dtype, name="out")(x).astype(jnp.float32)
        if not self.input_skip:
            return y
        gain = linear(name="gain")(jax.nn.silu(e))
        return y + transformer.gather(gain, level_ids) * tokens


class DiT(nn.Module):
    """Predicts one patch per token of a packed row.

    Attributes:
      config: sizes.
    """

    config: DiTConfig

    @nn.compact
    def __call__(
        self,
        packed: packing.Packed,
        *,
        plans: Plans | None = None,
        residual: Float[Array, "B N D"] | None = None,
        kept: Bool[Array, "B depth"] | None = None,
    ) -> Float[Array, "B N P"]:
        """The prediction of every token, float32, zero in padding.

        The sum of all blocks' updates to the embedded tokens, `[B, N, D]`, is sown as
        `residual` into the collection `CACHE`.

        Args:
          packed: the rows; the contents of their padding do not matter. Integer text
            goes through the model's own encoder, other text is taken as features;
            those of padding that is attended to (Wan's, to 512) have its segment's id.
          plans: `make_plans(packed, config)`, if it exists already.
          residual: the sown residual of a nearby noise level, in the place of the
            blocks (TeaCache, arXiv:2411.19108).
          kept: whether each row goes through each block; None is all through all.

        Raises:
          ValueError: tokens or text of another size than the configuration's.
        """
        c, dtype = self.config, layers.compute_dtype(self.config.dtype)
        _check_tokens(packed, c)
        plans = make_plans(packed, c) if plans is None else plans
        packed = _zero_padding(packed)
        text = self._encode(packed, plans.text)
        pooled = _pool(text, packed) if c.pooled_text else None
        levels = LevelEmbedding(c.width, c.frequency_width, name="levels")
        e, modulation = levels(packed.levels, pooled)
        embed = functools.partial(layers.Linear, c.width, axes=(None, "embed"))
        x = embed(dtype=dtype, kernel_init=layers.xavier, name="patch_embedding")(
            packed.tokens
        )
        x = sharding.constrain(x, "batch", "tokens", "embed")
        if residual is None:
            text = TextProjection(c.width, dtype, name="text_projection")(text)
            y = transformer.Stack(
                depth=c.depth,
                heads=c.heads,
                mlp=c.mlp,
                gate_init=c.gate_init,
                qk_bias_init=c.qk_bias_init,
                dtype=dtype,
                implementation=ATTENTION[c.attention],
                remat=c.remat,
                name="stack",
            )(
                x,
                modulation=modulation,
                level_ids=packed.level_ids,
                angles=rope.rope_angles(
                    packed.positions, c.width // c.heads, theta=c.theta
                ),
                text=text,
                plans=plans,
                kept=kept,
            )
            if not self.is_initializing():
                self.sow(CACHE, "residual", y - x)
        else:
            y = x + residual
        head = Head(c.patch_size, c.input_skip, dtype, name="head")
        y = head(y, e, level_ids=packed.level_ids, tokens=packed.tokens)
        y = jnp.where(packed.segments[..., None] > 0, y, 0.0)
        return sharding.constrain(y, "batch", "tokens", None)

    def _encode(self, packed: packing.Packed, plan: Any) -> jax.Array:
        """Text features `[B, M, text_width]`."""
        c = self.config
        if not jnp.issubdtype(packed.text.dtype, jnp.integer):
            if packed.text.shape[-1] != c.text_width:
                raise ValueError(
                    f"text features of width {packed.text.shape[-1]}; the model takes "
                    f"{c.text_width}"
                )
            return packed.text
        if c.text is None:
            raise ValueError(
                "text is token ids, but the model has no text encoder: give features "
                f"of width {c.text_width}"
            )
        dtype, kind = layers.compute_dtype(c.dtype), ATTENTION[c.attention]
        encoder = text_encoder.TextEncoder(c.text, dtype, kind, name="text_encoder")
        return encoder(packed.text, packed.text_segments, plan=plan)


def _pool(text: jax.Array, packed: packing.Packed) -> Float[Array, "B L E"]:
    """The mean of equation (7) for both levels, 2 s and 2 s + 1, of every segment s."""
    pooled = packing.segment_mean(
        text.astype(jnp.float32),
        packed.text_segments,
        max_segments=packed.max_segments,
    )
    return jnp.repeat(pooled, 2, axis=1)


def _check_tokens(packed: packing.Packed, config: DiTConfig) -> None:
    if packed.tokens.shape[-1] != config.patch_size:
        raise ValueError(
            f"tokens of {packed.tokens.shape[-1]} numbers; patches of {config.patch} "
            f"with {config.latent_channels} channels have {config.patch_size}"
        )


def _zero_padding(packed: packing.Packed) -> packing.Packed:
    """The same rows with zeros in the padding, whose values (NaN too) reach nothing."""
    present, text_present = packed.segments > 0, packed.text_segments > 0
    if packed.text.ndim == 3:
        text_present = text_present[..., None]
    return packed.replace(
        tokens=jnp.where(present[..., None], packed.tokens, 0),
        positions=jnp.where(present[..., None], packed.positions, 0),
        level_ids=jnp.where(present, packed.level_ids, 0),
        text=jnp.where(text_present, packed.text, 0),
    )


TINY = DiTConfig(
    latent_channels=4,
    patch=(1, 2, 2),
    width=32,
    depth=2,
    heads=4,
    mlp=64,
    text=text_encoder.VARIANTS["tiny"],
    text_width=16,
    frequency_width=32,
)
SMALL = DiTConfig(
    latent_channels=16,
    patch=(1, 2, 2),
    width=192,
    depth=6,
    heads=4,
    mlp=768,
    text=text_encoder.VARIANTS["small"],
    text_width=128,
    theta=10.0,
    gate_init=1.0,
    qk_bias_init=4.0,
    input_skip=True,
    pooled_text=True,
    attention_block=64,
)
# Widths, depths and heads of DiT-B and DiT-L (arXiv:2212.09748, table 1).
BASE = dataclasses.replace(
    SMALL,
    width=768,
    depth=12,
    heads=12,
    mlp=3072,
    text=text_encoder.VARIANTS["base"],
    text_width=512,
    theta=10000.0,
    gate_init=0.0,
    qk_bias_init=0.0,
    dtype="bfloat16",
    attention_block=128,
)
LARGE = dataclasses.replace(
    BASE, width=1024, depth=24, heads=16, mlp=4096, remat="attention"
)
# Wan-AI/Wan2.1-T2V-1.3B and -14B; UMT5's features come from outside.
WAN2_1_T2V_1_3B = DiTConfig(
    latent_channels=16,
    patch=(1, 2, 2),
    width=1536,
    depth=30,
    heads=12,
    mlp=8960,
    text_width=4096,
    dtype="bfloat16",
    remat="full",
)
WAN2_1_T2V_14B = dataclasses.replace(
    WAN2_1_T2V_1_3B, width=5120, depth=40, heads=40, mlp=13824
)
# Wan-AI/Wan2.2-TI2V-5B: latents of the autoencoder of 2.2, two levels in one clip.
WAN2_2_TI2V_5B = dataclasses.replace(
    WAN2_1_T2V_1_3B, latent_channels=48, width=3072, heads=24, mlp=14336
)

VARIANTS: dict[str, DiTConfig] = {
    "tiny": TINY,
    "small": SMALL,
    "base": BASE,
    "large": LARGE,
    "wan2_1_t2v_1_3b": WAN2_1_T2V_1_3B,
    "wan2_1_t2v_14b": WAN2_1_T2V_14B,
    "wan2_2_ti2v_5b": WAN2_2_TI2V_5B,
}
