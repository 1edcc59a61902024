"""Copies of parameters that should be equal, and are not: a bit flipped in a device.

A device that holds a copy updates it with the same gradient as all others, so that a
flipped bit stays, and is averaged into what every device learns. Sums of bits are
compared, which no communication between devices takes part in.
"""

import collections
import functools
import json
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, UInt32

from soraflax.train import saved_steps


class ReplicaError(ValueError):
    """Copies of one array differ between devices."""


def check(tree: Any) -> None:
    """Refuse arrays whose copies differ; all processes call it.

    Args:
      tree: arrays over one mesh.

    Raises:
      ReplicaError: naming arrays, devices and processes.
    """
    leaves = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
        if isinstance(leaf, jax.Array)
    }
    copied = {name: leaf for name, leaf in leaves.items() if _is_copied(leaf)}
    if not copied:
        return
    places: Any = {name: leaf.sharding for name, leaf in copied.items()}
    mesh = next(iter(places.values())).mesh
    specs = {name: place.spec for name, place in places.items()}
    sums = _program(mesh, tuple(specs.items()))(copied)
    own = {
        name: {
            str(shard.index[0].start or 0): int(np.asarray(shard.data)[0])
            for shard in values.addressable_shards
        }
        for name, values in sums.items()
    }
    found: dict[str, dict[int, int]] = collections.defaultdict(dict)
    for text in saved_steps.allgather_text(json.dumps(own)):
        for name, by_place in json.loads(text).items():
            found[name] |= {int(place): total for place, total in by_place.items()}
    lines = [
        line
        for name, by_place in found.items()
        for line in _differing(name, copied[name], sums=by_place)
    ]
    if lines:
        more = f" and {len(lines) - 1} others" if len(lines) > 1 else ""
        raise ReplicaError(
            f"{lines[0]}{more}: a device lost a bit; the same command resumes at the "
            "last checkpoint, leave that device out"
        )


def _is_copied(leaf: jax.Array) -> bool:
    indices = leaf.sharding.devices_indices_map(leaf.shape).values()
    return len(set(map(str, indices))) < len(indices)


@functools.lru_cache(maxsize=4)
def _program(mesh: Mesh, specs: tuple[tuple[str, P], ...]) -> Any:
    """Compiled: arrays by name to `[devices]` sums of the bits that each holds."""
    axes = P(mesh.axis_names)

    def sums(arrays: Mapping[str, Array]) -> dict[str, UInt32[Array, "1"]]:
        return {name: _bits(x)[None] for name, x in arrays.items()}

    mapped = jax.shard_map(
        sums,
        mesh=mesh,
        in_specs=(dict(specs),),
        out_specs={name: axes for name, _ in specs},
        check_vma=False,
    )
    return jax.jit(mapped)


def _bits(x: Array) -> UInt32[Array, ""]:
    width = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[x.dtype.itemsize]
    bits = jax.lax.bitcast_convert_type(x, width)
    return jnp.sum(bits.astype(jnp.uint32), dtype=jnp.uint32)


def _differing(name: str, leaf: jax.Array, *, sums: Mapping[int, int]) -> list[str]:
    """A line for each shard of an array whose copies differ."""
    indices = leaf.sharding.devices_indices_map(leaf.shape)
    devices = list(leaf.sharding.mesh.devices.flat)  # pyright: ignore[reportAttributeAccessIssue]
    shards: dict[str, list[int]] = collections.defaultdict(list)
    for place, device in enumerate(devices):
        shards[str(indices[device])].append(place)
    lines = []
    for places in shards.values():
        counts = collections.Counter(sums[place] for place in places)
        (usual, most), *_ = counts.most_common(1)
        # Of two copies nobody knows which is right.
        odd = [p for p in places if sums[p] != usual or 2 * most == len(places)]
        if most < len(places):
            named = (
                f"{devices[p].id} of process {devices[p].process_index}" for p in odd
            )
            lines.append(
                f"{name}: copies differ, {len(places)} in all, on device "
                f"{', '.join(named)}"
            )
    return lines
