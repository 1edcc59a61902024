"""Batch invariance: the same result for a row, bit for bit, whatever is in its batch.

On a CPU the compiler chooses the order of sums by the shape of the whole batch, so the
same row would round differently in a larger one. Computed row by row it never does, and
with few cores that is no slower.
"""

from collections.abc import Callable
from typing import Any

import jax


def map_rows(function: Callable[[Any], Any], batch: Any) -> Any:
    """`function(batch)`; on a CPU, row by row.

    Args:
      function: maps a tree of arrays, whose first axis is the batch, to such a tree.
      batch: its argument.
    """
    if jax.default_backend() != "cpu":
        return function(batch)

    def map_row(row: Any) -> Any:
        output = function(jax.tree.map(lambda a: a[None], row))
        return jax.tree.map(lambda a: a[0], output)

    return jax.lax.map(map_row, batch)
