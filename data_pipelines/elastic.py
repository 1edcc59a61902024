"""Streams that another number of hosts continues, batch for batch.

The stream of clips is dealt to L lanes: lane l takes elements l, l + L, l + 2 L, ...
and packs rows of its own. With R rows in a batch of all hosts, each lane gives R / L of
them, in the order of lanes:

    batch k = [lane 0's rows, lane 1's rows, ..., lane L - 1's rows]                 (1)

Host i of n holds lanes i L / n to (i + 1) L / n - 1. So (1) does not depend on n, which
may be any divisor of L: the position of a run is that of its lanes, whoever holds them.
Crops need no lanes: their batch k is a function of k (`data_pipelines.cropping`).
"""

import collections
import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import grain

from data_pipelines import packing, sources
from soraflax.ops import packing as packed_rows

Round = list[list[packed_rows.Segment]]


@dataclasses.dataclass(frozen=True)
class HostShard:
    """One of the processes that feed a training run: its index and their count."""

    index: int = 0
    count: int = 1

    def lanes(self, total: int) -> range:
        """The lanes of this host.

        Raises:
          ValueError: they do not divide over the hosts.
        """
        if total % self.count:
            legal = [n for n in range(1, total + 1) if total % n == 0]
            raise ValueError(
                f"{total} lanes do not divide over {self.count} hosts, or groups of "
                f"them: use {' or '.join(map(str, legal))}"
            )
        held = total // self.count
        return range(self.index * held, (self.index + 1) * held)


class LaneIterDataset(grain.IterDataset[Round]):
    """This host's rows of each batch, of lanes that ended empty ones.

    Args:
      lanes: packers of the lanes that this host holds, by number.
      rows: rows of each lane in a batch.
    """

    def __init__(
        self, lanes: Mapping[int, packing.PackIterDataset], *, rows: int
    ) -> None:
        super().__init__(list(lanes.values()))
        self.numbers = tuple(lanes)
        self.rows = rows

    def __iter__(self) -> "LaneIterator":
        # Through the parents: worker processes slice what they hold, in place.
        lanes = [iter(parent) for parent in self.parents]  # pyright: ignore[reportArgumentType, reportCallIssue]
        return LaneIterator(lanes, self.numbers, rows=self.rows)


class LaneIterator(grain.DatasetIterator[Round]):
    """See `LaneIterDataset`. The state is that of every lane, by its number."""

    def __init__(
        self,
        lanes: Sequence[grain.DatasetIterator[Any]],
        numbers: Sequence[int],
        *,
        rows: int,
    ) -> None:
        super().__init__(lanes)
        self._lanes = dict(zip(map(str, numbers), lanes, strict=True))
        self._rows = rows

    def __next__(self) -> Round:
        taken = [
            next(lane, None) for lane in self._lanes.values() for _ in range(self._rows)
        ]
        if all(row is None for row in taken):
            raise StopIteration
        return [row or [] for row in taken]

    def get_state(self) -> dict[str, Any]:
        return {number: lane.get_state() for number, lane in self._lanes.items()}

    def set_state(self, state: dict[str, Any]) -> None:
        for number, lane in self._lanes.items():
            lane.set_state(state[number])


class LaneBatches(Iterator[Any]):
    """Batches of packed rows, continued by any number of hosts that divides the lanes.

    Its state is `{"rows", "lanes", "host", "states"}`: rows of a batch of all hosts,
    number of lanes, index and count of the host, and the states of its lanes.
    """

    def __init__(
        self,
        make: Callable[[int], grain.IterDataset[Any]],
        *,
        rounds: Callable[[int], LaneIterDataset],
        host: HostShard,
        lanes: int,
        rows: int,
        shares: Sequence[sources.SourceShare] = (),
    ) -> None:
        """Make the batches of a new run.

        Args:
          make: number of lanes to the batches of this host.
          rounds: number of lanes to the rows of those batches.
          host: this process.
          lanes: number of lanes of a new run; 0 for one for each host.
          rows: rows of a batch of this host.
          shares: sources of the clips.
        """
        self._make, self._rounds, self._host = make, rounds, host
        self._shares = shares
        self._rows = rows * host.count
        self._open(lanes or host.count)

    def _open(self, lanes: int) -> None:
        self._lanes = lanes
        self._iterator = iter(self._make(lanes))

    def __next__(self) -> Any:
        return next(self._iterator)

    def close(self) -> None:
        """Stop reading ahead."""
        self._iterator.close()

    def get_state(self) -> dict[str, Any]:
        return {
            "rows": self._rows,
            "lanes": self._lanes,
            "host": dataclasses.astuple(self._host),
            "states": self._iterator.get_state(),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue where a host of the same index and count was."""
        if state["lanes"] != self._lanes:
            self.close()
            self._open(state["lanes"])
        self._iterator.set_state(state["states"])

    def set_states(self, states: Sequence[dict[str, Any]]) -> None:
        """Continue where the processes of a run, of whatever number, were together.

        Raises:
          ValueError: batches of another size, lanes that do not divide over this
            number of hosts, or states of workers of another one.
        """
        if "lanes" not in states[0]:  # of an earlier version: a lane for each process
            states = [
                _lane_state(n, states, rows=self._rows) for n in range(len(states))
            ]
        first, count = states[0], self._host.count
        if first["rows"] != self._rows:
            rows = first["rows"]
            hint = f"use {rows // count}" if rows % count == 0 else "use other hosts"
            raise ValueError(
                f"batches of {rows} rows are continued with {self._rows}, data.rows "
                f"{self._rows // count} for each of {count} hosts, or groups of them; "
                f"{hint}"
            )
        held = self._host.lanes(first["lanes"])
        lanes = _merged(states)
        self.set_state(
            {"lanes": first["lanes"], "states": {str(n): lanes[str(n)] for n in held}}
        )

    def clips(self, state: dict[str, Any]) -> list[str]:
        """Ids of the clips of this host's batch after a state, read once more.

        None where its data have ended, and those of others have not.
        """
        try:
            return list(itertools.chain.from_iterable(self.row_clips(state)))
        except StopIteration:
            return []

    def row_clips(self, state: dict[str, Any], *, ahead: int = 0) -> list[list[str]]:
        """As `clips`, a list for each row, of the batch `ahead` batches further on.

        Raises:
          StopIteration: the data ends before.
        """
        rounds = iter(self._rounds(state["lanes"]))
        rounds.set_state(state["states"])
        batch = next(itertools.islice(rounds, ahead, None))
        return [[segment.clip for segment in row] for row in batch]

    def epochs(self, state: dict[str, Any]) -> dict[str, float]:
        """Passes over each source in the batches before a state, by its name.

        Clips in rows that are still open do not count. This host's lanes speak for
        all.
        """
        lanes = state["states"].values()
        drawn = sum(
            lane["next_place"] - sum(len(row) - 1 for row in lane["open"])
            for lane in lanes
        )
        drawn *= state["lanes"] / len(lanes)
        return {share.name: share.epochs(drawn) for share in self._shares}


class StepBatches(Iterator[Any]):
    """Batches that are a function of their number, which is the position of all hosts.

    Args:
      iterator: the batches of this host.
      clips: number of a batch to the ids of its clips.
      batch: clips of a batch of all hosts.
      shares: sources of the clips.
    """

    def __init__(
        self,
        iterator: grain.DatasetIterator[Any],
        *,
        clips: Callable[[int], list[str]],
        batch: int,
        shares: Sequence[sources.SourceShare] = (),
    ) -> None:
        self._iterator, self._clips = iterator, clips
        self._batch, self._shares = batch, shares

    def __next__(self) -> Any:
        return next(self._iterator)

    def close(self) -> None:
        """Stop reading ahead."""
        self._iterator.close()

    def get_state(self) -> Any:
        return self._iterator.get_state()

    def clips(self, state: Any) -> list[str]:
        """Ids of the clips of this host's batch after a state."""
        return self._clips(state["next_index"])

    def epochs(self, state: Any) -> dict[str, float]:
        """Passes over each source in the batches before a state, by its name."""
        drawn = state["next_index"] * self._batch
        return {share.name: share.epochs(drawn) for share in self._shares}

    def set_state(self, state: Any) -> None:
        self._iterator.set_state(state)

    def set_states(self, states: Sequence[Any]) -> None:
        """Continue where the processes of a run, of whatever number, were together.

        Raises:
          ValueError: they were at different places.
        """
        if any(state != states[0] for state in states):
            raise ValueError("its processes were at different places in the data")
        self.set_state(states[0])


def _merged(states: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The state of every lane; processes that held the same lanes must agree.

    Raises:
      ValueError: they do not.
    """
    found: dict[str, list[Any]] = collections.defaultdict(list)
    for state in states:
        for number, lane in state["states"].items():
            found[number].append(lane)
    for number, lanes in found.items():
        if any(lane != lanes[0] for lane in lanes):
            raise ValueError(f"its processes were at different places in lane {number}")
    return {number: lanes[0] for number, lanes in found.items()}


def _lane_state(number: int, states: Sequence[Any], *, rows: int) -> dict[str, Any]:
    """The state of a process of an earlier version, as one of a lane of its own."""
    return {
        "rows": rows,
        "lanes": len(states),
        "host": (number, len(states)),
        "states": {str(number): states[number]},
    }
