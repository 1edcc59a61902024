"""Shapes and shardings of models' parameters, without a single parameter in memory.

Flax's `init` is traced on a small input; what it returns has shapes, dtypes and, in
boxes, the logical names of axes, from which the shardings on a mesh follow. Tracing
takes the better part of a second, so shapes can be `remembered` on disk.
"""

import contextlib
import hashlib
import json
import pathlib
from collections.abc import Callable
from typing import Any, TypeVar

import flax
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from flax.core import meta
from jax.sharding import Mesh

from soraflax import compilation_cache, sharding
from soraflax import config as config_lib
from soraflax.nn import autoencoder, dit, text_encoder
from soraflax.ops import packing

Config = TypeVar("Config")
SHAPES, MAX_SHAPES = "shapes", 64  # folder in a cache, and files in it


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
    module, row = dit.DiT(config), example_row(config)
    return _boxed(lambda key, row: module.init(key, row)["params"], row)


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


def text_encoder_shapes(config: text_encoder.TextEncoderConfig) -> Any:
    """ShapeDtypeStructs of a text encoder's parameters."""
    return meta.unbox(_boxed_text_encoder(config))


def text_encoder_shardings(
    config: text_encoder.TextEncoderConfig,
    mesh: Mesh,
    *,
    rules: sharding.AxisRules = sharding.DEFAULT_RULES,
) -> Any:
    """NamedSharding of every parameter of a text encoder.

    Raises:
      ValueError: a size does not divide over its mesh axes.
    """
    return sharding.param_shardings(_boxed_text_encoder(config), mesh, rules=rules)


def _boxed_text_encoder(config: text_encoder.TextEncoderConfig) -> Any:
    module = text_encoder.TextEncoder(config)
    ids = jax.ShapeDtypeStruct((1, 8), jnp.int32)
    return _boxed(lambda key, x: module.init(key, x, x)["params"], ids)


def autoencoder_shapes(config: autoencoder.AutoencoderConfig) -> Any:
    """ShapeDtypeStructs of an autoencoder's parameters."""
    module = autoencoder.Autoencoder(config)
    frames, height, width = config.video_shape(2, 2, 2)
    video = jax.ShapeDtypeStruct((1, frames, height, width, 3), jnp.float32)
    return meta.unbox(_boxed(lambda key, x: module.init(key, x)["params"], video))


def _boxed(init: Any, example: Any) -> Any:
    with sharding.no_mesh():
        return jax.eval_shape(lambda x: init(jax.random.key(0), x), example)


def remembered(
    shapes: Callable[[Config], Any], config: Config, *, cache: pathlib.Path | None
) -> Any:
    """`shapes(config)`, from `cache` if it was traced before by the same code.

    Args:
      shapes: `transformer_shapes` or `autoencoder_shapes`.
      config: its argument.
      cache: such as `compilation_cache.folder()`; None always traces.

    Returns:
      Nested dicts of ShapeDtypeStructs.
    """
    if cache is None:
        return shapes(config)
    path = cache / SHAPES / f"{_key(shapes.__name__, config)}.json"
    flat = _read(path)
    if flat is None:
        tree: Any = traverse_util.flatten_dict(shapes(config), sep="/")
        flat = {k: [list(leaf.shape), leaf.dtype.name] for k, leaf in tree.items()}
        with contextlib.suppress(OSError):
            path.parent.mkdir(mode=0o700, exist_ok=True)
            text = json.dumps({"digest": config_lib.digest(flat), "shapes": flat})
            compilation_cache.write_atomically(path, text)
            files = sorted(path.parent.iterdir(), key=lambda file: file.stat().st_mtime)
            for file in files[:-MAX_SHAPES]:
                file.unlink(missing_ok=True)
    structs = {k: jax.ShapeDtypeStruct(*entry) for k, entry in flat.items()}
    return traverse_util.unflatten_dict(structs, sep="/")


def _key(name: str, config: Any) -> str:
    """Of a configuration, and of all code that parameters' shapes depend on."""
    total = hashlib.sha256(f"{name} {jax.__version__} {flax.__version__}".encode())
    total.update(config_lib.to_json(config).encode())
    for path in sorted(pathlib.Path(dit.__file__).parent.glob("*.py")):
        total.update(path.read_bytes())
    return total.hexdigest()[:32]


def _read(path: pathlib.Path) -> dict[str, Any] | None:
    """Remembered shapes; None where there are none, or damaged ones."""
    try:
        record = json.loads(path.read_text())
        same = config_lib.digest(record["shapes"]) == record["digest"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return record["shapes"] if same else None
