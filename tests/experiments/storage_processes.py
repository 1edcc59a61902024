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


def stopped(folder: pathlib.Path) -> dict[str, Any]:
    """Process 1 alone gets SIGTERM, after a part of its own; others are busy.

    Afterwards the signal is the preemption service's again.
    """
    import os
    import signal
    import time

    import jax
    from jax.experimental import multihost_utils

    from data_pipelines import latent_parts

    rank, own = jax.process_index(), []
    encode = latent_parts.CacheJob._encode

    def interrupted(self: Any, part: Any, **keywords: Any) -> None:
        if own and rank == 1:
            while len(list(folder.glob(".latents.parts/*.json"))) < 2:
                time.sleep(0.1)  # until the other has sealed one too
            os.kill(os.getpid(), signal.SIGTERM)
        if own:
            time.sleep(250)
        encode(self, part, **keywords)
        own.append(part.name)

    latent_parts.CacheJob._encode = interrupted
    said = ""
    try:
        _cache(folder, target="latents")
    except KeyboardInterrupt as stop:
        said = str(stop)
    if rank == 1:
        os.kill(os.getpid(), signal.SIGTERM)
    asked = 0
    while not multihost_utils.reached_preemption_sync_point(asked) and asked < 1000:
        asked += 1
        time.sleep(0.02)
    files = sorted(p.suffix for p in folder.glob(".latents.parts/*"))
    return {"said": said, "own": own, "asked": asked, "files": files}


def _spread_model() -> tuple[dict[str, Any], dict[str, Any]]:
    """Parameters of two dtypes on the host, and spread over all devices."""
    import jax
    import numpy as np

    from soraflax import sharding
    from soraflax.pretrained import slices

    values = np.arange(6 * 8 * 5, dtype=np.float32).reshape(6, 8, 5)
    half = jax.numpy.asarray(values[:, :, 0], jax.numpy.bfloat16)
    params = {"half": np.asarray(half), "rows": values, "stack": values + 1}
    mesh = sharding.make_mesh(fsdp=4)
    specs = {"half": jax.P(None, "fsdp"), "rows": jax.P(), "stack": jax.P(None, "fsdp")}
    spread = {
        name: slices.place(params[name], jax.NamedSharding(mesh, spec))
        for name, spec in specs.items()
    }
    return params, spread


def writing(folder: pathlib.Path) -> dict[str, Any]:
    """A model spread over the processes, written by both; then with one that cannot.

    First where process 1 does not see the file of the first, which then writes alone.
    """
    import jax
    from jax.experimental import multihost_utils

    from soraflax.pretrained import io as model_io
    from soraflax.pretrained import shared_file

    params, spread = _spread_model()
    rank = jax.process_index()
    digest = model_io.save_model(folder / "alone", params, config={})
    written: list[int] = []
    opened, is_file, room = pathlib.Path.open, pathlib.Path.is_file, [1000]

    def spying(self: pathlib.Path, mode: str = "r", *words: Any, **named: Any) -> Any:
        file: Any = opened(self, mode, *words, **named)
        if mode != "r+b":
            return file
        write = file.write

        def counted(data: Any) -> int:
            if sum(written) + len(data) > room[0]:
                raise OSError("no space left on device")
            written.append(len(data))
            return write(data)

        file.write = counted
        return file

    pathlib.Path.open, shared_file.RANGE = spying, 64
    found: dict[str, Any] = {"digest": digest}
    for name in ("unseen", "shared", "full"):
        written.clear()
        if rank == 1 and name == "unseen":
            pathlib.Path.is_file = lambda self: False
        room[0] = 100 if rank == 1 and name == "full" else 10_000
        error = same = ""
        try:
            same = model_io.save_model(folder / name, spread, config={})
        except OSError as failure:
            error = str(failure)
        pathlib.Path.is_file = is_file
        multihost_utils.sync_global_devices(name)
        found[name] = {"written": sum(written), "error": error, "digest": same}
    found["names"] = sorted(path.name for path in folder.iterdir())
    return found


def writing_to_a_bucket(folder: pathlib.Path) -> dict[str, Any]:
    """The same in a bucket, in pieces; then with pieces that the bucket refuses."""
    from jax.experimental import multihost_utils

    from soraflax import buckets
    from soraflax.pretrained import io as model_io
    from soraflax.pretrained import shared_file

    place = buckets.folder(folder)
    params, spread = _spread_model()
    digest = model_io.save_model(place / "alone", params, config={})
    sent: list[int] = []
    put, shared_file.PIECE = buckets.put, 24

    def counted(name: str, data: Any) -> None:
        put(name, data)
        sent.append(int(name[-5:]))

    buckets.put = counted
    found: dict[str, Any] = {"digest": digest}
    for name in ("shared", "full"):
        sent.clear()
        error = same = ""
        try:
            same = model_io.save_model(place / name, spread, config={})
        except (OSError, buckets.BucketError) as failure:
            error = str(failure)
        multihost_utils.sync_global_devices(name)
        found[name] = {"sent": sorted(sent), "error": error, "digest": same}
    return found


if __name__ == "__main__":
    processes.main(*sys.argv[1:], scenarios=globals())
