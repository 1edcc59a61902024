"""A trained model on disk: one directory, readable without running anything from it.

    config.json          {"soraflax": version, "digest": SHA-256, "config": {...}}
    params.safetensors   every parameter under its path, 'stack/block/kernel'
    ...                  files the model cannot do without, such as its vocabulary

The digest covers names, shapes, dtypes and values, so a flipped bit is noticed and a
model can say which other model it was made with. Parameters in bfloat16 are stored so,
in half the space, and read back as float32; the digest is that of the float32 values,
so it is one on disk and in memory. A directory appears whole or not at all. Pickle is
never read.

In a bucket (`gs://`) `config.json` is written last; a model there is read from a copy
on this machine (`buckets.fetch`).

Parameters may be larger than memory: they are written a part at a time, and may be left
in their file until they are needed (`arrays.LazyArray`, `arrays.StoredArray`).
"""

import contextlib
import functools
import hashlib
import importlib.metadata
import json
import os
import pathlib
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from flax import traverse_util
from jax.experimental import multihost_utils

from soraflax import buckets
from soraflax.pretrained import arrays, slices

CONFIG = "config.json"
PUBLISHED = "model_index.json"  # of a pipeline in the layout of diffusers
PARAMS = "params.safetensors"
SEPARATOR = "/"
LISTED = 3  # problems that a message lists; of the others it gives the number

# A file of a model: its bytes, what is copied, or a function that writes it to a path.
File = bytes | pathlib.Path | Callable[[pathlib.Path], object]


class ModelError(ValueError):
    """A model directory that cannot be used; the message is one line."""


def flatten(params: Any) -> dict[str, np.ndarray]:
    """Nested dicts of arrays to one dict, 'a/b/c' to array, sorted by name.

    Raises:
      ModelError: a key that is not a plain name.
    """
    flat = named_leaves(params)
    return {name: np.asarray(jax.device_get(flat[name])) for name in sorted(flat)}


def named_leaves(params: Any) -> dict[str, Any]:
    """The leaves of nested dicts as they are, by their path 'a/b/c'.

    Raises:
      ModelError: a key that is not a plain name.
    """
    flat = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        keys = [getattr(entry, "key", None) for entry in path]
        if not all(isinstance(k, str) and SEPARATOR not in k for k in keys):
            raise ModelError(
                f"parameter {jax.tree_util.keystr(path)}: not a plain name"
            )
        flat[SEPARATOR.join(map(str, keys))] = leaf
    return flat


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `flatten`."""
    return traverse_util.unflatten_dict(dict(flat), sep=SEPARATOR)


def digest(params: Any) -> str:
    """SHA-256, in hexadecimal, of names, dtypes, shapes and values.

    Parameters in bfloat16 have the digest of the same values in float32.
    """
    return _digest(flatten(params))


def _digest(flat: Mapping[str, np.ndarray]) -> str:
    total = hashlib.sha256()
    for name in sorted(flat):
        array = np.ascontiguousarray(flat[name])
        total.update(
            slices.digest_line(name, dtype=array.dtype, shape=flat[name].shape)
        )
        total.update(slices.widened(array).tobytes())
    return total.hexdigest()


def save_model(
    directory: str | os.PathLike[str],
    params: Any,
    *,
    config: Mapping[str, Any],
    files: Mapping[str, File] | None = None,
) -> str:
    """Write a model; an older one at `directory` is replaced once all is written.

    In a bucket there is no model for a moment then, while its objects are copied.

    All processes call it. Parameters that are spread over several are gathered one
    after the other, and each process writes its part of their file
    (`pretrained.shared_file`); where not all see the directory, the first writes all.
    It alone writes the other files.

    Args:
      directory: directory to write, on a disk or in a bucket; missing parents are made.
      params: nested dict of arrays, of numpy or of JAX, lazy ones too; those in
        bfloat16 are stored so.
      config: JSON types only.
      files: further files of the model, by name relative to `directory`: bytes, a file
        or directory to copy, or a function that writes it to a path.

    Returns:
      The digest of the parameters.

    Raises:
      ModelError: a parameter that is not finite, or a name that leaves the directory.
      OSError: it cannot be written, by this process or by another.
    """
    directory = buckets.absolute(directory)
    leaves = named_leaves(params)
    for name in files or {}:
        if pathlib.PurePath(name).is_absolute() or ".." in pathlib.PurePath(name).parts:
            raise ModelError(f"{name}: not a name inside the model directory")
    if jax.process_index() != 0:
        return _write_params(None, leaves, origin=directory)
    with _draft_of(directory) as (draft, small):
        total = _write_params(draft / PARAMS, leaves, origin=directory)
        version = importlib.metadata.version("soraflax")
        header = {"soraflax": version, "digest": total, "config": config}
        text = json.dumps(header, indent=2, sort_keys=True) + "\n"
        (small / CONFIG).write_text(text)
        for name, source in (files or {}).items():
            _add(small / name, source)
    return total


@contextlib.contextmanager
def _draft_of(
    directory: buckets.Folder,
) -> Iterator[tuple[buckets.Folder, pathlib.Path]]:
    """A draft of a model, and where its small files go; then put in its place.

    Raises:
      ModelError: `directory` holds something else.
    """
    draft = directory.with_name(f".draft.{secrets.token_hex(8)}")
    if not buckets.is_bucket(directory):
        draft = pathlib.Path(draft)
        try:
            draft.mkdir(parents=True)
            yield draft, draft
            place = pathlib.Path(directory)
            replace_directory(draft, place, is_replaceable=is_model)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        return
    held = buckets.listing(directory)
    if held and PARAMS not in held and not is_model(directory):
        raise ModelError(f"{directory}: exists and is not a model; choose another name")
    with tempfile.TemporaryDirectory(prefix="soraflax-") as small:
        try:
            yield draft, pathlib.Path(small)
            buckets.upload(pathlib.Path(small), draft)
            buckets.commit(draft, directory, marker=CONFIG)
        finally:
            buckets.remove(draft)


def _write_params(
    path: buckets.Folder | None, leaves: Mapping[str, Any], *, origin: Any
) -> str:
    total, bad = slices.write_tensors(path, leaves)
    _raise_problems([f"{name} is not finite" for name in bad], origin)
    return total


def load_sharded(
    directory: str | os.PathLike[str], *, like: Any, shardings: Any
) -> dict[str, Any]:
    """Read the parameters of a model onto devices, each process what its own hold.

    The first process alone reads all of them, piece by piece, to compare the digest.

    Args:
      directory: as of `load_model`.
      like: tree of ShapeDtypeStructs that the parameters must match.
      shardings: sharding of each.

    Raises:
      FileNotFoundError, ModelError: see `load_model`.
    """
    directory = find_model(directory)
    path, header = directory / PARAMS, _read_header(directory)
    with _open(path) as file:
        parts = {name: file.get_slice(name) for name in file.offset_keys()}
        shapes = {
            name: jax.ShapeDtypeStruct(tuple(part.get_shape()), jnp.float32)
            for name, part in parts.items()
        }
        check_like(shapes, like, origin=path)
        same = True
        if jax.process_index() == 0:
            same = slices.stored_digest(parts) == header["digest"]
        if not multihost_utils.broadcast_one_to_all(np.asarray(same)):
            raise ModelError(
                f"{path}: does not match the digest in {CONFIG}; copy it again"
            )
        places = flat_shapes(shardings)
        flat = {
            name: slices.to_devices(
                functools.partial(slices.read_part, part),
                shapes[name].shape,
                sharding=places[name],
            )
            for name, part in parts.items()
        }
    return unflatten(flat)


def _open(path: pathlib.Path) -> Any:
    try:
        return safetensors.safe_open(path, "np")
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: missing") from None
    except (safetensors.SafetensorError, OSError, KeyError) as error:
        raise ModelError(f"{path}: not a readable safetensors file ({error})") from None


def load_model(
    directory: str | os.PathLike[str], *, like: Any = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read a model.

    Args:
      directory: the model's own directory, or one that holds it as `model/`.
      like: tree of arrays or ShapeDtypeStructs that the parameters must match; None
        accepts any.

    Returns:
      `(params, config)`; params as nested dicts of numpy arrays, none in bfloat16.

    Raises:
      FileNotFoundError: no model there.
      ModelError: damaged or altered, or parameters missing, left over, of another
        shape, or not finite; the first few are named.
    """
    directory = find_model(directory)
    header = _read_header(directory)
    path = directory / PARAMS
    try:
        stored = safetensors.numpy.load_file(path)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: missing") from None
    except (safetensors.SafetensorError, OSError, KeyError) as error:
        raise ModelError(f"{path}: not a readable safetensors file ({error})") from None
    flat = {name: slices.widened(array) for name, array in stored.items()}
    if like is not None:
        check_like(flat, like, origin=path)
    check_finite(flat, origin=path)
    if _digest(flat) != header["digest"]:
        raise ModelError(
            f"{path}: does not match the digest in {CONFIG}; copy it again"
        )
    return unflatten(flat), header["config"]


def open_model(
    directory: str | os.PathLike[str], *, like: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    """`load_model` of a model larger than memory: its parameters stay in their file.

    They are read once, a piece at a time, to see that none is damaged.

    Returns:
      `(params, config)`; params as nested dicts of `StoredArray`, in their own dtype.

    Raises:
      FileNotFoundError, ModelError: as of `load_model`.
    """
    directory = find_model(directory)
    header, path = _read_header(directory), directory / PARAMS
    dtypes = {name: dtype for dtype, name in slices.DTYPES.items()}
    with _open(path) as file:
        parts = {name: file.get_slice(name) for name in file.offset_keys()}
        stored = {
            name: arrays.StoredArray(
                path, name, tuple(part.get_shape()), dtypes[part.get_dtype()]
            )
            for name, part in parts.items()
        }
        check_like(stored, like, origin=path)
        if slices.stored_digest(parts) != header["digest"]:
            raise ModelError(
                f"{path}: does not match the digest in {CONFIG}; copy it again"
            )
    return unflatten(stored), header["config"]


def model_config(directory: str | os.PathLike[str]) -> dict[str, Any]:
    """A model's configuration, without reading its parameters."""
    return _read_header(find_model(directory))["config"]


def model_digest(directory: str | os.PathLike[str]) -> str:
    """The digest in a model's `config.json`, without reading its parameters."""
    return _read_header(find_model(directory))["digest"]


def stored_bytes(directory: str | os.PathLike[str]) -> int:
    """Bytes of all files in a model's directory, of models inside it too."""
    files = find_model(directory).rglob("*")
    return sum(path.stat().st_size for path in files if path.is_file())


def find_model(
    directory: str | os.PathLike[str], *, kind: str | None = None
) -> pathlib.Path:
    """The directory of a model: `directory`, its `model/`, or the one model below it.

    That of one in a bucket is its copy on this machine.

    Args:
      directory: where to look.
      kind: of the model looked for among several below, such as 'video'; None is any.

    Raises:
      FileNotFoundError: no model there, or several below, which are named.
      ModelError: a published pipeline, which is to be converted.
      BucketError: a bucket that cannot be used.
    """
    directory = buckets.folder(directory)
    if not directory.is_dir():
        raise FileNotFoundError(f"{directory}: no such directory")
    model = _find(directory, kind=kind)
    if buckets.is_bucket(model):
        return buckets.fetch(model, marker=CONFIG)
    return pathlib.Path(model)


def _find(directory: buckets.Folder, *, kind: str | None) -> buckets.Folder:
    model = _model_in(directory)
    if model is not None:
        return model
    if (directory / PUBLISHED).is_file():
        raise ModelError(
            f"{directory}: a published pipeline; convert it first: soraflax convert "
            f"--from wan2.1 --weights {directory} --out WAN (or wan2.2)"
        )
    folders = sorted(path for path in directory.iterdir() if path.is_dir())
    below = {path: model for path in folders if (model := _model_in(path)) is not None}
    of_kind = [
        model
        for model in below.values()
        if kind in (None, _read_header(model)["config"].get("kind"))
    ]
    if len(of_kind) == 1:
        return of_kind[0]
    hint = f"; name one of {', '.join(map(str, below))}" if below else ""
    raise FileNotFoundError(
        f"{directory}: no trained model in it (no model/{CONFIG}){hint}"
    )


def _model_in(directory: buckets.Folder) -> buckets.Folder | None:
    for candidate in (directory, directory / "model"):
        if (candidate / CONFIG).is_file():
            return candidate
    return None


def flat_shapes(like: Any) -> dict[str, Any]:
    """The leaves of a tree by their path, 'a/b/c'."""
    return {
        SEPARATOR.join(str(getattr(k, "key", k)) for k in path): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(like)
    }


def check_like(flat: Mapping[str, Any], like: Any, *, origin: Any) -> None:
    """Refuse parameters that are not exactly those of `like`.

    Raises:
      ModelError: naming what is missing, left over or of another shape.
    """
    expected = flat_shapes(like)
    missing = [f"{name} is missing" for name in sorted(expected.keys() - flat.keys())]
    extra = [f"{name} is unknown" for name in sorted(flat.keys() - expected.keys())]
    shapes = [
        f"{name} has shape {tuple(flat[name].shape)}, not {tuple(leaf.shape)}"
        for name, leaf in sorted(expected.items())
        if name in flat and tuple(flat[name].shape) != tuple(leaf.shape)
    ]
    _raise_problems(missing + extra + shapes, origin)


def check_finite(flat: Mapping[str, np.ndarray], *, origin: Any) -> None:
    """Refuse parameters that are not finite.

    Raises:
      ModelError: naming the first few.
    """
    bad = [
        f"{name} is not finite"
        for name, array in flat.items()
        if jnp.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all()
    ]
    _raise_problems(bad, origin)


def _raise_problems(problems: list[str], origin: Any) -> None:
    if problems:
        rest = f" and {len(problems) - LISTED} more" if len(problems) > LISTED else ""
        raise ModelError(f"{origin}: {'; '.join(problems[:LISTED])}{rest}")


def _read_header(directory: buckets.Folder) -> dict[str, Any]:
    path = directory / CONFIG
    try:
        header = json.loads(path.read_text())
        valid = isinstance(header["digest"], str) and isinstance(header["config"], dict)
    except (KeyError, TypeError, ValueError, RecursionError):
        valid = False
    if not valid:
        raise ModelError(f"{path}: not the configuration of a soraflax model")
    return header


def _add(target: pathlib.Path, source: File) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if callable(source):
        source(target)
    elif isinstance(source, bytes):
        target.write_bytes(source)
    elif source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copyfile(source, target)


def is_model(directory: buckets.Folder) -> bool:
    """Whether a directory is one that `save_model` wrote."""
    try:
        _read_header(directory)
    except (ModelError, OSError):
        return False
    return (directory / PARAMS).is_file()


def replace_directory(
    draft: pathlib.Path,
    directory: pathlib.Path,
    *,
    is_replaceable: Callable[[pathlib.Path], bool],
) -> None:
    """Rename `draft` to `directory`, which it replaces.

    Args:
      draft: a complete directory, on the same file system.
      directory: target; missing, empty, or a directory that may be replaced.
      is_replaceable: whether an existing directory may be replaced.

    Raises:
      ModelError: `directory` holds something else.
    """
    if not directory.exists():
        draft.rename(directory)
        return
    if any(directory.iterdir()) and not is_replaceable(directory):
        raise ModelError(f"{directory}: exists and is not a model; choose another name")
    old = directory.with_name(f".draft.{secrets.token_hex(8)}")
    directory.rename(old)
    draft.rename(directory)
    shutil.rmtree(old)
