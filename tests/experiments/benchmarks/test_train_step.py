"""The parts of the training step's benchmark that need no PyTorch."""

import argparse
import dataclasses
import functools

import jax
import numpy as np
import pytest

from experiments.benchmarks import train_step as benchmark
from experiments.benchmarks.peers import wan_clips
from soraflax.nn import dit
from soraflax.ops import packing
from soraflax.pretrained import abstract
from soraflax.weights.wan import transformer


def small():
    wide = benchmark.narrowed(width=128, depth=1, dtype="float32", remat="none")
    return dataclasses.replace(wide, width=32, heads=2, mlp=48, text_width=8)


@pytest.mark.parametrize("width", [128, 512, 1536])
def test_a_narrowed_transformer_keeps_the_form(width):
    found = benchmark.narrowed(width=width, depth=2, dtype="float32", remat="none")
    transformer.check_form(found)
    assert found.width == width and found.width // found.heads == 128
    wan = dit.WAN2_1_T2V_1_3B
    assert abs(found.mlp / width - wan.mlp / wan.width) < 0.3
    if width == wan.width:
        same = {"depth": 30, "text_width": 4096, "dtype": "bfloat16", "remat": "full"}
        assert dataclasses.replace(found, **same) == wan


def test_a_step_learns():
    config = small()
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda a: (0.1 * rng.normal(size=a.shape)).astype(np.float32),
        abstract.transformer_shapes(config),
    )
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    segment = packing.Segment(
        draw(8, config.patch_size), draw(8, 3), np.zeros(8, bool), draw(4, 8)
    )
    packed = packing.assemble([[segment]], packing.RowShape(8, 4, 1))
    run = benchmark.our_step(
        config, params, packed=packed, target=draw(1, 8, config.patch_size)
    )
    losses = [run() for _ in range(3)]
    assert losses[0] > losses[1] > losses[2]


def test_packed_clips_are_what_they_are_alone():
    """The loss of one row is the mean over the tokens of its clips."""
    config, grids = small(), [(1, 4, 4), (3, 4, 8)]
    batches = [
        wan_clips.batch(config, count=2, grid=grid, seed=seed)
        for seed, grid in enumerate(grids)
    ]
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda a: (0.1 * rng.normal(size=a.shape)).astype(np.float32),
        abstract.transformer_shapes(config),
    )

    def loss(batches, *, pack):
        packed, target = wan_clips.rows(batches, config, pack=pack)
        assert packed.tokens.shape == target.shape
        assert (np.asarray(packed.segments) > 0).all()
        return benchmark.our_step(config, params, packed=packed, target=target)()

    alone = [loss([batch], pack=False) for batch in batches]
    sizes = [np.prod(grid) for grid in grids]
    np.testing.assert_allclose(
        loss(batches, pack=True), np.average(alone, weights=sizes), rtol=1e-5
    )
    assert wan_clips.rows(batches, config, pack=True)[1].shape[:2] == (
        1,
        2 * sum(sizes),
    )


def test_utilisation_is_of_a_known_peak():
    found = functools.partial(benchmark.utilisation, 98.9e12)
    assert found(kind="NVIDIA H200", dtype="bfloat16") == {"mfu": 0.1}
    assert found(kind="NVIDIA H200", dtype="float32") == {}
    assert found(kind="cpu", dtype="bfloat16") == {}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["1x4x4", "3x4x4"], "add --pack"),
        (["1x4x4"] * 9 + ["--pack"], "use 8 or fewer"),
    ],
)
def test_grids_that_cannot_be_compared_are_refused(capsys, words, says):
    with pytest.raises(SystemExit) as stop:
        benchmark.main(["--grid", *words])
    assert stop.value.code == 2 and says in capsys.readouterr().err


def test_a_grid_is_three_numbers():
    assert benchmark._grid("5x16x8") == (5, 16, 8)
    with pytest.raises(argparse.ArgumentTypeError, match="'5x16' is not TxHxW"):
        benchmark._grid("5x16")
