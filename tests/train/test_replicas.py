"""A flipped bit in one copy of an array."""

from typing import Any

import jax
import numpy as np
import pytest

from soraflax.train import replicas
from tests.train import toy


def flipped(leaf: jax.Array, *, device: int) -> jax.Array:
    """The array with one bit of its first value flipped on one device."""
    shards = []
    for shard in leaf.addressable_shards:
        values = np.array(shard.data)
        if shard.device.id == device:
            values.reshape(-1).view(np.uint32)[0] ^= 1 << 22
        shards.append(jax.device_put(values, shard.device))
    return jax.make_array_from_single_device_arrays(leaf.shape, leaf.sharding, shards)


@pytest.fixture(scope="module")
def params() -> Any:
    return toy.job(toy.mesh(8)).init()


def test_equal_copies_pass(params: Any) -> None:
    replicas.check(params)
    replicas.check(toy.job(toy.mesh(1)).init())  # nothing is copied


def test_the_device_of_a_flipped_bit_is_named(params: Any) -> None:
    """Kernels have two copies of each shard, over `data`; scales of `mlp` have four."""
    bad = params | {"RMSNorm_0": dict(params["RMSNorm_0"])}
    scale = bad["RMSNorm_0"]["scale"]
    assert len({str(s.index) for s in scale.addressable_shards}) == 2
    bad["RMSNorm_0"]["scale"] = flipped(scale, device=5)
    with pytest.raises(
        replicas.ReplicaError,
        match=r"^RMSNorm_0/scale: copies differ, 4 in all, on device 5 of process 0: a",
    ):
        replicas.check(bad)
    bad = params | {"Linear_0": dict(params["Linear_0"])}
    bad["Linear_0"]["kernel"] = flipped(bad["Linear_0"]["kernel"], device=1)
    with pytest.raises(
        replicas.ReplicaError, match=r"2 in all, on device 1 of .*, 5 of process 0: "
    ):
        replicas.check(bad)
