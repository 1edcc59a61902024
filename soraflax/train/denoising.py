"""The transformer's training objective: denoise the unknown tokens of packed rows.

Every segment s of a row draws one level t_s, shifted by its own token count (equations
1 to 3 of `schedule`), and a conditioning mask: which of its tokens are already known.
With n the tokens of a row,

    known n     enters clean, at level 0
    unknown n   enters as alpha(t_s) x0 + sigma(t_s) noise, at level t_s          (1)
    loss      = sum over unknown n of  w_n lambda(t_s) |prediction - target|^2 / P  (2)

with w and lambda as in `diffusion.loss`. Masks are drawn by `train.mask_sampling`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from soraflax.diffusion import loss as losses
from soraflax.diffusion import process as process_lib
from soraflax.diffusion import schedule
from soraflax.ops import packing
from soraflax.train import mask_sampling, step

Packed = packing.Packed
Predict = Callable[[Any, Packed], jax.Array]


@dataclasses.dataclass(frozen=True)
class DenoisingConfig:
    """The objective.

    Attributes:
      process: a name in `diffusion.process.PROCESSES`.
      prediction: output of the model: 'velocity', 'epsilon' or 'x0'.
      levels: distribution of noise levels, before the shift.
      shift: shift of a segment's level by its token count.
      weighting: 'segment' or 'token': the unit that all have equal weight.
      error: 'prediction' for the error of the model's output, 'x0' or 'velocity' for
        that of the clean tokens or of the velocity that it implies.
      min_snr: gamma of min-SNR weighting, which takes the place of `error`; 0 for none.
      foreground: k of equation (7) of `diffusion.loss`, the weight of what differs from
        the rest of its clip; 0 for none.
      mask_rates: rates of the kinds of conditioning masks.
    """

    process: str = "rectified_flow"
    prediction: str = "velocity"
    levels: schedule.LogitNormal | schedule.Uniform = dataclasses.field(
        default_factory=schedule.LogitNormal
    )
    shift: schedule.TokenCountShift = dataclasses.field(
        default_factory=schedule.TokenCountShift
    )
    weighting: str = "segment"
    error: Literal["prediction", "x0", "velocity"] = "prediction"
    min_snr: float = 0.0
    foreground: float = 0.0
    mask_rates: mask_sampling.MaskRates = dataclasses.field(
        default_factory=mask_sampling.MaskRates
    )

    def __post_init__(self) -> None:
        process_lib.make(self.process, self.prediction)
        if self.weighting not in losses.WEIGHTINGS:
            known = ", ".join(losses.WEIGHTINGS)
            raise ValueError(f"unknown weighting {self.weighting!r}; known: {known}")
        if self.foreground < 0:
            raise ValueError(f"foreground {self.foreground}: use 0 or more")

    @property
    def level_weight(self) -> losses.LevelWeight:
        """lambda of equation (2)."""
        if self.min_snr:
            return losses.MinSNR(self.min_snr)
        return {
            "prediction": losses.Unweighted(),
            "x0": losses.DataError(),
            "velocity": losses.VelocityError(),
        }[self.error]


def loss(
    params: Any,
    packed: Packed,
    key: jax.Array,
    *,
    predict: Predict,
    config: DenoisingConfig,
) -> tuple[Float[Array, ""], dict[str, jax.Array]]:
    """Equation (2) of a batch of rows.

    Args:
      params: parameters of the model.
      packed: clean, normalised tokens; those of `packed.cond_mask` stay known.
      key: PRNG key of levels, masks and noise.
      predict: `(params, packed) -> [B, N, P]`, `predict_with(module)` for a Linen one.
      config: the objective.

    Returns:
      The loss, and scalars: useful_tokens, segments, packing, known, level, loss_weight
      (`total_weight`).
    """
    level_key, mask_key, noise_key = jax.random.split(key, 3)
    packed = mask_sampling.sample_masks(packed, mask_key, rates=config.mask_rates)
    levels = sample_levels(packed, level_key, config=config)
    noise = jax.random.normal(noise_key, packed.tokens.shape, jnp.float32)
    value = loss_at(
        params, packed, levels=levels, noise=noise, predict=predict, config=config
    )
    present = packed.segments > 0
    count = jnp.sum(present, dtype=jnp.float32)
    token_levels = jnp.where(
        present, packing.segment_gather(levels, packed.segments), 0.0
    )
    return value, {
        "useful_tokens": count,
        "segments": jnp.sum(jnp.max(packed.segments, axis=1), dtype=jnp.float32),
        "packing": count / present.size,
        "known": jnp.sum(packed.cond_mask, dtype=jnp.float32) / jnp.maximum(count, 1.0),
        "level": jnp.sum(token_levels) / jnp.maximum(count, 1.0),
        step.WEIGHT: total_weight(packed, config),
    }


def loss_at(
    params: Any,
    packed: Packed,
    *,
    levels: Float[Array, "B S1"],
    noise: Float[Array, "B N P"],
    predict: Predict,
    config: DenoisingConfig,
) -> Float[Array, ""]:
    """Equation (2) at given levels, one per segment id (0 included), and noise."""
    process = process_lib.make(config.process, config.prediction)
    noisy = corrupt(packed, levels=levels, noise=noise, process=process)
    t = noisy.noise_levels
    target = process_lib.target(process, packed.tokens, noise=noise, t=t[..., None])
    weights = token_weights(packed, config) * config.level_weight(process, t)
    return losses.weighted_mse(predict(params, noisy), target, weights=weights)


def predict_x0(
    params: Any,
    packed: Packed,
    *,
    levels: Float[Array, "B S1"],
    noise: Float[Array, "B N P"],
    predict: Predict,
    config: DenoisingConfig,
) -> Float[Array, "B N P"]:
    """The clean tokens that the model sees in equation (1), float32."""
    process = process_lib.make(config.process, config.prediction)
    noisy = corrupt(packed, levels=levels, noise=noise, process=process)
    output = predict(params, noisy)
    t = noisy.noise_levels[..., None]
    return process_lib.to_x0(process, output, x_t=noisy.tokens, t=t)


def token_weights(packed: Packed, config: DenoisingConfig) -> Float[Array, "B N"]:
    """w of equation (2): 0 in padding and where tokens are known; they sum to 1."""
    present = packed.segments > 0
    unknown = present & ~packed.cond_mask
    counts = _segment_totals(packed, unknown.astype(jnp.float32))
    weights = losses.token_weights(unknown, counts, weighting=config.weighting)
    if not config.foreground:
        return weights
    weights *= _foreground(packed, present, k=config.foreground)
    return weights / jnp.maximum(jnp.sum(weights), 1e-6)


def total_weight(packed: Packed, config: DenoisingConfig) -> Float[Array, ""]:
    """What equation (2) divides by: how much of a larger batch these rows are.

    The number of segments that are denoised, or of their tokens (`weighting`), times
    the mean weight of the foreground.
    """
    present = packed.segments > 0
    weights = (present & ~packed.cond_mask).astype(jnp.float32)
    if config.weighting == "segment":
        weights /= jnp.maximum(_segment_totals(packed, weights), 1.0)
    if config.foreground:
        weights *= _foreground(packed, present, k=config.foreground)
    return jnp.sum(weights)


def _segment_totals(packed: Packed, values: Float[Array, "B N"]) -> Any:
    """`[B, N]`: for every token the sum of the values of its segment."""
    sums = packing.segment_sum(
        values, packed.segments, max_segments=packed.max_segments
    )
    return packing.segment_gather(sums, packed.segments)


def _foreground(packed: Packed, present: Any, *, k: float) -> Any:
    """`[B, N]`, the factor of equation (7) of `diffusion.loss`."""
    centres = packing.segment_mean(
        packed.tokens, packed.segments, max_segments=packed.max_segments
    )
    offsets = packed.tokens - jnp.take_along_axis(
        centres, packed.segments[..., None], axis=1
    )
    distances = jnp.where(present, jnp.sum(jnp.square(offsets), axis=-1), 0.0)
    means = _segment_totals(packed, distances) / jnp.maximum(
        _segment_totals(packed, present.astype(jnp.float32)), 1.0
    )
    return losses.foreground_weights(distances, means, k=k)


def corrupt(
    packed: Packed,
    *,
    levels: Float[Array, "B S1"],
    noise: Float[Array, "B N P"],
    process: process_lib.Process,
) -> Packed:
    """Equation (1): noisy tokens and their table of levels; padding is 0."""
    noisy = packed.replace(levels=packing.level_table(levels))
    t = noisy.noise_levels[..., None]
    tokens = process_lib.add_noise(process, packed.tokens, noise=noise, t=t)
    tokens = jnp.where(packed.cond_mask[..., None], packed.tokens, tokens)
    present = (packed.segments > 0)[..., None]
    return noisy.replace(tokens=jnp.where(present, tokens, 0.0))


def predict_with(module: Any) -> Predict:
    """`predict` of a Linen module that takes a `Packed`."""
    return lambda params, packed: module.apply({"params": params}, packed)


def sample_levels(
    packed: Packed, key: jax.Array, *, config: DenoisingConfig
) -> Float[Array, "B S1"]:
    """One level per row and segment id, shifted by the segment's token count."""
    tokens = packing.segment_sum(
        (packed.segments > 0).astype(jnp.float32),
        packed.segments,
        max_segments=packed.max_segments,
    )
    levels = jax.vmap(jax.vmap(config.levels))(
        mask_sampling.segment_keys(key, tokens.shape)
    )
    return schedule.shift_level(levels, config.shift(tokens))
