"""What the loading benchmark counts, on a small model."""

import dataclasses

import jax
import numpy as np
import pytest

from experiments.benchmarks import loading as benchmark
from soraflax import flops
from soraflax.pretrained import abstract
from soraflax.weights import files, wan


@pytest.mark.parametrize("where", ["mesh", "host"])
def test_everything_is_read_once(tmp_path, monkeypatch, where):
    wan_sizes = benchmark.sizes(2)
    config = dataclasses.replace(wan_sizes, width=64, heads=4, mlp=128, text_width=16)
    shapes = abstract.transformer_shapes(config)
    params = jax.tree.map(lambda a: np.full(a.shape, 0.01, np.float32), shapes)
    wan.save_transformer(tmp_path / "model", params, config=config)
    monkeypatch.setattr(files.Tensor, "read", files.Tensor.read)  # put back afterwards
    line = benchmark.load(str(tmp_path / "model"), where=where)
    assert line["parameters"] == flops.transformer_parameters(config)
    assert 1.0 <= line["read"] < 1.1


def test_the_peak_is_of_what_was_held_inside():
    with benchmark.watch() as peak:
        held = np.ones(2**24)
        benchmark.time.sleep(0.1)
        size = held.nbytes
    assert size <= peak[0] < 2 * size
