"""One side of attention, the queries or the keys of a batch, in whole blocks.

A kernel reads blocks of one size, rows have any length. What all kernels share is here:
how many blocks there are, what each visits of the other side, zeros up to the last
block's end and off again. What only one kernel wants (heads first, rows end to end, a
block specification) is in its own file.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Shaped

from soraflax.ops.attention import plan as planning


@dataclasses.dataclass(frozen=True)
class Side:
    """The queries or the keys of a batch of rows that no mesh cuts.

    Attributes:
      segments: `[B, N]` int32 segment ids, 0 where padded.
      runs: for each block of this side, the blocks it visits of the other.
      block: tokens in a block.
    """

    segments: jax.Array
    runs: planning.Runs
    block: int

    @property
    def rows(self) -> int:
        """B."""
        return self.segments.shape[0]

    @property
    def length(self) -> int:
        """N, tokens in a row."""
        return self.segments.shape[1]

    @property
    def blocks(self) -> int:
        """Blocks in a row; the last one may be part empty."""
        return self.runs.start.shape[-1]

    @property
    def padded_length(self) -> int:
        """Tokens in the blocks of a row."""
        return self.blocks * self.block

    def pad(self, x: Shaped[Array, "..."], *, axis: int = 1) -> Shaped[Array, "..."]:
        """`x` with zeros after its N entries along `axis`, up to whole blocks."""
        widths = [(0, 0)] * x.ndim
        widths[axis] = (0, self.padded_length - self.length)
        return jnp.pad(x, widths)


def sides(plan: planning.AttentionPlan) -> tuple[Side, Side]:
    """Queries and keys of a plan."""
    return (
        Side(plan.query_segments, plan.keys_of, plan.query_block),
        Side(plan.key_segments, plan.queries_of, plan.key_block),
    )


def same_segment(own: Int[Array, "n"], other: Int[Array, "m"]) -> Bool[Array, "n m"]:
    """The token mask of a pair of blocks with segment ids `own` and `other`."""
    return (own[:, None] == other[None, :]) & (own > 0)[:, None]


def pair_mask(
    queries: Side,
    keys: Side,
    *,
    ids: tuple[Int[Array, "n"], Int[Array, "m"]],
    blocks: tuple[Int[Array, ""], Int[Array, ""]],
    causal: bool,
) -> Bool[Array, "n m"]:
    """The token mask of a block of queries and one of keys, as of `AttentionPlan.mask`.

    Args:
      queries: side of the queries.
      keys: side of the keys.
      ids: segment ids of the two blocks.
      blocks: index of each block in its row.
      causal: as of the plan.
    """
    mask = same_segment(*ids)
    if not causal:
        return mask
    query = blocks[0] * queries.block + jnp.arange(queries.block)
    key = blocks[1] * keys.block + jnp.arange(keys.block)
    return mask & (key[None, :] <= query[:, None])
