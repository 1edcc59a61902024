"""The example row: what it shows about packing holds."""

import pathlib
from typing import Any

import jax
import numpy as np
import pytest

from soraflax.nn import dit
from soraflax.ops import packing
from soraflax.pretrained import abstract


@pytest.mark.parametrize("features", [False, True])
def test_the_example_row_packs_clips_and_an_image(features: bool) -> None:
    config = dit.VARIANTS["tiny"] if not features else dit.VARIANTS["wan2_1_t2v_1_3b"]
    row = abstract.example_row(config)
    assert np.bincount(row.segments[0]).tolist() == [4, 12, 16, 24]
    assert row.text.ndim == (3 if features else 2)
    assert set(row.positions[0, row.segments[0] == 2, 0]) == {0.0}


def test_the_example_row_computes_what_its_clips_compute_alone(key: jax.Array) -> None:
    config = dit.VARIANTS["tiny"]
    module, row = dit.DiT(config), abstract.example_row(config)
    params = module.init(key, row)["params"]
    params = jax.tree.map(lambda x: x + 0.02, params)
    packed: Any = module.apply({"params": params}, row)
    tokens, text = row.segments[0] == 2, row.text_segments[0] == 2
    alone = packing.Segment(
        row.tokens[0, tokens],
        row.positions[0, tokens],
        np.zeros(int(tokens.sum()), bool),
        row.text[0, text],
    )
    single = packing.assemble([[alone]], packing.RowShape.fitting([[alone]]))
    single = single.replace(levels=np.full_like(single.levels, 0.5))
    expected: Any = module.apply({"params": params}, single)
    np.testing.assert_allclose(packed[:, tokens], expected, atol=1e-4)
    assert float(np.abs(expected).max()) > 0.01


@pytest.mark.parametrize("damage", [None, "", "{}", "flip"])
def test_shapes_are_remembered_and_never_believed_if_damaged(
    tmp_path: pathlib.Path, damage: str | None
) -> None:
    config, traced = dit.VARIANTS["tiny"], []

    def shapes(config: dit.DiTConfig) -> Any:
        traced.append(config)
        return abstract.transformer_shapes(config)

    for _ in range(2):
        found = abstract.remembered(shapes, config, cache=tmp_path)
        assert found == abstract.transformer_shapes(config)
    assert traced == [config]
    if damage is not None:
        (path,) = (tmp_path / abstract.SHAPES).iterdir()
        path.write_text(path.read_text().replace("32", "33") if damage else damage)
        assert abstract.remembered(shapes, config, cache=tmp_path) == found
        assert len(traced) == 2
    abstract.remembered(shapes, dit.VARIANTS["small"], cache=tmp_path)
    assert traced[-1] == dit.VARIANTS["small"]
    abstract.remembered(shapes, config, cache=None)
    assert traced[-1] == config


def test_few_shapes_are_remembered(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(abstract, "MAX_SHAPES", 1)
    for config in (dit.VARIANTS["tiny"], dit.VARIANTS["small"]):
        abstract.remembered(abstract.transformer_shapes, config, cache=tmp_path)
    assert len(list((tmp_path / abstract.SHAPES).iterdir())) == 1
