"""Two transformers that share the noise levels between them (Wan 2.2 A14B).

    prediction = high(x)  for segments denoised at a level >= boundary            (1)
    prediction = low(x)   for segments denoised below it                          (2)

Both are complete transformers of the same sizes; they are combined here, and neither
knows of the other. The levels of all segments fall together in sampling, so nearly
every step is (1) or (2) for all of them, and then the other transformer does not run.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from soraflax.nn import dit
from soraflax.ops import packing

Predict = Callable[[Any, packing.Packed, dit.Plans, Any], Any]
NAMES = ("high", "low")


@dataclasses.dataclass(frozen=True)
class ExpertsConfig:
    """Sizes of both transformers, and the noise level between them.

    Attributes:
      transformer: sizes of each.
      boundary: least noise level that `high` denoises, in (0, 1).
    """

    transformer: dit.DiTConfig
    boundary: float = 0.875

    def __post_init__(self) -> None:
        if not 0 < self.boundary < 1:
            raise ValueError(f"boundary {self.boundary}: use one between 0 and 1")


def is_high(packed: packing.Packed, boundary: float) -> Bool[Array, "B N"]:
    """Whether each token's segment is denoised at a level of equation (1).

    Given tokens, at level 0, go with their segment.
    """
    # The even entry of a segment is the level of what is denoised of it (packing.py).
    denoised = jnp.asarray(packed.level_ids) // 2 * 2
    levels = jnp.take_along_axis(jnp.asarray(packed.levels), denoised, axis=1)
    return levels >= boundary


def predict(
    params: Any,
    packed: packing.Packed,
    *,
    config: ExpertsConfig,
    plans: dit.Plans | None = None,
    kept: Bool[Array, "B depth"] | None = None,
) -> Float[Array, "B N P"]:
    """Equations (1) and (2), float32; a transformer that no segment needs does not run.

    Args:
      params: `{"high": ..., "low": ...}`, parameters of `dit.DiT(config.transformer)`.
      packed: the rows.
      config: sizes and boundary.
      plans: `dit.make_plans(packed, config.transformer)`, if it exists already.
      kept: as of `dit.DiT`, of both.
    """
    plans = dit.make_plans(packed, config.transformer) if plans is None else plans
    present = jnp.asarray(packed.segments) > 0
    high = is_high(packed, config.boundary)
    module = dit.DiT(config.transformer)

    def run(params: Any) -> Any:
        return module.apply({"params": params}, packed, plans=plans, kept=kept)

    def skip(params: Any) -> Any:
        del params
        return jnp.zeros(packed.tokens.shape, jnp.float32)

    predictions = [
        jax.lax.cond(jnp.any(tokens & present), run, skip, params[name])
        for name, tokens in zip(NAMES, (high, ~high), strict=True)
    ]
    return jnp.where(high[..., None], *predictions)


def predictor(config: dit.DiTConfig, boundary: float | None) -> Predict:
    """`(params, packed, plans, kept) -> [B, N, P]` of one transformer or two experts.

    Args:
      config: sizes.
      boundary: the noise level between two experts, whose `params` are
        `{"high": ..., "low": ...}`; None for one transformer.
    """
    if boundary is not None:
        experts = ExpertsConfig(config, boundary)
        return lambda params, packed, plans, kept: predict(
            params, packed, config=experts, plans=plans, kept=kept
        )
    module: Any = dit.DiT(config)
    return lambda params, packed, plans, kept: module.apply(
        {"params": params}, packed, plans=plans, kept=kept
    )


VARIANTS: dict[str, ExpertsConfig] = {
    "wan2_2_t2v_a14b": ExpertsConfig(dit.WAN2_1_T2V_14B),
}
