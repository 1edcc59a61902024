"""Arrays that live at once, in multiples of the parameters: 4 of a state, 5 at most."""

import contextlib
import dataclasses
import gc
import pathlib
import threading
from typing import Any

import jax
import jax.numpy as jnp

from soraflax import sharding
from soraflax.train import loop
from tests.train import toy

SIZE = 512


def _live() -> float:
    """Bytes of all live arrays, over those of the parameters."""
    shards = (s for x in jax.live_arrays() for s in x.addressable_shards)
    return sum(
        {s.data.unsafe_buffer_pointer(): s.data.nbytes for s in shards}.values()
    ) / (4 * SIZE * SIZE)


def _job(data: toy.Data) -> loop.TrainJob:
    """One large kernel over two devices; live arrays are counted from what is there."""
    mesh = sharding.make_mesh(fsdp=2, devices=jax.devices()[:2])
    place = {"kernel": jax.NamedSharding(mesh, jax.P("fsdp"))}

    def draw() -> Any:
        return {"kernel": jax.random.normal(jax.random.key(0), (SIZE, SIZE)) / SIZE}

    def loss(params: Any, batch: Any, key: jax.Array) -> Any:
        del key
        out = jnp.tile(batch["x"], (1, SIZE // 8)) @ params["kernel"]
        return jnp.mean(jnp.square(out)), {}

    shapes = sharding.sharded_shapes(jax.eval_shape(draw), place)
    made = jax.jit(draw, out_shardings=place)
    return dataclasses.replace(
        toy.job(toy.mesh(1), data),
        loss=loss,
        init=made,
        shapes=shapes,
        shardings=place,
        mesh=mesh,
    )


@dataclasses.dataclass
class Counting(toy.Data):
    """Data that counts live arrays when it is read, and when it is moved."""

    before: float = 0.0
    read: list[float] = dataclasses.field(default_factory=list)
    moved: list[float] = dataclasses.field(default_factory=list)

    def __next__(self) -> Any:
        self.read.append(_live() - self.before)
        return super().__next__()

    def set_state(self, state: Any) -> None:
        self.moved.append(_live() - self.before)
        super().set_state(state)


def test_a_state_is_made_and_restored_in_place(tmp_path: pathlib.Path) -> None:
    gc.collect()
    held = jax.live_arrays()  # of tests before: none is freed while others are counted
    first = Counting()
    job = _job(first)
    first.before = _live()
    toy.fit(job, tmp_path, steps=3)
    # Batches 1 and 2 are read before the first step, batch 3 before the second.
    assert len(first.read) >= 3
    assert 3.9 < max(first.read) <= 4.1
    gc.collect()
    again = Counting()
    job = _job(again)
    again.before = _live()
    peak, done = [0.0], threading.Event()

    def watch() -> None:
        while not done.wait(0.002) and not again.moved:  # until all is restored
            with contextlib.suppress(RuntimeError):  # deleted while it is counted
                peak[0] = max(peak[0], _live() - again.before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        toy.fit(job, tmp_path, steps=4)
    finally:
        done.set()
        watcher.join()
    assert len(again.moved) == 1
    assert 3.9 < again.moved[0] <= 5.0
    assert max(again.read) <= 4.1
    assert peak[0] <= 5.0
    del held
