"""What the JSON files of a dataset may say: they may come from anywhere.

A name in one of them stays inside the dataset's folder, and no name is one of code to
be imported, but for the features that TFDS brings itself.
"""

import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

FEATURES = "features.json"  # of TFDS, which imports the classes that it names
_CLASS_KEYS = ("type", "pythonClassName", "python_class_name")
_LARGEST = 3e38  # of float32, about
_OWN_CLASSES = "tensorflow_datasets.core.features."


class DatasetError(ValueError):
    """A dataset that is missing, damaged, empty or in the way; one line."""


class StorageError(DatasetError):
    """A file or bucket that does not answer, however often it is asked; one line."""


def read_json(path: Path, name: str = "") -> dict[str, Any]:
    """The object in a JSON file.

    Args:
      path: of the file.
      name: what a message calls it; by default its path.

    Raises:
      DatasetError: it cannot be read, or holds something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DatasetError(f"{name or path}: cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise DatasetError(
            f"{name or path}: cannot be read: no object, but {_shown(value)}"
        )
    return value


def check_info(info: Mapping[str, Any], *, origin: Path | str) -> None:
    """Refuse a dataset.json with splits or a directory that are none.

    Raises:
      DatasetError: naming `origin`, the key and its value.
    """
    splits = info.get("splits")
    if not isinstance(splits, dict) or not all(map(_is_count, splits.values())):
        raise DatasetError(f"{origin}: splits {_shown(splits)}: make the dataset again")
    check_name(info.get("directory"), origin=origin)


def check_shard_line(shard: Any, *, origin: Path | str) -> None:
    """Refuse a line of the manifest that describes no shard of the dataset.

    Raises:
      DatasetError: naming `origin` and the line.
    """
    counts = ("records", "bytes")
    if (
        not isinstance(shard, dict)
        or not all(_is_count(shard.get(key)) for key in counts)
        or not isinstance(shard.get("split"), str)
    ):
        raise DatasetError(
            f"{origin}: damaged ({_shown(shard)} is no shard); make the dataset again"
        )
    check_name(shard.get("file"), origin=origin)


def check_name(name: Any, *, origin: Path | str) -> None:
    """Refuse a name that is no path inside the dataset's folder.

    Raises:
      DatasetError: naming `origin` and the name.
    """
    inside = (
        isinstance(name, str)
        and bool(name)
        and "\0" not in name
        and not PurePosixPath(name).is_absolute()
        and ".." not in PurePosixPath(name).parts
    )
    if not inside:
        raise DatasetError(f"{origin}: {_shown(name)} is no name inside the dataset")


def check_latents(info: Mapping[str, Any], *, origin: Path | str) -> None:
    """Refuse a dataset.json of latents without encoder, statistics or shapes.

    Raises:
      DatasetError: naming `origin` and the key.
    """
    encoder, shapes = info.get("encoder"), info.get("shapes")
    mean, std = info.get("mean"), info.get("std")
    config: Any = info.get("config")
    sound = {
        "encoder": isinstance(encoder, dict) and isinstance(encoder.get("digest"), str),
        "mean": _is_vector(mean),
        "std": _is_vector(std, like=mean),
        "shapes": isinstance(shapes, list) and all(map(_is_shape, shapes)),
        "config": isinstance(config, dict)
        and isinstance(config.get("budgets", []), list),
    }
    for key, is_sound in sound.items():
        if not is_sound:
            raise DatasetError(
                f"{origin}: {key} {_shown(info.get(key))}: cache the latents again"
            )


def check_features(directory: Path) -> None:
    """Refuse a TFDS directory whose features are not TFDS's own.

    Raises:
      DatasetError: naming the class; or its file cannot be read.
    """
    path = directory / FEATURES
    pending: list[Any] = [read_json(path)]
    while pending:
        value = pending.pop()
        if isinstance(value, list):
            pending.extend(value)
        elif isinstance(value, dict):
            pending.extend(value.values())
            for key in _CLASS_KEYS:
                name = value.get(key)
                if isinstance(name, str) and not name.startswith(_OWN_CLASSES):
                    raise DatasetError(f"{path}: {_shown(name)} is no feature of TFDS")


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _is_vector(values: Any, *, like: Any = None) -> bool:
    return (
        isinstance(values, list)
        and bool(values)
        and (not isinstance(like, list) or len(values) == len(like))
        and all(type(x) in (int, float) and abs(x) < _LARGEST for x in values)
    )


def _is_shape(shape: Any) -> bool:
    return (
        isinstance(shape, list)
        and len(shape) == 4
        and all(_is_count(size) and size for size in shape)
    )


def _shown(value: Any) -> str:
    """A value in a message, cut short."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
