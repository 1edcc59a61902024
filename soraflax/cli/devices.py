"""On which devices a command runs, and what it says when they are too small."""

import argparse
import contextlib
import math
import pathlib
from collections.abc import Iterator
from typing import Any

import jax

from soraflax import compilation_cache, sharding
from soraflax import config as config_lib
from soraflax.nn import autoencoder
from soraflax.pretrained import io as model_io
from soraflax.pretrained import models, shipped


@contextlib.contextmanager
def memory_errors(advice: str) -> Iterator[None]:
    """Says what to try where memory does not suffice."""
    try:
        yield
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
            raise ValueError(f"out of memory: try {advice}") from None
        raise


def kept_programs(
    args: argparse.Namespace,
) -> contextlib.AbstractContextManager[pathlib.Path | None]:
    """`compilation_cache.enabled` in its folder, unless the arguments forbid it."""
    refused = args.no_compilation_cache
    return compilation_cache.enabled(None if refused else compilation_cache.folder())


def suited(checkpoint: pathlib.Path | None, size: tuple[int, int] | None = None) -> int:
    """Devices for a model whose user names no number.

    For a large one all there are, or half of them, a quarter..., as divide the longer
    side of the latent.

    Args:
      checkpoint: of the model; None for the shipped one.
      size: width and height of what is made; None for the model's own.
    """
    directory = model_io.find_model(shipped.or_given(checkpoint), kind="video")
    model = model_io.model_config(directory).get("model", {})
    large = model.get("transformer", {}).get("text", {}) is None
    count = len(jax.devices()) if large else 1
    size = size or (model.get("sampling") or {}).get("size")
    if count == 1 or size is None:
        return count
    codec = models.config_of(directory / "autoencoder", kind="autoencoder")
    sizes = config_lib.to_dataclass(
        codec, autoencoder.AutoencoderConfig, path="autoencoder"
    )
    return math.gcd(count, max(size) // sizes.spatial_ratio)


def split_over(count: int) -> contextlib.AbstractContextManager[Any]:
    """Rows, and frames along their longer side, over the first `count` devices.

    Raises:
      ValueError: there are not so many, with how many there are.
    """
    devices = jax.devices()
    if count > len(devices):
        raise ValueError(
            f"--devices {count}: there are {len(devices)}; use that many or less"
        )
    mesh = sharding.make_mesh(fsdp=1, context=count, devices=devices[:count])
    return jax.set_mesh(mesh) if count > 1 else contextlib.nullcontext()
