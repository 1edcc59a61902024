"""One optimizer step: pure, compiled, its input state donated.

    g    = mean over microbatches of grad loss                                (1)
    p'   = p + optimizer(g)                                                   (2)
    e'   = d e + (1 - d) p',   d = min(decay, (1 + k) / (10 + k))             (3)

k counts steps from 0; the ramp of (3) keeps the average near the parameters while they
move fast. A step whose gradient is not finite changes nothing but the step count.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from soraflax import sharding
from soraflax.train import state as train_state

TrainState = train_state.TrainState
Loss = Callable[[Any, Any, jax.Array], tuple[jax.Array, dict[str, jax.Array]]]
Step = Callable[[TrainState, Any, jax.Array], tuple[TrainState, dict[str, jax.Array]]]


def make_train_step(
    loss: Loss,
    optimizer: optax.GradientTransformation,
    *,
    schedule: optax.Schedule,
    ema_decay: float,
    shardings: TrainState,
    accumulate: int = 1,
) -> Step:
    """Compile `(state, batch, key) -> (state, metrics)`.

    Args:
      loss: `(params, batch, key) -> (scalar, metrics)`, a mean over the batch.
      optimizer: equation (2).
      schedule: the learning rate, for the metrics.
      ema_decay: `decay` of equation (3).
      shardings: where the state lives, before and after.
      accumulate: microbatches a batch is split into.

    Returns:
      The step. `key` is the run's; the step folds its own number into it. Metrics are
      those of `loss` plus loss, gradient_norm, parameter_norm, learning_rate, skipped.
    """

    def step(state: TrainState, batch: Any, key: jax.Array):
        key = jax.random.fold_in(key, state.step)
        (value, extra), grads = _gradients(loss, state.params, batch, key, accumulate)
        norm = optax.tree.norm(grads)
        finite = jnp.isfinite(norm) & jnp.isfinite(value)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = _average(state.ema, params, state.step, decay=ema_decay)
        new = TrainState(state.step + 1, params, opt_state, ema)
        held = TrainState(state.step + 1, state.params, state.opt_state, state.ema)
        metrics = extra | {
            "loss": value,
            "gradient_norm": norm,
            "parameter_norm": optax.tree.norm(params),
            "learning_rate": schedule(state.step),
            "skipped": 1.0 - finite.astype(jnp.float32),
        }
        return jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, held), metrics

    return jax.jit(step, donate_argnums=0, out_shardings=(shardings, None))


def _average(ema: Any, params: Any, step: jax.Array, *, decay: float) -> Any:
    """Equation (3)."""
    k = step.astype(jnp.float32)
    d = jnp.minimum(decay, (1 + k) / (10 + k))
    return jax.tree.map(lambda e, p: d * e + (1 - d) * p, ema, params)


def _gradients(loss: Loss, params: Any, batch: Any, key: jax.Array, count: int) -> Any:
    """Loss, metrics and gradient of equation (1)."""
    grad = jax.value_and_grad(loss, has_aux=True)
    if count == 1:
        return grad(params, batch, key)

    def add(total: Any, item: Any) -> tuple[Any, None]:
        index, micro = item
        part = grad(params, micro, jax.random.fold_in(key, index))
        return jax.tree.map(jnp.add, total, part), None

    micros = split_batch(batch, count)
    first = jax.tree.map(lambda x: x[0], micros)
    shapes = jax.eval_shape(grad, params, first, key)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    total, _ = jax.lax.scan(add, zeros, (jnp.arange(count), micros))
    return jax.tree.map(lambda x: x / count, total)


def split_batch(batch: Any, count: int) -> Any:
    """`[B, ...]` to `[count, B / count, ...]`; every device keeps its own rows.

    Raises:
      ValueError: `count` does not divide the batch.
    """

    def split(x: jax.Array) -> jax.Array:
        if x.shape[0] % count:
            nearest = max(1, round(x.shape[0] / count)) * count
            raise ValueError(
                f"batch of {x.shape[0]} does not divide into {count} microbatches; "
                f"nearest that does: {nearest}"
            )
        rows = x.reshape(x.shape[0] // count, count, *x.shape[1:])
        rows = jnp.moveaxis(rows, 1, 0)
        names = (None, "batch", *(None,) * (x.ndim - 1))
        return sharding.constrain(rows, *names)

    return jax.tree.map(split, batch)
