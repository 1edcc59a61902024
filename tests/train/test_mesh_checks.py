"""Meshes that do not suit a transformer or its rows."""

import dataclasses

import pytest

from soraflax import sharding
from soraflax.nn import dit
from soraflax.ops import packing
from soraflax.train import mesh_checks

ROW = packing.RowShape(tokens=1024, text=64, segments=4)


@pytest.mark.parametrize(
    ("sizes", "rows", "complaint"),
    [
        ({"data": 2, "fsdp": 4}, 12, "12 rows do not divide over data x fsdp = 8"),
        ({"tensor": 8, "fsdp": 1}, 8, "12 heads do not divide over tensor=8: use 4"),
        ({"context": 8, "fsdp": 1}, 8, None),
    ],
)
def test_sizes_are_checked(sizes: dict[str, int], rows: int, complaint: str | None):
    mesh = sharding.make_mesh(**sizes)
    model = dit.VARIANTS["wan2_1_t2v_1_3b"]
    if complaint is None:
        mesh_checks.check(model, ROW, rows=rows, mesh=mesh)
        return
    with pytest.raises(ValueError, match=complaint):
        mesh_checks.check(model, ROW, rows=rows, mesh=mesh)


def test_microbatches_count_and_short_rows_are_named():
    mesh = sharding.make_mesh(fsdp=4, context=2)
    model = dit.VARIANTS["tiny"]
    mesh_checks.check(model, ROW, rows=8, mesh=mesh, accumulate=2)
    with pytest.raises(ValueError, match=r"4 x 3 microbatches: use 12 rows"):
        mesh_checks.check(model, ROW, rows=8, mesh=mesh, accumulate=3)
    odd = packing.RowShape(tokens=1023, text=64, segments=4)
    with pytest.raises(ValueError, match=r"1023 tokens of a row .* context=2: use 1"):
        mesh_checks.check(model, odd, rows=8, mesh=mesh)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        (
            {"heads": 2},
            "2 heads of the text encoder do not divide over tensor=4: use 2",
        ),
        ({"mlp": 34}, "34 hidden features of the text encoder .* tensor=4: use 2"),
        ({"vocabulary": 1026}, "1026 pieces of the vocabulary .* tensor=4: use 2"),
        ({"width": 17}, "17 features of the text encoder .* fsdp=2: use 1"),
    ],
)
def test_the_text_encoder_is_checked_too(changes: dict[str, int], complaint: str):
    """Before latents are cached, not when its parameters are made."""
    mesh = sharding.make_mesh(fsdp=2, tensor=4)
    model = dataclasses.replace(dit.VARIANTS["tiny"], heads=4)
    assert model.text is not None
    fits = dataclasses.replace(model.text, heads=4)
    mesh_checks.check(dataclasses.replace(model, text=fits), ROW, rows=8, mesh=mesh)
    text = dataclasses.replace(fits, **changes)
    with pytest.raises(ValueError, match=complaint):
        other = dataclasses.replace(model, text=text, text_width=text.width)
        mesh_checks.check(other, ROW, rows=8, mesh=mesh)
