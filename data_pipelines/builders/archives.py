"""Clips that lie inside larger files: WebDataset tars, and parquet tables of bytes.

A WebDataset is one or several .tar files (`tars`). A table is that of a dataset on the
Hugging Face hub: a column of bytes, or of structs with `bytes`, holds the clips, every
column of text a caption.

Nothing is unpacked: a clip is where its bytes are, and member names are labels, never
paths to be written.
"""

import collections
import dataclasses
import functools
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from data_pipelines import records
from data_pipelines.builders import captions, files, folder, tables, tars
from soraflax import media

BYTE_COLUMNS = ("video", "image", "mp4", "webm", "mkv", "gif", "png", "jpg", "bytes")


class Content(Protocol):
    """The bytes of a clip, wherever they are."""

    def read_bytes(self) -> bytes: ...


@dataclasses.dataclass(frozen=True)
class TarMember:
    """A member of an uncompressed tar: its file, and where in it."""

    archive: Path
    offset: int
    size: int

    def read_bytes(self) -> bytes:
        """Raises MediaError where the archive became shorter."""
        with self.archive.open("rb") as file:
            file.seek(self.offset)
            data = file.read(self.size)
        if len(data) < self.size:
            raise media.MediaError(f"{self.archive}: cut off")
        return data

    def resolve(self) -> "TarMember":
        return self


@dataclasses.dataclass(frozen=True)
class TableCell:
    """A value of a parquet table: its file, row group, row in it, and column."""

    table: Path
    group: int
    row: int
    column: str

    def read_bytes(self) -> bytes:
        value = _column(self.table, self.group, column=self.column)[self.row].as_py()
        return bytes(value["bytes"] if isinstance(value, Mapping) else value)

    def resolve(self) -> "TableCell":
        return self


@dataclasses.dataclass(frozen=True)
class Sample:
    """A clip of an archive, or why there is none.

    Attributes:
      id: name of the archive, and of the clip in it.
      content: its bytes; None where it has no clip.
      captions: source name to text.
      notes: what was changed in the captions.
      reason: why it cannot be a clip.
    """

    id: str
    content: Any = None
    captions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    notes: Sequence[str] = ()
    reason: str = ""


def find_archives(source: Path, *, texts: Path | None = None) -> list[Path]:
    """The archives that a source is or, being a folder without clips, holds; sorted.

    None where `texts`, a file of captions, names the clips.

    Raises:
      DatasetError: a damaged table.
    """
    if texts is not None or not (source.is_file() or source.is_dir()):
        return []
    if source.is_file():
        return [source] if _is_archive(source) else []
    found = files.find_files(source)
    if found.clips or any((source / name).is_file() for name in folder_captions()):
        return []
    return [path for path in found.paths.values() if _is_archive(path)]


def folder_captions() -> tuple[str, ...]:
    """Names of files in a folder that name its clips; a table may do either."""
    return tuple(n for n in captions.NAMES if not n.endswith(".parquet"))


def _is_archive(path: Path) -> bool:
    """Whether a file holds clips, as a table of paths does not."""
    if path.suffix.lower() != ".parquet":
        return path.suffix.lower() == ".tar"
    return bool(tables.byte_columns(tables.open_parquet(path)))


def read_samples(archive: Path, *, name: str) -> Iterator[Sample]:
    """The samples of an archive, in its order; ids begin with `name`.

    Raises:
      DatasetError: it is no archive, or a table without a column of clips.
    """
    if archive.suffix.lower() == ".tar":
        return tar_samples(archive, name)
    return _table_samples(archive, name)


def probe_samples(
    archives: Sequence[Path],
    *,
    keep_uncaptioned: bool = False,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> tuple[list[folder.ClipFile], list[dict[str, Any]]]:
    """Decode every clip of some archives once; as `folder.probe_clips`."""
    clips: list[folder.ClipFile] = []
    report: list[dict[str, Any]] = []
    samples = (
        sample for path in archives for sample in read_samples(path, name=path.name)
    )
    names: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory(prefix="soraflax-") as scratch:
        for sample in progress(samples):
            names[sample.id] += 1
            reason = sample.reason
            if not reason and names[sample.id] > 1:
                reason = "another sample has this name"
            copy = Path(scratch) / "clip"
            if not reason:
                copy.write_bytes(sample.content.read_bytes())
            line, info = folder.probe_clip(
                sample.id,
                copy,
                captions=sample.captions,
                notes=sample.notes,
                keep_uncaptioned=keep_uncaptioned,
                reason=reason,
            )
            report.append(line)
            if info is not None:
                clips.append(
                    folder.ClipFile(sample.id, sample.content, info, sample.captions)
                )
    return clips, report


def tar_samples(archive: str | Path, name: str) -> Iterator[Sample]:
    """The samples of a tar, here or in a bucket; ids begin with `name`."""
    seen: set[str] = set()
    try:
        with tars.opened(archive) as tar:
            for key, members in tars.groups(tar):
                label = f"{name}/{files.printable(key)}"
                if key in seen:
                    reason = "its members do not follow each other"
                    yield Sample(label, reason=reason)
                    continue
                seen.add(key)
                yield _tar_sample(tar, archive, members=members, label=label)
    except tars.TarFault as error:
        yield Sample(name, reason=files.printable(str(error)))


def _tar_sample(
    tar: tarfile.TarFile,
    archive: str | Path,
    *,
    members: tars.Members,
    label: str,
) -> Sample:
    clips = [(e, m) for e, m in members if Path(f"x{e}").suffix in media.SUFFIXES]
    if len(clips) != 1:
        endings = " ".join(ending for ending, _ in members)
        reason = f"{len(clips) or 'no'} clips in a sample of {endings}: use 1"
        return Sample(label, reason=reason)
    try:
        texts, notes = captions.clean(tars.texts(tar, members))
    except LookupError as error:
        return Sample(label, reason=str(error))
    ending, member = clips[0]
    content = TarMember(Path(archive), member.offset_data, member.size)
    return Sample(label + ending, content, texts, notes)


def _table_samples(archive: Path, name: str) -> Iterator[Sample]:
    table = tables.open_parquet(archive)
    column = _byte_column(table, archive)
    for group in range(table.metadata.num_row_groups):
        rows = tables.text_rows(table, group)
        for number, (row, value) in enumerate(
            zip(rows, _column(archive, group, column=column), strict=True)
        ):
            cell = value.as_py()
            path = cell.get("path") if isinstance(cell, Mapping) else None
            data = cell.get("bytes") if isinstance(cell, Mapping) else cell
            label = f"{name}/{group}-{number}"
            if path:
                label = f"{name}/{files.printable(PurePosixPath(path).name)}"
            if not data:
                yield Sample(label, reason=f"no bytes in its {column}")
                continue
            texts, notes = captions.clean(tables.caption_texts(row))
            yield Sample(label, TableCell(archive, group, number, column), texts, notes)


def _byte_column(table: Any, archive: Path) -> str:
    """The column that holds clips.

    Raises:
      DatasetError: there is none.
    """
    held = tables.byte_columns(table)
    for name in (*BYTE_COLUMNS, *held):
        if name in held:
            return name
    raise records.DatasetError(
        f"{archive}: no column of bytes; columns: {', '.join(table.schema_arrow.names)}"
    )


@functools.lru_cache(maxsize=2)
def _column(table: Path, group: int, *, column: str) -> Any:
    """One column of a row group; cells are read in order, so that two are kept."""
    return tables.open_parquet(table).read_row_group(group, columns=[column])[column]
