"""Published text encoders of the T5 family to our parameters and back.

The layout is that of transformers' `UMT5EncoderModel` and `T5EncoderModel`: one
safetensors file, or several with an index, beside `config.json`. The embedding is
`shared.weight` or `encoder.embed_tokens.weight`, or both, which are then one. Only the
gated form is read (T5 v1.1, UMT5, and others of their shape); of weights with a decoder
too, none. Nothing is guessed: a tensor that is missing, unknown, of another shape or
not finite is named.
"""

import json
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from jax.sharding import Mesh

from soraflax import sharding, tokenizer
from soraflax.nn import text_encoder
from soraflax.pretrained import abstract, text_encoders
from soraflax.pretrained import io as model_io
from soraflax.weights import files, tensor_map

STEM = "model"
VOCABULARY = "spiece.model"
EMBEDDING, TIED = "shared.weight", "encoder.embed_tokens.weight"
TABLE = tensor_map.einsum("oi", "oi")
CLASSES = {"t5": "T5EncoderModel", "umt5": "UMT5EncoderModel"}
# Fields of `config.json`: their names of our sizes, with defaults of theirs, or None
# where they must be given; and fields that all encoders of this form share.
_SIZES: dict[str, tuple[str, int | None]] = {
    "vocab_size": ("vocabulary", None),
    "d_model": ("width", None),
    "num_layers": ("depth", None),
    "num_heads": ("heads", None),
    "d_kv": ("head_size", None),
    "d_ff": ("mlp", None),
    "relative_attention_num_buckets": ("buckets", 32),
    "relative_attention_max_distance": ("max_distance", 128),
}
_FIXED: dict[str, Any] = {
    "feed_forward_proj": "gated-gelu",
    "dense_act_fn": "gelu_new",
    "is_gated_act": True,
    "layer_norm_epsilon": 1e-6,
}


def entries(config: text_encoder.TextEncoderConfig) -> list[tensor_map.Entry]:
    """Our parameters and their tensors."""
    return list(_entries(config))


def _entries(config: text_encoder.TextEncoderConfig) -> Iterator[tensor_map.Entry]:
    layer, count = "encoder.block.{}.layer", config.depth
    yield tensor_map.Entry("embedding/table", EMBEDDING, TABLE)
    attention = f"{layer}.0.SelfAttention"
    for ours, theirs in (("q", "q"), ("k", "k"), ("v", "v"), ("out", "o")):
        path, name = f"layers/attention/{ours}/kernel", f"{attention}.{theirs}.weight"
        yield tensor_map.Entry(path, name, tensor_map.KERNEL, count)
    name = f"{attention}.relative_attention_bias.weight"
    if config.shared_bias:
        yield tensor_map.Entry("relative_bias", name.format(0), TABLE)
    else:
        yield tensor_map.Entry("layers/attention/relative_bias", name, TABLE, count)
    for ours, theirs in (("gate", "wi_0"), ("up", "wi_1"), ("down", "wo")):
        name = f"{layer}.1.DenseReluDense.{theirs}.weight"
        path = f"layers/mlp/{ours}/kernel"
        yield tensor_map.Entry(path, name, tensor_map.KERNEL, count)
    for ours, number in (("attention_norm", 0), ("mlp_norm", 1)):
        name = f"{layer}.{number}.layer_norm.weight"
        yield tensor_map.Entry(f"layers/{ours}/scale", name, tensor_map.VECTOR, count)
    name = "encoder.final_layer_norm.weight"
    yield tensor_map.Entry("norm/scale", name, tensor_map.VECTOR)


def parse_config(
    values: Mapping[str, Any], *, origin: Any = "config.json"
) -> text_encoder.TextEncoderConfig:
    """Sizes from transformers' `config.json`.

    Raises:
      ModelError: of another type, a size that is missing or none, or a form that has no
        counterpart here.
    """
    kind = values.get("model_type")
    if kind not in CLASSES:
        known = " or ".join(CLASSES)
        raise model_io.ModelError(f"{origin}: model_type is {kind!r}, not {known}")
    sizes: dict[str, Any] = {}
    for name, (ours, default) in _SIZES.items():
        size = values.get(name, default)
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise model_io.ModelError(f"{origin}: {name} is {size!r}, not a size")
        sizes[ours] = size
    for name, value in _FIXED.items():
        # Without the projection's name the model is T5 1.0, whose MLP has no gate.
        found = values.get(name, "relu" if name == "feed_forward_proj" else value)
        if found != value:
            raise model_io.ModelError(f"{origin}: {name} is {found!r}, not {value!r}")
    try:
        return text_encoder.TextEncoderConfig(**sizes, shared_bias=kind == "t5")
    except ValueError as error:
        raise model_io.ModelError(f"{origin}: {error}") from None


def format_config(config: text_encoder.TextEncoderConfig) -> dict[str, Any]:
    """The inverse of `parse_config`."""
    kind = "t5" if config.shared_bias else "umt5"
    sizes = {name: getattr(config, ours) for name, (ours, _) in _SIZES.items()}
    return {
        "architectures": [CLASSES[kind]],
        "model_type": kind,
        **_FIXED,
        **sizes,
        "is_encoder_decoder": False,
        "pad_token_id": tokenizer.PAD,
        "eos_token_id": 1,
    }


def from_tensors(
    tensors: Mapping[str, files.Tensor],
    config: text_encoder.TextEncoderConfig,
    *,
    mesh: Mesh | None = None,
    rules: sharding.AxisRules = sharding.DEFAULT_RULES,
    origin: Any = "weights",
) -> dict[str, Any]:
    """Parameters, float32, from tensors under transformers' names.

    Args:
      tensors: tensors by name, still in their files.
      config: sizes.
      mesh: mesh over which the parameters are sharded; None for arrays of numpy.
      rules: logical to mesh axes.
      origin: name of the source in errors.

    Raises:
      ModelError: a tensor is missing, unknown, of another shape or not finite, or the
        two names of the embedding have different values.
      ValueError: a size does not divide over its mesh axes.
    """
    shapes = model_io.flat_shapes(abstract.text_encoder_shapes(config))
    shardings = None
    if mesh is not None:
        tree = abstract.text_encoder_shardings(config, mesh, rules=rules)
        shardings = model_io.flat_shapes(tree)
    flat = tensor_map.read(
        _untied(tensors, origin=origin),
        entries(config),
        shapes=shapes,
        origin=origin,
        shardings=shardings,
    )
    return model_io.unflatten(flat)


def lazy_params(
    tensors: Mapping[str, files.Tensor],
    config: text_encoder.TextEncoderConfig,
    *,
    origin: Any = "weights",
) -> dict[str, Any]:
    """Parameters that are read when they are written (`tensor_map.lazy`).

    Raises:
      ModelError: as of `from_tensors`.
    """
    flat = tensor_map.lazy(
        _untied(tensors, origin=origin),
        entries(config),
        shapes=model_io.flat_shapes(abstract.text_encoder_shapes(config)),
        origin=origin,
    )
    return model_io.unflatten(flat)


def _untied(
    tensors: Mapping[str, files.Tensor], *, origin: Any
) -> dict[str, files.Tensor]:
    """The tensors with one embedding, whichever of its names it has."""
    tensors = dict(tensors)
    if TIED in tensors:
        tied = tensors.pop(TIED)
        if EMBEDDING in tensors:
            _check_tied(tensors[EMBEDDING], tied, origin=origin)
        else:
            tensors[EMBEDDING] = tied
    return tensors


def _check_tied(shared: files.Tensor, tied: files.Tensor, *, origin: Any) -> None:
    """Refuse two embeddings where there is one; rows are compared part by part."""
    step, count = 1 << 14, shared.shape[0]
    same = shared.shape == tied.shape
    for start in range(0, count if same else 0, step):
        rows = (slice(start, min(start + step, count)), slice(None))
        same = same and np.array_equal(shared.read(rows), tied.read(rows))
    if not same:
        raise model_io.ModelError(
            f"{origin}: {EMBEDDING} and {TIED} differ; the encoder has one embedding"
        )


def load_text_encoder(
    directory: str | os.PathLike[str],
    *,
    mesh: Mesh | None = None,
    rules: sharding.AxisRules = sharding.DEFAULT_RULES,
) -> tuple[text_encoder.TextEncoderConfig, dict[str, Any]]:
    """Sizes and parameters, float32, of a published text encoder.

    Args:
      directory: directory of `config.json` and safetensors files.
      mesh: mesh over which the parameters are sharded, each shard read by itself; None
        for arrays of numpy.
      rules: logical to mesh axes.

    Raises:
      FileNotFoundError, ModelError: nothing there, a shard missing, or not such
        weights.
    """
    folder = pathlib.Path(directory)
    origin = folder / model_io.CONFIG
    config = parse_config(files.read_config(origin), origin=origin)
    tensors = files.open_tensors(folder)
    return config, from_tensors(tensors, config, mesh=mesh, rules=rules, origin=folder)


def save_text_encoder(
    folder: str | os.PathLike[str],
    params: Any,
    *,
    config: text_encoder.TextEncoderConfig,
    max_shard_bytes: int = files.MAX_SHARD_BYTES,
) -> None:
    """Write `config.json` and safetensors as transformers reads them.

    Args:
      folder: a new or empty folder.
      params: arrays of numpy or JAX; sharded ones are fetched one layer at a time.
      config: sizes.
      max_shard_bytes: most bytes of a file; a larger model is several and an index.

    Raises:
      ModelError: parameters of other sizes, or `folder` is not empty.
    """
    path = pathlib.Path(folder)
    if path.exists() and any(path.iterdir()):
        raise model_io.ModelError(f"{path}: is not empty; choose another name")
    lazy_tensors = tensor_map.lazy_tensors(
        params, entries(config), shapes=abstract.text_encoder_shapes(config)
    )
    path.mkdir(parents=True, exist_ok=True)
    files.write(path, STEM, tensors=lazy_tensors, max_shard_bytes=max_shard_bytes)
    text = json.dumps(format_config(config), indent=2)
    (path / model_io.CONFIG).write_text(text + "\n")


def convert(
    weights: str | os.PathLike[str],
    vocabulary: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str],
    cleaned: bool,
    family: str,
) -> str:
    """Write our text encoder to `out`, in the dtype of the published weights.

    Args:
      weights: directory of `config.json` and safetensors files.
      vocabulary: the published `spiece.model`, or the folder that holds it.
      out: directory to write.
      cleaned: whether its captions are cleaned (`tokenizer.clean`), as Wan's are.
      family: name of the model it belongs to, for the record.

    Returns:
      The digest of the parameters.

    Raises:
      FileNotFoundError, ModelError: nothing there, or not such weights.
      TokenizerError: `spiece.model` is missing, or not such a vocabulary.
    """
    path = pathlib.Path(vocabulary)
    path = path / VOCABULARY if path.is_dir() else path
    pieces = tokenizer.Tokenizer.load(path, cleaned=cleaned)
    folder = pathlib.Path(weights)
    origin = folder / model_io.CONFIG
    config = parse_config(files.read_config(origin), origin=origin)
    text_encoders.check_vocabulary(config, pieces, origin=path)
    tensors = files.open_tensors(folder)
    params = lazy_params(tensors, config, origin=folder)
    return text_encoders.save_text_encoder(
        out,
        params,
        config=config,
        vocabulary=pieces,
        metadata={"converted_from": family},
    )
