"""Models and runs that were saved under earlier names of their keys still load."""

import json
import pathlib

import jax
import pytest

from soraflax import config as config_lib
from soraflax.nn import dit
from soraflax.pretrained import abstract, migration, models
from soraflax.pretrained import io as model_io
from soraflax.train import checkpoint

# `config.json` of a transformer as version 0.1 wrote it.
SAVED = """
{
  "kind": "transformer",
  "model": {
    "attention": "auto", "attention_block": 128, "depth": 1, "dtype": "float32",
    "frequency_width": 8, "gate": 1.0, "heads": 2, "latent_channels": 2,
    "locality": 4.0, "mlp": 16, "patch": [1, 2, 2], "pooled_text": true,
    "remat": "none", "skip": true, "text": null, "text_width": 6, "theta": 10.0,
    "width": 8
  }
}
"""
CONFIG = dit.DiTConfig(
    latent_channels=2,
    patch=(1, 2, 2),
    width=8,
    depth=1,
    heads=2,
    mlp=16,
    text_width=6,
    frequency_width=8,
    theta=10.0,
    gate_init=1.0,
    qk_bias_init=4.0,
    input_skip=True,
    pooled_text=True,
)


def test_a_transformer_saved_with_the_old_keys_loads(tmp_path: pathlib.Path) -> None:
    shapes = abstract.transformer_shapes(CONFIG)
    params = jax.tree.map(lambda x: jax.numpy.ones(x.shape, x.dtype), shapes)
    model_io.save_model(tmp_path / "model", params, config=json.loads(SAVED))
    assert models.load_transformer(tmp_path).config == CONFIG


def test_what_is_saved_now_has_the_new_keys_alone() -> None:
    saved = config_lib.to_dict(CONFIG)
    assert not set(migration.TRANSFORMER) & set(saved)
    assert set(migration.TRANSFORMER.values()) <= set(saved)
    assert migration.migrate(saved, "transformer") == saved


@pytest.mark.parametrize("kind", ["lora", "video", "run"])
def test_every_kind_finds_its_transformer(kind: str) -> None:
    old = json.loads(SAVED)["model"]
    new = json.loads(config_lib.to_json(CONFIG))
    wrap = {
        "lora": lambda group: group,
        "video": lambda group: {"transformer": group, "window": 5},
        "run": lambda group: {"stage": "video", "model": group},
    }[kind]
    before = json.dumps(wrap(old))
    values = json.loads(before)
    assert json.loads(config_lib.to_json(migration.migrate(values, kind))) == wrap(new)
    assert json.dumps(values) == before


def test_a_run_saved_with_the_old_keys_resumes(tmp_path: pathlib.Path) -> None:
    ours = {"stage": "video", "model": CONFIG}
    theirs = {"stage": "video", "model": json.loads(SAVED)["model"]}
    check = checkpoint._check_config
    check(tmp_path, ours, theirs=theirs, mutable_keys=())
    theirs["model"] |= {"gate": 0.5}
    with pytest.raises(checkpoint.CheckpointError, match=r"model\.gate_init=0\.5"):
        check(tmp_path, ours, theirs=theirs, mutable_keys=())
    ours = {"stage": "finetune", "loss": {"mask_rates": {"prefix": 0.1}}}
    theirs = {"stage": "finetune", "loss": {"canvases": {"prefix": 0.1}}}
    check(tmp_path, ours, theirs=theirs, mutable_keys=())


def test_an_old_key_beside_the_new_one_is_left_to_complain() -> None:
    values = {"gate": 1.0, "gate_init": 0.0}
    assert migration.migrate(values, "transformer") == values
    assert migration.migrate(None, "transformer") is None


def test_keys_that_came_beside_others_are_those_of_before() -> None:
    saved = {"data": {"open_rows": 8}}
    migrated = migration.migrate(saved, "run")
    assert migrated == {"data": {"open_rows": 8, "look_ahead": 0}}
    assert migration.migrate(migrated | {"data": {"crops": {}}}, "run") == {
        "data": {"crops": {}}
    }
