"""Where arrays live: rules, meshes, refusals, and the same numbers everywhere."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from soraflax import sharding
from soraflax.nn import layers
from tests.planning import fakes


class Net(nn.Module):
    """A scanned linear layer between an embedding and a head."""

    @nn.compact
    def __call__(self, ids):
        x = layers.Embed(32, 16, name="embedding")(ids)

        class Layer(nn.Module):
            @nn.compact
            def __call__(self, x):
                y = layers.Linear(24, ("embed", "mlp"), name="up")(x)
                y = sharding.constrain(y, "batch", "mlp")
                return x + layers.Linear(16, ("mlp", "embed"), name="down")(y), None

        stack = nn.scan(
            Layer,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=3,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        x, _ = stack(name="layers")(sharding.constrain(x, "batch", "embed"))
        return layers.RMSNorm(name="norm")(x)


IDS = jnp.arange(8)
SPECS = {
    "embedding": {"table": P("tensor", "fsdp")},
    "layers": {
        "up": {"kernel": P(None, "fsdp", "tensor"), "bias": P(None, "tensor")},
        "down": {"kernel": P(None, "tensor", "fsdp"), "bias": P(None, "fsdp")},
    },
    "norm": {"scale": P("fsdp")},
}
BOTH = ("fsdp", "context")
SPECS_BOTH = {
    "embedding": {"table": P("tensor", BOTH)},
    "layers": {
        "up": {"kernel": P(None, BOTH, "tensor"), "bias": P(None, "tensor")},
        "down": {"kernel": P(None, "tensor", BOTH), "bias": P(None, BOTH)},
    },
    "norm": {"scale": P(BOTH)},
}


def test_a_mesh_axis_serves_the_first_that_asks():
    rules = sharding.DEFAULT_RULES
    batch = ("data", "fsdp")
    assert rules.spec(("batch", "tokens", "embed")) == P(batch, "context", None)
    assert rules.spec(("embed", "mlp")) == P("fsdp", "tensor")
    assert rules.spec(("heads", "mlp", None)) == P("tensor", None, None)
    with pytest.raises(ValueError, match="unknown logical axis 'tokenz'; known: batch"):
        rules.spec(("tokenz",))


def test_mesh_has_four_auto_axes_and_fills_the_open_one():
    mesh = sharding.make_mesh(fsdp=-1, tensor=2)
    assert mesh.axis_names == ("data", "fsdp", "context", "tensor")
    assert dict(mesh.shape) == {"data": 1, "fsdp": 4, "context": 1, "tensor": 2}
    assert set(mesh.axis_types) == {jax.sharding.AxisType.Auto}
    assert sharding.make_mesh(data=2, fsdp=2, context=2).size == 8


@pytest.mark.parametrize(
    ("sizes", "complaint"),
    [
        ({"fsdp": -1, "tensor": 3}, "multiple of 3 devices; there are 8"),
        ({"fsdp": 2, "tensor": 2}, "multiple of 4 devices; there are 8"),
        ({"data": 16, "fsdp": 1}, "multiple of 16 devices; there are 8"),
        ({"data": -1, "fsdp": -1}, "one of them -1"),
        ({"tensor": 0}, "must be positive"),
    ],
)
def test_impossible_meshes_name_both_numbers(sizes, complaint):
    with pytest.raises(ValueError, match=complaint):
        sharding.make_mesh(**sizes)


def test_constrain_does_nothing_without_a_mesh_and_shards_with_one():
    x = jnp.ones((8, 6))
    assert sharding.constrain(x, "batch", "embed") is x
    mesh = sharding.make_mesh(data=2, fsdp=2, tensor=2)
    with jax.set_mesh(mesh):
        y = jax.jit(lambda x: sharding.constrain(2.0 * x, "batch", "mlp"))(x)
    expected = NamedSharding(mesh, P(("data", "fsdp"), "tensor"))
    assert y.sharding.is_equivalent_to(expected, 2)
    np.testing.assert_array_equal(y, 2.0 * x)


def test_sizes_that_do_not_divide_name_the_nearest_that_does():
    with (
        jax.set_mesh(sharding.make_mesh(fsdp=4, tensor=2)),
        pytest.raises(ValueError, match=r"size 6 .* 4 shards .*nearest that does: 8"),
    ):
        sharding.constrain(jnp.ones((6, 4)), "batch", "embed")
    module = layers.Linear(10, ("embed", "mlp"))
    with pytest.raises(ValueError, match=r"bias.*size 10 .* over 4 shards"):
        sharding.init(
            module,
            jax.random.key(0),
            jnp.ones((2, 16)),
            mesh=sharding.make_mesh(fsdp=2, tensor=4),
        )


@pytest.mark.parametrize(
    "sizes",
    [
        {"data": 2, "fsdp": 2, "tensor": 2},
        {"fsdp": 2, "context": 2, "tensor": 2},
    ],
    ids=str,
)
def test_sharded_init_and_gradients_equal_unsharded(sizes, key):
    plain, _ = sharding.init(Net(), key, IDS)
    mesh = sharding.make_mesh(**sizes)
    params, shardings = sharding.init(Net(), key, IDS, mesh=mesh)
    chex.assert_trees_all_close(params, plain, rtol=1e-6)
    specs = SPECS_BOTH if "context" in sizes else SPECS
    assert jax.tree.map(lambda s: s.spec, shardings) == specs
    assert jax.tree.map(lambda x: x.sharding.spec, params) == specs

    def loss(params, ids):
        values: Any = Net().apply({"params": params}, ids)
        return jnp.sum(values**2)

    expected = jax.jit(jax.grad(loss))(plain, IDS)
    ids = jax.device_put(IDS, sharding.batch_sharding(mesh))
    with jax.set_mesh(mesh):
        grads = jax.jit(jax.grad(loss), out_shardings=shardings)(params, ids)
    chex.assert_trees_all_close(grads, expected, rtol=1e-4, atol=1e-5)


def test_init_takes_shapes_in_place_of_arrays(key):
    shapes = jax.ShapeDtypeStruct(IDS.shape, IDS.dtype)
    chex.assert_trees_all_equal(
        sharding.init(Net(), key, shapes)[0], sharding.init(Net(), key, IDS)[0]
    )


def test_batch_and_replicated():
    mesh = sharding.make_mesh(data=2, fsdp=4)
    batch = jax.device_put(jnp.zeros((8, 3)), sharding.batch_sharding(mesh))
    assert batch.addressable_shards[0].data.shape == (1, 3)
    everywhere = jax.device_put(jnp.zeros((8, 3)), sharding.replicated(mesh))
    assert everywhere.addressable_shards[7].data.shape == (8, 3)


@pytest.mark.parametrize(
    ("sizes", "per_host", "expected"),
    [
        ({"fsdp": 4, "tensor": 2}, 2, [{0}, {1}, {2}, {3}]),
        ({"fsdp": 2, "context": 4}, 2, [{0, 1}, {2, 3}]),
        ({"fsdp": 1, "context": 8}, 2, [{0, 1, 2, 3}]),
        ({"fsdp": 8}, 4, [{0}, {1}]),
    ],
)
def test_processes_that_hold_the_same_rows_feed_them_together(
    sizes, per_host, expected
):
    mesh = fakes.mesh(per_host=per_host, **sizes)
    assert sharding.batch_shard_processes(mesh) == [
        frozenset(group) for group in expected
    ]


def test_shares_of_a_batch_that_overlap_are_refused():
    with pytest.raises(ValueError, match="shares of a batch overlap"):
        sharding.batch_shard_processes(fakes.mesh(per_host=3, fsdp=3, tensor=2))


def gpus(nodes: int, *, per_node: int = 8) -> list[Any]:
    """GPUs in another order than that of their nodes, a process for each."""
    found = [
        fakes.Device(n, (), n, n // per_node, platform="gpu", device_kind="NVIDIA H100")
        for n in range(nodes * per_node)
    ]
    return found[1::2] + found[::2]


@pytest.mark.parametrize(
    "sizes",
    [
        {"fsdp": 128},
        {"data": 4, "fsdp": 32},
        {"data": 1, "fsdp": 16, "context": 8},
        {"data": 2, "fsdp": 4, "context": 2, "tensor": 8},
    ],
    ids=str,
)
def test_nodes_of_gpus_are_spanned_by_fsdp(sizes):
    """16 nodes of 8: `slice_index` is the node there, and `data` may be 1."""
    mesh = sharding.make_mesh(**sizes, devices=gpus(16))
    grid = mesh.devices.reshape(16, 8)
    assert [[d.slice_index for d in row] for row in grid] == [
        [n] * 8 for n in range(16)
    ]
    assert [d.id for d in grid.flat] == list(range(128))


def test_tensor_stays_inside_a_node():
    with pytest.raises(ValueError, match=r"tensor=16 crosses nodes of 8 GPUs: use a d"):
        sharding.make_mesh(fsdp=2, tensor=16, devices=gpus(4))


def test_processes_of_gpus_feed_rows_of_their_own():
    mesh = sharding.make_mesh(fsdp=4, context=4, devices=gpus(2))
    groups = sharding.batch_shard_processes(mesh)
    assert groups == [frozenset(range(n, n + 4)) for n in range(0, 16, 4)]
