"""Shapes and shardings of models' parameters, without a single parameter in memory.

Flax's `init` is traced on a small input; what it returns has shapes, dtypes and, in
boxes, the logical names of axes, from which the shardings on a mesh follow.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.core import meta
from jax.sharding import Mesh

from soraflax import sharding
from soraflax.nn import autoencoder, dit
from soraflax.ops import packing


def example_row(config: dit.DiTConfig) -> packing.Packed:
    """Two clips and an image of noise, with captions, packed in one row.

    Enough to initialise a transformer and to see what packing is:

        >>> module = dit.DiT(config)
        >>> row = example_row(config)
        >>> params = module.init(jax.random.key(0), row)["params"]
        >>> prediction = module.apply({"params": params}, row)  # [1, N, P]

    In `prediction` every segment has what it would have in a row of its own.
    """
    rng = np.random.default_rng(0)
    segments = []
    for grid in ((3, 2, 2), (1, 4, 4), (2, 3, 4)):
        sizes = [n * size for n, size in zip(grid, config.patch, strict=True)]
        latent = rng.normal(size=(*sizes, config.latent_channels)).astype(np.float32)
        text = rng.integers(1, 100, size=4).astype(np.int32)
        if config.text is None:
            text = rng.normal(size=(4, config.text_width)).astype(np.float32)
        segments.append(packing.Segment.from_latent(latent, text, patch=config.patch))
    shape = packing.RowShape.fitting([segments], align=8)
    packed = packing.assemble([segments], shape)
    return packed.replace(levels=np.full_like(packed.levels, 0.5))


def transformer_shapes(config: dit.DiTConfig) -> Any:
    """ShapeDtypeStructs of a transformer's parameters."""
    return meta.unbox(boxed_transformer(config))


def boxed_transformer(config: dit.DiTConfig) -> Any:
    """`transformer_shapes` in boxes that name the logical axes (`sharding.Named`)."""
    module, row = dit.DiT(config), jax.tree.map(jnp.asarray, example_row(config))
    return _boxed(lambda key: module.init(key, row)["params"])


def transformer_shardings(
    config: dit.DiTConfig,
    mesh: Mesh,
    *,
    rules: sharding.AxisRules = sharding.DEFAULT_RULES,
) -> Any:
    """NamedSharding of every parameter of a transformer.

    Raises:
      ValueError: a size does not divide over its mesh axes.
    """
    return sharding.param_shardings(boxed_transformer(config), mesh, rules=rules)


def autoencoder_shapes(config: autoencoder.AutoencoderConfig) -> Any:
    """ShapeDtypeStructs of an autoencoder's parameters."""
    module = autoencoder.Autoencoder(config)
    frames, height, width = config.video_shape(2, 2, 2)
    video = jnp.zeros((1, frames, height, width, 3))
    return meta.unbox(_boxed(lambda key: module.init(key, video)["params"]))


def _boxed(init: Any) -> Any:
    with sharding.no_mesh():
        return jax.eval_shape(lambda: init(jax.random.key(0)))
