"""JSON values on disk, one a line: what would grow with the clips leaves the memory.

Of a value eight bytes stay in memory, and its name where it has one. Values are written
in batches of `_BATCH` bytes, and read one at a time; no file stays open.
"""

import array
import json
from collections.abc import Iterable, Iterator, MutableMapping, Sequence
from pathlib import Path
from typing import Any

_BATCH = 2**16


class LineFile(Sequence[Any]):
    """JSON values in a file of this process, in the order in which they came."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._starts = array.array("Q")
        self._size = 0
        self._batch = bytearray()
        self._last: tuple[int, Any] = (-1, None)  # the value that was read last
        path.write_bytes(b"")

    def append(self, value: Any) -> int:
        """Write a value; returns its number."""
        line = json.dumps(value).encode() + b"\n"
        self._starts.append(self._size)
        self._size += len(line)
        self._batch += line
        if len(self._batch) >= _BATCH:
            self.flush()
        return len(self._starts) - 1

    def extend(self, values: Iterable[Any]) -> None:
        for value in values:
            self.append(value)

    def flush(self) -> None:
        """Put into the file what was appended."""
        if self._batch:
            with self.path.open("ab") as file:
                file.write(self._batch)
            self._batch.clear()

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: Any) -> Any:
        number = range(len(self))[index]
        if number != self._last[0]:
            self.flush()
            with self.path.open("rb") as file:
                file.seek(self._starts[number])
                self._last = (number, json.loads(file.readline()))
        return self._last[1]

    def __iter__(self) -> Iterator[Any]:
        self.flush()
        return read(self.path)


class LineMap(MutableMapping[str, Any]):
    """JSON values by name; names are in memory."""

    def __init__(self, path: Path) -> None:
        self._lines = LineFile(path)
        self._numbers: dict[str, int] = {}

    def __setitem__(self, name: str, value: Any) -> None:
        self._numbers[name] = self._lines.append(value)

    def __getitem__(self, name: str) -> Any:
        return self._lines[self._numbers[name]]

    def __delitem__(self, name: str) -> None:
        del self._numbers[name]

    def __contains__(self, name: object) -> bool:
        return name in self._numbers

    def __iter__(self) -> Iterator[str]:
        return iter(self._numbers)

    def __len__(self) -> int:
        return len(self._numbers)


def values(folder: Path | None, name: str) -> LineFile | list[Any]:
    """Values in a file of a folder, or in memory where there is none."""
    return [] if folder is None else LineFile(folder / f"{name}.jsonl")


def mapping(folder: Path | None, name: str) -> MutableMapping[str, Any]:
    """Values by name in a file of a folder, or in memory where there is none."""
    return {} if folder is None else LineMap(folder / f"{name}.jsonl")


def read(path: Path) -> Iterator[Any]:
    """The values of a file of lines, one at a time."""
    with path.open("rb") as file:
        yield from map(json.loads, file)
