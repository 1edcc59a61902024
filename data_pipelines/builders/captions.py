"""Captions of the files of a folder: jsonl, csv, parquet, tar, or a text file for each.

A text is read as a prompt is (`generation.prompts`): what a model must not see is taken
out, and said. A line or file that cannot be used is reported, and the others are used.
"""

import collections
import csv
import dataclasses
import json
import os
from collections.abc import (
    Collection,
    Iterable,
    Iterator,
    Mapping,
    MutableMapping,
    Sequence,
)
from pathlib import Path
from typing import Any

from data_pipelines import records
from data_pipelines.builders import files, tables, tars
from soraflax.generation import prompts

# In a folder, the first that is there; the last three are those of datasets on the
# Hugging Face hub.
NAMES = (
    "captions.jsonl",
    "captions.csv",
    "metadata.jsonl",
    "metadata.csv",
    "metadata.parquet",
)
TABLES = (".jsonl", ".csv", ".parquet")  # which name the files themselves
SUFFIXES = (*TABLES, ".tar")
# Of the key that names the file: ours, that of the hub, of Open-Sora, of others.
FILE_KEYS = ("file", "file_name", "path", "video")
_QUOTES = "close every quote, and double those inside a text"


@dataclasses.dataclass(frozen=True)
class Captions:
    """Captions by file, and the caption lines that are not used.

    Attributes:
      source: the captions file or folder.
      texts: name of a file to its captions, source name to text.
      paths: name of a file to its path; names are those of `files.FolderFiles.find`.
      notes: name of a file to what was changed in its captions, a line each.
      unused: report lines of caption lines and files that could not be used.
    """

    source: Path
    texts: Mapping[str, Mapping[str, str]]
    paths: Mapping[str, Path]
    notes: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
    unused: Sequence[Mapping[str, str]] = ()


Texts = MutableMapping[str, Mapping[str, str]]


class _CaptionedPaths(Mapping[str, Path]):
    """Paths of the files that have captions, made as they are asked for."""

    def __init__(
        self,
        texts: Mapping[str, Any],
        listed: Mapping[str, Path],
        *,
        elsewhere: Mapping[str, Path],
    ) -> None:
        self._texts, self._listed, self._elsewhere = texts, listed, elsewhere

    def __getitem__(self, name: str) -> Path:
        if name not in self._texts:
            raise KeyError(name)
        elsewhere = self._elsewhere.get(name)
        return self._listed[name] if elsewhere is None else elsewhere

    def __iter__(self) -> Iterator[str]:
        return iter(self._texts)

    def __len__(self) -> int:
        return len(self._texts)


def read_captions(
    clips: files.FolderFiles,
    path: Path | None = None,
    *,
    needed: bool = True,
    texts: Texts | None = None,
) -> Captions:
    """Read the captions of a folder of clips.

    Args:
      clips: the folder, to which file names in the captions are relative.
      path: a jsonl, csv or parquet file, a WebDataset tar whose samples are named as
        the clips, or a folder of .txt files; a relative path that is not there is
        looked for in the folder. By default one of `NAMES` in the
        folder, else a .txt beside each clip.
      needed: refuse a folder without any .txt.
      texts: an empty mapping, that may lie on disk, for the captions.

    Raises:
      DatasetError: there is no captions file, it cannot be read, or none of its lines
        names a file that exists.
    """
    defaults = [clips.root / n for n in NAMES if (clips.root / n).is_file()]
    source = path or (defaults[0] if defaults else clips.root)
    if not source.exists() and (clips.root / source).exists():
        source = clips.root / source
    texts = {} if texts is None else texts
    if source.is_dir():
        return _from_text_files(clips, source, needed=needed, texts=texts)
    suffix = source.suffix.lower()
    if suffix == ".parquet" and source.is_file():
        rows = enumerate(tables.read_rows(source), start=1)
        return _from_lines(clips, source, lines=rows, texts=texts)
    if suffix == ".tar" and source.is_file():
        return _from_tar(clips, source, texts=texts)
    if suffix not in SUFFIXES:
        raise records.DatasetError(
            f"{source}: captions come as .jsonl, .csv, .parquet, .tar, or a folder of "
            ".txt files"
        )
    lines = _read_lines(source, clips.root)
    return _from_lines(clips, source, lines=lines, texts=texts)


def _read_lines(source: Path, root: Path) -> Iterator[tuple[int, Any]]:
    """Number of each line of a captions file, and what it holds or why it does not.

    Raises:
      DatasetError: it cannot be read.
    """
    readers = {".jsonl": _read_jsonl, ".csv": _read_csv}
    # Bytes that are not UTF-8 fail their line, not the file.
    options: Any = {"encoding": "utf-8-sig", "errors": "surrogateescape"}
    try:
        with source.open(**options, newline="") as file:
            yield from readers[source.suffix.lower()](file)
    except FileNotFoundError as error:
        raise records.DatasetError(
            f"{source}: no such captions file, nor one in {root}"
        ) from error
    except (OSError, ValueError) as error:
        raise records.DatasetError(f"{source}: {error}") from error


def _read_jsonl(lines: Iterable[str]) -> Iterator[tuple[int, Any]]:
    """Number of each line, and what it holds or, as text, why it cannot be read."""
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        if not _is_unicode(line):
            yield number, "not UTF-8"
            continue
        try:
            yield number, json.loads(line, object_pairs_hook=_unique)
        except json.JSONDecodeError as error:
            yield number, f"not JSON: {error.msg}"
        except (ValueError, RecursionError) as error:
            yield number, f"not JSON: {error}"


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r} is there twice")
    return values


def _read_csv(lines: Iterable[str]) -> Iterator[tuple[int, Any]]:
    """As `_read_jsonl`; a row is numbered by the line on which it begins.

    Raises:
      ValueError: a header without `file`, or with a name twice.
    """
    rows = _csv_rows(list(lines))
    _, header = next(rows, (1, []))
    if isinstance(header, str):
        raise ValueError(f"its header is {header}")
    names = [prompts.readable(name)[0] for name in header]
    if header and not set(FILE_KEYS) & set(names):
        raise ValueError(f"no column `file`; columns: {', '.join(names)}")
    if len(set(filter(None, names))) < len(list(filter(None, names))):
        raise ValueError(f"a column is there twice: {', '.join(names)}")
    for number, row in rows:
        if isinstance(row, str):
            yield number, row
            continue
        named = names + [""] * (len(row) - len(names))
        if any(
            cell.strip() and not name for name, cell in zip(named, row, strict=False)
        ):
            yield (
                number,
                f"{len(row)} cells under {len(header)} columns: put a text with commas "
                "in quotes",
            )
            continue
        yield number, {n: c for n, c in zip(named, row, strict=False) if n}


def _csv_rows(lines: Sequence[str]) -> Iterator[tuple[int, Any]]:
    """Cells of each row; after one that is broken, reading goes on with the next line.

    A quote that is not closed would otherwise take the lines below it for its text.
    """
    at = 0
    while at < len(lines):
        left = (lines[index] for index in range(at, len(lines)))
        reader = csv.reader(left, strict=True)
        number = at + 1
        try:
            row: Any = next(reader)
            at += reader.line_num
        except csv.Error as error:
            row, at = f"not CSV: {error}: {_QUOTES}", at + 1
        if not all(map(_is_unicode, lines[number - 1 : at])):
            row = "not UTF-8"
        elif not isinstance(row, str) and any(map(_has_space_before_quote, row)):
            row = "not CSV: a space before a quote: leave it out"
        if row:
            yield number, row


def _has_space_before_quote(cell: str) -> bool:
    """Whether a cell is in quotes that CSV takes for its text."""
    return cell != cell.lstrip() and cell.lstrip().startswith('"')


def _is_unicode(text: str) -> bool:
    return not any("\udc80" <= character <= "\udcff" for character in text)


def _from_lines(
    clips: files.FolderFiles,
    source: Path,
    *,
    lines: Iterable[tuple[int, Any]],
    texts: Texts,
) -> Captions:
    """Captions of the file that each line names; other lines go to the report."""
    elsewhere, notes, unused, count = {}, {}, [], 0
    for number, row in lines:
        count += 1
        try:
            name, path = _named_file(clips, row, taken=texts)
        except LookupError as error:
            unused.append(_unused(f"{source.name}:{number}", str(error)))
            continue
        if name not in clips.paths:
            elsewhere[name] = path
        texts[name], changed = clean(_texts(row))
        if changed:
            notes[name] = changed
    if not texts:
        first = f" (first: {unused[0]['reason']})" if unused else ""
        raise records.DatasetError(
            f"{source}: none of its {count} lines names a file in {clips.root}{first}"
        )
    unused += _left_out(clips, source)
    paths = _CaptionedPaths(texts, clips.paths, elsewhere=elsewhere)
    return Captions(source, texts, paths, notes, unused)


def _named_file(
    clips: files.FolderFiles, row: Any, *, taken: Collection[str]
) -> tuple[str, Path]:
    """The file of a line; the message of LookupError says why there is none."""
    key = _file_key(row) if isinstance(row, dict) else None
    if key is None:
        raise LookupError(
            row if isinstance(row, str) else "caption line without a `file`"
        )
    name, path = clips.find(row[key])
    if name in taken:
        raise LookupError(f"file captioned before: {row[key]}")
    return name, path


def _file_key(row: Mapping[str, Any]) -> str | None:
    """The key under which a row names its file."""
    return next((k for k in FILE_KEYS if isinstance(row.get(k), str)), None)


def _texts(row: Mapping[str, Any]) -> dict[str, Any]:
    """The captions of a row; others' tables have numbers beside them."""
    key = _file_key(row)
    texts = {name: text for name, text in row.items() if name != key}
    return texts if key == "file" else tables.caption_texts(texts)


def clean(row: Mapping[str, Any]) -> tuple[dict[str, str], list[str]]:
    """The texts of a row as a model may read them, and what was changed."""
    texts, notes = {}, []
    for name, value in row.items():
        if not isinstance(value, str) or not value.strip():
            continue
        source = prompts.readable(name)[0]
        text, changed = prompts.readable(value)
        notes += [f"{source}: {note}" for note in changed]
        if text:
            texts[source] = text
    return texts, notes


def _from_tar(clips: files.FolderFiles, source: Path, *, texts: Texts) -> Captions:
    """The captions of each clip from the sample of its name, without its ending.

    Raises:
      DatasetError: it cannot be read, or none of its samples is of a clip.
    """
    by_stem = collections.defaultdict(list)
    for name in clips.clip_names():
        by_stem[files.similar_name(_stem(name))].append(name)
    notes, unused = {}, []
    try:
        with tars.opened(source) as tar:
            for key, members in tars.groups(tar):
                label = f"{source.name}/{files.printable(key)}"
                try:
                    own, changed = clean(tars.texts(tar, members))
                    captioned = _captioned(by_stem[files.similar_name(key)], own)
                except LookupError as error:
                    unused.append(_unused(label, str(error)))
                    continue
                texts.update(dict.fromkeys(captioned, own))
                notes |= dict.fromkeys(captioned, changed) if changed else {}
    except tars.TarFault as error:
        reason = files.printable(str(error))
        raise records.DatasetError(f"{source}: {reason}") from error
    if not texts:
        first = f" (first: {unused[0]['reason']})" if unused else ""
        raise records.DatasetError(
            f"{source}: none of its samples captions a file in {clips.root}{first}"
        )
    paths = _CaptionedPaths(texts, clips.paths, elsewhere={})
    return Captions(source, texts, paths, notes, unused + _left_out(clips, source))


def _captioned(named: Sequence[str], texts: Mapping[str, str]) -> Sequence[str]:
    """The clips of a sample of a tar; the message of LookupError is why there is none.

    A clip and an image may share a name, and then they share its captions.
    """
    if not named:
        raise LookupError("captions a missing file")
    if not texts:
        raise LookupError("holds no caption")
    return named


def _left_out(clips: files.FolderFiles, source: Path) -> list[dict[str, str]]:
    """Text files beside clips that a captions file speaks for."""
    stems = {n: files.similar_name(_stem(n)) for n in clips.paths if _is_text(Path(n))}
    wanted = set(stems.values())
    similar = (files.similar_name(_stem(name)) for name in clips.clip_names())
    found = {stem for stem in similar if stem in wanted}
    reason = f"not read: captions come from {source.name}"
    return [
        _unused(name, reason, outcome="ignored")
        for name, stem in stems.items()
        if stem in found
    ]


def _from_text_files(
    clips: files.FolderFiles, source: Path, *, needed: bool, texts: Texts
) -> Captions:
    """The caption of each clip from the .txt of its name."""
    beside = source.resolve() == clips.root.resolve()
    listed = clips if beside else files.find_files(source)
    exact = {name: [] for name in listed.paths if _is_text(Path(name))}
    # Of clips only those that a text may be of: there may be many more of them.
    by_stem = {_stem(name): [] for name in exact}
    by_similar = {files.similar_name(stem): [] for stem in by_stem}
    for name in clips.clip_names():
        if (stem := _stem(name)) in by_stem:
            by_stem[stem].append(name)
        if (similar := files.similar_name(stem)) in by_similar:
            by_similar[similar].append(name)
    exact = {name: by_stem[_stem(name)] for name in exact}
    spoken_for = {clip for captioned in exact.values() for clip in captioned}
    notes, unused = {}, []
    # First those of exactly the clips' names, so that others take what is left.
    for text_name, own in sorted(exact.items(), key=lambda item: not item[1]):
        captioned = own or [
            clip
            for clip in by_similar[files.similar_name(_stem(text_name))]
            if clip not in spoken_for and clip not in texts
        ]
        try:
            text, changed = _read_text(listed.paths[text_name], captioned)
        except LookupError as error:
            outcome = "failed" if captioned else "ignored"
            unused.append(_unused(text_name, str(error), outcome=outcome))
            continue
        texts.update((clip, {"caption": text}) for clip in captioned)
        notes |= {clip: changed for clip in captioned if changed}
    if needed and not texts:
        raise records.DatasetError(
            f"{clips.root}: no captions.jsonl, captions.csv or .txt beside a clip; "
            "name a captions file with --captions"
        )
    unused += [] if beside else map(dict, listed.unusable)
    paths = _CaptionedPaths(texts, clips.paths, elsewhere={})
    return Captions(source, texts, paths, notes, unused)


def _read_text(path: Path, captioned: Sequence[str]) -> tuple[str, list[str]]:
    """The caption in a file; the message of LookupError says why there is none."""
    if not captioned:
        raise LookupError("text of no clip, or of one that has another")
    try:
        text, changed = prompts.readable(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise LookupError("not UTF-8") from error
    except OSError as error:
        raise LookupError(error.strerror or str(error)) from error
    if not text:
        raise LookupError("holds no caption")
    return text, [f"caption: {note}" for note in changed]


def _stem(name: str) -> str:
    return os.path.splitext(name)[0]


def _is_text(path: Path) -> bool:
    return path.suffix.lower() == ".txt"


def _unused(name: str, reason: str, *, outcome: str = "failed") -> dict[str, str]:
    return {"input": name, "outcome": outcome, "reason": reason}
