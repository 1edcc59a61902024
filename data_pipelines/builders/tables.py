"""Parquet tables, read by pyarrow where it is installed."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data_pipelines import records

# Texts beside clips that are no captions.
_LABELS = (
    *("id", "key", "__key__", "uid", "url", "file", "file_name", "path", "license"),
    *("md5", "sha256", "hash", "split", "media_type"),
)


def open_parquet(path: Path) -> Any:
    """An open `pyarrow.parquet.ParquetFile`.

    Raises:
      DatasetError: it is damaged.
      ModuleNotFoundError: pyarrow is not installed (extra `parquet`).
    """
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.ParquetFile(path)
    except (OSError, pyarrow.ArrowException) as error:
        first = str(error).splitlines()[0] if str(error) else "damaged"
        raise records.DatasetError(f"{path}: not parquet, or cut off: {first}") from (
            error
        )


def byte_columns(table: Any) -> list[str]:
    """Columns of bytes, or of structs with a field `bytes`."""
    import pyarrow

    def holds_bytes(kind: Any) -> bool:
        if pyarrow.types.is_struct(kind):
            return any(
                kind.field(i).name == "bytes" and holds_bytes(kind.field(i).type)
                for i in range(kind.num_fields)
            )
        return pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind)

    return [field.name for field in table.schema_arrow if holds_bytes(field.type)]


def text_rows(table: Any, group: int) -> list[dict[str, Any]]:
    """The columns of text of one row group, row by row."""
    import pyarrow

    names = [
        field.name
        for field in table.schema_arrow
        if pyarrow.types.is_string(field.type)
        or pyarrow.types.is_large_string(field.type)
    ]
    rows = table.metadata.row_group(group).num_rows
    if not names:
        return [{} for _ in range(rows)]
    return table.read_row_group(group, columns=names).to_pylist()


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The columns of text of a table, row by row; errors of `open_parquet`."""
    table = open_parquet(path)
    for group in range(table.metadata.num_row_groups):
        yield from text_rows(table, group)


def caption_texts(row: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of a row that may be captions: no numbers in letters, no labels."""
    return {
        name: text
        for name, text in row.items()
        if isinstance(text, str)
        and name.lower() not in _LABELS
        and not _is_number(text)
    }


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
