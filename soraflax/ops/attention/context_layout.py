"""How attention uses the mesh axis that shards tokens: all-to-all, ring, or both.

With C devices on that axis and h heads on a device,

    u = gcd(h, C)     devices trade tokens for heads (Ulysses, arXiv:2309.14509),    (1)
    r = C / u         groups of u pass keys and values on (ring, arXiv:2310.01889):  (2)

all Ulysses where C divides h, all ring where they have no common factor, and both in
between (arXiv:2405.07719). Device `c` is member `c mod u` of group `c div u`, and a
group holds N / r neighbouring tokens of a row.

Keys that no device shards, such as a caption's, need neither: every device attends from
its own tokens to all of them.
"""

import dataclasses
import math

from soraflax import sharding


@dataclasses.dataclass(frozen=True)
class ContextLayout:
    """How many shards the heads, the queries and the keys of a row are cut into.

    Attributes:
      head_shards: u of equation (1), the size of a Ulysses group.
      query_shards: shards of the queries of a row.
      key_shards: shards of its keys; 1, or as many as of the queries.
    """

    head_shards: int = 1
    query_shards: int = 1
    key_shards: int = 1


def context_layout(*, heads: int | None, key_axis: str) -> ContextLayout:
    """Equations (1) and (2) for the mesh that is set.

    Args:
      heads: heads of the whole model; None stands for a number that divides.
      key_axis: logical axis of the keys, 'tokens' or 'text'.

    Raises:
      ValueError: heads do not divide over the mesh axes of 'heads'.
    """
    mesh = sharding.auto_mesh()
    if mesh is None:
        return ContextLayout()
    token_axes = sharding.mesh_axes("tokens")
    context = math.prod(mesh.shape[axis] for axis in token_axes)
    if sharding.mesh_axes(key_axis) != token_axes:
        return ContextLayout(query_shards=context)
    if heads is None:
        return ContextLayout(head_shards=context)
    spec = sharding.DEFAULT_RULES.spec(("heads",))
    sharding.check_divides((heads,), spec, mesh=mesh, what="attention heads")
    head_axes = sharding.mesh_axes("heads")
    local_heads = heads // math.prod(mesh.shape[axis] for axis in head_axes)
    ulysses = math.gcd(local_heads, context)
    ring = context // ulysses
    return ContextLayout(head_shards=ulysses, query_shards=ring, key_shards=ring)


def ring_shards(heads: int) -> int:
    """Groups of the ring on the mesh that is set; 1 without a ring.

    Args:
      heads: heads of the whole model.
    """
    return context_layout(heads=heads, key_axis="tokens").query_shards
