"""Whole folders of Wan's pipelines, as diffusers lays them out, to ours and back.

    FOLDER/model_index.json                               VIDEO/config.json
           transformer/, transformer_2/                         params.safetensors
           vae/                                                 autoencoder/
           text_encoder/, tokenizer/spiece.model                text_encoder/
           scheduler/scheduler_config.json                      in config.json

All configurations are read and compared before a weight is; weights then go from file
to file, a layer at a time. What of a folder is not taken is named (`Folder.unused`), or
the folder is refused.
"""

import dataclasses
import functools
import json
import os
import pathlib
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

from soraflax import tokenizer
from soraflax.diffusion import schedule
from soraflax.nn import autoencoder as autoencoder_lib
from soraflax.nn import dit, experts, text_encoder
from soraflax.ops import grid as grids
from soraflax.ops import packing
from soraflax.pretrained import io as model_io
from soraflax.pretrained import models, sampling_defaults, text_encoders
from soraflax.weights import files, umt5
from soraflax.weights.wan import autoencoder, scheduler, transformer

INDEX = "model_index.json"
CLASSES = ("WanPipeline", "WanImageToVideoPipeline")
SCHEDULER = "scheduler_config.json"
TOKENIZER = "tokenizer_config.json"
TEXT_LENGTH = 512  # rows of text features that the transformer attends to
ALIGN = 128  # tokens of an attention block on accelerators
# Names in the index that are read, and those that are refused, with what needs them.
READ = ("transformer", "transformer_2", "vae", "text_encoder", "tokenizer", "scheduler")
REFUSED = {
    "image_encoder": "an image-to-video pipeline of Wan 2.1, whose transformer takes "
    "an image apart from its latent; use a text-to-video one, or Wan 2.2 TI2V-5B"
}


@dataclasses.dataclass(frozen=True)
class Variant:
    """What a published pipeline does not say in its files, but on its page.

    Attributes:
      family: 'wan2.1' or 'wan2.2'.
      fps: frames per second of its videos.
      sampling: how its authors sample.
    """

    family: str
    fps: float
    sampling: sampling_defaults.SamplingDefaults


# Wan-AI's pages of Wan2.1-T2V, Wan2.2-T2V-A14B and Wan2.2-TI2V-5B.
VARIANTS = {
    "2.1": Variant("wan2.1", 16.0, sampling_defaults.SamplingDefaults()),
    "2.2 A14B": Variant(
        "wan2.2",
        16.0,
        sampling_defaults.SamplingDefaults(steps=40, guidance=4.0, low_guidance=3.0),
    ),
    "2.2 TI2V-5B": Variant(
        "wan2.2",
        24.0,
        sampling_defaults.SamplingDefaults(size=(1280, 704), frames=121),
    ),
}


@dataclasses.dataclass(frozen=True)
class Folder:
    """A pipeline's folder, its configurations read and compared; no weight is read yet.

    Attributes:
      path: the folder.
      variant: which pipeline it is.
      transformers: sizes and tensors of one transformer, or of `high` and `low`.
      boundary: noise level between two.
      autoencoder, statistics: sizes of the autoencoder, statistics of its latents.
      text_encoder: sizes of the text encoder.
      vocabulary: its tokenizer.
      sampler, shift, levels: of the scheduler.
      unused: what of the folder is not taken.
    """

    path: pathlib.Path
    variant: Variant
    transformers: Mapping[str, tuple[dit.DiTConfig, dict[str, files.Tensor]]]
    boundary: float | None
    autoencoder: autoencoder_lib.AutoencoderConfig
    statistics: autoencoder_lib.LatentStatistics
    text_encoder: text_encoder.TextEncoderConfig
    vocabulary: tokenizer.Tokenizer
    sampler: str
    shift: schedule.TokenCountShift
    levels: schedule.TrainedLevels
    unused: tuple[str, ...]


def is_pipeline(path: pathlib.Path) -> bool:
    """Whether a folder is that of a whole pipeline."""
    return (path / INDEX).is_file()


def open_folder(
    path: pathlib.Path, *, transformer_path: pathlib.Path | None = None
) -> Folder:
    """Read and compare the configurations of a pipeline.

    Args:
      path: the folder.
      transformer_path: a transformer in the place of the folder's own, such as a single
        file of the same sizes.

    Raises:
      FileNotFoundError, ModelError, TokenizerError: a part is missing, of another kind,
        or does not go with the others.
    """
    origin, index = path / INDEX, files.read_config(path / INDEX)
    _check_index(index, origin=origin)
    boundary: Any = index.get("boundary_ratio")
    names: tuple[str, ...] = ("high",)
    folders = {"high": transformer_path or path / "transformer"}
    if boundary is not None or _has_part(index, "transformer_2"):
        if transformer_path is not None:
            raise model_io.ModelError(
                f"{origin}: has two transformers; one file cannot take their place"
            )
        names, folders["low"] = experts.NAMES, path / "transformer_2"
        _check_boundary(boundary, origin=origin)
    opened = {name: transformer.open_transformer(folders[name]) for name in names}
    config = opened["high"][0]
    if any(other != config for other, _ in opened.values()):
        raise model_io.ModelError(f"{folders['low']}: not of the sizes of transformer")
    (vae, statistics), own = _autoencoder(path, config), _text_encoder(path, config)
    scheduler_origin = path / "scheduler" / SCHEDULER
    sampler, shift, levels = scheduler.parse_config(
        files.read_config(scheduler_origin), origin=scheduler_origin
    )
    kind = "2.1" if autoencoder.family_of(vae) == "wan2.1" else "2.2 TI2V-5B"
    return Folder(
        path,
        VARIANTS["2.2 A14B" if boundary is not None else kind],
        opened,
        boundary,
        vae,
        statistics,
        *own,
        sampler,
        shift,
        levels,
        _unused(path, index, replaced=transformer_path is not None),
    )


def _autoencoder(
    path: pathlib.Path, config: dit.DiTConfig
) -> tuple[autoencoder_lib.AutoencoderConfig, autoencoder_lib.LatentStatistics]:
    """Sizes of the autoencoder, which must be the transformer's, and statistics."""
    origin = path / "vae" / model_io.CONFIG
    vae, statistics = autoencoder.parse_config(files.read_config(origin), origin=origin)
    if vae.latent_channels != config.latent_channels:
        raise model_io.ModelError(
            f"{origin}: latents of {vae.latent_channels} channels, but the "
            f"transformer takes {config.latent_channels}: not its autoencoder"
        )
    if statistics is None:
        raise model_io.ModelError(f"{origin}: latents_mean or latents_std missing")
    return vae, statistics


def _text_encoder(
    path: pathlib.Path, config: dit.DiTConfig
) -> tuple[text_encoder.TextEncoderConfig, tokenizer.Tokenizer]:
    """Sizes of the text encoder, which must be the transformer's, and its tokenizer."""
    origin = path / "text_encoder" / model_io.CONFIG
    text = umt5.parse_config(files.read_config(origin), origin=origin)
    if text.width != config.text_width:
        raise model_io.ModelError(
            f"{origin}: features of width {text.width}, but the transformer takes "
            f"{config.text_width}: not its text encoder"
        )
    vocabulary_path = path / "tokenizer" / umt5.VOCABULARY
    vocabulary = tokenizer.Tokenizer.load(vocabulary_path, cleaned=True)
    text_encoders.check_vocabulary(text, vocabulary, origin=vocabulary_path)
    return text, vocabulary


def _check_index(index: Mapping[str, Any], *, origin: pathlib.Path) -> None:
    """Refuse pipelines of other kinds."""
    name = index.get("_class_name")
    if name not in CLASSES:
        known = " or ".join(CLASSES)
        raise model_io.ModelError(f"{origin}: of class {name}, not {known}")
    for part, kind in REFUSED.items():
        if _has_part(index, part):
            raise model_io.ModelError(f"{origin}: is {kind}")


def _check_boundary(boundary: Any, *, origin: pathlib.Path) -> None:
    if not isinstance(boundary, float) or not 0 < boundary < 1:
        raise model_io.ModelError(
            f"{origin}: boundary_ratio is {boundary!r}; two transformers need a noise "
            "level between 0 and 1"
        )


def _has_part(index: Mapping[str, Any], part: str) -> bool:
    """Whether a part is in the index: `[library, class]`, not `[null, null]`."""
    entry = index.get(part)
    return isinstance(entry, list) and any(value is not None for value in entry)


def _unused(
    path: pathlib.Path, index: Mapping[str, Any], *, replaced: bool
) -> tuple[str, ...]:
    """Folders and large files that are not taken; pages and pictures are no weights."""
    names = {part for part in index if _has_part(index, part)} - set(READ)
    for entry in path.iterdir():
        weights = entry.suffix in (files.SAFE, *files.PICKLED)
        hidden = entry.name.startswith(".") or entry.name == "assets"
        if (entry.is_dir() and not hidden and entry.name not in READ) or weights:
            names.add(entry.name)
    if not _has_part(index, "transformer_2") and (path / "transformer_2").is_dir():
        names.add("transformer_2")
    return tuple(sorted(names | ({"transformer"} if replaced else set())))


def convert(
    path: pathlib.Path,
    out: str | os.PathLike[str],
    *,
    family: str,
    transformer_path: pathlib.Path | None = None,
) -> Folder:
    """Write a video model to `out` from a pipeline's folder.

    Args:
      path, transformer_path: as of `open_folder`.
      out: directory to write.
      family: 'wan2.1' or 'wan2.2', which the folder must be of.

    Raises:
      FileNotFoundError, ModelError, TokenizerError: as of `open_folder`, or a tensor
        that is not as it should be.
    """
    folder = open_folder(path, transformer_path=transformer_path)
    if folder.variant.family != family:
        raise model_io.ModelError(
            f"{path}: is a pipeline of {folder.variant.family}, not {family}"
        )
    write_text_encoder = _text_encoder_writer(folder)
    params = {
        name: transformer.lazy_params(tensors, config, origin=path / "transformer")
        for name, (config, tensors) in folder.transformers.items()
    }
    with tempfile.TemporaryDirectory() as place:
        vae = path / "vae"
        codec = autoencoder.from_files(
            files.read_config(vae / model_io.CONFIG),
            files.open_tensors(vae),
            out=place,
            family=autoencoder.family_of(folder.autoencoder),
            origin=vae / model_io.CONFIG,
        )
        models.save_video_model(
            out,
            params if folder.boundary is not None else params["high"],
            config=video_config(folder, encoder=codec.encoder_digest),
            autoencoder_dir=place,
            vocabulary=folder.vocabulary,
            metadata={"converted_from": family},
            files={models.TEXT_ENCODER: write_text_encoder},
        )
    return folder


def _text_encoder_writer(folder: Folder) -> Callable[[pathlib.Path], object]:
    """What writes the text encoder to a path; its files are opened at once."""
    path = folder.path / "text_encoder"
    params = umt5.lazy_params(
        files.open_tensors(path), folder.text_encoder, origin=path
    )
    return functools.partial(
        text_encoders.save_text_encoder,
        params=params,
        config=folder.text_encoder,
        vocabulary=folder.vocabulary,
    )


def video_config(folder: Folder, *, encoder: str) -> models.VideoModelConfig:
    """The configuration of the video model that a folder becomes.

    Args:
      folder: the pipeline.
      encoder: digest of its autoencoder's encoder.
    """
    config, variant = folder.transformers["high"][0], folder.variant
    vae, defaults = folder.autoencoder, folder.variant.sampling
    grid = grids.Grid(vae.temporal_ratio, vae.spatial_ratio, config.patch)
    width, height = (
        grids.nearest_sizes(side, step, first=step)[0]
        for side, step in zip(defaults.size, grid.patch_sides[::-1], strict=True)
    )
    frames = grid.frames_below(defaults.frames)
    t, h, w = grid.latent_size(frames, height, width)
    tokens = t * h * w // (config.patch[0] * config.patch[1] * config.patch[2])
    return models.VideoModelConfig(
        transformer=config,
        statistics=folder.statistics,
        autoencoder=encoder,
        # One clip a row: a second one would not fit beside it anyway.
        row=packing.RowShape(tokens, TEXT_LENGTH, 1, align=ALIGN, text_align=ALIGN),
        text_length=TEXT_LENGTH,
        reference_fps=variant.fps,
        shift=folder.shift,
        window=t,
        boundary=folder.boundary,
        trained_levels=folder.levels,
        sampling=dataclasses.replace(
            defaults, sampler=folder.sampler, size=(width, height), frames=frames
        ),
        cleaned=True,
    )


def export(
    source: pathlib.Path, folder: pathlib.Path, *, family: str, max_shard_bytes: int
) -> models.VideoModel:
    """Write what diffusers' pipeline loads to `folder`, of our video model at `source`.

    Raises:
      FileNotFoundError, ModelError: no such model, or one of another form or family.
    """
    model = models.load_video_model(source)
    config, shards = model.config, {"max_shard_bytes": max_shard_bytes}
    levels = config.trained_levels
    if model.text_encoder is None or levels is None or config.shift.exponent:
        raise model_io.ModelError(
            f"{source}: not a model of Wan's form: it has a text encoder or levels of "
            "its own"
        )
    own = "2.1" if autoencoder.family_of(model.autoencoder.config) == "wan2.1" else ""
    if family != ("wan2.1" if own and config.boundary is None else "wan2.2"):
        raise model_io.ModelError(f"{source}: is not a pipeline of {family}")
    params = model.params if config.boundary is not None else {"high": model.params}
    parts = {"high": "transformer", "low": "transformer_2"}
    for name, tree in params.items():
        transformer.save_transformer(
            folder / parts[name], tree, config=config.transformer, **shards
        )
    (folder / "vae").mkdir()
    autoencoder.to_files(
        source / models.AUTOENCODER,
        folder / "vae",
        family=autoencoder.family_of(model.autoencoder.config),
        statistics=config.statistics,
        **shards,
    )
    text = text_encoders.load_text_encoder(model.text_encoder, stored=True)
    umt5.save_text_encoder(
        folder / "text_encoder", text.params, config=text.config, **shards
    )
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / umt5.VOCABULARY).write_bytes(text.tokenizer.model)
    values = {
        f"tokenizer/{TOKENIZER}": tokenizer_config(),
        f"scheduler/{SCHEDULER}": scheduler.format_config(config.shift, levels),
        INDEX: _index(config, levels),
    }
    (folder / "scheduler").mkdir()
    for name, fields in values.items():
        (folder / name).write_text(json.dumps(fields, indent=2) + "\n")
    return model


def is_exported(folder: pathlib.Path) -> bool:
    """Whether a folder holds nothing but what `export` writes."""
    names = {path.name for path in folder.iterdir()}
    return INDEX in names and not names - {*READ, INDEX}


def tokenizer_config() -> dict[str, Any]:
    """What transformers needs beside `spiece.model`."""
    return {
        "tokenizer_class": "T5Tokenizer",
        "extra_ids": 0,
        "additional_special_tokens": [],
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "model_max_length": TEXT_LENGTH,
    }


def _index(
    config: models.VideoModelConfig, levels: schedule.TrainedLevels
) -> dict[str, Any]:
    """`model_index.json` of a video model."""
    transformer_class = ["diffusers", transformer.CLASS]
    second = transformer_class if config.boundary is not None else [None, None]
    sampler = scheduler.UNIPC if levels.spacing == "open" else scheduler.EULER
    return {
        "_class_name": CLASSES[0],
        "boundary_ratio": config.boundary,
        # Levels of single tokens, which the pipeline of TI2V-5B gives.
        "expand_timesteps": config.reference_fps == VARIANTS["2.2 TI2V-5B"].fps,
        "scheduler": ["diffusers", sampler],
        "text_encoder": ["transformers", "UMT5EncoderModel"],
        "tokenizer": ["transformers", "T5Tokenizer"],
        "transformer": transformer_class,
        "transformer_2": second,
        "vae": ["diffusers", autoencoder.CLASS],
    }
