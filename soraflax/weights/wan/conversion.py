"""Wan's models from diffusers' directories to ours and back.

The kind of a model is read from `config.json`, both of their directories and of ours.
"""

import os
import pathlib
import secrets
import shutil

from soraflax.pretrained import io as model_io
from soraflax.pretrained import models
from soraflax.weights import files, umt5
from soraflax.weights.wan import autoencoder, layouts, lora, pipeline, transformer

Converted = models.AutoencoderModel | models.TransformerModel
Model = Converted | models.AdaptersModel | models.VideoModel
PARTS = ("transformer", "transformer_2", "vae", "text_encoder")
CLASSES = (autoencoder.CLASS, transformer.CLASS, layouts.ORIGINAL_CLASS)


def convert(
    weights: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    family: str,
    pipeline_folder: str | os.PathLike[str] | None = None,
) -> Converted | pipeline.Folder:
    """Read Wan's weights and write our model to `out`.

    Args:
      weights: the folder of a whole pipeline, which becomes a video model; or of an
        autoencoder or a transformer alone, or the one file of a transformer.
      out: directory to write.
      family: 'wan2.1' or 'wan2.2'.
      pipeline_folder: the folder of a pipeline that has all other parts, where
        `weights` is a transformer that should become a video model.

    Raises:
      FileNotFoundError: nothing there.
      ModelError: not those weights, or `out` holds something that is not a model.
    """
    _check_known(family)
    path = pathlib.Path(weights)
    _check_apart(path, pathlib.Path(out))
    if pipeline_folder is not None:
        whole = pathlib.Path(pipeline_folder)
        _check_apart(whole, pathlib.Path(out))
        return pipeline.convert(whole, out, family=family, transformer_path=path)
    if pipeline.is_pipeline(path):
        return pipeline.convert(path, out, family=family)
    _check_readable(path)
    origin = (path if path.is_dir() else path.parent) / model_io.CONFIG
    values = files.read_config(origin) if origin.is_file() else {}
    if values.get("model_type") in umt5.CLASSES:
        raise model_io.ModelError(
            f"{origin}: a text encoder, which goes with its pipeline: name the folder "
            f"with {pipeline.INDEX}"
        )
    name = values.get("_class_name", autoencoder.CLASS if values else transformer.CLASS)
    if name == autoencoder.CLASS:
        tensors = files.open_tensors(path)
        return autoencoder.from_files(
            values, tensors, out=out, family=family, origin=origin
        )
    if name not in CLASSES:
        known = " or ".join(CLASSES)
        raise model_io.ModelError(f"{origin}: of class {name}, not {known}")
    return transformer.from_files(path, out=out, family=family)


def export(
    checkpoint: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    family: str,
    max_shard_bytes: int = files.MAX_SHARD_BYTES,
) -> Model:
    """Write our model as diffusers reads Wan's: whole, a part of it, or adapters.

    Args:
      checkpoint: our model's directory.
      out: the directory to write.
      family: 'wan2.1' or 'wan2.2'; transformers and adapters have one form in both.
      max_shard_bytes: most bytes of a file; a larger model is several and an index.

    Raises:
      FileNotFoundError, ModelError: no such model, one of another form, or `out` holds
        something else.
    """
    _check_known(family)
    source = model_io.find_model(checkpoint)
    kind = model_io.model_config(source).get("kind")
    out = pathlib.Path(out).absolute()
    _check_apart(source, out)
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = out.with_name(f".draft.{secrets.token_hex(8)}")
    try:
        draft.mkdir()
        if kind == "video":
            model = pipeline.export(
                source, draft, family=family, max_shard_bytes=max_shard_bytes
            )
        elif kind == "transformer":
            model = transformer.to_files(source, draft, max_shard_bytes=max_shard_bytes)
        elif kind == "lora":
            model = lora.to_files(source, draft)
        else:
            model = autoencoder.to_files(
                source, draft, family=family, max_shard_bytes=max_shard_bytes
            )
        model_io.replace_directory(draft, out, is_replaceable=_is_exported)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return model


def _check_readable(folder: pathlib.Path) -> None:
    """Refuse a folder without weights, or with Wan's own pickled files."""
    parts = [part for part in PARTS if (folder / part).is_dir()]
    if parts and not (folder / model_io.CONFIG).is_file():
        raise model_io.ModelError(
            f"{folder}: has no {pipeline.INDEX}, as whole pipelines have; of a part "
            f"alone name its folder: {' or '.join(str(folder / p) for p in parts)}"
        )
    try:
        files.find_files(folder)
    except model_io.ModelError as error:
        raise model_io.ModelError(
            f"{error}; or take a repository in diffusers' layout, whose name ends in "
            "-Diffusers"
        ) from None


def _check_apart(source: pathlib.Path, out: pathlib.Path) -> None:
    """Refuse an output that is, or contains, the source."""
    source, out = source.resolve(), out.resolve()
    if out == source or out in source.parents:
        raise model_io.ModelError(f"{out}: holds {source}; choose another --out")


def _is_exported(directory: pathlib.Path) -> bool:
    """Whether a directory holds nothing but what `export` writes."""
    names = {path.name for path in directory.iterdir()}
    if names == {lora.FILE} or pipeline.is_exported(directory):
        return True
    written = (files.SAFE, files.INDEX)
    others = {
        name
        for name in names
        if not (name.startswith(autoencoder.STEM) and name.endswith(written))
    }
    if others != {model_io.CONFIG}:
        return False
    values = files.read_config(directory / model_io.CONFIG)
    return values.get("_class_name") in CLASSES


def _check_known(family: str) -> None:
    if family not in autoencoder.FAMILIES:
        known = " or ".join(autoencoder.FAMILIES)
        raise ValueError(f"family {family!r}: use {known}")
