"""Adapters of Wan's transformers, as diffusers lays them out, to ours and back.

One safetensors file, two tensors for every adapted layer of every block,

    transformer.blocks.0.attn1.to_q.lora_A.weight   [r, in]      our lora_a [in, r]
    transformer.blocks.0.attn1.to_q.lora_B.weight   [out, r]     our lora_b [r, out]

and the rank and alpha in its metadata, in the words of PEFT. A file without metadata
has alpha equal to the rank, as diffusers takes it then. Of two experts the second's
layers begin with `transformer_2`. Options of PEFT that would compute something else
(another scale, ranks or alphas by layer, DoRA, biases) are refused.
"""

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from soraflax.nn import dit, lora
from soraflax.pretrained import abstract, models
from soraflax.pretrained import io as model_io
from soraflax.weights import files, tensor_map
from soraflax.weights.wan import transformer

FILE = "pytorch_lora_weights.safetensors"
METADATA = "lora_adapter_metadata"
NAMES = {lora.A: "lora_A", lora.B: "lora_B"}
PREFIXES = ("transformer", "transformer_2")
# Fields of PEFT's LoraConfig that say where, how or from what a file was trained. What
# is not here changes what is computed, unless it is off: None, False, "none" or empty.
_RECORDS = frozenset(
    (
        "auto_mapping",
        "base_model_name_or_path",
        "ensure_weight_tying",
        "exclude_modules",
        "inference_mode",
        "layers_pattern",
        "layers_to_transform",
        "lora_dropout",
        "megatron_core",
        "peft_version",
        "qalora_group_size",
        "revision",
        "runtime_config",
        "target_modules",
        "task_type",
    )
)
# The ways to draw adapters that leave the base as it is.
_KNOWN = {
    "init_lora_weights": (True, "gaussian", "orthogonal"),
    "peft_type": ("LORA",),
}


def linear_entries(config: dit.DiTConfig) -> dict[str, tensor_map.Entry]:
    """Entries of the kernels that are linear layers in diffusers, by our path."""
    return {
        entry.ours: entry
        for entry in transformer.entries(config)
        if entry.form is tensor_map.KERNEL
    }


def entries(
    config: dit.DiTConfig, lora_config: lora.LoraConfig, *, prefix: str = "transformer"
) -> list[tensor_map.Entry]:
    """Entries of every adapter of a transformer of Wan's form.

    Raises:
      ModelError: the transformer is not of Wan's form, or a target is no linear layer
        in diffusers.
      ValueError: a target or a rank that the transformer does not have.
    """
    transformer.check_form(config)
    known = linear_entries(config)
    adapter_entries = []
    for path in lora.targets(abstract.transformer_shapes(config), lora_config):
        if path not in known:
            raise model_io.ModelError(
                f"{path}: is a convolution there, which has no place in the file; "
                "leave it out of the targets"
            )
        kernel = known[path]
        for ours, theirs in NAMES.items():
            name = kernel.theirs.removesuffix(".weight")
            adapter_entries.append(
                tensor_map.Entry(
                    f"{path.removesuffix('/kernel')}/{ours}",
                    f"{prefix}.{name}.{theirs}.weight",
                    tensor_map.KERNEL,
                    kernel.layers,
                )
            )
    return adapter_entries


def save_lora(
    path: str | os.PathLike[str],
    adapters: Any,
    *,
    config: dit.DiTConfig,
    lora_config: lora.LoraConfig,
    prefix: str = "transformer",
) -> None:
    """Write adapters as `WanLoraLoaderMixin` of diffusers reads them.

    Args:
      path: the file, conventionally `FILE`.
      adapters: parameters as of `lora.init`.
      config: sizes of the transformer.
      lora_config: rank, alpha and targets of the adapters.
      prefix: `transformer_2` for the adapters of the second expert.

    Raises:
      ModelError: adapters that do not match `lora_config`, or a transformer that is
        not of Wan's form.
    """
    adapter_entries = entries(config, lora_config, prefix=prefix)
    leaves = model_io.flat_shapes(adapters)
    model_io.check_like(leaves, _shapes(config, lora_config), origin="adapters")
    tensors = {
        name: np.ascontiguousarray(make())
        for entry in adapter_entries
        for name, make in entry.write(leaves[entry.ours])
    }
    layers = sorted({_layer(name, prefix) for name in tensors})
    values = {
        "r": lora_config.rank,
        "lora_alpha": lora_config.alpha,
        "target_modules": layers,
    }
    values = {f"{prefix}.{name}": value for name, value in values.items()}
    metadata = {"format": "pt", METADATA: json.dumps(values, sort_keys=True)}
    safetensors.numpy.save_file(tensors, path, metadata)


def to_files(
    checkpoint: str | os.PathLike[str], folder: pathlib.Path
) -> models.AdaptersModel:
    """Write `FILE` to `folder`, of the adapters at `checkpoint`.

    Raises:
      FileNotFoundError, ModelError: no such adapters, or their base is not of Wan's
        form.
      ConfigError: the configuration is of another version.
    """
    model = models.load_adapters(checkpoint)
    save_lora(
        folder / FILE, model.params, config=model.config, lora_config=model.lora_config
    )
    return model


def load_lora(
    path: str | os.PathLike[str],
    config: dit.DiTConfig,
    *,
    prefix: str = "transformer",
) -> tuple[lora.LoraConfig, dict[str, Any]]:
    """Configuration and parameters (numpy) of a file as `save_lora` writes it.

    Raises:
      FileNotFoundError: no such file.
      ModelError: a damaged file, a tensor that is not an adapter of such a
        transformer, is missing, of another shape or not finite, or metadata that
        contradict the tensors or ask for more than equation (1) of `nn.lora`.
    """
    path = pathlib.Path(path)
    tensors = _of_prefix(files.open_tensors(_single_file(path)), prefix, origin=path)
    if not tensors:
        raise model_io.ModelError(f"{path}: has no adapters of {prefix}")
    lora_config = _lora_config(path, tensors, config=config, prefix=prefix)
    shapes = model_io.flat_shapes(_shapes(config, lora_config))
    adapter_entries = entries(config, lora_config, prefix=prefix)
    return lora_config, model_io.unflatten(
        tensor_map.read(tensors, adapter_entries, shapes=shapes, origin=path)
    )


def _lora_config(
    path: pathlib.Path,
    tensors: Mapping[str, files.Tensor],
    *,
    config: dit.DiTConfig,
    prefix: str,
) -> lora.LoraConfig:
    """Rank, alpha and targets of a file."""
    theirs = {_layer(name, prefix) for name in tensors}
    targets = tuple(
        entry.ours
        for entry in linear_entries(config).values()
        if theirs & {name.removesuffix(".weight") for name in entry.names()}
    )
    ranks = {t.shape[0] for n, t in tensors.items() if n.endswith(".lora_A.weight")}
    if not targets or len(ranks) != 1:
        raise model_io.ModelError(
            f"{path}: holds adapters of ranks {sorted(ranks)} of {len(targets)} layers "
            "of such a transformer; use a file of one rank"
        )
    (rank,) = ranks
    fields = peft_fields(path, prefix)
    alpha = fields.get("lora_alpha", rank)
    try:
        lora_config = lora.LoraConfig(rank, float(alpha), targets)
    except (TypeError, ValueError) as error:
        raise model_io.ModelError(f"{path}: {METADATA}: {error}") from None
    check_fields(fields, lora_config, origin=f"{path}: {METADATA}")
    return lora_config


def _single_file(path: pathlib.Path) -> pathlib.Path:
    """The only safetensors file at a path."""
    candidates = files.find_files(path)
    if len(candidates) != 1:
        names = " and ".join(file.name for file in candidates[:2])
        raise model_io.ModelError(f"{path}: has {names}; name one file")
    return candidates[0]


def _of_prefix(
    values: Mapping[str, Any], prefix: str, *, origin: Any
) -> dict[str, Any]:
    """The entries whose name begins with `prefix`; those of the other expert go.

    Raises:
      ModelError: a name that begins with neither.
    """
    for name in values:
        if name.partition(".")[0] not in PREFIXES:
            raise model_io.ModelError(
                f"{origin}: {name} is of neither {' nor '.join(PREFIXES)}"
            )
    return {n: v for n, v in values.items() if n.startswith(f"{prefix}.")}


def peft_fields(path: pathlib.Path, prefix: str) -> dict[str, Any]:
    """PEFT's fields about one transformer in a file's metadata."""
    with safetensors.safe_open(_single_file(path), "np") as source:
        text = (source.metadata() or {}).get(METADATA, "{}")
    origin = f"{path}: {METADATA}"
    try:
        values = json.loads(text)
    except ValueError as error:
        raise model_io.ModelError(f"{origin}: not JSON ({error})") from None
    if not isinstance(values, dict):
        raise model_io.ModelError(f"{origin}: not a JSON object")
    selected = _of_prefix(values, prefix, origin=origin)
    return {name.removeprefix(f"{prefix}."): value for name, value in selected.items()}


def check_fields(
    fields: Mapping[str, Any], lora_config: lora.LoraConfig, *, origin: str
) -> None:
    """Refuse fields that contradict the tensors, or equation (1) of `nn.lora`."""
    if fields.get("r", lora_config.rank) != lora_config.rank:
        raise model_io.ModelError(
            f"{origin}: r is {fields['r']}, but the tensors are of rank "
            f"{lora_config.rank}"
        )
    for name, same in (
        ("rank_pattern", lora_config.rank),
        ("alpha_pattern", lora_config.alpha),
    ):
        pattern = fields.get(name) or {}
        if not isinstance(pattern, dict) or any(v != same for v in pattern.values()):
            raise model_io.ModelError(
                f"{origin}: {name} is {pattern!r}; use a file of one rank and one alpha"
            )
    taken = {"r", "lora_alpha", "rank_pattern", "alpha_pattern"} | _RECORDS
    for name in sorted(fields.keys() - taken):
        value = fields[name]
        off = value is None or value is False or value in ("", "none", [], {})
        if not off and value not in _KNOWN.get(name, ()):
            raise model_io.ModelError(
                f"{origin}: {name} is {value!r}, which is not computed here; merge the "
                "adapters where they were made"
            )


def _layer(name: str, prefix: str) -> str:
    """'blocks.0.attn1.to_q' of a tensor's name."""
    return name.removeprefix(f"{prefix}.").partition(".lora_")[0]


def _shapes(config: dit.DiTConfig, lora_config: lora.LoraConfig) -> dict[str, Any]:
    return lora.shapes(abstract.transformer_shapes(config), lora_config)
