"""Meshes, logical axes and where each array lives.

Modules name the *logical* axes of their parameters and activations; this file alone
knows the mesh. The mesh has four axes:

    data      replicas of the model; alone crosses links between slices of TPUs (DCN)
    fsdp      the batch, and a shard of every parameter (fully sharded data parallel)
    context   the tokens of a row, and a further shard of every parameter
    tensor    heads and hidden features

A mesh axis is used once per array, by the first logical axis that asks for it: an
activation `('batch', 'tokens', 'embed')` gives `fsdp` to its batch, a parameter
`('embed', 'mlp')` gives `fsdp` and `context` to `embed`.
"""

import collections
import contextlib
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from flax import struct
from flax.core import meta
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

# Initialisation runs once: optimising it would take a minute, running it milliseconds.
_QUICK = {"xla_backend_optimization_level": 0}
MESH_AXES = ("data", "fsdp", "context", "tensor")
SIDE_AXIS = "context"  # the mesh axis of `height` or `width` of a frame


@dataclasses.dataclass(frozen=True)
class AxisRules:
    """Which mesh axes a logical axis may use.

    Attributes:
      rules: logical axis to mesh axes, in order of preference. A logical axis that is
        not a key raises: a misspelt axis must not silently replicate.
    """

    rules: Mapping[str, tuple[str, ...]]

    def spec(self, names: Sequence[str | None]) -> P:
        """The PartitionSpec of an array whose axes have these logical names."""
        used: set[str] = set()
        entries: list[str | tuple[str, ...] | None] = []
        for name in names:
            if name is not None and name not in self.rules:
                known = ", ".join(sorted(self.rules))
                raise ValueError(f"unknown logical axis {name!r}; known: {known}")
            free = [a for a in self.rules.get(name or "", ()) if a not in used]
            used.update(free)
            entries.append(tuple(free) if len(free) > 1 else free[0] if free else None)
        return P(*entries)


DEFAULT_RULES = AxisRules(
    {
        "batch": ("data", "fsdp"),
        "tokens": ("context",),
        "text": (),
        "height": (SIDE_AXIS,),
        "width": (SIDE_AXIS,),
        "layers": (),
        "embed": ("fsdp",),
        "mlp": ("tensor",),
        "heads": ("tensor",),
        "channels_in": ("fsdp",),
        "channels_out": ("tensor",),
        "vocab": ("tensor",),
    }
)


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Sizes of the mesh axes; one may be -1 and takes the remaining devices."""

    data: int = 1
    fsdp: int = -1
    context: int = 1
    tensor: int = 1

    def make(self, devices: Sequence[Any] | None = None) -> Mesh:
        """The mesh of these sizes; see `make_mesh`."""
        return make_mesh(**dataclasses.asdict(self), devices=devices)


def make_mesh(
    *,
    data: int = 1,
    fsdp: int = -1,
    context: int = 1,
    tensor: int = 1,
    devices: Sequence[Any] | None = None,
) -> Mesh:
    """A mesh of Auto axes over `devices` (all of them by default).

    One size may be -1 and takes the remaining devices. Several TPU slices are spanned
    by the `data` axis alone, several nodes of GPUs by all axes but `tensor`.

    Raises:
      ValueError: the sizes do not multiply to the number of devices, or an axis would
        cross links that it must not.
    """
    devices = list(jax.devices() if devices is None else devices)
    sizes = {"data": data, "fsdp": fsdp, "context": context, "tensor": tensor}
    open_axes = [name for name, size in sizes.items() if size == -1]
    fixed = math.prod(size for size in sizes.values() if size != -1)
    if len(open_axes) > 1 or any(s < 1 and s != -1 for s in sizes.values()):
        raise ValueError(f"mesh sizes must be positive, one of them -1: {sizes}")
    if len(devices) % fixed or (not open_axes and fixed != len(devices)):
        count = len(devices)
        legal = [n for n in range(1, count + 1) if count % n == 0]
        nearest = min(legal, key=lambda n: abs(n - fixed)) if open_axes else count
        raise ValueError(
            f"mesh {sizes} needs a multiple of {fixed} devices; there are {count}: "
            f"use sizes that multiply to {nearest}"
        )
    if open_axes:
        sizes[open_axes[0]] = len(devices) // fixed
    grid = _device_grid(tuple(sizes[name] for name in MESH_AXES), devices)
    return Mesh(grid, MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))


def _device_grid(shape: tuple[int, ...], devices: Sequence[Any]) -> np.ndarray:
    """Devices in mesh order; slices, where there are several, along `data`."""
    if devices[0].platform == "gpu":
        return _node_grid(shape, devices)
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices > 1:
        if shape[0] % slices:
            nearest = max(1, round(shape[0] / slices)) * slices
            raise ValueError(
                f"data={shape[0]} does not divide over {slices} slices: use {nearest}"
            )
        return mesh_utils.create_hybrid_device_mesh(
            (shape[0] // slices, *shape[1:]),
            (slices, 1, 1, 1),
            devices=devices,
            allow_split_physical_axes=True,
        )
    if math.prod(shape) == 1 or devices[0].platform != "tpu":
        return np.asarray(devices, object).reshape(shape)
    try:
        return mesh_utils.create_device_mesh(shape, devices)
    except NotImplementedError:  # an axis of the mesh is part of a side of the torus
        return mesh_utils.create_device_mesh(
            shape, devices, allow_split_physical_axes=True
        )


def _node_grid(shape: tuple[int, ...], devices: Sequence[Any]) -> np.ndarray:
    """GPUs node by node, which `tensor` never crosses; `slice_index` is the node."""

    def node(device: Any) -> int:
        return getattr(device, "slice_index", device.process_index)

    ordered = sorted(devices, key=lambda device: (node(device), device.id))
    grid = np.asarray(ordered, object).reshape(shape)
    if any(len(set(map(node, group))) > 1 for group in grid.reshape(-1, shape[-1])):
        sizes = collections.Counter(map(node, devices))
        raise ValueError(
            f"tensor={shape[-1]} crosses nodes of {min(sizes.values())} GPUs: use a "
            f"divisor of {min(sizes.values())}"
        )
    return grid


def check_divides(shape: Sequence[int], spec: P, *, mesh: Any, what: str) -> None:
    """Refuse a size that its mesh axes do not divide.

    Raises:
      ValueError: naming the array, its size and the number of shards.
    """
    for size, entry in zip(shape, spec, strict=False):
        axes = (entry,) if isinstance(entry, str) else (entry or ())
        shards = math.prod(mesh.shape[axis] for axis in axes)
        if size % shards:
            nearest = max(shards, round(size / shards) * shards)
            raise ValueError(
                f"{what}: size {size} does not divide over {shards} shards "
                f"({' x '.join(axes)}); nearest that does: {nearest}"
            )


def constrain(
    x: jax.Array, *names: str | None, rules: AxisRules = DEFAULT_RULES
) -> jax.Array:
    """Shard an activation by its logical axes; nothing without a mesh (`set_mesh`)."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return x
    spec = rules.spec(names)
    check_divides(x.shape, spec, mesh=mesh, what=f"activation {names}")
    return jax.lax.with_sharding_constraint(x, spec)


def mesh_axes(logical: str) -> tuple[str, ...]:
    """The mesh axes that shard a logical axis of an activation."""
    entry = DEFAULT_RULES.spec((logical,))[0] or ()
    return (entry,) if isinstance(entry, str) else tuple(entry)


def auto_mesh() -> jax.sharding.AbstractMesh | None:
    """The mesh over which the compiler shards; None without one or in `shard_map`."""
    mesh = jax.sharding.get_abstract_mesh()
    return None if mesh.empty or mesh.size == 1 or mesh.manual_axes else mesh


def current_mesh() -> Mesh | None:
    """The mesh that is set (`jax.set_mesh`); None without one, or of one device."""
    mesh = jax.sharding.get_mesh()
    return None if mesh.empty or mesh.size == 1 else mesh


def platform() -> str:
    """'tpu', 'gpu' or 'cpu': the target of compilation, as far as it is known.

    That of the devices of the mesh that is set, which need not be attached; else JAX's
    default.
    """
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if device is None else device.platform


def no_mesh() -> contextlib.AbstractContextManager[Any]:
    """A context without a mesh, for shapes of arrays that need not divide over one."""
    return jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), ()))


def batch_shards() -> int:
    """Number of shards of a batch."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty else mesh.shape["data"] * mesh.shape["fsdp"]


def side_shards() -> int:
    """Number of shards of the longer side of a frame."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty else mesh.shape[SIDE_AXIS]


@struct.dataclass
class Named(meta.AxisMetadata[Any]):
    """A parameter with the logical names of its axes, while Linen initialises it."""

    value: Any
    names: tuple[str | None, ...] = struct.field(pytree_node=False)

    def unbox(self) -> Any:
        return self.value

    def replace_boxed(self, val: Any) -> "Named":
        return self.replace(value=val)  # pyright: ignore[reportAttributeAccessIssue]

    @staticmethod
    def from_nnx_metadata(metadata: Mapping[str, Any]) -> "Named":
        """The box that `flax.nnx.bridge.ToNNX` needs to call the module again."""
        return Named(metadata["value"], metadata["names"])

    def add_axis(self, index: int, params: dict[Any, Any]) -> "Named":
        names = list(self.names)
        names.insert(index, params[meta.PARTITION_NAME])
        return self.replace(names=tuple(names))  # pyright: ignore[reportAttributeAccessIssue]

    def remove_axis(self, index: int, params: dict[Any, Any]) -> "Named":
        names = list(self.names)
        names.pop(index)
        return self.replace(names=tuple(names))  # pyright: ignore[reportAttributeAccessIssue]


def named(init: Any, *names: str | None) -> Any:
    """An initializer whose result carries the logical names of its axes."""

    def boxed(*args: Any, **kwargs: Any) -> Named:
        return Named(init(*args, **kwargs), names)

    return boxed


def _is_named(x: Any) -> bool:
    return isinstance(x, Named)


def param_shardings(boxed: Any, mesh: Mesh, *, rules: AxisRules = DEFAULT_RULES) -> Any:
    """NamedSharding of every parameter, from a tree of `Named` boxes.

    What is over `fsdp` is over `context` as well, where that divides it too: rows are
    split over both, and kernels gathered layer by layer.

    Raises:
      ValueError: a size does not divide over its mesh axes.
    """

    def sharding(path: Any, leaf: Any) -> NamedSharding:
        spec = rules.spec(leaf.names) if _is_named(leaf) else P()
        shape = leaf.value.shape if _is_named(leaf) else leaf.shape
        check_divides(shape, spec, mesh=mesh, what=jax.tree_util.keystr(path))
        return NamedSharding(mesh, _with_context(spec, shape, mesh=mesh))

    return jax.tree_util.tree_map_with_path(sharding, boxed, is_leaf=_is_named)


def _with_context(spec: P, shape: Sequence[int], *, mesh: Mesh) -> P:
    """`spec` with `context` beside `fsdp`, if there is one that divides the size."""
    entries = [(e,) if isinstance(e, str) else tuple(e or ()) for e in spec]
    if mesh.shape[SIDE_AXIS] == 1 or any(SIDE_AXIS in axes for axes in entries):
        return spec
    for i, axes in enumerate(entries):
        more = (*axes, SIDE_AXIS)
        if "fsdp" in axes and shape[i] % math.prod(mesh.shape[a] for a in more) == 0:
            return P(*spec[:i], more, *spec[i + 1 :])
    return spec


def init(
    module: nn.Module,
    key: jax.Array,
    *args: Any,
    mesh: Mesh | None = None,
    rules: AxisRules = DEFAULT_RULES,
    method: Any = None,
    **kwargs: Any,
) -> tuple[Any, Any]:
    """Initialise a module's parameters sharded; arguments as of `initializer`.

    Returns:
      `(params, shardings)`: plain arrays and the NamedSharding of each.
    """
    initial = initializer(
        module, key, *args, mesh=mesh, rules=rules, method=method, **kwargs
    )
    return initial.make(), initial.shardings


@dataclasses.dataclass(frozen=True)
class Initializer:
    """Parameters that are still to be made.

    Attributes:
      make: makes them, on the devices where they will live.
      shapes: their ShapeDtypeStructs, with shardings.
      shardings: NamedSharding of each.
    """

    make: Callable[[], Any]
    shapes: Any
    shardings: Any


def initializer(
    module: nn.Module,
    key: jax.Array,
    *args: Any,
    mesh: Mesh | None = None,
    rules: AxisRules = DEFAULT_RULES,
    method: Any = None,
    **kwargs: Any,
) -> Initializer:
    """A module's parameters, to be initialised sharded.

    No host or device ever holds the unsharded tree: shapes come from `eval_shape`, and
    the initialisation is compiled with sharded outputs.

    Args:
      module: a Linen module.
      key: PRNG key.
      *args: example inputs of `module` (arrays or ShapeDtypeStructs).
      mesh: devices of the parameters; one device by default.
      rules: logical to mesh axes.
      method: method that initialises, `__call__` by default.
      **kwargs: static keyword inputs of `module`.
    """
    mesh = mesh or make_mesh(fsdp=1, devices=jax.local_devices()[:1])

    def boxed(key: jax.Array, *inputs: Any) -> Any:
        return module.init(key, *inputs, method=method, **kwargs)["params"]

    shapes, shardings = abstract_params(boxed, key, *args, mesh=mesh, rules=rules)

    def plain(key: jax.Array) -> Any:
        zeros = jax.tree.map(lambda a: jax.numpy.zeros(a.shape, a.dtype), args)
        return meta.unbox(boxed(key, *zeros))

    cpu = mesh.devices.flat[0].platform == "cpu"
    options = _QUICK if cpu else None
    compiled = jax.jit(plain, out_shardings=shardings, compiler_options=options)
    return Initializer(lambda: compiled(key), shapes, shardings)


def abstract_params(
    boxed: Callable[..., Any],
    key: jax.Array,
    *args: Any,
    mesh: Mesh,
    rules: AxisRules = DEFAULT_RULES,
) -> tuple[Any, Any]:
    """Shapes and shardings of parameters, without initialising them.

    Args:
      boxed: `(key, *args)` to a tree of `Named` boxes, `module.init(...)["params"]`.
      key: PRNG key.
      *args: arrays or ShapeDtypeStructs.
      mesh: devices of the parameters.
      rules: logical to mesh axes.

    Returns:
      `(shapes, shardings)`: ShapeDtypeStructs with shardings, and those shardings.
    """
    tree = jax.eval_shape(boxed, key, *args)
    shardings = param_shardings(tree, mesh, rules=rules)
    return sharded_shapes(meta.unbox(tree), shardings), shardings


def sharded_shapes(shapes: Any, shardings: Any) -> Any:
    """ShapeDtypeStructs of `shapes` with `shardings`, two trees of one structure."""
    return jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        shapes,
        shardings,
    )


def batch_sharding(mesh: Mesh, *, rules: AxisRules = DEFAULT_RULES) -> NamedSharding:
    """Sharding of the arrays of a batch: the first axis over the axes of `batch`."""
    return NamedSharding(mesh, rules.spec(("batch",)))


def batch_shard_processes(mesh: Mesh) -> list[frozenset[int]]:
    """The processes that hold each part of a batch, in the order of its rows.

    Processes among which tokens or features are split hold the same rows and need the
    same data; a batch has as many parts as this list has entries.

    Raises:
      ValueError: processes that hold some of the same rows, but not all.
    """
    shards: dict[int, set[int]] = {}
    grid = mesh.devices.reshape(mesh.shape["data"] * mesh.shape["fsdp"], -1)
    for shard, devices in enumerate(grid):
        for device in devices:
            shards.setdefault(device.process_index, set()).add(shard)
    groups: dict[frozenset[int], set[int]] = {}
    for process, held in shards.items():
        groups.setdefault(frozenset(held), set()).add(process)
    if sum(map(len, groups)) > len(grid):
        raise ValueError(
            f"mesh {dict(mesh.shape)}: the processes' shares of a batch overlap; use "
            "sizes of context x tensor that are a multiple of a process's devices, or "
            "divide them"
        )
    return [frozenset(groups[held]) for held in sorted(groups, key=min)]


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, P())
