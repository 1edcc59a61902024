"""Captions of a dataset's clips that were written after the dataset was made.

    DATASET/captions/NAME.jsonl              {"id": ..., "caption": ...} per clip
    DATASET/captions/NAME.statistics.json    who wrote them, and what they are like

Readers put them beside the clips' own, under the source `NAME` (`records.open_dataset`,
`latents.open_latents`), so that training chooses between sources by rates
(`transforms.CaptionConfig`) and nothing is encoded again. Deleting the files takes them
back.
"""

import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from data_pipelines import records

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


def path_of(dataset: str | Path, name: str) -> Path:
    """Where the captions of a source are."""
    return Path(dataset) / FOLDER / f"{name}{SUFFIX}"


def write(
    dataset: str | Path,
    name: str,
    *,
    captions: Iterable[tuple[str, str]],
    statistics: Mapping[str, Any],
) -> Path:
    """Write the captions of a source, `(id, caption)`; they appear whole.

    Raises:
      DatasetError: a name that none can have.
    """
    check_name(name)
    path = path_of(dataset, name)
    path.parent.mkdir(exist_ok=True)
    text = "".join(
        json.dumps({"id": clip, "caption": caption}, ensure_ascii=False) + "\n"
        for clip, caption in captions
    )
    beside = path.with_name(f"{name}{STATISTICS}")
    _replace(beside, json.dumps(statistics, indent=2, ensure_ascii=False) + "\n")
    _replace(path, text)
    return path


def read(dataset: str | Path) -> dict[str, dict[str, str]]:
    """Every added source, by its name: id of a clip to its caption.

    Raises:
      DatasetError: a file that holds anything else.
    """
    folder = Path(dataset) / FOLDER
    return {
        path.name.removesuffix(SUFFIX): dict(read_lines(path))
        for path in sorted(folder.glob(f"*{SUFFIX}"))
    }


def read_lines(path: Path, *, key: str = "id") -> Iterable[tuple[str, str]]:
    """`(id, caption)` of every line of a file of captions.

    Args:
      path: of the file.
      key: of the id in a line.

    Raises:
      DatasetError: a line that is not `{"id": ..., "caption": ...}`, with its number.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
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


def _replace(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(text, encoding="utf-8", errors="backslashreplace")
    draft.replace(path)
