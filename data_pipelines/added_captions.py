"""Captions of a dataset's clips that were written after the dataset was made.

    DATASET/captions/NAME.jsonl              {"id": ..., "caption": ...} per clip
    DATASET/captions/NAME.statistics.json    who wrote them, and what they are like

Readers put them beside the clips' own, under the source `NAME` (`records.open_dataset`,
`latents.open_latents`), so that training chooses between sources by rates
(`transforms.CaptionConfig`) and nothing is encoded again. Deleting the files takes them
back.
"""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from data_pipelines import mirrors, records, storage

FOLDER, SUFFIX, STATISTICS = "captions", ".jsonl", ".statistics.json"
_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,63}")


def check_name(name: str) -> None:
    """Refuse a name that no source of captions can have.

    Raises:
      DatasetError: naming what it may hold.
    """
    if not _NAME.fullmatch(name):
        raise records.DatasetError(
            f"caption source {name!r}: use letters, digits, '.', '_' and '-', 64 of "
            "them at most"
        )


def path_of(dataset: str | Path, name: str) -> str:
    """Where the captions of a source are, here or in a bucket."""
    return mirrors.named(dataset, FOLDER, f"{name}{SUFFIX}")


def write(
    dataset: str | Path,
    name: str,
    *,
    captions: Iterable[tuple[str, str]],
    statistics: Mapping[str, Any],
) -> str:
    """Write the captions of a source, `(id, caption)`; they appear whole.

    Raises:
      DatasetError: a name that none can have.
    """
    check_name(name)
    path = path_of(dataset, name)
    text = "".join(
        json.dumps({"id": clip, "caption": caption}, ensure_ascii=False) + "\n"
        for clip, caption in captions
    )
    beside = mirrors.named(dataset, FOLDER, f"{name}{STATISTICS}")
    _replace(beside, json.dumps(statistics, indent=2, ensure_ascii=False) + "\n")
    _replace(path, text)
    return path


def read(dataset: str | Path) -> dict[str, dict[str, str]]:
    """Every added source, by its name: id of a clip to its caption.

    Raises:
      DatasetError: a file that holds anything else.
    """
    pattern = mirrors.named(dataset, FOLDER, f"*{SUFFIX}")
    if not storage.is_bucket(pattern):
        paths = sorted((Path(dataset) / FOLDER).glob(f"*{SUFFIX}"))
        return {p.name.removesuffix(SUFFIX): dict(read_lines(p)) for p in paths}
    return {
        name.removesuffix(SUFFIX): dict(read_lines(path))
        for name, path in storage.find(pattern)
    }


def read_lines(path: str | Path, *, key: str = "id") -> Iterable[tuple[str, str]]:
    """`(id, caption)` of every line of a file of captions.

    Args:
      path: of the file.
      key: of the id in a line.

    Raises:
      DatasetError: a line that is not `{"id": ..., "caption": ...}`, with its number.
    """
    try:
        lines = _read(path).decode("utf-8").splitlines()
    except OSError as error:
        raise records.DatasetError(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise records.DatasetError(f"{path}: line {line} is not UTF-8") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            pair = entry[key], entry["caption"]
        except (ValueError, KeyError, TypeError):
            pair = None
        if pair is None or not all(isinstance(value, str) for value in pair):
            raise records.DatasetError(
                f'{path}: line {number} is not {{"{key}": TEXT, "caption": TEXT}}'
            )
        yield pair


def _read(path: str | Path) -> bytes:
    if not storage.is_bucket(path):
        return Path(path).read_bytes()
    data = storage.read_bytes(str(path))
    if data is None:
        raise records.DatasetError(f"{path}: no such file")
    return data


def _replace(path: str, text: str) -> None:
    storage.write_bytes(path, text.encode("utf-8", "backslashreplace"))
