"""Wan's autoencoders, as diffusers lays them out, to our parameters and back.

Those of Wan 2.1 (arXiv:2503.20314) and Wan 2.2 are variants of `nn.autoencoder`.
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from soraflax.nn import autoencoder
from soraflax.pretrained import abstract, models
from soraflax.pretrained import io as model_io
from soraflax.weights import files, tensor_map

FAMILIES = ("wan2.1", "wan2.2")
CLASS = "AutoencoderKLWan"
STEM = "diffusion_pytorch_model"
COLOURS = 3


VOLUME = tensor_map.einsum("oithw", "thwio")
IMAGE = tensor_map.TensorForm(
    lambda a: np.einsum("oihw->hwio", a)[None],
    lambda a: np.einsum("hwio->oihw", a[0]),
)
POINT = tensor_map.TensorForm(lambda a: a[..., 0, 0].T, lambda a: a.T[..., None, None])
VOLUME_NORM = tensor_map.reshape((-1, 1, 1, 1), (-1,))
IMAGE_NORM = tensor_map.reshape((-1, 1, 1), (-1,))


def _patch_order(side: int) -> np.ndarray:
    """For each of our patch channels, in order, the index of theirs.

    Our patches are ordered by row, column, colour, theirs by colour, column, row.
    """
    their_order = np.arange(COLOURS * side * side).reshape(COLOURS, side, side)
    return np.einsum("cwh->hwc", their_order).reshape(-1)


def _reordered(
    form: tensor_map.TensorForm, order: np.ndarray, *, axis: int
) -> tensor_map.TensorForm:
    """A form with our `axis` permuted: our entry i is their entry `order[i]`."""
    back = np.argsort(order)
    return tensor_map.TensorForm(
        lambda a: np.take(form.read(a), order, axis=axis),
        lambda a: form.write(np.take(a, back, axis=axis)),
    )


def _convolution(
    ours: str, theirs: str, *, form: tensor_map.TensorForm = VOLUME
) -> Iterator[tensor_map.Entry]:
    yield tensor_map.Entry(f"{ours}/kernel", f"{theirs}.weight", form)
    yield tensor_map.Entry(f"{ours}/bias", f"{theirs}.bias", tensor_map.VECTOR)


def _residual(ours: str, theirs: str, *, widens: bool) -> Iterator[tensor_map.Entry]:
    for at in (1, 2):
        yield tensor_map.Entry(
            f"{ours}/norm{at}/scale", f"{theirs}.norm{at}.gamma", VOLUME_NORM
        )
        yield from _convolution(f"{ours}/conv{at}", f"{theirs}.conv{at}")
    if widens:
        yield from _convolution(f"{ours}/shortcut", f"{theirs}.conv_shortcut")


def _middle(ours: str, theirs: str) -> Iterator[tensor_map.Entry]:
    for at in (0, 1):
        block = f"{theirs}.resnets.{at}"
        yield from _residual(f"{ours}/block{at + 1}", block, widens=False)
    attention = f"{theirs}.attentions.0"
    scale = f"{ours}/attention/norm/scale"
    yield tensor_map.Entry(scale, f"{attention}.norm.gamma", IMAGE_NORM)
    yield from _convolution(f"{ours}/attention/qkv", f"{attention}.to_qkv", form=POINT)
    yield from _convolution(f"{ours}/attention/out", f"{attention}.proj", form=POINT)


def _resample(ours: str, theirs: str, *, temporal: bool) -> Iterator[tensor_map.Entry]:
    yield from _convolution(f"{ours}/space", f"{theirs}.resample.1", form=IMAGE)
    if temporal:
        yield from _convolution(f"{ours}/time/conv", f"{theirs}.time_conv")


def _encoder_stages(
    config: autoencoder.AutoencoderConfig,
) -> Iterator[tensor_map.Entry]:
    width, flat_index = config.width, 0
    for stage, wide in enumerate(config.stage_widths):
        for at in range(config.blocks):
            nested = f"{stage}.resnets.{at}" if config.shortcuts else f"{flat_index}"
            ours = f"encoder/stage{stage}_block{at}"
            theirs = f"encoder.down_blocks.{nested}"
            yield from _residual(ours, theirs, widens=width != wide)
            width, flat_index = wide, flat_index + 1
        if stage + 1 < len(config.multipliers):
            nested = f"{stage}.downsampler" if config.shortcuts else f"{flat_index}"
            yield from _resample(
                f"encoder/stage{stage}_down",
                f"encoder.down_blocks.{nested}",
                temporal=config.temporal_downsample[stage],
            )
            flat_index += 1


def _decoder_stages(
    config: autoencoder.AutoencoderConfig,
) -> Iterator[tensor_map.Entry]:
    width = config.decoder_widths[0]
    for stage, wide in enumerate(config.decoder_widths):
        theirs = f"decoder.up_blocks.{stage}"
        for at in range(config.blocks + 1):
            ours = f"decoder/stage{stage}_block{at}"
            yield from _residual(ours, f"{theirs}.resnets.{at}", widens=width != wide)
            width = wide
        if stage + 1 < len(config.multipliers):
            name = "upsampler" if config.shortcuts else "upsamplers.0"
            yield from _resample(
                f"decoder/stage{stage}_up",
                f"{theirs}.{name}",
                temporal=config.temporal_downsample[::-1][stage],
            )
            width = wide if config.shortcuts else wide // 2


def autoencoder_entries(
    config: autoencoder.AutoencoderConfig,
) -> list[tensor_map.Entry]:
    """Entries of every parameter of an autoencoder of Wan's form."""
    order = _patch_order(config.patch[1])
    entries: list[tensor_map.Entry] = []
    for half, stages in (("encoder", _encoder_stages), ("decoder", _decoder_stages)):
        forms = {"conv_in": VOLUME, "conv_out": VOLUME}
        bias = tensor_map.VECTOR
        if half == "encoder":
            forms["conv_in"] = _reordered(VOLUME, order, axis=-2)
        else:
            forms["conv_out"] = _reordered(VOLUME, order, axis=-1)
            bias = _reordered(tensor_map.VECTOR, order, axis=-1)
        entries += _convolution(
            f"{half}/conv_in", f"{half}.conv_in", form=forms["conv_in"]
        )
        entries += _middle(f"{half}/middle", f"{half}.mid_block")
        entries += stages(config)
        scale = f"{half}/norm_out/scale"
        entries.append(tensor_map.Entry(scale, f"{half}.norm_out.gamma", VOLUME_NORM))
        out = f"{half}.conv_out"
        entries.append(
            tensor_map.Entry(
                f"{half}/conv_out/kernel", f"{out}.weight", forms["conv_out"]
            )
        )
        entries.append(tensor_map.Entry(f"{half}/conv_out/bias", f"{out}.bias", bias))
    entries += _convolution("moments", "quant_conv")
    entries += _convolution("embed", "post_quant_conv")
    return entries


def autoencoder_from_tensors(
    tensors: Mapping[str, np.ndarray],
    config: autoencoder.AutoencoderConfig,
    *,
    origin: Any = "weights",
) -> dict[str, Any]:
    """Parameters, float32, from tensors under diffusers' names.

    Raises:
      ModelError: a tensor is missing, unknown, of another shape or not finite.
    """
    shapes = model_io.flat_shapes(abstract.autoencoder_shapes(config))
    entries = autoencoder_entries(config)
    expected = {
        entry.theirs: entry.form.write(np.broadcast_to(0.0, shapes[entry.ours].shape))
        for entry in entries
    }
    model_io.check_like(tensors, expected, origin=origin)
    model_io.check_finite(tensors, origin=origin)
    flat = {
        entry.ours: np.ascontiguousarray(
            entry.form.read(tensors[entry.theirs].astype(np.float32))
        )
        for entry in entries
    }
    return model_io.unflatten(flat)


def autoencoder_to_tensors(
    params: Any, config: autoencoder.AutoencoderConfig
) -> dict[str, np.ndarray]:
    """The inverse of `autoencoder_from_tensors`."""
    flat = model_io.flatten(params)
    return {
        entry.theirs: np.ascontiguousarray(entry.form.write(flat[entry.ours]))
        for entry in autoencoder_entries(config)
    }


def family_of(config: autoencoder.AutoencoderConfig) -> str:
    """The family of an autoencoder, whatever its widths.

    Raises:
      ModelError: a field that differs from all of Wan's autoencoders, the first named.
    """
    frames, side = config.patch
    wan = {
        "end_kernel": (config.end_kernel, 3),
        "attention": (config.attention, True),
        "linear_path": (config.linear_path, False),
        "patch": (frames, 1),
        "cosine": (config.cosine and side > 1, False),
        "spatial_downsample": (all(config.spatial_downsample), True),
    }
    for name, (value, expected) in wan.items():
        if value != expected:
            raise model_io.ModelError(
                f"not an autoencoder of Wan's form: {name} is {value}, not {expected}"
            )
    return FAMILIES[config.shortcuts]


def parse_config(
    values: Mapping[str, Any], *, origin: Any = "config.json"
) -> tuple[autoencoder.AutoencoderConfig, autoencoder.LatentStatistics | None]:
    """Sizes and latent statistics from diffusers' `config.json`.

    Raises:
      ModelError: of another class, or a field that our module has no counterpart for.
    """
    if values.get("_class_name", CLASS) != CLASS:
        raise model_io.ModelError(
            f"{origin}: of class {values['_class_name']}, not {CLASS}"
        )
    side = values.get("patch_size") or 1
    if not isinstance(side, int):
        raise model_io.ModelError(f"{origin}: patch_size is {side!r}, not a number")
    depth = COLOURS * side * side
    expected = {"attn_scales": [], "in_channels": depth, "out_channels": depth}
    for name, value in expected.items():
        if values.get(name, value) != value:
            raise model_io.ModelError(
                f"{origin}: {name} is {values[name]}, not {value}"
            )
    try:
        multipliers = tuple(values.get("dim_mult", (1, 2, 4, 4)))
        config = autoencoder.AutoencoderConfig(
            latent_channels=values.get("z_dim", 16),
            patch=(1, side),
            cosine=False,
            width=values.get("base_dim", 96),
            decoder_width=values.get("decoder_base_dim"),
            multipliers=multipliers,
            spatial_downsample=(True,) * (len(multipliers) - 1),
            temporal_downsample=tuple(
                values.get("temperal_downsample", (False, True, True))
            ),
            blocks=values.get("num_res_blocks", 2),
            shortcuts=values.get("is_residual", False),
        )
        statistics = _statistics(values, config.latent_channels, origin=origin)
    except model_io.ModelError:
        raise
    except (TypeError, ValueError) as error:
        raise model_io.ModelError(f"{origin}: {error}") from None
    return config, statistics


def _statistics(
    values: Mapping[str, Any], channels: int, *, origin: Any
) -> autoencoder.LatentStatistics | None:
    mean, std = values.get("latents_mean"), values.get("latents_std")
    if mean is None or std is None:
        return None
    for name, numbers in (("latents_mean", mean), ("latents_std", std)):
        if len(numbers) != channels or not np.isfinite(numbers).all():
            raise model_io.ModelError(
                f"{origin}: {name} must be {channels} finite numbers, not "
                f"{len(numbers)}"
            )
    if min(std) <= 0:
        raise model_io.ModelError(f"{origin}: latents_std must be positive")
    return autoencoder.LatentStatistics(tuple(map(float, mean)), tuple(map(float, std)))


def format_config(
    config: autoencoder.AutoencoderConfig,
    statistics: autoencoder.LatentStatistics | None,
) -> dict[str, Any]:
    """The inverse of `parse_config`.

    Without statistics, mean 0 and deviation 1 are written: diffusers would take those
    of Wan 2.1 for missing ones.
    """
    side = config.patch[1]
    depth = COLOURS * side * side
    values: dict[str, Any] = {
        "_class_name": CLASS,
        "attn_scales": [],
        "base_dim": config.width,
        "decoder_base_dim": config.decoder_width,
        "dim_mult": list(config.multipliers),
        "dropout": 0.0,
        "in_channels": depth,
        "is_residual": config.shortcuts,
        "num_res_blocks": config.blocks,
        "out_channels": depth,
        "patch_size": side if side > 1 else None,
        "scale_factor_spatial": config.spatial_ratio,
        "scale_factor_temporal": config.temporal_ratio,
        "temperal_downsample": list(config.temporal_downsample),
        "z_dim": config.latent_channels,
    }
    z = config.latent_channels
    known = statistics or autoencoder.LatentStatistics((0.0,) * z, (1.0,) * z)
    return values | {"latents_mean": list(known.mean), "latents_std": list(known.std)}


def from_files(
    values: Mapping[str, Any],
    tensors: Mapping[str, files.Tensor],
    *,
    out: str | os.PathLike[str],
    family: str,
    origin: pathlib.Path,
) -> models.AutoencoderModel:
    """Write our autoencoder to `out` from diffusers' `config.json` and tensors.

    Raises:
      ModelError: of another family, or a tensor that is not as it should be.
    """
    config, statistics = parse_config(values, origin=origin)
    _check_family(family_of(config), family, origin=origin)
    arrays = {name: tensor.read(()) for name, tensor in tensors.items()}
    params = autoencoder_from_tensors(arrays, config, origin=origin.parent)
    metadata: dict[str, Any] = {"converted_from": family}
    if statistics is not None:
        metadata["latents"] = dataclasses.asdict(statistics)
    digest = models.save_autoencoder(out, params, config=config, metadata=metadata)
    return models.AutoencoderModel(config, params, digest, statistics)


def to_files(
    checkpoint: str | os.PathLike[str],
    folder: pathlib.Path,
    *,
    family: str,
    max_shard_bytes: int,
    statistics: autoencoder.LatentStatistics | None = None,
) -> models.AutoencoderModel:
    """Write what diffusers reads to `folder`, of our autoencoder at `checkpoint`.

    Args:
      checkpoint: our model's directory.
      folder: the directory to write.
      family: that it must be of.
      max_shard_bytes: most bytes of a file.
      statistics: of its latents; None for those that it has.

    Raises:
      FileNotFoundError, ModelError: no such model, or one of another form or family.
    """
    model = models.load_autoencoder(checkpoint)
    _check_family(family_of(model.config), family, origin=checkpoint)
    if statistics is not None:
        model = dataclasses.replace(model, statistics=statistics)
    tensors = autoencoder_to_tensors(model.params, model.config)
    lazy_tensors = [
        files.LazyTensor(name, tensor.nbytes, lambda tensor=tensor: tensor)
        for name, tensor in tensors.items()
    ]
    files.write(folder, STEM, tensors=lazy_tensors, max_shard_bytes=max_shard_bytes)
    values = format_config(model.config, model.statistics)
    (folder / model_io.CONFIG).write_text(json.dumps(values, indent=2) + "\n")
    return model


def _check_family(family: str, expected: str, *, origin: Any) -> None:
    if family != expected:
        raise model_io.ModelError(
            f"{origin}: an autoencoder of {family}, not {expected}"
        )
