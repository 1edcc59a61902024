"""Examples in many ArrayRecord shards, of which few are open at a time.

Which shard holds an example follows from the counts of the manifest, so that opening a
dataset opens none of them: eight bytes a shard are the index, whatever the number of
records. A shard is opened when an example of it is first read, held against its count,
and closed again when others were read since.
"""

import collections
import itertools
import threading
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from array_record.python import (
    array_record_module,  # pyright: ignore[reportAttributeAccessIssue]
)

MAX_OPEN = 64


class Place(Protocol):
    """Where a shard is read, by its name (`mirrors.ShardPlaces`)."""

    def __call__(self, name: str, *, doubted: bool = False) -> str: ...


class ShardedExamples:
    """Random access to the examples of one split."""

    def __init__(
        self,
        files: Sequence[str],
        counts: Sequence[int],
        *,
        parse: Callable[[bytes], Any],
        place: Place | None = None,
        max_open: int = MAX_OPEN,
    ) -> None:
        """Open none of the shards.

        Args:
          files: paths or names of the shards, in their order.
          counts: records of each.
          parse: bytes of a record to an example.
          place: where shards are read, by their names; None for paths.
          max_open: most shards that are open at a time.
        """
        self._files = list(files)
        self._ends = np.fromiter(itertools.accumulate(counts), np.int64, len(counts))
        self._parse, self._place = parse, place
        self._doubted: set[int] = set()
        self._max_open = max_open
        self._open: collections.OrderedDict[int, Any] = collections.OrderedDict()
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        readers = {"_open": collections.OrderedDict(), "_lock": None}
        return self.__dict__ | readers

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int) -> Any:
        """An example.

        Raises:
          IndexError: there is none of this index.
          ValueError, RuntimeError: its shard, or its record, is damaged.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        shard = self._shard_of(index)
        first = int(self._ends[shard - 1]) if shard else 0
        data = self._reader(shard).read([index - first])[0]
        if not data:  # of a file that was cut off after it was opened
            raise ValueError(f"{self._files[shard]}: an empty record")
        return self._parse(data)

    def doubt(self, index: int) -> None:
        """Trust no copy of the shard of an example that could not be read."""
        self._doubted.add(self._shard_of(index))

    def _shard_of(self, index: int) -> int:
        return int(np.searchsorted(self._ends, index, side="right"))

    def _reader(self, shard: int) -> Any:
        with self._lock:
            reader = self._open.get(shard)
            if reader is not None:
                self._open.move_to_end(shard)
                return reader
        reader = self._opened(shard)
        with self._lock:
            self._open[shard] = reader
            while len(self._open) > self._max_open:
                # Not closed here: another thread may be reading from it.
                self._open.popitem(last=False)
        return reader

    def _opened(self, shard: int) -> Any:
        path = self._files[shard]
        if self._place is not None:
            path = self._place(path, doubted=shard in self._doubted)
        count = int(self._ends[shard] - (self._ends[shard - 1] if shard else 0))
        # Records are compressed in groups of one; nothing is read ahead.
        reader = array_record_module.ArrayRecordReader(
            path, options="readahead_buffer_size:0"
        )
        if (found := reader.num_records()) != count:
            raise ValueError(f"{path}: {found} records instead of {count}: damaged")
        return reader


def parse_example(data: bytes) -> dict[str, Any]:
    """The features of a record: the one value of each, or a list of its values.

    TFDS's own parser makes NumPy arrays of them, which takes longer than reading.

    Raises:
      ValueError: the bytes are no example.
    """
    from google.protobuf import message
    from tensorflow_datasets.proto import tf_example_pb2

    # The class is made when the module is imported, which no checker sees.
    example_type: Any = vars(tf_example_pb2)["Example"]
    try:
        example = example_type.FromString(data)
    except message.DecodeError as error:
        raise ValueError(f"no example: {error}") from error
    found = {}
    for name, feature in example.features.feature.items():
        kind = feature.WhichOneof("kind")
        values = getattr(feature, kind).value if kind else ()
        found[name] = values[0] if len(values) == 1 else list(values)
    return found
