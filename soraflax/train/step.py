"""One optimizer step: pure, compiled, its input state donated.

    g    = sum_i W_i grad loss_i / sum_i W_i     over microbatches i          (1)
    p'   = p + optimizer(g)                                                   (2)
    e'   = d e + (1 - d) p',   d = min(decay, (1 + k) / (10 + k))             (3)

loss_i is a mean over what microbatch i holds and W_i its weight there, such as the
number of its clips, so that g is that of the batch in one piece: a clip counts the same
whichever microbatch it is in. k counts steps from 0; the ramp of (3) keeps the average
near the parameters while they move fast. A step whose gradient is not finite changes
nothing but the step count.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from soraflax import sharding
from soraflax.train import compiler
from soraflax.train import state as train_state

TrainState = train_state.TrainState
LossFn = Callable[[Any, Any, jax.Array], tuple[jax.Array, dict[str, jax.Array]]]
StepOutput = tuple[TrainState, dict[str, jax.Array]]
# W of equation (1), a metric that a loss may return; 1 where it does not.
WEIGHT = "loss_weight"
# Metrics that add up over microbatches; others are means, by weight.
TOTALS = ("useful_tokens", "segments", WEIGHT)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LossContext:
    """What a loss may need besides parameters, batch and key.

    Attributes:
      step: int32 scalar, updates made before this one.
      constants: arrays that are read but not trained, such as frozen parameters.
    """

    step: Any
    constants: Any


@dataclasses.dataclass(frozen=True)
class LossWithContext:
    """A loss that depends on the step number, or reads frozen parameters.

    Attributes:
      loss: `(params, batch, key, context) -> (scalar, metrics)`.
      constants: `LossContext.constants`, on the mesh; neither saved nor averaged.
    """

    loss: Callable[..., tuple[jax.Array, dict[str, jax.Array]]]
    constants: Any = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class TrainStep:
    """A compiled step, `(state, batch, key) -> (state, metrics)`; donates the state.

    Attributes:
      compiled: the jitted `(state, batch, key, constants) -> (state, metrics)`.
      constants: arrays of the loss that are not trained.
    """

    compiled: Any
    constants: Any

    def __call__(self, state: TrainState, batch: Any, key: jax.Array) -> StepOutput:
        return self.compiled(state, batch, key, self.constants)

    def lower(self, state: TrainState, batch: Any, key: Any) -> jax.stages.Lowered:
        """The step as a program, from ShapeDtypeStructs of its inputs."""
        return self.compiled.lower(state, batch, key, self.constants)


def make_train_step(
    loss: LossFn | LossWithContext,
    optimizer: optax.GradientTransformation,
    *,
    schedule: optax.Schedule | Mapping[str, optax.Schedule],
    ema_decay: float,
    shardings: TrainState,
    accumulate: int = 1,
) -> TrainStep:
    """Compile `(state, batch, key) -> (state, metrics)`.

    Args:
      loss: `(params, batch, key[, context]) -> (scalar, metrics)`, a batch mean; its
        metric `WEIGHT`, not among those of the step, is what it is a mean over.
      optimizer: the update rule of equation (2).
      schedule: the learning rate at each step, for the metrics; or a schedule for every
        group of parameters (`optimizer.make_optimizer`).
      ema_decay: `decay` of equation (3).
      shardings: NamedShardings of the state, before and after.
      accumulate: number of microbatches that a batch is split into.

    Returns:
      The step. `key` is the PRNG key of the run; the step folds its number into it.
      Metrics are those of `loss`, and loss, gradient_norm, parameter_norm, skipped and
      learning_rate; of groups gradient_norm/GROUP and learning_rate/GROUP.
    """
    contextual = loss if isinstance(loss, LossWithContext) else _without_context(loss)

    def step(state: TrainState, batch: Any, key: jax.Array, constants: Any):
        key = jax.random.fold_in(key, state.step)
        context = LossContext(state.step, constants)

        def objective(params: Any, batch: Any, key: jax.Array):
            return contextual.loss(params, batch, key, context)

        (value, loss_metrics), grads = _gradients(
            objective, state.params, batch=batch, key=key, count=accumulate
        )
        loss_metrics.pop(WEIGHT, None)
        new, metrics = _update(
            state, value, grads=grads, optimizer=optimizer, ema_decay=ema_decay
        )
        metrics |= _rates(grads, schedule, count=state.step)
        return new, loss_metrics | metrics

    compiled = jax.jit(
        step,
        donate_argnums=0,
        out_shardings=(shardings, None),
        compiler_options=compiler.options(shardings.step.mesh),
    )
    return TrainStep(compiled, contextual.constants)


def _without_context(loss: LossFn) -> LossWithContext:
    return LossWithContext(lambda params, batch, key, _: loss(params, batch, key))


def _update(
    state: TrainState,
    value: jax.Array,
    *,
    grads: Any,
    optimizer: optax.GradientTransformation,
    ema_decay: float,
) -> StepOutput:
    """Equations (2) and (3), where everything is finite."""
    norm = optax.tree.norm(grads)
    finite = jnp.isfinite(norm) & jnp.isfinite(value)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema = _average(state.ema, params, step=state.step, decay=ema_decay)
    new = TrainState(state.step + 1, params, opt_state, ema)
    unchanged = TrainState(state.step + 1, state.params, state.opt_state, state.ema)
    metrics = {
        "loss": value,
        "gradient_norm": norm,
        "parameter_norm": optax.tree.norm(params),
        "skipped": 1.0 - finite.astype(jnp.float32),
    }
    return jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, unchanged), metrics


def _rates(
    grads: Any,
    schedule: optax.Schedule | Mapping[str, optax.Schedule],
    *,
    count: jax.Array,
) -> dict[str, Any]:
    """The learning rate; with groups, the rate and gradient norm of each."""
    if not isinstance(schedule, Mapping):
        return {"learning_rate": schedule(count)}
    norms = {f"gradient_norm/{name}": optax.tree.norm(grads[name]) for name in schedule}
    return norms | {f"learning_rate/{n}": rate(count) for n, rate in schedule.items()}


def _average(ema: Any, params: Any, *, step: jax.Array, decay: float) -> Any:
    """Equation (3)."""
    k = step.astype(jnp.float32)
    d = jnp.minimum(decay, (1 + k) / (10 + k))
    return jax.tree.map(lambda e, p: d * e + (1 - d) * p, ema, params)


def _gradients(
    loss: LossFn, params: Any, *, batch: Any, key: jax.Array, count: int
) -> Any:
    """Loss, metrics and gradient of equation (1)."""
    grad = jax.value_and_grad(loss, has_aux=True)
    if count == 1:
        return grad(params, batch, key)

    def add(total: Any, indexed: Any) -> tuple[Any, None]:
        index, microbatch = indexed
        term = grad(params, microbatch, jax.random.fold_in(key, index))
        return jax.tree.map(jnp.add, total, _weighted(term)), None

    microbatches = split_batch(batch, count)
    first = jax.tree.map(lambda x: x[0], microbatches)
    shapes = jax.eval_shape(lambda *a: _weighted(grad(*a)), params, first, key)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    total, _ = jax.lax.scan(add, zeros, (jnp.arange(count), microbatches))
    (value, metrics), grads = total
    # Nothing is counted in an empty batch, whose gradient is 0.
    weight = jnp.maximum(metrics[WEIGHT], 1e-6)
    means = {name: x for name, x in metrics.items() if name not in TOTALS}
    value, means, grads = jax.tree.map(
        lambda x: x / weight.astype(x.dtype), (value, means, grads)
    )
    return (value, metrics | means), grads


def _weighted(term: Any) -> Any:
    """Loss, metrics and gradient times W of equation (1), itself a metric."""
    (value, metrics), grads = term
    weight = jnp.float32(metrics.get(WEIGHT, 1.0))
    means = {name: x for name, x in metrics.items() if name not in TOTALS}
    value, means, grads = jax.tree.map(
        lambda x: x * weight.astype(x.dtype), (value, means, grads)
    )
    return (value, metrics | means | {WEIGHT: weight}), grads


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
        # Microbatch i takes every count-th row: a device's rows are contiguous, so it
        # has its part of every microbatch already, and nothing is sent.
        rows = x.reshape(x.shape[0] // count, count, *x.shape[1:])
        rows = jnp.moveaxis(rows, 1, 0)
        names = (None, "batch", *(None,) * (x.ndim - 1))
        return sharding.constrain(rows, *names)

    return jax.tree.map(split, batch)
