"""The state of a transformer over `fsdp` and `context`: small, and the same run."""

import dataclasses
import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from soraflax import sharding
from soraflax.nn import dit
from soraflax.ops import packing, patch
from soraflax.planning import chip_memory
from soraflax.train import denoising, optimizer, prefetch, state, step

BOUND = 1e-5  # of the loss, relative, as in tests/reliability/test_other_machines.py
MODEL = dataclasses.replace(dit.VARIANTS["tiny"], text=None)
SHAPE = packing.RowShape(tokens=128, text=32, segments=4, align=16)
SIZES = {"fsdp": 2, "context": 4}
ONE = jax.devices()[:1]
RULES = optimizer.OptimizerConfig(learning_rate=1e-2, warmup=1)


def _batch(seed: int, rows: int = 2) -> packing.Packed:
    rng = np.random.default_rng(seed)

    def segment(grid: tuple[int, int, int]) -> packing.Segment:
        size = int(np.prod(grid))
        return packing.Segment(
            tokens=rng.normal(size=(size, MODEL.patch_size)).astype(np.float32),
            positions=patch.positions(grid),
            cond_mask=np.zeros(size, bool),
            text=rng.normal(size=(5, MODEL.text_width)).astype(np.float32),
        )

    grids = [(3, 4, 4), (1, 4, 4), (2, 5, 3)]
    return packing.assemble([[segment(g) for g in grids] for _ in range(rows)], SHAPE)


def _setting(mesh: Any) -> tuple[Any, Any, Any]:
    """The step of a mesh, its first state and a batch's place."""
    module = dit.DiT(MODEL)
    row = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), _batch(0))
    with jax.set_mesh(mesh):
        initial = sharding.initializer(module, jax.random.key(0), row, mesh=mesh)
        chain = optimizer.make_optimizer(RULES, steps=9, shardings=initial.shardings)
        place = {"shardings": initial.shardings, "mesh": mesh}
        shapes, places = state.abstract_state(initial.shapes, chain, **place)
        loss = functools.partial(
            denoising.loss,
            predict=denoising.predict_with(module),
            config=denoising.DenoisingConfig(),
        )
        made = step.make_train_step(
            loss,
            chain,
            schedule=optimizer.make_schedule(RULES, steps=9),
            ema_decay=0.9,
            shardings=places,
        )
    return made, shapes, lambda: state.create(initial.make(), chain, **place)[0]


def _losses(mesh: Any, setting: tuple[Any, Any, Any]) -> tuple[list[float], str]:
    """Those of three steps, and the program."""
    made, shapes, first = setting
    found = []
    with jax.set_mesh(mesh):
        batches = [prefetch.put_batch(_batch(seed), mesh) for seed in range(3)]
        lowered = made.lower(shapes, batches[0], jax.random.key(1))
        compiled, current = lowered.compile(), first()
        for batch in batches:
            current, values = compiled(current, batch, jax.random.key(1), {})
            found.append(float(values["loss"]))
    return found, compiled.as_text()


def test_it_is_an_eighth_and_losses_are_those_of_one_device() -> None:
    mesh, one = sharding.make_mesh(**SIZES), sharding.make_mesh(fsdp=1, devices=ONE)
    setting = _setting(mesh)
    losses, text = _losses(mesh, setting)
    np.testing.assert_allclose(losses, _losses(one, _setting(one))[0], rtol=BOUND)
    # No more than a layer is gathered.
    stack = setting[1].params["stack"]
    kernels = {x.shape for x in jax.tree.leaves(stack) if x.ndim > 2}
    found = re.findall(r"\w+\[([\d,]+)\]\S* all-gather", text)
    gathered = {tuple(map(int, shape.split(","))) for shape in found}
    assert gathered & {shape[1:] for shape in kernels}
    assert not gathered & kernels


def test_bytes_of_a_device_fall() -> None:
    _, shapes, _ = _setting(sharding.make_mesh(**SIZES))
    _, before, _ = _setting(sharding.make_mesh(fsdp=2, devices=jax.devices()[:2]))
    for held, less in zip(*map(_parts, (shapes, before)), strict=True):
        assert 2.5 * chip_memory.shard_bytes(held) < chip_memory.shard_bytes(less)
    for leaf in jax.tree.leaves(_parts(shapes)):
        if leaf.ndim > 2 and min(leaf.shape[1:]) >= 8:
            size = np.prod(leaf.sharding.shard_shape(leaf.shape))
            assert size * 8 == leaf.size


def _parts(shapes: state.TrainState) -> tuple[Any, Any, Any]:
    return shapes.params, shapes.opt_state, shapes.ema


def test_what_context_does_not_divide_lies_over_fsdp() -> None:
    mesh = sharding.make_mesh(**SIZES)
    for size, spec in ((16, P(("fsdp", "context"))), (12, P("fsdp"))):
        value = jax.ShapeDtypeStruct((size,), jnp.float32)
        tree = {"scale": sharding.Named(value, ("embed",))}
        assert sharding.param_shardings(tree, mesh)["scale"].spec == spec
