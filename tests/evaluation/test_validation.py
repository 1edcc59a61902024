import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soraflax.evaluation import validation
from soraflax.ops import packing, patch

SHAPE = packing.RowShape(tokens=24, text=4, segments=2)


def batch(counts, seed=0):
    rng = np.random.default_rng(seed)

    def clip():
        return packing.Segment(
            tokens=rng.normal(size=(6, 3)).astype(np.float32),
            positions=patch.positions((1, 2, 3)),
            cond_mask=np.zeros(6, bool),
            text=np.ones(1, np.int32),
        )

    return packing.assemble([[clip() for _ in range(n)] for n in counts], SHAPE)


def loss_at(params, packed, levels, noise):
    present = packed.segments > 0
    value = jnp.where(present[..., None], params + levels[0, 0] * noise, 0.0)
    return jnp.sum(jnp.square(value)) / jnp.sum(present, dtype=jnp.float32)


def test_the_same_every_time_and_higher_for_a_worse_model():
    def make(seed):
        return validation.ValidationLoss(
            loss_at, [batch((2, 1)), batch((1, 0), seed=1)], seed=seed
        )

    a, b = make(0)(jnp.float32(0)), make(0)(jnp.float32(0))
    assert a == b
    assert a != make(1)(jnp.float32(0))
    assert make(0)(jnp.float32(5))["validation/loss"] > a["validation/loss"]
    assert list(a) == [
        *(f"validation/loss_t{t}" for t in ("0.1", "0.3", "0.5", "0.7", "0.9")),
        "validation/loss",
    ]
    values = list(a.values())
    assert values[:5] == sorted(values[:5])
    np.testing.assert_allclose(values[5], np.mean(values[:5]))


def test_batches_weigh_by_their_clips():
    """Three clips of error 1 and one of error 5 average 2."""

    def constant(params, packed, levels, noise):
        return jnp.where(jnp.max(packed.segments) > 1, 1.0, 5.0)

    check = validation.ValidationLoss(
        constant, [batch((2, 1)), batch((1, 0))], levels=(0.5,)
    )
    assert check(jnp.float32(0))["validation/loss"] == 2.0


def test_empty_batches_and_bad_levels_are_refused():
    empty = jax.tree.map(np.zeros_like, batch((1, 1)))
    with pytest.raises(ValueError, match="split is empty"):
        validation.ValidationLoss(loss_at, [empty])(jnp.float32(0))
    with pytest.raises(ValueError, match=r"level 0: use one in \(0, 1\]"):
        validation.ValidationLoss(loss_at, [batch((1, 1))], levels=(0,))


def test_batches_weigh_by_what_their_loss_is_a_mean_of():
    """Of tokens say: 18 of error 1 and 6 of error 5; then three times as many count."""

    def constant(params, packed, levels, noise):
        return jnp.where(jnp.max(packed.segments) > 1, 1.0, 5.0)

    def weight(packed):
        return jnp.where(jnp.max(packed.segments) > 1, 9.0, 1.0)

    check = validation.ValidationLoss(
        constant, [batch((2, 1)), batch((1, 0))], weight=weight, levels=(0.5,)
    )
    np.testing.assert_allclose(check(jnp.float32(0))["validation/loss"], 1.4)


def test_batches_are_read_late_and_sent_once():
    read, sent = [], []

    def batches():
        for counts in ((2, 1), (0, 0), (1, 0)):
            read.append(counts)
            yield batch(counts) if sum(counts) else empty

    empty = jax.tree.map(np.zeros_like, batch((1, 1)))
    asked = []
    check = validation.ValidationLoss(
        loss_at, batches(), put=lambda packed: sent.append(packed) or packed
    )
    assert read == []
    first = check(jnp.float32(0), check=lambda: asked.append(len(sent)))
    assert (len(read), len(sent), asked) == (3, 3, [0, 1, 2])
    assert check(jnp.float32(0)) == first
    assert (len(read), len(sent)) == (3, 6)
