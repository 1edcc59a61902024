"""How attention spends the mesh axis that shards tokens.

With C devices on that axis and h heads on a device,

    u = gcd(h, C)     neighbours trade tokens for heads (Ulysses, arXiv:2309.14509), (1)
    r = C / u         groups pass keys and values around (ring, arXiv:2310.01889):   (2)

all Ulysses where C divides h, all ring where they have no common factor, and both
in between (arXiv:2405.07719). Device `c` is place `c mod u` of group `c div u`, and a
group holds N / r neighbouring tokens of a row.

Keys that no device shards, such as a caption's, need neither: every device attends from
its own tokens to all of them.
"""

import dataclasses
import math

import jax

from soraflax import sharding


@dataclasses.dataclass(frozen=True)
class Layout:
    """Into how many pieces heads, queries and keys are cut along a row.

    Attributes:
      heads: u of equation (1).
      queries: shards of the queries of a row.
      keys: shards of its keys; 1, or as many as of the queries.
    """

    heads: int = 1
    queries: int = 1
    keys: int = 1


def mesh_axes(logical: str) -> tuple[str, ...]:
    """The mesh axes that shard a logical axis of an activation."""
    entry = sharding.DEFAULT_RULES.spec((logical,))[0] or ()
    return (entry,) if isinstance(entry, str) else tuple(entry)


def active_mesh() -> jax.sharding.AbstractMesh | None:
    """The mesh to cut for; None without one, or where it has been cut already."""
    mesh = jax.sharding.get_abstract_mesh()
    cut = mesh.empty or mesh.size == 1 or mesh.manual_axes
    return None if cut else mesh


def make_layout(*, heads: int | None, key_axis: str) -> Layout:
    """Equations (1) and (2) for the mesh that is set.

    Args:
      heads: of the whole model; None stands for a number that divides.
      key_axis: logical axis of the keys, 'tokens' or 'text'.

    Raises:
      ValueError: heads do not divide over the mesh axes of 'heads'.
    """
    mesh = active_mesh()
    if mesh is None:
        return Layout()
    context = math.prod(mesh.shape[axis] for axis in mesh_axes("tokens"))
    if mesh_axes(key_axis) != mesh_axes("tokens"):
        return Layout(queries=context)
    if heads is None:
        return Layout(heads=context)
    spec = sharding.DEFAULT_RULES.spec(("heads",))
    sharding.check_divides((heads,), spec, mesh=mesh, what="attention heads")
    local = heads // math.prod(mesh.shape[axis] for axis in mesh_axes("heads"))
    trade = math.gcd(local, context)
    return Layout(heads=trade, queries=context // trade, keys=context // trade)


def ring_shards(heads: int) -> int:
    """Shards of a row that pass keys around on the mesh that is set; 1 without a ring.

    Args:
      heads: of the whole model.
    """
    return make_layout(heads=heads, key_axis="tokens").queries


def platform() -> str:
    """'tpu', 'gpu' or 'cpu': what the program is compiled for, as far as is known.

    The devices of the mesh that is set, which need not be here; else JAX's default.
    """
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if device is None else device.platform
