"""Validation loss at fixed noise levels.

A training loss averages over random levels, and is mostly noise itself. Here every
held-out segment is seen at each of a few levels, always with the same noise:

    L(t) = mean over clips of the loss at level t,   t = 0.1, 0.3, ..., 0.9,      (1)

as if all were one batch: batches count by the weight of what they hold.

Two models of the same process can be compared level by level, low levels being about
detail and high ones about layout.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from soraflax.ops import packing

LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9)

LossAt = Callable[[Any, packing.Packed, jax.Array, jax.Array], jax.Array]
Weight = Callable[[packing.Packed], Any]


def segment_count(packed: packing.Packed) -> int:
    """Number of segments of a batch."""
    return int(np.max(packed.segments, axis=1).sum())


class ValidationLoss:
    """Equation (1) as a function of parameters, on fixed batches with fixed noise.

    Args:
      loss_at: `(params, packed, levels [B, S + 1], noise [B, N, P]) -> scalar`, pure.
      batches: clean packed rows of held-out clips; read once and held in memory.
      weight: what the loss of a batch is a mean over; its number of segments, where
        every segment counts alike.
      levels: t of equation (1).
      seed: PRNG seed of the noise.

    Raises:
      ValueError: no batches, or a level outside (0, 1].
    """

    def __init__(
        self,
        loss_at: LossAt,
        batches: Iterable[packing.Packed],
        *,
        weight: Weight = segment_count,
        levels: Sequence[float] = LEVELS,
        seed: int = 0,
    ) -> None:
        self._batches = [b for b in batches if np.any(np.asarray(b.segments) > 0)]
        self._weights = [float(weight(batch)) for batch in self._batches]
        self._levels = tuple(levels)
        self._seed = seed
        if not self._batches:
            raise ValueError("no clips to validate on: the split is empty")
        for level in self._levels:
            if not 0 < level <= 1:
                raise ValueError(f"validation level {level}: use one in (0, 1]")

        def at(params: Any, packed: packing.Packed, level: Any, key: Any) -> Any:
            shape = (packed.segments.shape[0], packed.max_segments + 1)
            noise = jax.random.normal(key, packed.tokens.shape, jnp.float32)
            return loss_at(params, packed, jnp.full(shape, level), noise)

        self._at = jax.jit(at)

    def __call__(
        self, params: Any, *, check: Callable[[], None] = lambda: None
    ) -> dict[str, float]:
        """`validation/loss_t0.1` and so on, and their mean, `validation/loss`.

        Args:
          params: parameters, as `loss_at` takes them.
          check: called between levels; may raise to stop.
        """
        result = {}
        for level in self._levels:
            check()
            values = [
                self._at(
                    params,
                    batch,
                    jnp.float32(level),
                    jax.random.fold_in(jax.random.key(self._seed), index),
                )
                for index, batch in enumerate(self._batches)
            ]
            values = [float(v) for v in jax.device_get(values)]
            result[f"validation/loss_t{level:g}"] = float(
                np.average(values, weights=self._weights)
            )
        return result | {"validation/loss": float(np.mean(list(result.values())))}
