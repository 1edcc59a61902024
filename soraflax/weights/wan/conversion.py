"""Wan's models from diffusers' directories to ours and back.

The kind of a model is read from `config.json`, both of their directories and of ours.
"""

import os
import pathlib
import secrets
import shutil

from soraflax.pretrained import io as model_io
from soraflax.pretrained import models
from soraflax.weights import files
from soraflax.weights.wan import autoencoder, lora, transformer

Converted = models.AutoencoderModel | models.TransformerModel
Model = Converted | models.AdaptersModel
PARTS = ("vae", "transformer")
CLASSES = (autoencoder.CLASS, transformer.CLASS)


def convert(
    weights: str | os.PathLike[str], out: str | os.PathLike[str], *, family: str
) -> Converted:
    """Read Wan's autoencoder or transformer from `weights` and write ours to `out`.

    Of a whole repository, its autoencoder is taken (`vae`), else its transformer.

    Raises:
      FileNotFoundError: nothing there.
      ModelError: not those weights, or `out` holds something that is not a model.
    """
    _check_known(family)
    folder = pathlib.Path(weights)
    if not (folder / "config.json").is_file():
        folders = (folder / part for part in PARTS if (folder / part).is_dir())
        folder = next(folders, folder)
    _check_readable(folder)
    _check_apart(folder, pathlib.Path(out))
    origin = (folder if folder.is_dir() else folder.parent) / "config.json"
    values = files.read_config(origin)
    name = values.get("_class_name", autoencoder.CLASS)
    if name not in CLASSES:
        known = " or ".join(CLASSES)
        raise model_io.ModelError(f"{origin}: of class {name}, not {known}")
    module = transformer if name == transformer.CLASS else autoencoder
    tensors = files.open_tensors(folder)
    return module.from_files(values, tensors, out=out, family=family, origin=origin)


def export(
    checkpoint: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    family: str,
    max_shard_bytes: int = files.MAX_SHARD_BYTES,
) -> Model:
    """Write our autoencoder, transformer or adapters as diffusers reads Wan's.

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
        if kind == "transformer":
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
    try:
        files.find_files(folder)
    except model_io.ModelError as error:
        raise model_io.ModelError(
            f"{error}; of Wan's own files none has the names that are read: take the "
            "folder `vae` or `transformer` of a repository in diffusers' layout (its "
            "name ends in -Diffusers)"
        ) from None


def _check_apart(source: pathlib.Path, out: pathlib.Path) -> None:
    """Refuse an output that is, or contains, the source."""
    source, out = source.resolve(), out.resolve()
    if out == source or out in source.parents:
        raise model_io.ModelError(f"{out}: holds {source}; choose another --out")


def _is_exported(directory: pathlib.Path) -> bool:
    """Whether a directory holds nothing but what `export` writes."""
    names = {path.name for path in directory.iterdir()}
    if names == {lora.FILE}:
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
