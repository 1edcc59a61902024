"""The training state, and the shardings of its parts."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from soraflax import sharding


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["step", "params", "opt_state", "ema"],
    meta_fields=[],
)
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything on the devices that a resumed run needs.

    Attributes:
      step: int32 scalar, number of updates so far.
      params: float32 parameters.
      opt_state: state of the optimizer, its moments shaped like `params`.
      ema: exponential moving average of `params`, which inference uses.
    """

    step: Any
    params: Any
    opt_state: Any
    ema: Any


def create(
    params: Any, optimizer: optax.GradientTransformation, *, shardings: Any, mesh: Mesh
) -> tuple[TrainState, TrainState]:
    """The state at step 0, created in its shardings.

    Args:
      params: initial parameters, sharded (`sharding.init`); they are donated, and
        become those of the state.
      optimizer: initialises its state from them.
      shardings: NamedSharding of every parameter.
      mesh: the mesh of those shardings.

    Returns:
      `(state, state_shardings)`: moments and averages follow their parameter, scalars
      are replicated.
    """

    build = functools.partial(_initial_state, optimizer)
    _, state_shardings = abstract_state(
        params, optimizer, shardings=shardings, mesh=mesh
    )
    made = jax.jit(build, out_shardings=state_shardings, donate_argnums=0)(params)
    return made, state_shardings


def abstract_state(
    params: Any, optimizer: optax.GradientTransformation, *, shardings: Any, mesh: Mesh
) -> tuple[TrainState, TrainState]:
    """The state that `create` makes, as ShapeDtypeStructs, and its shardings.

    Args:
      params: arrays or ShapeDtypeStructs.
      optimizer: initialises its state from them.
      shardings: NamedSharding of every parameter.
      mesh: the mesh of those shardings.
    """
    shapes = jax.eval_shape(functools.partial(_initial_state, optimizer), params)
    replicated = sharding.replicated(mesh)
    opt_shardings = _optimizer_shardings(
        shapes.opt_state, shardings, default=replicated
    )
    state_shardings = TrainState(replicated, shardings, opt_shardings, shardings)
    return abstract(shapes, state_shardings), state_shardings


def not_finite(tree: Any) -> list[str]:
    """The paths of arrays that hold a NaN or an infinity, as 'params/stack/kernel'.

    All processes call it, and have the same answer.

    Args:
      tree: arrays over one mesh; those of integers are always finite.
    """
    arrays = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jnp.floating)
    }
    finite = jax.device_get(_finite(arrays))
    return [name for name in arrays if not finite[name]]


@jax.jit
def _finite(arrays: dict[str, jax.Array]) -> dict[str, jax.Array]:
    return {name: jnp.isfinite(array).all() for name, array in arrays.items()}


def _initial_state(optimizer: optax.GradientTransformation, params: Any) -> TrainState:
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=optimizer.init(params),
        ema=jax.tree.map(jnp.copy, params),
    )


def _optimizer_shardings(opt_state: Any, shardings: Any, *, default: Any) -> Any:
    """The sharding of every leaf of an optimizer's state.

    A moment's path ends in the path of its parameter, `mu/stack/kernel` in
    `stack/kernel`: it has the sharding of that parameter. All other leaves are scalars.
    """
    by_path = dict(jax.tree_util.tree_flatten_with_path(shardings)[0])

    def leaf_sharding(path: tuple[Any, ...], _: Any) -> Any:
        tails = (path[start:] for start in range(len(path)))
        return next((by_path[tail] for tail in tails if tail in by_path), default)

    return jax.tree_util.tree_map_with_path(leaf_sharding, opt_state)


def abstract(state: TrainState, shardings: TrainState) -> TrainState:
    """Shapes, dtypes and shardings that a checkpoint is restored into."""
    return sharding.sharded_shapes(state, shardings)
