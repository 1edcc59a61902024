"""Streaming best-fit packing of segments into rows.

A fixed number of rows stay open. A segment goes to the open row where it leaves the
least room (best fit); if none can take it, the fullest row is emitted and a new one is
opened. Rows that are exactly full are emitted at once. Unlike packers that close all
their bins together, a row waits for the clip that fills it; not for ever, so that no
clip is held back over several passes of the data.

Or clips wait, not rows (`LookAheadPacker`): of the next so many, a row takes the oldest
and those that together fill it best, a subset sum. That leaves almost nothing of a row,
which is worth most where segments are aligned and few fit.

A checkpoint does not hold the segments but their indices in the stream: the stream is
random-access and deterministic, so the open rows are read again on resume, bit for
bit. Rows never depend on how far ahead anything was prefetched.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import grain
import numpy as np

from data_pipelines import reading
from soraflax.ops import packing

Read = Callable[[int], packing.Segment]


@dataclasses.dataclass
class OpenRow:
    """A row that still takes segments.

    Attributes:
      opened: number of rows closed when this one was opened.
      indices: indices of its segments in the stream.
      segments: the segments.
      tokens: free tokens.
      text: free text tokens.
    """

    opened: int
    indices: list[int]
    segments: list[packing.Segment]
    tokens: int
    text: int


class BestFitPacker:
    """Best-fit packing into a fixed number of open rows.

    Attributes:
      shape: capacity of a row.
      limit: most rows open at a time.
      closed: number of rows closed so far.
      open: the open rows.
    """

    patience = 2  # a row is closed after this many times `limit` others, full or not

    def __init__(self, shape: packing.RowShape, open_rows: int) -> None:
        if open_rows < 1:
            raise ValueError(f"open_rows is {open_rows}: use 1 or more")
        self.shape = shape
        self.limit = open_rows
        self.closed = 0
        self.open: list[OpenRow] = []

    def add(self, segment: packing.Segment, index: int) -> OpenRow | None:
        """Put a segment into the row that it fills best.

        Args:
          segment: the segment.
          index: its index in the stream.

        Returns:
          The row that had to close to make room, if any.

        Raises:
          ValueError: the segment is larger than an empty row.
        """
        check_fits(len(segment), len(segment.text), shape=self.shape)
        row, closed = self._best(len(segment), len(segment.text)), None
        if row is None:
            if len(self.open) == self.limit:
                closed = self._close(self._fullest())
            row = OpenRow(self.closed, [], [], self.shape.tokens, self.shape.text)
            self.open.append(row)
        row.indices.append(index)
        row.segments.append(segment)
        # Segments start on aligned tokens, and so do their texts: what follows one is
        # lost up to the next.
        row.tokens -= self.shape.aligned(len(segment))
        row.text -= self.shape.aligned_text(len(segment.text))
        return closed

    def pop_ready(self) -> OpenRow | None:
        """Remove and return a row that is full or overdue; None if there is none."""
        for index, row in enumerate(self.open):
            full = min(row.tokens, row.text, self._free_segments(row)) <= 0
            if full or self.closed - row.opened >= self.patience * self.limit:
                return self._close(index)
        return None

    def pop_any(self) -> OpenRow | None:
        """Remove and return the fullest row, at the end of the stream; None if none."""
        return self._close(self._fullest()) if self.open else None

    def state(self) -> list[list[int]]:
        """Of every open row when it was opened, and its segments' indices."""
        return [[row.opened, *row.indices] for row in self.open]

    def restore(self, state: Sequence[Sequence[int]], read: Read) -> None:
        """Inverse of `state`; `read` gives the segment of an index."""
        self.open = []
        for opened, *indices in state:
            segments = [read(index) for index in indices]
            used = sum(self.shape.aligned(len(segment)) for segment in segments)
            text = sum(self.shape.aligned_text(len(s.text)) for s in segments)
            free = self.shape.tokens - used, self.shape.text - text
            self.open.append(OpenRow(opened, indices, segments, *free))

    def _best(self, tokens: int, text: int) -> OpenRow | None:
        fits = (
            row
            for row in self.open
            if row.tokens >= tokens and row.text >= text and self._free_segments(row)
        )
        return min(fits, key=lambda row: row.tokens, default=None)

    def _free_segments(self, row: OpenRow) -> int:
        return self.shape.segments - len(row.segments)

    def _fullest(self) -> int:
        return min(range(len(self.open)), key=lambda index: self.open[index].tokens)

    def _close(self, index: int) -> OpenRow:
        self.closed += 1
        return self.open.pop(index)


class LookAheadPacker:
    """Rows of the oldest pending segment and of those that fill the row best with it.

    Attributes:
      shape: capacity of a row.
      limit: pending segments among which a row is chosen; none waits for more rows.
      closed: number of rows closed so far.
      pending: index and segment of each, in the order of the stream.
    """

    def __init__(self, shape: packing.RowShape, look_ahead: int) -> None:
        if look_ahead < 1:
            raise ValueError(f"look_ahead is {look_ahead}: use 1 or more")
        self.shape = shape
        self.limit = look_ahead
        self.closed = 0
        self.pending: list[tuple[int, packing.Segment]] = []

    def add(self, segment: packing.Segment, index: int) -> OpenRow | None:
        """Let a segment wait; None, as no row has to close for it.

        Raises:
          ValueError: the segment is larger than an empty row.
        """
        check_fits(len(segment), len(segment.text), shape=self.shape)
        self.pending.append((index, segment))

    def pop_ready(self) -> OpenRow | None:
        """A row, where more than `limit` segments are pending; None otherwise."""
        return self.pop_any() if len(self.pending) > self.limit else None

    def pop_any(self) -> OpenRow | None:
        """A row of what is pending; None if nothing is."""
        if not self.pending:
            return None
        chosen = self._fullest()
        if not self._fits(chosen):
            chosen = self._largest_first()
        taken = [self.pending[place] for place in sorted(chosen)]
        self.pending = [p for i, p in enumerate(self.pending) if i not in chosen]
        self.closed += 1
        indices, segments = map(list, zip(*taken, strict=True))
        return OpenRow(self.closed - 1, indices, segments, 0, 0)

    def state(self) -> list[list[int]]:
        """The indices of what is pending, as of one row."""
        return [[self.closed, *(index for index, _ in self.pending)]]

    def restore(self, state: Sequence[Sequence[int]], read: Read) -> None:
        """Inverse of `state`; `read` gives the segment of an index."""
        ((_, *indices),) = state
        self.pending = [(index, read(index)) for index in indices]

    def _fullest(self) -> set[int]:
        """Places of the oldest and of those that leave least of the row's tokens.

        Bit n of `sums[k]` says whether the oldest and some of the k largest others take
        n units of `align` tokens. Small ones are kept for rows that nothing else fills.
        """
        align = self.shape.align
        sizes = [-(-len(segment) // align) for _, segment in self.pending]
        room = max(self.shape.tokens // align, sizes[0])
        order = sorted(range(1, len(sizes)), key=lambda place: -sizes[place])
        sums, mask = [1 << sizes[0]], (1 << (room + 1)) - 1
        for place in order:
            if sums[-1] >> room:  # full already
                break
            sums.append((sums[-1] | sums[-1] << sizes[place]) & mask)
        left = sums[-1].bit_length() - 1
        chosen = {0}
        for k in range(len(sums) - 1, 0, -1):
            if not sums[k - 1] >> left & 1:
                chosen.add(order[k - 1])
                left -= sizes[order[k - 1]]
        return chosen

    def _fits(self, chosen: set[int]) -> bool:
        texts = (self._text(place) for place in chosen)
        return len(chosen) <= self.shape.segments and sum(texts) <= self.shape.text

    def _text(self, place: int) -> int:
        return self.shape.aligned_text(len(self.pending[place][1].text))

    def _largest_first(self) -> set[int]:
        """Places of the oldest and of the largest that fit beside it, by turns."""
        chosen: set[int] = set()
        tokens, text = self.shape.tokens, self.shape.text
        order = range(1, len(self.pending))
        for place in (0, *sorted(order, key=lambda p: -len(self.pending[p][1]))):
            length = self.shape.aligned(len(self.pending[place][1]))
            if len(chosen) == self.shape.segments:
                break
            if not chosen or (length <= tokens and self._text(place) <= text):
                chosen.add(place)
                tokens -= length
                text -= self._text(place)
        return chosen


class PackIterDataset(grain.IterDataset[list[packing.Segment]]):
    """Rows of segments, from a stream of segments.

    Attributes:
      stream: random access to the stream of segments, a pure function of the index.
      look_ahead: pending segments of a `LookAheadPacker`; 0 for a `BestFitPacker`.
    """

    def __init__(
        self,
        stream: grain.MapDataset[packing.Segment],
        *,
        shape: packing.RowShape,
        open_rows: int = 8,
        look_ahead: int = 0,
        read: reading.ReadConfig | None = None,
    ) -> None:
        read = read or reading.ReadConfig()
        super().__init__(reading.StreamIterDataset(stream, read))
        self.stream = stream
        self.shape = shape
        self.open_rows = open_rows
        self.look_ahead = look_ahead

    def __iter__(self) -> "PackIterator":
        packer = (
            LookAheadPacker(self.shape, self.look_ahead)
            if self.look_ahead
            else BestFitPacker(self.shape, self.open_rows)
        )
        return PackIterator(iter(self.parents[0]), self.stream, packer=packer)


class PackIterator(grain.DatasetIterator[list[packing.Segment]]):
    """See `PackIterDataset`. The state is plain JSON, whose keys stay as they are."""

    def __init__(
        self,
        parent: grain.DatasetIterator[packing.Segment],
        stream: Any,
        *,
        packer: BestFitPacker | LookAheadPacker,
    ) -> None:
        super().__init__(parent)
        self.stream = stream
        self.packer = packer
        self.next_index = 0

    def __next__(self) -> list[packing.Segment]:
        while True:
            if (row := self.packer.pop_ready()) is not None:
                return row.segments
            try:
                segment = next(self._parent)
            except StopIteration:
                if (row := self.packer.pop_any()) is None:
                    raise
                return row.segments
            index, self.next_index = self.next_index, self.next_index + 1
            if (row := self.packer.add(segment, index)) is not None:
                return row.segments

    def get_state(self) -> dict[str, Any]:
        return {
            "parent": self._parent.get_state(),
            "next_place": self.next_index,
            "closed": self.packer.closed,
            "open": self.packer.state(),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        self._parent.set_state(state["parent"])
        self.next_index = state["next_place"]
        self.packer.closed = state["closed"]
        self.packer.restore(state["open"], self.stream.__getitem__)


def check_fits(tokens: int, text: int, *, shape: packing.RowShape) -> None:
    """Refuse a clip or a caption larger than an empty row.

    Raises:
      ValueError: with both numbers, and the capacity that is needed.
    """
    if tokens > shape.tokens:
        raise ValueError(
            f"a clip of {tokens} tokens does not fit a row of {shape.tokens}: use rows "
            f"of {shape.aligned(tokens)} or more, or fit clips to {shape.tokens} tokens"
        )
    if text > shape.text:
        raise ValueError(
            f"a caption of {text} tokens does not fit a row's {shape.text}: use {text} "
            f"or more, or cut captions to {shape.text}"
        )


def pack_batch(
    rows: Sequence[Sequence[packing.Segment]],
    *,
    shape: packing.RowShape,
    count: int,
    shards: int = 1,
) -> packing.Packed:
    """A batch of exactly `count` rows.

    The last batch of a pass is filled with empty rows. Tokens are striped over the
    `shards` of a row (`packing.stripe`).
    """
    empty: list[Sequence[packing.Segment]] = [[]] * (count - len(rows))
    return packing.stripe(packing.assemble([*rows, *empty], shape), shards=shards)


def efficiency(packed: packing.Packed) -> float:
    """Fraction of a batch's tokens that belong to a clip."""
    return float(np.mean(np.asarray(packed.segments) > 0))
