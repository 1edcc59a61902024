"""Adapter files of Wan's transformers in any layout, merged into a transformer.

    diffusers, PEFT   transformer.blocks.0.attn1.to_q.lora_A.weight     [r, in]
    original          diffusion_model.blocks.0.self_attn.q.lora_A.weight
    kohya             lora_unet_blocks_0_self_attn_q.lora_down.weight
                      lora_unet_blocks_0_self_attn_q.alpha

`lora_B` and `lora_up` are `[out, r]`. With a factor s that a user gives, and alpha the
rank where the file says nothing else,

    W + s (alpha / r) A B                                                           (1)

Ranks and alphas may differ by layer. Whatever else a file holds (differences of weights
or biases, DoRA, adapters of a text encoder) is refused by its name.
"""

import collections
import dataclasses
import hashlib
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from soraflax.nn import dit, experts
from soraflax.nn import lora as nn_lora
from soraflax.pretrained import abstract, arrays, models
from soraflax.pretrained import io as model_io
from soraflax.weights import files
from soraflax.weights.wan import layouts, lora, transformer

# What a layer's name may begin with; the longest first.
PREFIXES = (
    "base_model.model.",
    *layouts.PREFIXES,
    "transformer_2.",
    "transformer.",
    "lora_unet_",
)
A_ENDS = (".lora_A.weight", ".lora_A.default.weight", ".lora_down.weight")
B_ENDS = (".lora_B.weight", ".lora_B.default.weight", ".lora_up.weight")
ALPHA_END = ".alpha"


@dataclasses.dataclass(frozen=True)
class AdapterFile:
    """What a user adds to a transformer.

    Attributes:
      path: a safetensors file, or the directory of one.
      scale: s of equation (1).
      expert: 'high' or 'low' of two experts; None where the file says it.
    """

    path: pathlib.Path
    scale: float = 1.0
    expert: str | None = None

    @classmethod
    def parse(cls, text: str) -> "AdapterFile":
        """`[high=|low=]FILE[:SCALE]`.

        Raises:
          ValueError: a scale that is no finite number.
        """
        expert, _, rest = text.partition("=")
        if expert not in experts.NAMES:
            expert, rest = None, text
        name, _, last = rest.rpartition(":")
        if not name or pathlib.Path(rest).exists():
            return cls(pathlib.Path(rest), expert=expert)
        try:
            scale = float(last)
        except ValueError:
            return cls(pathlib.Path(rest), expert=expert)
        if not np.isfinite(scale):
            raise ValueError(f"{text}: a scale of {last}: use a finite number")
        return cls(pathlib.Path(name), scale, expert)


@dataclasses.dataclass(frozen=True)
class _Layer:
    """A of `[r, in]`, B of `[out, r]` and alpha of a layer."""

    a: np.ndarray
    b: np.ndarray
    alpha: float

    def update(self, scale: float) -> arrays.LowRank:
        """The second term of equation (1)."""
        factor = scale * self.alpha / self.a.shape[0]
        return arrays.LowRank(self.a.T, self.b.T * np.float32(factor))


def merge(model: models.VideoModel, adapters: Iterable[AdapterFile]) -> Any:
    """A video model with adapters in its transformer; its digest says so.

    Kernels are added to when they are read, so nothing is read here but the adapters.

    Raises:
      FileNotFoundError, ModelError: no such file, or one that does not fit.
    """
    config = model.config.transformer
    transformer.check_form(config)
    two = model.config.boundary is not None
    params = model.params if two else {"high": model.params}
    flat = {name: model_io.named_leaves(tree) for name, tree in params.items()}
    total = hashlib.sha256(model.digest.encode())
    for adapter in adapters:
        for expert, layers in read(adapter.path, config).items():
            target = adapter.expert or expert or ("high" if not two else None)
            if target is None:
                raise model_io.ModelError(
                    f"{adapter.path}: the model has two experts, of high and of low "
                    f"noise levels: use high={adapter.path} or low={adapter.path}"
                )
            if target not in flat:
                raise model_io.ModelError(
                    f"{adapter.path}: is of the second of two experts; this model has "
                    "one transformer"
                )
            _add(flat[target], layers, scale=adapter.scale)
        with open(files.find_files(adapter.path)[0], "rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
        total.update(f"{adapter.scale} {adapter.expert}".encode())
    merged = {name: model_io.unflatten(leaves) for name, leaves in flat.items()}
    return dataclasses.replace(
        model,
        params=merged if two else merged["high"],
        digest=total.hexdigest(),
    )


def _add(
    flat: dict[str, Any],
    layers: Mapping[tuple[str, int | None], _Layer],
    *,
    scale: float,
) -> None:
    """Equation (1) for the kernels of a transformer, by path."""
    by_path: dict[str, dict[int | None, arrays.LowRank]] = collections.defaultdict(dict)
    for (path, number), layer in layers.items():
        by_path[path][number] = layer.update(scale)
    for path, updates in by_path.items():
        flat[path] = arrays.UpdatedArray(flat[path], updates)


Layers = dict[tuple[str, int | None], _Layer]


def read(path: pathlib.Path, config: dit.DiTConfig) -> dict[str | None, Layers]:
    """The adapters of a file, by expert, and by the path and number of a layer.

    The expert is None where no name in the file is of the second one of two.

    Raises:
      FileNotFoundError, ModelError: no such file, or one that does not fit.
    """
    found = files.find_files(path)
    if len(found) != 1:
        names = " and ".join(file.name for file in found[:2])
        raise model_io.ModelError(f"{path}: has {names}; name one file")
    known = _known_layers(config)
    parts: dict[tuple[str, str], dict[str, np.ndarray]] = {}
    for name, tensor in files.open_tensors(found[0]).items():
        layer, part = _split(name, origin=path)
        prefix = next((p for p in PREFIXES if layer.startswith(p)), "")
        bare = layer.removeprefix(prefix)
        if bare not in known:
            raise model_io.ModelError(
                f"{path}: {name} is of no linear layer of such a transformer"
            )
        expert = "low" if prefix == "transformer_2." else "high"
        values = np.asarray(tensor.read(())).astype(np.float32)
        parts.setdefault((expert, bare), {})[part] = values
    if not parts:
        raise model_io.ModelError(f"{path}: has no adapters")
    shapes = model_io.flat_shapes(abstract.transformer_shapes(config))
    two = any(expert == "low" for expert, _ in parts)
    layers: dict[str | None, Layers] = {}
    for (expert, bare), values in parts.items():
        place = known[bare]
        layer = _layer(
            bare,
            values,
            default=_default_alpha(path, expert),
            kernel=shapes[place[0]].shape[-2:],
            origin=path,
        )
        layers.setdefault(expert if two else None, {})[place] = layer
    return layers


def _known_layers(config: dit.DiTConfig) -> dict[str, tuple[str, int | None]]:
    """Path and number of every linear layer, by its name in every layout."""
    parts = {theirs: name for name, theirs in layouts.PARTS.items()}
    block_parts = {theirs: name for name, theirs in layouts.BLOCK_PARTS.items()}
    known = {}
    for path, entry in lora.linear_entries(config).items():
        for number, weight in enumerate(entry.names()):
            name = weight.removesuffix(".weight")
            original = parts.get(name, name)
            if entry.layers is not None:
                block, part = name.split(".", 2)[:2], name.split(".", 2)[2]
                original = ".".join((*block, block_parts.get(part, part)))
            place = path, None if entry.layers is None else number
            for alias in (name, original):
                known[alias] = known[alias.replace(".", "_")] = place
    return known


def _split(name: str, *, origin: Any) -> tuple[str, str]:
    """A tensor's layer, and which part of its adapter it is: 'a', 'b' or 'alpha'."""
    for part, ends in (("a", A_ENDS), ("b", B_ENDS), ("alpha", (ALPHA_END,))):
        for end in ends:
            if name.endswith(end):
                return name.removesuffix(end), part
    raise model_io.ModelError(
        f"{origin}: {name} is no adapter of a linear layer, nor its alpha; merge it "
        "where it was made"
    )


def _layer(
    name: str,
    values: Mapping[str, np.ndarray],
    *,
    default: float | None,
    kernel: tuple[int, int],
    origin: Any,
) -> _Layer:
    """The adapter of a layer, checked against its kernel `[in, out]`."""
    if values.keys() < {"a", "b"}:
        missing = "lora_A or lora_down" if "a" not in values else "lora_B or lora_up"
        raise model_io.ModelError(f"{origin}: {name} has no {missing}")
    a, b = values["a"], values["b"]
    fits = a.ndim == b.ndim == 2 and (a.shape[1], b.shape[0]) == kernel
    if not fits or a.shape[0] != b.shape[1] or not a.shape[0]:
        raise model_io.ModelError(
            f"{origin}: {name} has adapters of {a.shape} and {b.shape}; the layer is "
            f"of {kernel[0]} to {kernel[1]} features"
        )
    alpha = float(values["alpha"].reshape(())) if "alpha" in values else default
    layer = _Layer(a, b, float(a.shape[0]) if alpha is None else alpha)
    if not all(np.isfinite(x).all() for x in (a, b, layer.alpha)):
        raise model_io.ModelError(f"{origin}: the adapters of {name} are not finite")
    return layer


def _default_alpha(path: pathlib.Path, expert: str) -> float | None:
    """The alpha in a file's metadata, as PEFT writes it; None without."""
    prefix = "transformer_2" if expert == "low" else "transformer"
    fields, origin = lora.peft_fields(path, prefix), f"{path}: {lora.METADATA}"
    if not fields:
        return None
    try:
        rank = int(fields.get("r", 1))
        form = nn_lora.LoraConfig(rank, float(fields.get("lora_alpha", rank)))
    except (TypeError, ValueError) as error:
        raise model_io.ModelError(f"{origin}: {error}") from None
    lora.check_fields(fields, form, origin=origin)
    return form.alpha if "lora_alpha" in fields else None
