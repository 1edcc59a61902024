"""The weighted squared error of a prediction.

With e_n the mean squared error of token n over its patch, the loss is

    L = sum_n w_n lambda(t_n) e_n,        sum_n w_n = 1.                        (1)

`w` says who counts, among the tokens that are being denoised:

    'token'    w_n is the same for every token, so long clips count more        (2)
    'segment'  w_n is 1 / (tokens of its segment), so every clip counts alike   (3)

`lambda` says which noise levels count. A weight g(t) on the error of x0 becomes, from
equations (5) and (8) of `process`,

    lambda = g sigma^2            on a velocity prediction                      (4)
    lambda = g sigma^2 / alpha^2  on an epsilon prediction                      (5)
    lambda = g                    on an x0 prediction                           (6)

where g = 1 is the error of x0 itself, g = min(alpha^2 / sigma^2, gamma) is min-SNR
(arXiv:2303.09556), and g = 1 / max(sigma, floor)^2 is the error of the velocity that is
implied: as (1) and (4) of `process` have it, at a known x_t the errors of velocity and
x0 differ by the factor sigma (JiT, arXiv:2511.13720, predicts x0 with this weight).

Much of a clip is often its plain background, which is soon learned. With `foreground` k

    w_n <- w_n (1 + k min(d_n, 4)),    d_n = |x_n - x|^2 / mean_n |x_n - x|^2,      (7)

x the mean token of a segment, what differs from the rest of its clip counts more (after
MotiF, arXiv:2412.16153, which weighs motion).
"""

import dataclasses
from typing import Protocol, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from soraflax.diffusion import process as process_lib

MAX_DISTANCE = 4.0  # of equation (7)
WEIGHTINGS = ("segment", "token")


@runtime_checkable
class LevelWeight(Protocol):
    """lambda(t) of equation (1)."""

    def __call__(
        self, process: process_lib.Process, t: Float[Array, "*shape"]
    ) -> Float[Array, "*shape"]: ...


@dataclasses.dataclass(frozen=True)
class Unweighted:
    """lambda = 1: the plain error of whatever is predicted."""

    def __call__(
        self, process: process_lib.Process, t: Float[Array, "*shape"]
    ) -> Float[Array, "*shape"]:
        return jnp.ones_like(t)


@dataclasses.dataclass(frozen=True)
class DataError:
    """Equations (4)-(6) with g = 1: the error of x0, whatever is predicted."""

    def __call__(
        self, process: process_lib.Process, t: Float[Array, "*shape"]
    ) -> Float[Array, "*shape"]:
        return _on_prediction(jnp.ones_like(t), process, t=t)


@dataclasses.dataclass(frozen=True)
class MinSNR:
    """min-SNR, equations (4)-(6).

    Attributes:
      gamma: the largest signal-to-noise ratio that still gains weight.
    """

    gamma: float = 5.0

    def __call__(
        self, process: process_lib.Process, t: Float[Array, "*shape"]
    ) -> Float[Array, "*shape"]:
        alpha2, sigma2 = _squares(process, t)
        return _on_prediction(jnp.minimum(alpha2 / sigma2, self.gamma), process, t=t)


@dataclasses.dataclass(frozen=True)
class VelocityError:
    """Equations (4)-(6) with the error of the implied velocity.

    Attributes:
      floor: smallest sigma that is divided by.
    """

    floor: float = 0.1

    def __call__(
        self, process: process_lib.Process, t: Float[Array, "*shape"]
    ) -> Float[Array, "*shape"]:
        sigma = jnp.maximum(process.sigma(t), self.floor)
        return _on_prediction(1.0 / jnp.square(sigma), process, t=t)


def _squares(
    process: process_lib.Process, t: Float[Array, "*shape"]
) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
    """alpha^2 and sigma^2, neither of them 0."""
    floor = process_lib.MIN_DIVISOR
    alpha, sigma = process.alpha(t), process.sigma(t)
    return jnp.maximum(alpha, floor) ** 2, jnp.maximum(sigma, floor) ** 2


def _on_prediction(
    g: Float[Array, "*shape"],
    process: process_lib.Process,
    *,
    t: Float[Array, "*shape"],
) -> Float[Array, "*shape"]:
    """Equations (4)-(6): lambda from g."""
    alpha2, sigma2 = _squares(process, t)
    if process.prediction == "velocity":
        return g * sigma2
    if process.prediction == "epsilon":
        return g * sigma2 / alpha2
    return g


def token_weights(
    counted: Bool[Array, "B N"],
    segment_tokens: Float[Array, "B N"],
    *,
    weighting: str,
) -> Float[Array, "B N"]:
    """w of equation (2) or (3); all zero where nothing is counted.

    Args:
      counted: tokens that are being denoised.
      segment_tokens: how many counted tokens the token's own segment has.
      weighting: 'segment' or 'token'.

    Raises:
      ValueError: an unknown weighting.
    """
    if weighting not in WEIGHTINGS:
        names = ", ".join(WEIGHTINGS)
        raise ValueError(f"unknown weighting {weighting!r}; known: {names}")
    weights = counted.astype(jnp.float32)
    if weighting == "segment":
        weights = weights / jnp.maximum(segment_tokens, 1.0)
    return weights / jnp.maximum(jnp.sum(weights), 1e-6)


def weighted_mse(
    prediction: Float[Array, "B N P"],
    target: Float[Array, "B N P"],
    *,
    weights: Float[Array, "B N"],
) -> Float[Array, ""]:
    """Equation (1) with `weights` standing for w times lambda.

    Tokens of weight 0 do not matter at all, not even when they are not finite.
    """
    error = prediction.astype(jnp.float32) - target.astype(jnp.float32)
    error = jnp.where(weights[..., None] > 0, error, 0.0)
    return jnp.sum(weights * jnp.mean(jnp.square(error), axis=-1))


def foreground_weights(
    distances: Float[Array, "B N"], segment_means: Float[Array, "B N"], *, k: float
) -> Float[Array, "B N"]:
    """The factor of equation (7).

    Args:
      distances: |x_n - x|^2 of every token.
      segment_means: their mean over the token's own segment.
      k: the strength; 0 weighs all alike.
    """
    relative = distances / jnp.maximum(segment_means, 1e-6)
    return 1.0 + k * jnp.minimum(relative, MAX_DISTANCE)
