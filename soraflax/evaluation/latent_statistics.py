"""Statistics of latents that matter to a transformer: channels, and roughness.

For a channel x over all cells of all clips, and its neighbour x' one cell on along an
axis,

    skewness = E (x - m)^3 / s^3,   excess kurtosis = E (x - m)^4 / s^4 - 3,      (1)
    effective channels = (sum l)^2 / sum l^2,  l the eigenvalues of the covariance, (2)
    neighbour correlation = corr(x, x').                                          (3)

(1) is 0 for a normal distribution, which the noise is. (2) is z for uncorrelated
channels of one variance and 1 for copies of a single one. 1 - (3) is the energy of the
differences between neighbours over twice the variance: 0 for a smooth latent, 1 for
white noise; what is smooth at the start of denoising is easy to predict.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np
from jaxtyping import Float

AXES = ("time", "height", "width")
DEAD = 0.01  # of the largest deviation


@dataclasses.dataclass(frozen=True)
class ChannelStatistics:
    """Statistics of the z channels of a latent.

    Attributes:
      cells: number of latent cells.
      mean, std: mean and standard deviation of each channel.
      skewness, kurtosis: equation (1) of each channel; the kurtosis is excess.
      correlation: correlation of channels; 0 for a channel that does not vary.
      effective_channels: equation (2).
      neighbours: equation (3) along 'time', 'height' and 'width'; NaN where a channel
        does not vary or no latent has two cells along the axis.
    """

    cells: int
    mean: Float[np.ndarray, "z"]
    std: Float[np.ndarray, "z"]
    skewness: Float[np.ndarray, "z"]
    kurtosis: Float[np.ndarray, "z"]
    correlation: Float[np.ndarray, "z z"]
    effective_channels: float
    neighbours: dict[str, Float[np.ndarray, "z"]]

    @property
    def variance_fraction(self) -> Float[np.ndarray, "z"]:
        """Each channel's fraction of the total variance."""
        variance = np.square(self.std)
        return _divide(variance, variance.sum())

    @property
    def dead(self) -> tuple[int, ...]:
        """Channels of less than 1 % of the largest deviation."""
        return tuple(np.flatnonzero(self.std <= DEAD * self.std.max()).tolist())


def channel_statistics(latents: Iterable[Any]) -> ChannelStatistics:
    """Statistics over latents `[..., t, h, w, z]` of any sizes, in one pass, float64.

    Raises:
      ValueError: no latents, values that are not finite, or of several z.
    """
    total: dict[str, Any] = {}
    shift = None
    for latent in latents:
        values = np.asarray(latent, np.float64)
        if not np.isfinite(values).all():
            raise ValueError("latents are not finite")
        if shift is None:
            shift = values.reshape(-1, values.shape[-1]).mean(axis=0)
        if values.shape[-1] != len(shift):
            raise ValueError(f"latents of {len(shift)} and {values.shape[-1]} channels")
        for name, value in _sums(values - shift).items():
            total[name] = total.get(name, 0.0) + value
    if shift is None:
        raise ValueError("no latents: statistics need at least one")
    return _finish(total, shift)


def _sums(x: np.ndarray) -> dict[str, Any]:
    """The sums that equations (1) to (3) are made of; those of parts can be added."""
    flat = x.reshape(-1, x.shape[-1])
    sums: dict[str, Any] = {"cells": len(flat), "products": flat.T @ flat}
    for power in (1, 3, 4):
        sums[f"power{power}"] = (flat**power).sum(axis=0)
    for axis, name in enumerate(AXES, start=x.ndim - 4):
        # a and b are all pairs of neighbours along the axis.
        last = x.shape[axis]
        a, b = x.take(range(last - 1), axis), x.take(range(1, last), axis)
        parts = (np.ones_like(a), a, b, a * a, b * b, a * b)
        sums[name] = np.stack([part.reshape(-1, len(flat.T)).sum(0) for part in parts])
    return sums


def _finish(total: dict[str, Any], shift: np.ndarray) -> ChannelStatistics:
    count = total["cells"]
    m = total["power1"] / count
    covariance = total["products"] / count - np.outer(m, m)
    variance = np.maximum(np.diag(covariance), 0.0)
    second, third, fourth = (
        np.diag(total["products"]) / count,
        total["power3"] / count,
        total["power4"] / count,
    )
    skew = third - 3 * m * second + 2 * m**3
    fourth = fourth - 4 * m * third + 6 * m**2 * second - 3 * m**4
    std = np.sqrt(variance)
    return ChannelStatistics(
        cells=int(count),
        mean=m + shift,
        std=std,
        skewness=_divide(skew, std**3),
        kurtosis=np.where(variance > 0, _divide(fourth, variance**2) - 3.0, 0.0),
        correlation=_divide(covariance, np.outer(std, std)),
        effective_channels=float(
            _divide(np.trace(covariance) ** 2, np.sum(np.square(covariance)))
        ),
        neighbours={name: _correlation(total[name]) for name in AXES},
    )


def _correlation(sums: np.ndarray) -> np.ndarray:
    """Correlation of pairs by their sums of 1, a, b, aa, bb, ab; NaN without any."""
    count, a, b, aa, bb, ab = sums
    count = np.maximum(count, 1.0)
    a, b = a / count, b / count
    spread = np.maximum((aa / count - a * a) * (bb / count - b * b), 0.0)
    return _divide(ab / count - a * b, np.sqrt(spread), otherwise=np.nan)


def _divide(a: Any, b: Any, *, otherwise: float = 0.0) -> Any:
    """a / b, and `otherwise` where b is zero."""
    a, b = np.broadcast_arrays(np.asarray(a, np.float64), b)
    return np.divide(a, b, out=np.full(a.shape, otherwise), where=b > 0)
