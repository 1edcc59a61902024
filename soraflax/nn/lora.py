"""Low-rank adapters of any kernels in a tree of parameters (LoRA, arXiv:2106.09685).

    y = x W + (alpha / r) (x A) B,     A [in, r] random, B [r, out] zero at first   (1)
    W + (alpha / r) A B                the same kernel, merged                      (2)

Adapters are a tree of their own, `lora_a` and `lora_b` where the base has `kernel`, so
that a base can stay frozen and adapters be trained, averaged and saved apart from it.
Kernels of scanned layers are stacks, `[depth, in, out]`, and so are their adapters.
`attach` puts adapters beside the kernels, where `layers.Linear` computes (1); `merge`
computes (2), which needs no adapters any more.
"""

import dataclasses
import fnmatch
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util
from flax.core import meta
from jax.sharding import Mesh
from jaxtyping import Array, Float

from soraflax import sharding

A, B = "lora_a", "lora_b"
SHOWN = 3


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    """Which kernels are adapted, with what rank and scale.

    Attributes:
      rank: r of equation (1).
      alpha: alpha of equation (1).
      targets: patterns of parameter paths, 'stack/*/mlp/*/kernel'; '*' stands for
        anything, '/' too. A kernel is adapted if one of them matches.
    """

    rank: int = 16
    alpha: float = 16.0
    targets: tuple[str, ...] = ("stack/*_attention/*/kernel",)

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank {self.rank}: use 1 or more")
        if not 0 < self.alpha < math.inf:
            raise ValueError(f"alpha {self.alpha}: use a number above 0")
        if not self.targets:
            raise ValueError("targets are empty: give a pattern, such as '*/kernel'")

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


def targets(params: Any, config: LoraConfig) -> list[str]:
    """Paths of the kernels that are adapted, sorted.

    Args:
      params: parameters, or anything with their shapes, boxed or not.
      config: patterns and rank.

    Raises:
      ValueError: a pattern that matches no kernel, or a rank above a kernel's.
    """
    kernels = {
        path: leaf.shape
        for path, leaf in _flatten(meta.unbox(params)).items()
        if path.endswith("/kernel")
    }
    adapted: set[str] = set()
    for pattern in config.targets:
        matched = fnmatch.filter(kernels, pattern)
        if not matched:
            known = ", ".join(sorted(kernels)[:SHOWN])
            raise ValueError(
                f"targets: {pattern!r} matches no kernel; there are {known}, ..."
            )
        adapted.update(matched)
    for path in sorted(adapted):
        max_rank = min(kernels[path][-2:])
        if config.rank > max_rank:
            raise ValueError(
                f"rank {config.rank}: {path} has {max_rank} at most; "
                f"use {max_rank} or less"
            )
    return sorted(adapted)


def shapes(boxed: Any, config: LoraConfig) -> dict[str, Any]:
    """Shapes of the adapters of parameters.

    Args:
      boxed: parameters or their shapes; where they are boxed (`sharding.Named`), so are
        the adapters, with the same names of axes.
      config: which kernels, and the rank.

    Raises:
      ValueError: see `targets`.
    """
    leaves = _flatten(boxed)
    flat = {}
    for path in targets(boxed, config):
        kernel = leaves[path]
        *stack, rows, columns = meta.unbox(kernel).shape
        layer = path.removesuffix("/kernel")
        for name, shape, rank_axis in (
            (A, (*stack, rows, config.rank), -1),
            (B, (*stack, config.rank, columns), -2),
        ):
            flat[f"{layer}/{name}"] = value = jax.ShapeDtypeStruct(shape, jnp.float32)
            if isinstance(kernel, sharding.Named):
                axes = list(kernel.names)
                axes[rank_axis] = None  # small, so never sharded
                flat[f"{layer}/{name}"] = sharding.Named(value, tuple(axes))
    return traverse_util.unflatten_dict(flat, sep="/")


def init(
    key: jax.Array,
    boxed: Any,
    *,
    config: LoraConfig,
    mesh: Mesh,
    rules: sharding.AxisRules = sharding.DEFAULT_RULES,
) -> tuple[dict[str, Any], Any]:
    """Fresh adapters, `(adapters, shardings)`; arguments as of `initializer`."""
    initial = initializer(key, boxed, config=config, mesh=mesh, rules=rules)
    return initial.make(), initial.shardings


def initializer(
    key: jax.Array,
    boxed: Any,
    *,
    config: LoraConfig,
    mesh: Mesh,
    rules: sharding.AxisRules = sharding.DEFAULT_RULES,
) -> sharding.Initializer:
    """Fresh adapters, which leave the output unchanged, to be created sharded.

    A has the standard deviation 1 / sqrt(in), B is zero.

    Args:
      key: PRNG key.
      boxed: parameters of the base, arrays or shapes, boxed as a module creates them.
      config: which kernels, and the rank.
      mesh: devices of the adapters.
      rules: logical to mesh axes.

    Raises:
      ValueError: see `targets`; or a size does not divide over its mesh axes.
    """
    boxed_shapes = shapes(boxed, config)
    shardings = sharding.param_shardings(boxed_shapes, mesh, rules=rules)
    flat = _flatten(meta.unbox(boxed_shapes))

    def draw(key: jax.Array) -> dict[str, Any]:
        adapters = {}
        for number, (path, leaf) in enumerate(sorted(flat.items())):
            if path.endswith(B):
                adapters[path] = jnp.zeros(leaf.shape, leaf.dtype)
                continue
            # Folded with the number of the path, so that no two adapters are alike.
            values = jax.random.normal(jax.random.fold_in(key, number), leaf.shape)
            adapters[path] = values * leaf.shape[-2] ** -0.5
        return traverse_util.unflatten_dict(adapters, sep="/")

    made = jax.jit(draw, out_shardings=shardings)
    values = sharding.sharded_shapes(meta.unbox(boxed_shapes), shardings)
    return sharding.Initializer(lambda: made(key), values, shardings)


def attach(params: Any, adapters: Any, *, config: LoraConfig) -> dict[str, Any]:
    """Parameters with adapters beside their kernels, with which a module computes (1).

    The base is not changed. B is multiplied by the scale, so that the result holds
    parameters alone.

    Raises:
      ValueError: an adapter without its kernel, or of another shape.
    """
    flat, added = _flatten(params), _flatten(adapters)
    _check(flat, added)
    scaled = {k: v * config.scale if k.endswith(B) else v for k, v in added.items()}
    return traverse_util.unflatten_dict(flat | scaled, sep="/")


def merge(params: Any, adapters: Any, *, config: LoraConfig) -> dict[str, Any]:
    """Equation (2): the base's own tree, its dtypes too.

    Raises:
      ValueError: see `attach`.
    """
    flat, added = _flatten(params), _flatten(adapters)
    _check(flat, added)
    for path in added:
        if path.endswith(A):
            layer = path.removesuffix(f"/{A}")
            kernel, b = flat[f"{layer}/kernel"], added[f"{layer}/{B}"]
            update = config.scale * jnp.einsum("...ir,...ro->...io", added[path], b)
            flat[f"{layer}/kernel"] = (kernel + update).astype(kernel.dtype)
    return traverse_util.unflatten_dict(flat, sep="/")


def low_rank(
    x: Float[Array, "*batch d"], a: Float[Array, "d r"], *, b: Float[Array, "r f"]
) -> Float[Array, "*batch f"]:
    """`(x A) B`, in the dtype of `x`: the second term of (1), with a scaled B."""
    y = jnp.einsum("...d,dr->...r", x, a.astype(x.dtype))
    return jnp.einsum("...r,rf->...f", y, b.astype(x.dtype))


def _check(flat: dict[str, Any], added: dict[str, Any]) -> None:
    """Refuse adapters that do not fit these parameters."""
    for path, leaf in added.items():
        layer, _, name = path.rpartition("/")
        kernel = flat.get(f"{layer}/kernel")
        if kernel is None:
            raise ValueError(f"{path}: there is no {layer}/kernel to adapt")
        other = added.get(f"{layer}/{B if name == A else A}")
        if name not in (A, B) or other is None:
            raise ValueError(f"{path}: {A} and {B} come in pairs")
        axis = -2 if name == A else -1
        if (
            leaf.shape[:-2] != kernel.shape[:-2]
            or leaf.shape[axis] != kernel.shape[axis]
        ):
            raise ValueError(
                f"{path} has shape {leaf.shape}; {layer}/kernel has {kernel.shape}"
            )


def _is_named(x: Any) -> bool:
    return isinstance(x, sharding.Named)


def _flatten(tree: Any) -> dict[str, Any]:
    return {
        "/".join(str(getattr(part, "key", part)) for part in path): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree, is_leaf=_is_named)
    }
