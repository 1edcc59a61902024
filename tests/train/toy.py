"""A small model and endless data, for tests of the machinery around them."""

import dataclasses
import os
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh

from soraflax import sharding
from soraflax.nn import layers
from soraflax.train import loop, metrics, optimizer, state

OPTIMIZER = optimizer.OptimizerConfig(learning_rate=1e-2, warmup=2)
IDENTITY = {"model": {"width": 16}, "optimizer": {"learning_rate": 1e-2}}


class Net(nn.Module):
    """Two kernels, sharded both ways."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = layers.Linear(16, axes=("embed", "mlp"))(x)
        x = layers.RMSNorm(axis="mlp")(jax.nn.gelu(x))
        return layers.Linear(8, axes=("mlp", "embed"))(x)


@dataclasses.dataclass
class Data(Iterator[dict[str, np.ndarray]]):
    """Batch i is drawn from the seed i; the position is i."""

    rows: int = 8
    position: int = 0
    length: int | None = None

    def __next__(self) -> dict[str, np.ndarray]:
        if self.position == self.length:
            raise StopIteration
        rng = np.random.default_rng(self.position)
        self.position += 1
        return {"x": rng.standard_normal((self.rows, 8), dtype=np.float32)}

    def get_state(self) -> dict[str, int]:
        return {"position": self.position}

    def set_state(self, state: dict[str, int]) -> None:
        self.position = state["position"]


def loss(params: Any, batch: Any, key: jax.Array) -> tuple[jax.Array, dict]:
    noise = jax.random.normal(key, batch["x"].shape)
    out = Net().apply({"params": params}, batch["x"] + 0.1 * noise)
    error = jnp.mean(jnp.square(out - batch["x"]))
    return error, {"largest": jnp.max(jnp.abs(out))}


def mesh(count: int) -> Mesh:
    sizes = {1: {"fsdp": 1}, 8: {"data": 2, "fsdp": 2, "tensor": 2}}[count]
    return sharding.make_mesh(**sizes, devices=jax.devices()[:count])


def job(where: Mesh, data: Data | None = None, **changes: Any) -> loop.TrainJob:
    example = jax.ShapeDtypeStruct((8, 8), jnp.float32)
    initial = sharding.initializer(Net(), jax.random.key(0), example, mesh=where)
    made = loop.TrainJob(
        name="toy",
        loss=loss,
        init=initial.make,
        shapes=initial.shapes,
        shardings=initial.shardings,
        mesh=where,
        key=jax.random.key(1),
        iterator=data or Data(),
        step_cost=lambda batch: metrics.StepCost(6.0, 8.0, 1e6),
        identity=IDENTITY,
    )
    return dataclasses.replace(made, **changes)


def fit(
    made: loop.TrainJob,
    workdir: str | os.PathLike[str],
    *,
    steps: int = 6,
    **course: Any,
) -> state.TrainState:
    config = loop.TrainConfig(**{"steps": steps, "log_every": 2, **course})
    return loop.fit(made, workdir=workdir, config=config, optimizer_config=OPTIMIZER)
