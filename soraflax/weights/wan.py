"""Wan's published weights, as diffusers lays them out, to our parameters and back.

The autoencoders of Wan 2.1 (arXiv:2503.20314) and Wan 2.2 are variants of
`nn.autoencoder`: a directory with `config.json` and safetensors files becomes one of
ours, and one of ours of that form becomes such a directory, tensor for tensor. Nothing
is guessed: a tensor that is missing, unknown, of another shape or not finite is named.
"""

import dataclasses
import json
import os
import pathlib
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import safetensors.numpy

from soraflax import model_io
from soraflax.generation import pretrained
from soraflax.nn import autoencoder
from soraflax.weights import files

FAMILIES = ("wan2.1", "wan2.2")
CLASS = "AutoencoderKLWan"
TENSORS = "diffusion_pytorch_model.safetensors"
COLOURS = 3


@dataclasses.dataclass(frozen=True)
class Form:
    """How a tensor lies there (`read` takes it) and here (`write` takes it)."""

    read: Callable[[np.ndarray], np.ndarray]
    write: Callable[[np.ndarray], np.ndarray]


def _einsum(there: str, here: str) -> Form:
    return Form(
        lambda a: np.einsum(f"{there}->{here}", a),
        lambda a: np.einsum(f"{here}->{there}", a),
    )


def _reshape(there: tuple[int, ...], here: tuple[int, ...]) -> Form:
    """-1 stands for the channels."""
    return Form(lambda a: a.reshape(here), lambda a: a.reshape(there))


VECTOR = _reshape((-1,), (-1,))
VOLUME = _einsum("oithw", "thwio")
IMAGE = Form(
    lambda a: np.einsum("oihw->hwio", a)[None],
    lambda a: np.einsum("hwio->oihw", a[0]),
)
POINT = Form(lambda a: a[..., 0, 0].T, lambda a: a.T[..., None, None])
VOLUME_NORM = _reshape((-1, 1, 1, 1), (-1,))
IMAGE_NORM = _reshape((-1, 1, 1), (-1,))


def _patch_order(side: int) -> np.ndarray:
    """For each of our patch channels (row, column, colour) the place it has there.

    There a patch is ordered by colour, column, row.
    """
    there = np.arange(COLOURS * side * side).reshape(COLOURS, side, side)
    return np.einsum("cwh->hwc", there).reshape(-1)


def _reordered(form: Form, order: np.ndarray, axis: int) -> Form:
    """A form whose `axis` here is ordered otherwise there."""
    back = np.argsort(order)
    return Form(
        lambda a: np.take(form.read(a), order, axis=axis),
        lambda a: form.write(np.take(a, back, axis=axis)),
    )


@dataclasses.dataclass(frozen=True)
class Entry:
    """One tensor: our path, their name, and the form between them."""

    ours: str
    theirs: str
    form: Form


def _convolution(ours: str, theirs: str, form: Form = VOLUME) -> Iterator[Entry]:
    yield Entry(f"{ours}/kernel", f"{theirs}.weight", form)
    yield Entry(f"{ours}/bias", f"{theirs}.bias", VECTOR)


def _residual(ours: str, theirs: str, *, widens: bool) -> Iterator[Entry]:
    for at in (1, 2):
        yield Entry(f"{ours}/norm{at}/scale", f"{theirs}.norm{at}.gamma", VOLUME_NORM)
        yield from _convolution(f"{ours}/conv{at}", f"{theirs}.conv{at}")
    if widens:
        yield from _convolution(f"{ours}/shortcut", f"{theirs}.conv_shortcut")


def _middle(ours: str, theirs: str) -> Iterator[Entry]:
    for at in (0, 1):
        block = f"{theirs}.resnets.{at}"
        yield from _residual(f"{ours}/block{at + 1}", block, widens=False)
    attention = f"{theirs}.attentions.0"
    scale = f"{ours}/attention/norm/scale"
    yield Entry(scale, f"{attention}.norm.gamma", IMAGE_NORM)
    yield from _convolution(f"{ours}/attention/qkv", f"{attention}.to_qkv", POINT)
    yield from _convolution(f"{ours}/attention/out", f"{attention}.proj", POINT)


def _resample(ours: str, theirs: str, *, temporal: bool) -> Iterator[Entry]:
    yield from _convolution(f"{ours}/space", f"{theirs}.resample.1", IMAGE)
    if temporal:
        yield from _convolution(f"{ours}/time/conv", f"{theirs}.time_conv")


def _encoder_stages(config: autoencoder.AutoencoderConfig) -> Iterator[Entry]:
    width, place = config.width, 0
    for stage, wide in enumerate(config.stage_widths):
        for at in range(config.blocks):
            nested = f"{stage}.resnets.{at}" if config.shortcuts else f"{place}"
            ours = f"encoder/stage{stage}_block{at}"
            theirs = f"encoder.down_blocks.{nested}"
            yield from _residual(ours, theirs, widens=width != wide)
            width, place = wide, place + 1
        if stage + 1 < len(config.multipliers):
            nested = f"{stage}.downsampler" if config.shortcuts else f"{place}"
            yield from _resample(
                f"encoder/stage{stage}_down",
                f"encoder.down_blocks.{nested}",
                temporal=config.temporal_downsample[stage],
            )
            place += 1


def _decoder_stages(config: autoencoder.AutoencoderConfig) -> Iterator[Entry]:
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


def autoencoder_entries(config: autoencoder.AutoencoderConfig) -> list[Entry]:
    """Every parameter of an autoencoder of Wan's form, and its tensor there."""
    order = _patch_order(config.patch[1])
    found: list[Entry] = []
    for half, stages in (("encoder", _encoder_stages), ("decoder", _decoder_stages)):
        forms = {"conv_in": VOLUME, "conv_out": VOLUME}
        bias = VECTOR
        if half == "encoder":
            forms["conv_in"] = _reordered(VOLUME, order, -2)
        else:
            forms["conv_out"] = _reordered(VOLUME, order, -1)
            bias = _reordered(VECTOR, order, -1)
        found += _convolution(f"{half}/conv_in", f"{half}.conv_in", forms["conv_in"])
        found += _middle(f"{half}/middle", f"{half}.mid_block")
        found += stages(config)
        scale = f"{half}/norm_out/scale"
        found.append(Entry(scale, f"{half}.norm_out.gamma", VOLUME_NORM))
        out = f"{half}.conv_out"
        found.append(
            Entry(f"{half}/conv_out/kernel", f"{out}.weight", forms["conv_out"])
        )
        found.append(Entry(f"{half}/conv_out/bias", f"{out}.bias", bias))
    found += _convolution("moments", "quant_conv")
    found += _convolution("embed", "post_quant_conv")
    return found


def autoencoder_from_tensors(
    tensors: Mapping[str, np.ndarray],
    config: autoencoder.AutoencoderConfig,
    *,
    where: Any = "weights",
) -> dict[str, Any]:
    """Parameters, float32, from tensors under diffusers' names.

    Raises:
      ModelError: a tensor is missing, unknown, of another shape or not finite.
    """
    shapes = model_io.flat_shapes(pretrained.autoencoder_shapes(config))
    entries = autoencoder_entries(config)
    expected = {
        entry.theirs: entry.form.write(np.broadcast_to(0.0, shapes[entry.ours].shape))
        for entry in entries
    }
    model_io.check_like(tensors, expected, where=where)
    model_io.check_finite(tensors, where=where)
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
    """Which family an autoencoder is of, whatever its widths.

    Raises:
      ModelError: it has what no autoencoder of Wan has; the first such field is named.
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
    for name, (found, wanted) in wan.items():
        if found != wanted:
            raise model_io.ModelError(
                f"not an autoencoder of Wan's form: {name} is {found}, not {wanted}"
            )
    return FAMILIES[config.shortcuts]


def parse_config(
    values: Mapping[str, Any], *, where: Any = "config.json"
) -> tuple[autoencoder.AutoencoderConfig, autoencoder.LatentStatistics | None]:
    """Sizes and latent statistics from diffusers' `config.json`.

    Raises:
      ModelError: of another class, or a field that our module has no counterpart for.
    """
    if values.get("_class_name", CLASS) != CLASS:
        raise model_io.ModelError(
            f"{where}: of class {values['_class_name']}, not {CLASS}"
        )
    side = values.get("patch_size") or 1
    if not isinstance(side, int):
        raise model_io.ModelError(f"{where}: patch_size is {side!r}, not a number")
    depth = COLOURS * side * side
    wanted = {"attn_scales": [], "in_channels": depth, "out_channels": depth}
    for name, value in wanted.items():
        if values.get(name, value) != value:
            raise model_io.ModelError(f"{where}: {name} is {values[name]}, not {value}")
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
        statistics = _statistics(values, config.latent_channels, where)
    except model_io.ModelError:
        raise
    except (TypeError, ValueError) as error:
        raise model_io.ModelError(f"{where}: {error}") from None
    return config, statistics


def _statistics(
    values: Mapping[str, Any], channels: int, where: Any
) -> autoencoder.LatentStatistics | None:
    mean, std = values.get("latents_mean"), values.get("latents_std")
    if mean is None or std is None:
        return None
    for name, numbers in (("latents_mean", mean), ("latents_std", std)):
        if len(numbers) != channels or not np.isfinite(numbers).all():
            raise model_io.ModelError(
                f"{where}: {name} must be {channels} finite numbers, not {len(numbers)}"
            )
    if min(std) <= 0:
        raise model_io.ModelError(f"{where}: latents_std must be positive")
    return autoencoder.LatentStatistics(tuple(map(float, mean)), tuple(map(float, std)))


def format_config(
    config: autoencoder.AutoencoderConfig,
    statistics: autoencoder.LatentStatistics | None,
) -> dict[str, Any]:
    """The inverse of `parse_config`; without statistics, those that change nothing.

    (Where there are none, diffusers puts those of Wan 2.1.)
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


def convert_autoencoder(
    weights: str | os.PathLike[str], out: str | os.PathLike[str], *, family: str
) -> pretrained.AutoencoderModel:
    """Read Wan's autoencoder from `weights` (or its `vae/`) and write ours to `out`.

    Raises:
      FileNotFoundError: nothing there.
      ModelError: not those weights, or `out` holds something that is not a model.
    """
    folder = pathlib.Path(weights)
    if not (folder / "config.json").is_file() and (folder / "vae").is_dir():
        folder = folder / "vae"
    found = _found(folder)
    _check_apart(folder, pathlib.Path(out))
    folder = folder if folder.is_dir() else folder.parent
    where = folder / "config.json"
    config, statistics = parse_config(files.read_config(where), where=where)
    _check_family(family_of(config), family, where)
    tensors: dict[str, np.ndarray] = {}
    for file in found:
        more = files.read(file)
        if twice := sorted(more.keys() & tensors.keys()):
            raise model_io.ModelError(f"{file}: {twice[0]} is in another file as well")
        tensors |= more
    params = autoencoder_from_tensors(tensors, config, where=folder)
    facts: dict[str, Any] = {"converted_from": family}
    if statistics is not None:
        facts["latents"] = dataclasses.asdict(statistics)
    digest = pretrained.save_autoencoder(out, params, config, facts=facts)
    return pretrained.AutoencoderModel(config, params, digest, statistics)


def export_autoencoder(
    checkpoint: str | os.PathLike[str], out: str | os.PathLike[str], *, family: str
) -> pretrained.AutoencoderModel:
    """Write our autoencoder `checkpoint` to `out` as diffusers reads Wan's.

    Raises:
      FileNotFoundError, ModelError: no such model, one of another form, or `out` holds
        something else.
    """
    model = pretrained.load_autoencoder(checkpoint)
    _check_family(family_of(model.config), family, checkpoint)
    tensors = autoencoder_to_tensors(model.params, model.config)
    values = format_config(model.config, model.statistics)
    out = pathlib.Path(out).absolute()
    _check_apart(model_io.find_model(checkpoint), out)
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = out.with_name(f".{out.name}.{secrets.token_hex(4)}")
    try:
        draft.mkdir()
        safetensors.numpy.save_file(tensors, draft / TENSORS, {"format": "pt"})
        (draft / "config.json").write_text(json.dumps(values, indent=2) + "\n")
        model_io.replace(draft, out, ours=_is_exported)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return model


def _found(folder: pathlib.Path) -> list[pathlib.Path]:
    """The weights' files; pickled ones of Wan's own repositories are explained."""
    try:
        return files.find(folder)
    except model_io.ModelError as error:
        raise model_io.ModelError(
            f"{error}; of Wan's own files none has the names that are read: take the "
            "folder `vae` of a repository in diffusers' layout (its name ends in "
            "-Diffusers)"
        ) from None


def _check_apart(source: pathlib.Path, out: pathlib.Path) -> None:
    """Refuse to write over, or around, what is read."""
    source, out = source.resolve(), out.resolve()
    if out == source or out in source.parents:
        raise model_io.ModelError(f"{out}: holds {source}; choose another --out")


def _is_exported(directory: pathlib.Path) -> bool:
    """Whether a directory holds nothing but what `export_autoencoder` writes."""
    if {path.name for path in directory.iterdir()} != {TENSORS, model_io.CONFIG}:
        return False
    return files.read_config(directory / model_io.CONFIG).get("_class_name") == CLASS


def _check_family(found: str, wanted: str, where: Any) -> None:
    if wanted not in FAMILIES:
        raise ValueError(f"family {wanted!r}: use {' or '.join(FAMILIES)}")
    if found != wanted:
        raise model_io.ModelError(f"{where}: an autoencoder of {found}, not {wanted}")
