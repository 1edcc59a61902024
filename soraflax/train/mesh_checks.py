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
    divided = [
        ("tensor", model.heads, "heads"),
        ("tensor", model.mlp, "hidden features"),
        ("fsdp", model.width, "features"),
        ("context", row.tokens, "tokens of a row"),
    ]
    if model.text is not None:  # on the same mesh
        divided += [
            ("tensor", model.text.heads, "heads of the text encoder"),
            ("tensor", model.text.mlp, "hidden features of the text encoder"),
            ("tensor", model.text.vocabulary, "pieces of the vocabulary"),
            ("fsdp", model.text.width, "features of the text encoder"),
        ]
    check_axes(divided, mesh=mesh)


def check_axes(divided: Iterable[tuple[str, int, str]], *, mesh: Mesh) -> None:
    """Refuse sizes that an axis of a mesh does not divide.

    Args:
      divided: axis, size, and what the size counts.
      mesh: of the run.

    Raises:
      ValueError: naming the first such size and the nearest legal one of the axis.
    """
    for axis, size, what in divided:
        along, devices = mesh.shape[axis], mesh.size
        if size % along:
            legal = [n for n in range(1, devices + 1) if size % n == devices % n == 0]
            hint = " or ".join(str(n) for n in _nearest(along, legal))
            raise ValueError(
                f"{size} {what} do not divide over {axis}={along}: use {hint}"
            )


def _nearest(value: int, legal: Iterable[int]) -> list[int]:
    """The nearest legal values below and above."""
    below = [n for n in legal if n < value]
    above = [n for n in legal if n > value]
    return below[-1:] + above[:1]
