"""The optimizer step: what it computes, sharded or not."""

import dataclasses
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from soraflax.train import optimizer, prefetch, state, step
from tests.train import toy


def _step(where: Any, *, loss: Any = toy.loss, accumulate: int = 1) -> Any:
    job = toy.job(where)
    chain = optimizer.make_optimizer(toy.OPTIMIZER, steps=10)
    first, places = state.create(job.init(), chain, shardings=job.shardings, mesh=where)
    schedule = optimizer.make_schedule(toy.OPTIMIZER, steps=10)
    made = step.make_train_step(
        loss,
        chain,
        schedule=schedule,
        ema_decay=0.9,
        shardings=places,
        accumulate=accumulate,
    )
    return made, first, places


def _run(count: int, steps: int, **options: Any) -> Any:
    where = toy.mesh(count)
    with jax.set_mesh(where):
        train_step, current, _ = _step(where, **options)
        data, values = toy.Data(), []
        for _ in range(steps):
            batch = prefetch.put_batch(next(data), where)
            current, metrics = train_step(current, batch, jax.random.key(1))
            values.append(float(metrics["loss"]))
    return jax.device_get(current), values


def test_sharded_equals_one_device() -> None:
    one, losses = _run(1, 3)
    many, sharded_losses = _run(8, 3)
    chex.assert_trees_all_close(one.params, many.params, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_close(one.ema, many.ema, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(losses, sharded_losses, rtol=1e-5)


def test_state_lives_where_its_parameter_does() -> None:
    where = toy.mesh(8)
    train_step, first, places = _step(where)
    with jax.set_mesh(where):
        batch = prefetch.put_batch(next(toy.Data()), where)
        after, _ = train_step(first, batch, jax.random.key(0))
    moments = after.opt_state[1][0].mu
    for tree in (after.params, after.ema, moments):
        assert tree["Linear_0"]["kernel"].sharding.spec == P("fsdp", "tensor")
    shardings = jax.tree.map(lambda x: x.sharding, after)
    assert jax.tree.all(jax.tree.map(lambda a, b: a == b, shardings, places))


def test_input_state_is_donated() -> None:
    where = toy.mesh(1)
    train_step, first, _ = _step(where)
    with jax.set_mesh(where):
        train_step(first, next(toy.Data()), jax.random.key(0))
    assert all(x.is_deleted() for x in jax.tree.leaves(first.params))


def test_accumulation_is_the_mean_over_microbatches() -> None:
    def quiet(params: Any, batch: Any, key: jax.Array) -> Any:
        del key
        out = toy.Net().apply({"params": params}, batch["x"])
        return jnp.mean(jnp.square(out - batch["x"])), {}

    for count in (1, 8):
        whole, _ = _run(count, 2, loss=quiet)
        parts, _ = _run(count, 2, loss=quiet, accumulate=2)
        chex.assert_trees_all_close(whole.params, parts.params, rtol=1e-4, atol=1e-6)


def _weighted_loss(params: Any, batch: Any, key: jax.Array) -> Any:
    """The mean over rows of weight above 0, and that weight."""
    del key
    out = toy.Net().apply({"params": params}, batch["x"])
    error = jnp.mean(jnp.square(out - batch["x"]), axis=-1)
    total = jnp.sum(batch["weight"])
    mean = jnp.sum(batch["weight"] * error) / jnp.maximum(total, 1e-6)
    counted = {"useful_tokens": total, "double": 2 * mean, step.WEIGHT: total}
    return mean, counted


@pytest.mark.parametrize("count", [1, 8])
@pytest.mark.parametrize(
    "weight", [(8, 1, 0, 0, 0, 0, 0, 0), (3, 1, 4, 1, 5, 9, 2, 6), (0,) * 8]
)
def test_microbatches_count_by_what_they_hold(
    weight: tuple[int, ...], count: int
) -> None:
    """A row counts alike, whatever else is in its microbatch."""
    where, states, logged = toy.mesh(count), [], []
    batch = next(toy.Data()) | {"weight": np.array(weight, np.float32)}
    for accumulate in (1, 2) if count == 8 else (1, 2, 4):
        with jax.set_mesh(where):
            train_step, first, _ = _step(
                where, loss=_weighted_loss, accumulate=accumulate
            )
            placed = prefetch.put_batch(batch, where)
            after, values = train_step(first, placed, jax.random.key(0))
        states.append(jax.device_get(after.params))
        logged.append({name: float(value) for name, value in values.items()})
    for state_, values in zip(states, logged, strict=True):
        chex.assert_trees_all_close(state_, states[0], rtol=1e-4, atol=1e-6)
        assert step.WEIGHT not in values
        assert values["useful_tokens"] == sum(weight)
        for name in ("loss", "double", "gradient_norm"):
            np.testing.assert_allclose(values[name], logged[0][name], rtol=1e-5)


def test_microbatches_must_divide() -> None:
    with pytest.raises(ValueError, match="batch of 8 does not divide into 3 micro"):
        step.split_batch({"x": jnp.zeros((8, 2))}, 3)


def test_a_step_that_is_not_finite_changes_nothing() -> None:
    where = toy.mesh(1)
    train_step, first, _ = _step(where)
    before = jax.device_get(first.params)
    with jax.set_mesh(where):
        bad = {"x": np.full((8, 8), np.nan, np.float32)}
        after, values = train_step(first, bad, jax.random.key(0))
    assert values["skipped"] == 1.0
    assert int(after.step) == 1
    chex.assert_trees_all_equal(before, jax.device_get(after.params))


def test_average_follows_its_equation() -> None:
    where = toy.mesh(1)
    train_step, first, _ = _step(where)
    start = jax.device_get(first.params)
    with jax.set_mesh(where):
        after, _ = train_step(first, next(toy.Data()), jax.random.key(0))
    expected = jax.tree.map(
        lambda e, p: np.float32(0.1) * e + np.float32(0.9) * p,
        start,
        jax.device_get(after.params),
    )
    chex.assert_trees_all_close(expected, after.ema, rtol=1e-6)


def test_schedule_warms_up_then_falls_to_its_fraction() -> None:
    config = optimizer.OptimizerConfig(learning_rate=2.0, warmup=4, final_fraction=0.25)
    rate = optimizer.make_schedule(config, steps=20)
    rates = np.asarray([rate(k) for k in range(21)])
    np.testing.assert_allclose(rates[:4], [0.5, 1.0, 1.5, 2.0])
    assert (np.diff(rates[4:]) < 0).all()
    np.testing.assert_allclose(rates[20], 0.5)
    constant = dataclasses.replace(config, schedule="constant")
    assert optimizer.make_schedule(constant, steps=20)(19) == 2.0


def test_decay_spares_norms_and_biases() -> None:
    params = toy.job(toy.mesh(1)).init()
    mask = optimizer.weight_decay_mask(params)
    assert mask["Linear_0"] == {"kernel": True, "bias": False}
    assert mask["RMSNorm_0"] == {"scale": False}
    chain = optimizer.make_optimizer(toy.OPTIMIZER, steps=10)
    still = jax.tree.map(jnp.zeros_like, params)
    updates: Any
    updates, _ = chain.update(still, chain.init(params), params)
    assert optax.tree.norm(updates["Linear_0"]["kernel"]) > 0
    assert optax.tree.norm(updates["RMSNorm_0"]) == 0


def test_muon_makes_the_updates_of_scanned_kernels_orthogonal() -> None:
    config = optimizer.OptimizerConfig(
        name="muon", learning_rate=0.5, warmup=1, weight_decay=0.0, clip_norm=0.0
    )
    key = jax.random.key(0)
    params = {
        "scanned": {"kernel": jax.random.normal(key, (3, 16, 8))},
        "single": {"kernel": jax.random.normal(key, (4, 4)), "bias": jnp.ones((4,))},
    }
    chain = optimizer.make_optimizer(config, steps=10)
    updates: Any
    updates, _ = chain.update(params, chain.init(params), params)
    kernel = np.asarray(updates["scanned"]["kernel"])
    for matrix in kernel:
        values = np.linalg.svd(matrix, compute_uv=False)
        assert values.max() / values.min() < 2.0
    rms = np.sqrt(np.mean(np.square(kernel)))
    np.testing.assert_allclose(rms, 0.5 * 0.2, rtol=0.3)
    sign = -np.sign(params["single"]["kernel"])
    assert np.all(np.sign(updates["single"]["kernel"]) == sign)


def test_muon_decays_what_adamw_decays() -> None:
    config = dataclasses.replace(toy.OPTIMIZER, name="muon")
    params = toy.job(toy.mesh(1)).init()
    still = jax.tree.map(jnp.zeros_like, params)
    updates = []
    for rule in (config, toy.OPTIMIZER):
        chain = optimizer.make_optimizer(rule, steps=10)
        updates.append(chain.update(still, chain.init(params), params)[0])
    chex.assert_trees_all_close(*updates, rtol=1e-5)


def test_the_moments_of_muon_live_where_their_parameter_does() -> None:
    where = toy.mesh(8)
    config = optimizer.OptimizerConfig(name="muon")
    kernel = jax.device_put(
        jnp.ones((2, 8, 8)), jax.NamedSharding(where, P(None, "fsdp", "tensor"))
    )
    params = {"kernel": kernel, "bias": jax.device_put(jnp.ones(8), where_none(where))}
    first, places = state.create(
        params,
        optimizer.make_optimizer(config, steps=10),
        shardings=jax.tree.map(lambda x: x.sharding, params),
        mesh=where,
    )
    for leaf, place in zip(
        jax.tree.leaves(first), jax.tree.leaves(places), strict=True
    ):
        assert leaf.sharding == place
        assert (leaf.shape != kernel.shape) or place == kernel.sharding


def where_none(mesh: jax.sharding.Mesh) -> jax.NamedSharding:
    return jax.NamedSharding(mesh, P())


def test_a_loss_sees_the_step_and_its_constants() -> None:
    where = toy.mesh(1)

    def counted(
        params: Any, batch: Any, key: jax.Array, context: step.LossContext
    ) -> Any:
        value, scalars = toy.loss(params, batch, key)
        seen = {"step": context.step, "constant": jnp.sum(context.constants["bias"])}
        return value, scalars | jax.tree.map(jnp.float32, seen)

    contextual = step.LossWithContext(counted, {"bias": jnp.ones(3)})
    for accumulate in (1, 2):
        train_step, current, _ = _step(where, loss=contextual, accumulate=accumulate)
        with jax.set_mesh(where):
            for number in range(3):
                batch = next(toy.Data())
                current, values = train_step(current, batch, jax.random.key(1))
                assert (values["step"], values["constant"]) == (number, 3.0)


GROUPS = {
    "first": toy.OPTIMIZER,
    "second": optimizer.OptimizerConfig(name="muon", learning_rate=1e-3, warmup=5),
    "third": optimizer.OptimizerConfig(
        name="sgd", learning_rate=0.25, schedule="constant", warmup=0, weight_decay=0.0
    ),
}


def _group_params(where: jax.sharding.Mesh) -> tuple[Any, Any]:
    made = toy.job(where)
    return (
        {name: jax.tree.map(jnp.copy, made.init()) for name in GROUPS},
        {name: made.shardings for name in GROUPS},
    )


@pytest.mark.parametrize("name", GROUPS)
def test_a_group_is_optimized_as_if_alone(name: str) -> None:
    """The others' gradients are a thousand times larger, and do not clip its own."""
    params, _ = _group_params(toy.mesh(1))
    grads = jax.tree.map(lambda x: x + 0.1, params)
    grads = {
        group: optax.tree.scale(1.0 if group == name else 1e3, tree)
        for group, tree in grads.items()
    }
    together = optimizer.make_optimizer(GROUPS, steps=10)
    updates: Any
    updates, _ = together.update(grads, together.init(params), params)
    alone = optimizer.make_optimizer(GROUPS[name], steps=10)
    expected, _ = alone.update(grads[name], alone.init(params[name]), params[name])
    chex.assert_trees_all_close(updates[name], expected, rtol=1e-5, atol=1e-8)


def test_sgd_is_the_gradient_times_the_rate() -> None:
    rule = optimizer.make_optimizer(GROUPS["third"], steps=10)
    grads = {"x": jnp.asarray([0.6, -0.8])}
    updates: Any
    updates, _ = rule.update(grads, rule.init(grads), grads)
    np.testing.assert_allclose(updates["x"], [-0.15, 0.2], rtol=1e-6)


def test_every_group_needs_an_optimizer() -> None:
    params, _ = _group_params(toy.mesh(1))
    chain = optimizer.make_optimizer({"first": toy.OPTIMIZER}, steps=10)
    with pytest.raises(ValueError, match="second"):
        chain.init(params)


def test_groups_train_sharded_and_are_logged_apart() -> None:
    def loss(params: Any, batch: Any, key: jax.Array) -> Any:
        values = [toy.loss(tree, batch, key)[0] for tree in params.values()]
        return sum(values, start=jnp.zeros(())), {}

    states = []
    for count in (1, 8):
        where = toy.mesh(count)
        params, shardings = _group_params(where)
        chain = optimizer.make_optimizer(GROUPS, steps=10)
        with jax.set_mesh(where):
            current, places = state.create(
                params, chain, shardings=shardings, mesh=where
            )
            train_step = step.make_train_step(
                loss,
                chain,
                schedule=optimizer.make_schedules(GROUPS, steps=10),
                ema_decay=0.9,
                shardings=places,
            )
            batch = prefetch.put_batch(next(toy.Data()), where)
            current, values = train_step(current, batch, jax.random.key(1))
        states.append(current)
        for name, config in GROUPS.items():
            rate = optimizer.make_schedule(config, steps=10)(0)
            np.testing.assert_allclose(values[f"learning_rate/{name}"], rate)
            assert values[f"gradient_norm/{name}"] > 0
        assert "learning_rate" not in values
    chex.assert_trees_all_close(states[0].params, states[1].params, atol=1e-5)
    kernel = ("Linear_0", "kernel")
    found = {
        jax.tree_util.keystr(path): leaf.sharding.spec
        for path, leaf in jax.tree_util.tree_flatten_with_path(states[1].opt_state)[0]
        if tuple(getattr(k, "key", None) for k in path[-2:]) == kernel
    }
    # Two moments of AdamW, one or two of Muon's two rules, none of gradient descent.
    assert len(found) >= 3
    assert set(found.values()) == {P("fsdp", "tensor")}
