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


def segment_count(packed: packing.Packed) -> jax.Array:
    """Number of segments of a batch."""
    return jnp.sum(jnp.max(packed.segments, axis=1))


class ValidationLoss:
    """Equation (1) as a function of parameters, on fixed batches with fixed noise.

    Args:
      loss_at: `(params, packed, levels [B, S + 1], noise [B, N, P]) -> scalar`, pure.
      batches: clean packed rows of held-out clips, of this process where several feed a
        mesh, as many in each; read at the first call, and held in memory.
      weight: `packed -> scalar`, pure: what the loss of a batch is a mean over; its
        number of segments, where every segment counts alike.
      levels: t of equation (1).
      seed: PRNG seed of the noise.
      put: copies a batch to the devices, once for all levels; None leaves it to JAX.

    Raises:
      ValueError: a level outside (0, 1].
    """

    def __init__(
        self,
        loss_at: LossAt,
        batches: Iterable[packing.Packed],
        *,
        weight: Weight = segment_count,
        levels: Sequence[float] = LEVELS,
        seed: int = 0,
        put: Callable[[packing.Packed], packing.Packed] | None = None,
    ) -> None:
        self._unread: Iterable[packing.Packed] = batches
        self._batches: list[packing.Packed] | None = None
        self._levels = tuple(levels)
        self._seed = seed
        self._put = put or jax.device_put
        for level in self._levels:
            if not 0 < level <= 1:
                raise ValueError(f"validation level {level}: use one in (0, 1]")

        def at(params: Any, packed: packing.Packed, level: Any, key: Any) -> Any:
            shape = (packed.segments.shape[0], packed.max_segments + 1)
            noise = jax.random.normal(key, packed.tokens.shape, jnp.float32)
            loss = loss_at(params, packed, jnp.full(shape, level), noise)
            return loss, weight(packed)

        self._at = jax.jit(at)

    def __call__(
        self, params: Any, *, check: Callable[[], None] = lambda: None
    ) -> dict[str, float]:
        """`validation/loss_t0.1` and so on, and their mean, `validation/loss`.

        Args:
          params: parameters, as `loss_at` takes them.
          check: called between batches; may raise to stop.

        Raises:
          ValueError: no batch holds a clip.
        """
        if self._batches is None:
            self._batches = list(self._unread)
        losses, weights = [], []
        for index, batch in enumerate(self._batches):
            check()
            key = jax.random.fold_in(jax.random.key(self._seed), index)
            on_device = self._put(batch)
            values = [
                self._at(params, on_device, jnp.float32(level), key)
                for level in self._levels
            ]
            values = jax.device_get(values)
            if values[0][1]:
                losses.append([float(loss) for loss, _ in values])
                weights.append(float(values[0][1]))
        if not weights:
            raise ValueError("no clips to validate on: the split is empty")
        means = [float(x) for x in np.average(losses, axis=0, weights=weights)]
        named = (f"validation/loss_t{level:g}" for level in self._levels)
        result = dict(zip(named, means, strict=True))
        return result | {"validation/loss": float(np.mean(means))}
