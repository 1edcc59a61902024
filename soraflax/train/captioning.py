"""The captioner's training objective: the next token of every caption.

With x the tokens of a packed row and w the caption of a segment s, ended by its
end-of-text,

    loss = - mean over all tokens w_n of all captions of log p(w_n | w_<n, x_s)   (1)
"""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from soraflax.nn import captioner
from soraflax.ops import packing
from soraflax.train import step


def loss(
    params: Any,
    packed: packing.Packed,
    key: PRNGKeyArray,
    *,
    module: captioner.Captioner,
) -> tuple[Float[Array, ""], dict[str, Any]]:
    """Equation (1) of a batch of rows.

    Args:
      params: parameters of the captioner.
      packed: clean, normalised tokens, with captions as ids.
      key: not used: captions are drawn by the input pipeline.
      module: the captioner.

    Returns:
      The loss, and scalars: useful_tokens, segments, token_accuracy, loss_weight.
    """
    del key
    logits: Any = module.apply({"params": params}, packed)
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
    present = packed.text_segments > 0
    chosen = jnp.take_along_axis(log_p, packed.text[..., None], axis=-1)[..., 0]
    right = (jnp.argmax(logits, axis=-1) == packed.text) & present
    count = jnp.sum(present, dtype=jnp.float32)
    total = jnp.maximum(count, 1.0)
    value = -jnp.sum(jnp.where(present, chosen, 0.0)) / total
    return value, {
        "useful_tokens": jnp.sum(packed.segments > 0, dtype=jnp.float32),
        "segments": jnp.sum(jnp.max(packed.segments, axis=1), dtype=jnp.float32),
        "token_accuracy": jnp.sum(right, dtype=jnp.float32) / total,
        step.WEIGHT: count,
    }


class Validation:
    """Equation (1), and the share of right tokens, on fixed held-out batches.

    Args:
      module: the captioner.
      batches: packed rows with captions, of this process where several feed a mesh, as
        many in each; read at the first call, and held in memory.
      put: copies a batch to the devices; None leaves it to JAX.
    """

    def __init__(
        self,
        module: captioner.Captioner,
        batches: Iterable[packing.Packed],
        *,
        put: Callable[[packing.Packed], packing.Packed] | None = None,
    ) -> None:
        self._unread: Iterable[packing.Packed] = batches
        self._batches: list[packing.Packed] | None = None
        self._put = put or jax.device_put

        def measure(params: Any, packed: packing.Packed) -> Any:
            value, scalars = loss(params, packed, jax.random.key(0), module=module)
            return value, scalars["token_accuracy"], scalars[step.WEIGHT]

        self._measure = jax.jit(measure)

    def __call__(
        self, params: Any, *, check: Callable[[], None] = lambda: None
    ) -> dict[str, float]:
        """`validation/loss` and `validation/token_accuracy`.

        Args:
          params: parameters of the captioner.
          check: called between batches; may raise to stop.

        Raises:
          ValueError: no captions.
        """
        if self._batches is None:
            self._batches = list(self._unread)
        rows = []
        for batch in self._batches:
            check()
            rows.append(jax.device_get(self._measure(params, self._put(batch))))
        losses, accuracies, weights = np.asarray(rows, np.float64).reshape(-1, 3).T
        if not weights.any():
            raise ValueError("no captions to validate on: the split is empty")
        return {
            "validation/loss": float(np.average(losses, weights=weights)),
            "validation/token_accuracy": float(np.average(accuracies, weights=weights)),
        }
