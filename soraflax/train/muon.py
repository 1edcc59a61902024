"""Muon (https://kellerjordan.github.io/posts/muon, 2024), its layers dealt out.

The momentum M of a kernel, with Nesterov's look ahead, becomes nearly orthogonal by
five iterations of Newton and Schulz on X = M / |M|:

    X <- a X + (b A + c A A) X,    A = X X^T,    (a, b, c) = (3.4445, -4.7750, 2.0315)

and is scaled to the root mean square that updates of AdamW have, 0.2 sqrt(max(m, n))
(arXiv:2502.16982, equation 4).

A product X X^T of a kernel whose axes are spread over devices would gather it, three
times an iteration. So the layers of a stack are dealt first: an exchange along each of
its mesh axes (all-to-all), in the precision of the iterations, gives every device whole
layers, on which it works alone; the same exchanges, back, end it. Where an axis has
copies of the kernel, each of them works on its part of the layers too.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from soraflax import sharding
from soraflax.ops import product

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
BETA = 0.95
RMS = 0.2


def scale_by_muon(
    *, epsilon: float, shardings: Any = None, dtype: str = "auto"
) -> optax.GradientTransformation:
    """Updates of kernels, scanned `[depth, in, out]` or of convolutions.

    A convolution's kernel `[t, h, w, in, out]` is one matrix, `[t h w in, out]`. The
    state is that of optax.

    Args:
      epsilon: added to the norm.
      shardings: NamedShardings of the parameters, by whose paths those of the updates
        are found; None where nothing is sharded.
      dtype: precision of the iterations, as in `orthogonal`.
    """
    places = dict(jax.tree_util.tree_flatten_with_path(shardings)[0])

    def init(params: Any) -> optax.contrib.MuonState:
        return optax.contrib.MuonState(
            count=jnp.zeros([], jnp.int32),
            mu=optax.tree.zeros_like(params),
            ns_coeffs=jnp.asarray(COEFFICIENTS),
        )

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        momentum = optax.tree.update_moment(updates, state.mu, BETA, 1)
        count = optax.safe_increment(state.count)
        ahead = jax.tree.map(
            lambda m, g: BETA * m + (1 - BETA) * g,
            optax.tree.bias_correction(momentum, BETA, optax.safe_increment(count)),
            optax.tree.bias_correction(updates, BETA, count),
        )

        def scaled(path: Any, stack: jax.Array) -> jax.Array:
            place, shape = places.get(path), stack.shape
            if stack.ndim != 3:
                stack, place = stack.reshape(1, -1, shape[-1]), None
            made = orthogonal(stack, epsilon=epsilon, place=place, dtype=dtype)
            return RMS * math.sqrt(max(stack.shape[1:])) * made.reshape(shape)

        scaled_updates = jax.tree_util.tree_map_with_path(scaled, ahead)
        return scaled_updates, state._replace(count=count, mu=momentum)

    return optax.GradientTransformation(init, update)


def orthogonal(
    stack: Float[Array, "L m n"],
    *,
    epsilon: float = 1e-8,
    place: NamedSharding | None = None,
    dtype: str = "auto",
) -> Float[Array, "L m n"]:
    """Nearly orthogonal matrices with the row and column spaces of each layer.

    Args:
      stack: the layers.
      epsilon: added to the norm of each.
      place: where they are; their first axis is whole.
      dtype: precision of the iterations, 'float32', 'bfloat16', or 'auto' for bfloat16
        but on a CPU float32. On a CPU 'bfloat16' is of the inputs of products alone.
    """
    cpu = sharding.platform() == "cpu"
    if dtype == "auto":
        dtype = "float32" if cpu else "bfloat16"
    rounded = cpu and dtype == "bfloat16"
    einsum = product.rounded_einsum if rounded else jnp.einsum

    def iterate(layers: Float[Array, "l m n"]) -> Float[Array, "l m n"]:
        layers = layers.astype(jnp.float32 if rounded else dtype)
        square = jnp.sum(jnp.square(layers.astype(jnp.float32)), (1, 2), keepdims=True)
        layers = layers / (jnp.sqrt(square) + epsilon).astype(layers.dtype)
        for _ in range(ITERATIONS):
            layers = _iterated(layers, einsum)
        return layers.astype(dtype)

    return _dealt(iterate, stack.astype(dtype), place=place).astype(stack.dtype)


def _iterated(x: Array, einsum: Callable[..., Array]) -> Array:
    """One iteration; of the transposes where that makes the square matrices smaller."""
    a, b, c = (jnp.asarray(value, x.dtype) for value in COEFFICIENTS)
    if x.shape[1] <= x.shape[2]:
        square = einsum("lik,ljk->lij", x, x)
        factor = b * square + c * einsum("lij,ljk->lik", square, square)
        return a * x + einsum("lij,ljk->lik", factor, x)
    square = einsum("lki,lkj->lij", x, x)
    factor = b * square + c * einsum("lij,ljk->lik", square, square)
    return a * x + einsum("lki,lij->lkj", x, factor)


def _dealt(
    function: Callable[[Array], Array], stack: Array, *, place: NamedSharding | None
) -> Array:
    """`function` of layers, each whole on the one device that works on it."""
    if place is None or place.mesh.size == 1:
        return function(stack)
    sizes = place.mesh.shape
    moves = [move for move in exchanges(place.spec) if sizes[move[0]] > 1]
    dealt = [axis for axis, _ in moves]
    copies = copying_axes(sizes, dealt=dealt, depth=len(stack))
    count = math.prod(sizes[axis] for axis in (*dealt, *copies))

    def local(block: Array) -> Array:
        padding = -len(block) % count
        x = jnp.pad(block, ((0, padding), (0, 0), (0, 0)))
        for axis, dimension in moves:
            x = jax.lax.all_to_all(x, axis, 0, dimension, tiled=True)
        for axis in copies:
            part = len(x) // sizes[axis]
            start = jax.lax.axis_index(axis) * part
            x = jax.lax.dynamic_slice_in_dim(x, start, part)
        x = function(x)
        for axis in reversed(copies):
            x = jax.lax.all_gather(x, axis, tiled=True)
        for axis, dimension in reversed(moves):
            x = jax.lax.all_to_all(x, axis, dimension, 0, tiled=True)
        return x[: len(block)]

    mapped = jax.shard_map(
        local,
        mesh=place.mesh,
        in_specs=place.spec,
        out_specs=place.spec,
        check_vma=False,
    )
    return mapped(stack)


def exchanges(spec: PartitionSpec) -> list[tuple[str, int]]:
    """Mesh axes of a stack and the axes of the array that they split, the last first.

    Raises:
      ValueError: the layers themselves are spread.
    """
    found = []
    for dimension, entry in enumerate(spec):
        axes = (entry,) if isinstance(entry, str) else tuple(entry or ())
        if axes and dimension == 0:
            raise ValueError(f"layers are spread over {axes}: Muon deals them itself")
        found += [(axis, dimension) for axis in reversed(axes)]
    return found


def copying_axes(
    sizes: Mapping[str, int], *, dealt: Sequence[str], depth: int
) -> list[str]:
    """Further axes over which layers are dealt, as long as all devices have one.

    Args:
      sizes: size of every axis of the mesh.
      dealt: axes over which they are dealt already.
      depth: number of layers.
    """
    count, found = math.prod(sizes[axis] for axis in dealt), []
    for axis, size in sizes.items():
        if axis not in dealt and size > 1 and count * size <= depth:
            found.append(axis)
            count *= size
    return found
