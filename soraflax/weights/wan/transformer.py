"""Wan's transformers, as diffusers lays them out, to our parameters and back.

Those of Wan 2.1 (arXiv:2503.20314) and Wan 2.2 have one form, that of `nn.dit` without
its options. Diffusers calls the norm before cross-attention `norm2`, which is Wan's own
`norm3`; the other two have no parameters. Its blocks are separate, ours are stacked.

Weights are read shard by shard, straight to their devices: a mesh holds models that do
not fit into a host's memory twice.
"""

import json
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from soraflax import sharding
from soraflax.nn import dit, experts
from soraflax.pretrained import abstract, models
from soraflax.pretrained import io as model_io
from soraflax.weights import files, tensor_map
from soraflax.weights.wan import layouts

CLASS = "WanTransformer3DModel"
STEM = "diffusion_pytorch_model"
PIPELINE = "model_index.json"
IMAGE_TO_VIDEO_CHANNELS = 36  # 16 of the latent, 16 of the image's, 4 of its mask
TABLE = tensor_map.TensorForm(lambda a: a[0], lambda a: a[None], (None, 0, 1))
# Fields of `config.json`: sizes, with those of Wan 2.1 14B; fields that all models of
# this form share; and fields that are checked by themselves, or change nothing.
_SIZES = {
    "in_channels": 16,
    "num_attention_heads": 40,
    "attention_head_dim": 128,
    "num_layers": 40,
    "ffn_dim": 13824,
    "text_dim": 4096,
    "freq_dim": 256,
}
_FIXED = {
    "cross_attn_norm": True,
    "qk_norm": "rms_norm_across_heads",
    "eps": 1e-6,
    "image_dim": None,
    "added_kv_proj_dim": None,
    "pos_embed_seq_len": None,
}
_OTHERS = {"out_channels", "patch_size", "rope_max_seq_len"}


def _patches(config: dit.DiTConfig) -> tensor_map.TensorForm:
    """Their convolution over patches, our matrix over flattened patches."""
    shape = (*config.patch, config.latent_channels)
    return tensor_map.TensorForm(
        lambda a: np.einsum("dzthw->thwzd", a).reshape(-1, a.shape[0]),
        lambda a: np.einsum("thwzd->dzthw", a.reshape(*shape, a.shape[-1])),
        (1, None, None, None, None),
    )


def _linear(
    ours: str, theirs: str, *, layers: int | None = None, form: Any = tensor_map.KERNEL
) -> Iterator[tensor_map.Entry]:
    yield tensor_map.Entry(f"{ours}/kernel", f"{theirs}.weight", form, layers)
    yield tensor_map.Entry(f"{ours}/bias", f"{theirs}.bias", tensor_map.VECTOR, layers)


def _block(layers: int) -> Iterator[tensor_map.Entry]:
    ours, theirs = "stack/blocks", "blocks.{}"
    yield tensor_map.Entry(
        f"{ours}/modulation", f"{theirs}.scale_shift_table", TABLE, layers
    )
    for our_part, their_part in (
        ("self_attention", "attn1"),
        ("cross_attention", "attn2"),
    ):
        for part in "qkv":
            path, name = f"{ours}/{our_part}/{part}", f"{theirs}.{their_part}.to_{part}"
            yield from _linear(path, name, layers=layers)
        for part in "qk":
            yield tensor_map.Entry(
                f"{ours}/{our_part}/{part}_norm/scale",
                f"{theirs}.{their_part}.norm_{part}.weight",
                tensor_map.VECTOR,
                layers,
            )
        yield from _linear(
            f"{ours}/{our_part}/out", f"{theirs}.{their_part}.to_out.0", layers=layers
        )
    for our_part, their_part in (("scale", "weight"), ("bias", "bias")):
        path, name = f"{ours}/cross_norm/{our_part}", f"{theirs}.norm2.{their_part}"
        yield tensor_map.Entry(path, name, tensor_map.VECTOR, layers)
    yield from _linear(f"{ours}/mlp/up", f"{theirs}.ffn.net.0.proj", layers=layers)
    yield from _linear(f"{ours}/mlp/down", f"{theirs}.ffn.net.2", layers=layers)


def entries(config: dit.DiTConfig) -> list[tensor_map.Entry]:
    """Entries of every parameter of a transformer of Wan's form."""
    embedder = "condition_embedder"
    mapped = [*_linear("patch_embedding", "patch_embedding", form=_patches(config))]
    for ours, theirs in (
        ("levels/in", "time_embedder.linear_1"),
        ("levels/out", "time_embedder.linear_2"),
        ("levels/projection", "time_proj"),
        ("text_projection/in", "text_embedder.linear_1"),
        ("text_projection/out", "text_embedder.linear_2"),
    ):
        mapped += _linear(ours, f"{embedder}.{theirs}")
    mapped += _block(config.depth)
    mapped += _linear("head/out", "proj_out")
    return [*mapped, tensor_map.Entry("head/modulation", "scale_shift_table", TABLE)]


def check_form(config: dit.DiTConfig) -> None:
    """Refuse a transformer that is not of Wan's form.

    Raises:
      ModelError: the first field that differs from Wan's.
    """
    wan = {
        "text": (config.text, None),
        "input_skip": (config.input_skip, False),
        "pooled_text": (config.pooled_text, False),
        "theta": (config.theta, 10000.0),
    }
    for name, (value, expected) in wan.items():
        if value != expected:
            raise model_io.ModelError(
                f"not a transformer of Wan's form: {name} is "
                f"{type(value).__name__ if name == 'text' else value}, not {expected}"
            )


def parse_config(
    values: Mapping[str, Any], *, origin: Any = "config.json"
) -> dit.DiTConfig:
    """Sizes from diffusers' `config.json`; missing ones are those of Wan 2.1 14B.

    Raises:
      ModelError: of another class, or a field that our module has no counterpart for.
    """
    if values.get("_class_name", CLASS) != CLASS:
        name = values["_class_name"]
        raise model_io.ModelError(f"{origin}: of class {name}, not {CLASS}")
    known = _SIZES.keys() | _FIXED.keys() | _OTHERS
    for name in sorted(values.keys() - known):
        if not name.startswith("_") and values[name] is not None:
            raise model_io.ModelError(
                f"{origin}: {name} is {values[name]!r}, which no module here has"
            )
    sizes = _SIZES | {name: values[name] for name in _SIZES if name in values}
    for name, size in sizes.items():
        if not isinstance(size, int) or isinstance(size, bool):
            raise model_io.ModelError(f"{origin}: {name} is {size!r}, not a number")
    channels = sizes["in_channels"]
    _check_channels(values, channels, origin=origin)
    expected = _FIXED | {"out_channels": channels}
    for name, value in expected.items():
        if values.get(name, value) != value:
            raise model_io.ModelError(
                f"{origin}: {name} is {values[name]!r}, not {value!r}"
            )
    patch_t, patch_h, patch_w = _patch_size(values.get("patch_size", (1, 2, 2)), origin)
    try:
        return dit.DiTConfig(
            latent_channels=channels,
            patch=(patch_t, patch_h, patch_w),
            width=sizes["num_attention_heads"] * sizes["attention_head_dim"],
            depth=sizes["num_layers"],
            heads=sizes["num_attention_heads"],
            mlp=sizes["ffn_dim"],
            text_width=sizes["text_dim"],
            frequency_width=sizes["freq_dim"],
            dtype=dit.WAN2_1_T2V_14B.dtype,
            remat=dit.WAN2_1_T2V_14B.remat,
        )
    except (TypeError, ValueError) as error:
        raise model_io.ModelError(f"{origin}: {error}") from None


def _check_channels(values: Mapping[str, Any], channels: int, *, origin: Any) -> None:
    """Refuse transformers that take more than they predict, saying what they are."""
    kind = None
    if values.get("image_dim") is not None or channels == IMAGE_TO_VIDEO_CHANNELS:
        kind = "an image-to-video transformer: it takes an image's latent and its mask"
    elif values.get("out_channels", channels) != channels:
        kind = "a transformer with a control video: it takes one's latent"
    if kind is not None:
        raise model_io.ModelError(
            f"{origin}: {channels} input channels: {kind} beside its own, which no "
            "module here does; use a text-to-video transformer, or Wan 2.2 TI2V-5B, "
            "which animates images"
        )


def _patch_size(value: Any, origin: Any) -> Sequence[int]:
    if (
        not isinstance(value, list | tuple)
        or len(value) != 3
        or any(type(size) is not int for size in value)
    ):
        raise model_io.ModelError(
            f"{origin}: patch_size is {value!r}, not three whole numbers"
        )
    return value


def format_config(config: dit.DiTConfig) -> dict[str, Any]:
    """The inverse of `parse_config`."""
    return {
        "_class_name": CLASS,
        **_FIXED,
        "attention_head_dim": config.width // config.heads,
        "ffn_dim": config.mlp,
        "freq_dim": config.frequency_width,
        "in_channels": config.latent_channels,
        "num_attention_heads": config.heads,
        "num_layers": config.depth,
        "out_channels": config.latent_channels,
        "patch_size": list(config.patch),
        "rope_max_seq_len": 1024,
        "text_dim": config.text_width,
    }


def from_tensors(
    tensors: Mapping[str, files.Tensor],
    config: dit.DiTConfig,
    *,
    mesh: Mesh | None = None,
    rules: sharding.AxisRules = sharding.DEFAULT_RULES,
    origin: Any = "weights",
) -> dict[str, Any]:
    """Parameters, float32, from tensors under diffusers' names.

    Args:
      tensors: tensors by name, still in their files.
      config: sizes.
      mesh: mesh over which the parameters are sharded; None for arrays of numpy.
      rules: logical to mesh axes.
      origin: name of the source in errors.

    Raises:
      ModelError: a tensor is missing, unknown, of another shape or not finite.
      ValueError: a size does not divide over its mesh axes.
    """
    shapes = model_io.flat_shapes(abstract.transformer_shapes(config))
    shardings = None
    if mesh is not None:
        tree = abstract.transformer_shardings(config, mesh, rules=rules)
        shardings = model_io.flat_shapes(tree)
    flat = tensor_map.read(
        tensors, entries(config), shapes=shapes, origin=origin, shardings=shardings
    )
    return model_io.unflatten(flat)


def open_transformer(
    path: str | os.PathLike[str],
) -> tuple[dit.DiTConfig, dict[str, files.Tensor]]:
    """Sizes, and tensors under diffusers' names, still in their files.

    Args:
      path: a safetensors file or a directory of some, in a layout of `wan.layouts`;
        sizes are those of `config.json` beside them, or follow from the tensors.

    Raises:
      FileNotFoundError, ModelError: nothing there, or not such weights.
    """
    path = pathlib.Path(path)
    origin = (path if path.is_dir() else path.parent) / model_io.CONFIG
    values = files.read_config(origin) if origin.is_file() else {}
    original = values.get("_class_name") == layouts.ORIGINAL_CLASS
    config = parse_config(values, origin=origin) if values and not original else None
    tensors = layouts.to_diffusers(files.open_tensors(path), origin=path)
    if config is None:
        heads = values.get("num_heads")
        heads = heads if isinstance(heads, int) else None
        found = layouts.config_of(tensors, heads=heads, origin=path)
        config = parse_config(found, origin=path)
    return config, tensors


def load_transformer(
    directory: str | os.PathLike[str],
    *,
    mesh: Mesh | None = None,
    rules: sharding.AxisRules = sharding.DEFAULT_RULES,
) -> tuple[dit.DiTConfig, dict[str, Any]]:
    """Sizes and parameters of a transformer in diffusers' layout.

    Args:
      directory: directory of `config.json` and safetensors files, or a repository that
        has those in `transformer/`; or what else `open_transformer` takes.
      mesh: mesh over which the parameters are sharded; None for arrays of numpy.
      rules: logical to mesh axes.

    Raises:
      FileNotFoundError, ModelError: nothing there, or not such weights.
    """
    folder = pathlib.Path(directory)
    if not (folder / "config.json").is_file() and (folder / "transformer").is_dir():
        folder = folder / "transformer"
    config, tensors = open_transformer(folder)
    params = from_tensors(tensors, config, mesh=mesh, rules=rules, origin=folder)
    return config, params


def load_experts(
    repository: str | os.PathLike[str],
    *,
    mesh: Mesh | None = None,
    rules: sharding.AxisRules = sharding.DEFAULT_RULES,
) -> tuple[experts.ExpertsConfig, dict[str, Any]]:
    """Both transformers of a repository in the layout of Wan 2.2 A14B.

    `transformer` is of high noise levels, `transformer_2` of low ones; the boundary is
    `boundary_ratio` of `model_index.json`.

    Returns:
      Their sizes, and `{"high": params, "low": params}`.

    Raises:
      FileNotFoundError, ModelError: nothing there, not such weights, experts of
        different sizes, or a boundary that is no noise level.
    """
    folder = pathlib.Path(repository)
    origin = folder / PIPELINE
    boundary = files.read_config(origin).get("boundary_ratio")
    if not isinstance(boundary, float):
        raise model_io.ModelError(
            f"{origin}: boundary_ratio is {boundary!r}, not a number; this pipeline "
            "has no experts"
        )
    high, low = folder / "transformer", folder / "transformer_2"
    sizes = []
    for part in (high, low):
        config_path = part / "config.json"
        sizes.append(parse_config(files.read_config(config_path), origin=config_path))
    if sizes[0] != sizes[1]:
        raise model_io.ModelError(f"{low}: not of the sizes of {high}")
    try:
        config = experts.ExpertsConfig(sizes[0], boundary)
    except ValueError as error:
        raise model_io.ModelError(f"{origin}: boundary_ratio: {error}") from None
    params = {
        name: load_transformer(part, mesh=mesh, rules=rules)[1]
        for name, part in (("high", high), ("low", low))
    }
    return config, params


def save_transformer(
    folder: str | os.PathLike[str],
    params: Any,
    *,
    config: dit.DiTConfig,
    max_shard_bytes: int = files.MAX_SHARD_BYTES,
) -> None:
    """Write `config.json` and safetensors as diffusers reads them.

    Args:
      folder: a new or empty folder.
      params: arrays of numpy or JAX; sharded ones are fetched one layer at a time.
      config: sizes.
      max_shard_bytes: most bytes of a file, and roughly of host memory; a larger model
        is several files and an index.

    Raises:
      ModelError: the transformer is not of Wan's form, or `folder` is not empty.
    """
    check_form(config)
    path = pathlib.Path(folder)
    if path.exists() and any(path.iterdir()):
        raise model_io.ModelError(f"{path}: is not empty; choose another name")
    lazy_tensors = tensor_map.lazy_tensors(
        params, entries(config), shapes=abstract.transformer_shapes(config)
    )
    path.mkdir(parents=True, exist_ok=True)
    files.write(path, STEM, tensors=lazy_tensors, max_shard_bytes=max_shard_bytes)
    text = json.dumps(format_config(config), indent=2)
    (path / model_io.CONFIG).write_text(text + "\n")


def lazy_params(
    tensors: Mapping[str, files.Tensor], config: dit.DiTConfig, *, origin: Any
) -> dict[str, Any]:
    """Parameters that are read when they are written: `tensor_map.lazy`."""
    shapes = model_io.flat_shapes(abstract.transformer_shapes(config))
    flat = tensor_map.lazy(tensors, entries(config), shapes=shapes, origin=origin)
    return model_io.unflatten(flat)


def from_files(
    path: pathlib.Path, *, out: str | os.PathLike[str], family: str
) -> models.TransformerModel:
    """Write our transformer to `out`, of what `open_transformer` opens.

    Raises:
      FileNotFoundError, ModelError: a tensor or a field is not as it should be.
    """
    config, tensors = open_transformer(path)
    params = lazy_params(tensors, config, origin=path)
    metadata = {"converted_from": family}
    digest = models.save_transformer(out, params, config=config, metadata=metadata)
    return models.TransformerModel(config, params, digest)


def to_files(
    checkpoint: str | os.PathLike[str], folder: pathlib.Path, *, max_shard_bytes: int
) -> models.TransformerModel:
    """Write what diffusers reads to `folder`, of our transformer at `checkpoint`.

    Raises:
      FileNotFoundError, ModelError: no such model, or one of another form.
    """
    model = models.load_transformer(checkpoint)
    save_transformer(
        folder, model.params, config=model.config, max_shard_bytes=max_shard_bytes
    )
    return model
