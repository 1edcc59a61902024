"""Reconstruction quality and latent statistics of an autoencoder."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

from experiments.stages.autoencoder import data
from soraflax.evaluation import metrics
from soraflax.nn import autoencoder
from soraflax.train import reconstruction


def quality(
    module: autoencoder.Autoencoder,
    params: Any,
    *,
    batches: Sequence[tuple[np.ndarray, int]],
    check: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Mean PSNR (dB) and SSIM over clips, decoded from the posterior's mean.

    Args:
      module: the autoencoder.
      params: its parameters.
      batches: uint8 videos `[B, T, H, W, 3]`, each with the number of real ones.
      check: called between batches; may raise to stop.
    """
    values: dict[str, list[float]] = {"psnr_db": [], "ssim": []}
    for videos, real in batches:
        check()
        scores = jax.device_get(_scores(module, params, videos=videos))
        for name, column in values.items():
            column += [float(value) for value in scores[name][:real]]
    return {f"validation/{name}": float(np.mean(v)) for name, v in values.items()}


def latent_statistics(
    module: autoencoder.Autoencoder,
    params: Any,
    *,
    clips: data.EvaluationClips,
    check: Callable[[], None] = lambda: None,
) -> autoencoder.LatentStatistics:
    """Mean and deviation of each latent channel over training clips.

    Args:
      module: the autoencoder.
      params: its parameters.
      clips: of the run.
      check: called between batches; may raise to stop.
    """

    def latents() -> Iterator[np.ndarray]:
        for videos, real in clips.training():
            check()
            yield jax.device_get(_encode(module, params, videos=videos))[:real]

    return autoencoder.latent_statistics(latents())


@functools.partial(jax.jit, static_argnums=0)
def _scores(
    module: autoencoder.Autoencoder, params: Any, *, videos: Num[Array, "B T H W 3"]
) -> dict[str, Float[Array, " B"]]:
    x = reconstruction.as_float(videos)
    result: Any = module.apply({"params": params}, x)
    y = jnp.clip(result.video, -1.0, 1.0)
    return _replicate({"psnr_db": metrics.psnr(y, x), "ssim": metrics.ssim(y, x)})


@functools.partial(jax.jit, static_argnums=0)
def _encode(
    module: autoencoder.Autoencoder, params: Any, *, videos: Num[Array, "B T H W 3"]
) -> Float[Array, "B t h w z"]:
    x = reconstruction.as_float(videos)
    mean, _ = module.apply({"params": params}, x, method="encode")
    return _replicate(mean)


def _replicate(tree: Any) -> Any:
    """The same arrays on every device, so that every process can read them."""
    replicated = jax.sharding.PartitionSpec()
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, replicated), tree)
