"""Scenarios of two processes about buckets and caching; see `processes`."""

import pathlib
import sys
from typing import Any

from tests.experiments import processes

MODULE = "tests.experiments.storage_processes"


def run_of_two(folder: pathlib.Path) -> dict[str, Any]:
    """A run that stops in the middle and goes on; its parameters at the end."""
    import jax
    from jax.experimental import multihost_utils

    from soraflax import sharding
    from tests.train import toy

    mesh = sharding.make_mesh(fsdp=4)
    for course in ({"stop_at": 2}, {}):
        job = toy.job(mesh, toy.Data(rows=4))
        ended = toy.fit(job, folder, steps=4, checkpoint_every=1, **course)
    params = multihost_utils.process_allgather(ended.params, tiled=True)
    leaves = [leaf.tolist() for leaf in jax.tree.leaves(params)]
    return {"step": int(ended.step), "params": leaves}


def _cache(folder: pathlib.Path, *, target: str) -> Any:
    """Cache the clips of `folder` by both processes."""
    import dataclasses

    import jax
    import numpy as np

    from data_pipelines import latent_parts, latents, transforms
    from experiments.stages.video import data
    from soraflax.nn import autoencoder
    from soraflax.pretrained import abstract, models

    latent_parts.PART = 5
    sizes = autoencoder.VARIANTS["tiny"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: 0.1 * rng.standard_normal(leaf.shape, np.float32),
        abstract.autoencoder_shapes(sizes),
    )
    model = models.AutoencoderModel(sizes, params, "d" * 64)
    config = latents.LatentCacheConfig(
        fit=transforms.FitConfig(max_tokens=100, max_frames=9), batch=4
    )
    encoder = data.TrainedEncoder(folder, dataclasses.replace(model))
    data.cache(folder / "clips", folder / target, encoder=encoder, config=config)
    return latents.open_latents(folder / target)


def caching(folder: pathlib.Path) -> dict[str, Any]:
    """Each encodes its share, on both of its devices."""
    import jax

    from data_pipelines import latent_parts

    own: list[str] = []
    encode = latent_parts.CacheJob._encode

    def recorded(self: Any, part: Any, **keywords: Any) -> None:
        own.append(part.name)
        encode(self, part, **keywords)

    latent_parts.CacheJob._encode = recorded
    stored = _cache(folder, target="latents")
    ids = [record.id for record in stored]
    return {"own": own, "ids": ids, "devices": jax.local_device_count()}


def failing(folder: pathlib.Path) -> dict[str, Any]:
    """Process 1 has no room for its share."""
    import jax

    from data_pipelines import latent_parts

    def full(self: Any, *_: Any, **__: Any) -> None:
        raise OSError("no space left on device")

    if jax.process_index() == 1:
        latent_parts.CacheJob._encode = full
    try:
        _cache(folder, target="latents")
    except (ValueError, OSError) as error:
        return {"error": str(error), "there": (folder / "latents").exists()}
    return {}


if __name__ == "__main__":
    processes.main(*sys.argv[1:], scenarios=globals())
