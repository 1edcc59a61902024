"""Whether a mesh divides a transformer and its batch, checked before compilation."""

from collections.abc import Iterable

from jax.sharding import Mesh

from soraflax.nn import dit
from soraflax.ops import packing


def check(
    model: dit.DiTConfig,
    row: packing.RowShape,
    *,
    rows: int,
    mesh: Mesh,
    accumulate: int = 1,
) -> None:
    """Refuse a mesh that does not divide a transformer or its batch.

    Args:
      model: sizes of the transformer.
      row: capacity of a row.
      rows: rows of a batch, on all devices together.
      mesh: mesh of the training run.
      accumulate: number of microbatches that a batch is split into.

    Raises:
      ValueError: naming both sizes and the nearest legal one.
    """
    shape = dict(mesh.shape)
    shards = shape["data"] * shape["fsdp"]
    divisor = shards * accumulate
    if rows % divisor:
        over = f"data x fsdp = {shards}"
        over += f" x {accumulate} microbatches" if accumulate > 1 else ""
        nearest = max(1, round(rows / divisor)) * divisor
        raise ValueError(f"{rows} rows do not divide over {over}: use {nearest} rows")
    _check_axis("tensor", shape, size=model.heads, what="heads", devices=mesh.size)
    _check_axis(
        "tensor", shape, size=model.mlp, what="hidden features", devices=mesh.size
    )
    _check_axis("fsdp", shape, size=model.width, what="features", devices=mesh.size)
    _check_axis(
        "context", shape, size=row.tokens, what="tokens of a row", devices=mesh.size
    )


def _check_axis(
    axis: str, shape: dict[str, int], *, size: int, what: str, devices: int
) -> None:
    if size % shape[axis]:
        legal = [n for n in range(1, devices + 1) if size % n == devices % n == 0]
        hint = " or ".join(str(n) for n in _nearest(shape[axis], legal))
        raise ValueError(
            f"{size} {what} do not divide over {axis}={shape[axis]}: use {hint}"
        )


def _nearest(value: int, legal: Iterable[int]) -> list[int]:
    """The nearest legal values below and above."""
    below = [n for n in legal if n < value]
    above = [n for n in legal if n > value]
    return below[-1:] + above[:1]
