"""Other layouts of Wan's transformers, as tensors under diffusers' names.

    diffusers   blocks.0.attn1.to_q.weight
    original    blocks.0.self_attn.q.weight            Wan's own repositories
    ComfyUI     model.diffusion_model.blocks.0...      the original names in one file

Which it is follows from the names. Weights in 8 bits come with a scale beside each
tensor, `X.scale_weight` or `X.weight_scale`, one for all or one for every row, and are
multiplied by it when they are read:

    weight = fp8 * scale                                                          (1)

Scales of activations have no meaning here and are left. Where there is no `config.json`
sizes follow from the tensors, with heads of 128 features, as in all of Wan's models.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

from soraflax.pretrained import io as model_io
from soraflax.weights import files

PREFIXES = ("model.diffusion_model.", "diffusion_model.")
ORIGINAL_CLASS = "WanModel"
HEAD_SIZE = 128
# A part of a name in the original repositories, and in diffusers, in which `norm3` and
# `norm2` of a block have changed names.
PARTS = {
    "time_embedding.0": "condition_embedder.time_embedder.linear_1",
    "time_embedding.2": "condition_embedder.time_embedder.linear_2",
    "time_projection.1": "condition_embedder.time_proj",
    "text_embedding.0": "condition_embedder.text_embedder.linear_1",
    "text_embedding.2": "condition_embedder.text_embedder.linear_2",
    "head.head": "proj_out",
    "head.modulation": "scale_shift_table",
}
BLOCK_PARTS = {
    "self_attn.norm_q": "attn1.norm_q",
    "self_attn.norm_k": "attn1.norm_k",
    "self_attn.q": "attn1.to_q",
    "self_attn.k": "attn1.to_k",
    "self_attn.v": "attn1.to_v",
    "self_attn.o": "attn1.to_out.0",
    "cross_attn.norm_q": "attn2.norm_q",
    "cross_attn.norm_k": "attn2.norm_k",
    "cross_attn.q": "attn2.to_q",
    "cross_attn.k": "attn2.to_k",
    "cross_attn.v": "attn2.to_v",
    "cross_attn.o": "attn2.to_out.0",
    "ffn.0": "ffn.net.0.proj",
    "ffn.2": "ffn.net.2",
    "modulation": "scale_shift_table",
    "norm3": "norm2",
}
# Tensors that only other kinds of models have, and what these are.
KINDS = {
    "vace_": "a VACE transformer, which takes a control video",
    "img_emb.": "an image-to-video transformer of Wan 2.1, which takes an image apart "
    "from its latent",
    "condition_embedder.image_embedder.": "an image-to-video transformer of Wan 2.1, "
    "which takes an image apart from its latent",
    "control_adapter.": "a transformer with camera control",
    "motion_encoder.": "Wan Animate's transformer",
    "casual_audio_encoder.": "a speech-to-video transformer",
    "ref_conv.": "a transformer with a reference image",
}
SCALES = (".scale_weight", ".weight_scale")
ACTIVATION_SCALES = (".scale_input", ".input_scale")
MARKERS = ("scaled_fp8", ".comfy_quant")
_BLOCK = re.compile(r"(blocks\.\d+\.)(.+?)((?:\.weight|\.bias)?)$")


@dataclasses.dataclass(frozen=True)
class _Scaled:
    """Equation (1), computed of what is read.

    Attributes:
      source: what is read of the tensor.
      scale: one number, or `[rows]`.
    """

    source: files.Tensor
    scale: np.ndarray

    def __getitem__(self, index: Any) -> np.ndarray:
        values = np.asarray(self.source.read(index)).astype(np.float32)
        if self.scale.size == 1:
            return values * self.scale.reshape(())
        rows = index[0] if isinstance(index, tuple) else slice(None)
        scale = self.scale.reshape(-1, *(1 for _ in self.source.shape[1:]))
        return values * scale[rows]


def to_diffusers(
    tensors: Mapping[str, files.Tensor], *, origin: Any
) -> dict[str, files.Tensor]:
    """The same tensors under diffusers' names, those in 8 bits with their scales.

    Raises:
      ModelError: of another kind of model, which is said, or scales that are not read.
    """
    prefix = next((p for p in PREFIXES if any(n.startswith(p) for n in tensors)), "")
    outside = sorted(n for n in tensors if not n.startswith(prefix))
    outside = [n for n in outside if not n.endswith(MARKERS)]
    if outside:
        raise model_io.ModelError(
            f"{origin}: {outside[0]} is not of the transformer, whose names begin with "
            f"{prefix}; use a file of the transformer alone"
        )
    named = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    _check_kind(named, origin=origin)
    named = _dequantised(named, origin=origin)
    if any("self_attn." in name for name in named):
        named = {translated(name): tensor for name, tensor in named.items()}
    return named


def _check_kind(names: Mapping[str, files.Tensor], *, origin: Any) -> None:
    for start, kind in KINDS.items():
        if any(name.startswith(start) for name in names):
            raise model_io.ModelError(
                f"{origin}: is {kind}; use a text-to-video transformer, or Wan 2.2 "
                "TI2V-5B, which animates images"
            )


def translated(name: str) -> str:
    """diffusers' name of a tensor, or of a layer, of the original repositories."""
    if match := _BLOCK.match(name):
        block, part, end = match.groups()
        return f"{block}{BLOCK_PARTS.get(part, part)}{end}"
    for part, theirs in PARTS.items():
        if name == part or name.startswith(f"{part}."):
            return theirs + name.removeprefix(part)
    return name


def _dequantised(
    tensors: Mapping[str, files.Tensor], *, origin: Any
) -> dict[str, files.Tensor]:
    """Equation (1) for every tensor with a scale; the scales are gone."""
    scales, others = {}, {}
    for name, tensor in tensors.items():
        end = next((end for end in SCALES if name.endswith(end)), None)
        if end is not None:
            scales[name.removesuffix(end) + ".weight"] = name, tensor
        elif not name.endswith((*ACTIVATION_SCALES, *MARKERS)):
            others[name] = tensor
    for name, (scale_name, tensor) in scales.items():
        weight = others.get(name)
        if weight is None:
            raise model_io.ModelError(f"{origin}: {scale_name} has no {name}")
        scale = np.asarray(tensor.read(())).astype(np.float32)
        if scale.size not in (1, weight.shape[0]):
            raise model_io.ModelError(
                f"{origin}: {scale_name} has shape {tensor.shape}; read are one scale, "
                f"or one for each of {weight.shape[0]} rows"
            )
        dtype = np.dtype(ml_dtypes.bfloat16)
        others[name] = files.Tensor(weight.shape, dtype, _Scaled(weight, scale))
    return others


def config_of(
    tensors: Mapping[str, files.Tensor], *, heads: int | None = None, origin: Any
) -> dict[str, Any]:
    """diffusers' `config.json` of tensors under diffusers' names.

    Args:
      tensors: from `to_diffusers`.
      heads: number of heads; None for heads of `HEAD_SIZE`.
      origin: name of the source in errors.

    Raises:
      ModelError: not a transformer of Wan's.
    """
    embedder = "condition_embedder"
    needed = {
        "patch_embedding.weight": 5,
        "blocks.0.ffn.net.0.proj.weight": 2,
        "proj_out.weight": 2,
        f"{embedder}.text_embedder.linear_1.weight": 2,
        f"{embedder}.time_embedder.linear_1.weight": 2,
    }
    for name, rank in needed.items():
        if name not in tensors or len(tensors[name].shape) != rank:
            raise model_io.ModelError(
                f"{origin}: has no {name} of {rank} axes: not a transformer of Wan's, "
                "in none of the layouts read: diffusers, original, ComfyUI"
            )
    width, channels, *patch = tensors["patch_embedding.weight"].shape
    heads = heads or max(1, width // HEAD_SIZE)
    layers = {name.split(".")[1] for name in tensors if name.startswith("blocks.")}
    return {
        "patch_size": patch,
        "num_attention_heads": heads,
        "attention_head_dim": width // heads,
        "in_channels": channels,
        "out_channels": tensors["proj_out.weight"].shape[0] // int(np.prod(patch)),
        "text_dim": tensors[f"{embedder}.text_embedder.linear_1.weight"].shape[1],
        "freq_dim": tensors[f"{embedder}.time_embedder.linear_1.weight"].shape[1],
        "ffn_dim": tensors["blocks.0.ffn.net.0.proj.weight"].shape[0],
        "num_layers": len(layers),
    }
