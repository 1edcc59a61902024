"""Random-access sources, and the endless shuffled stream drawn from them.

A source is anything with a length and items: a clip dataset (`records.open_dataset`),
a latent dataset (`latents.open_latents`), a list; one with `draw(element, index)` is
told which draw it is (`budgets`). The stream over one or several of
them is random-access too: element k is a pure function of (seed, k), each pass over a
source is shuffled anew, and host i of n takes elements i, i + n, i + 2 n, ... So the
elements drawn do not depend on how many hosts, threads or workers draw them, and a
position in the stream is one integer.

An element that cannot be read is replaced by the next one of the same pass, which its
place in the stream decides as well. Each is said once; too many end the run.
"""

import collections
import dataclasses
import functools
import math
import os
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import grain
import numpy as np
from jaxtyping import UInt16

from data_pipelines import records

T = TypeVar("T", covariant=True)
LEFT_OUT = "it is left out"


@runtime_checkable
class Source(Protocol[T]):
    """A dataset with random access."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> T: ...


def stream(
    sources: Sequence[Source[T]],
    *,
    seed: int,
    weights: Sequence[float] = (),
    passes: int | None = None,
) -> grain.MapDataset[T]:
    """The shuffled stream over one or several sources.

    Args:
      sources: datasets to draw from.
      seed: PRNG seed of the shuffles; each source and each pass has its own.
      weights: relative frequency of each source; empty for equal ones.
      passes: number of passes over a source; None for endless. Several sources are
        always mixed endlessly.

    Raises:
      ValueError: no source, an empty one, or weights that do not match.
    """
    if not sources or min(len(source) for source in sources) == 0:
        raise ValueError("a dataset without clips cannot be drawn from: give 1 or more")
    if weights and (
        len(weights) != len(sources) or not all(0 < w < math.inf for w in weights)
    ):
        raise ValueError(
            f"weights {tuple(weights)} for {len(sources)} datasets: give one positive "
            "weight for each"
        )
    if len(sources) > 1 and passes is not None:
        raise ValueError(f"{passes} passes over a mixture: use passes=None")
    shuffled = [
        grain.MapDataset.source(ShuffledPasses(source, _fold(seed, number), passes))
        for number, source in enumerate(sources)
    ]
    if len(shuffled) == 1:
        return shuffled[0]
    return grain.MapDataset.mix(shuffled, list(weights) or None)


@dataclasses.dataclass(frozen=True)
class SourceShare:
    """The part of a stream that one of its sources is.

    Attributes:
      name: of the source.
      clips: how many it has.
      share: part of the elements of the stream that are of it.
    """

    name: str
    clips: int
    share: float

    def epochs(self, drawn: float) -> float:
        """Passes over the source in the first `drawn` elements of the stream."""
        return drawn * self.share / self.clips


def shares(
    paths: Sequence[str],
    sizes: Sequence[int],
    *,
    weights: Sequence[float] = (),
) -> list[SourceShare]:
    """The shares of sources in their stream, by the last parts of their paths.

    Those of one name are told apart by numbers from 2 on.
    """
    odds = list(weights) or [1.0] * len(sizes)
    seen: collections.Counter[str] = collections.Counter()
    made = []
    for path, size, weight in zip(paths, sizes, odds, strict=True):
        name = os.path.basename(os.path.normpath(path))
        seen[name] += 1
        if seen[name] > 1:
            name = f"{name}-{seen[name]}"
        made.append(SourceShare(name, size, weight / sum(odds)))
    return made


class DamageCount:
    """The elements of a source that could not be read, in this process.

    Attributes:
      limit: most of them before the run ends.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._found: set[Any] = set()
        self._lock = threading.Lock()

    def __reduce__(self) -> Any:  # every worker process counts for itself
        return DamageCount, (self.limit,)

    def __len__(self) -> int:
        return len(self._found)

    def __contains__(self, element: Any) -> bool:
        return element in self._found

    def add(
        self, element: Any, error: Exception, *, then: str = "another takes its place"
    ) -> None:
        """Count an element, and say so the first time.

        Args:
          element: which cannot be read.
          error: why.
          then: what becomes of its place.

        Raises:
          DatasetError: there are more than `limit`.
        """
        with self._lock:
            if element in self._found:
                return
            self._found.add(element)
            count = len(self._found)
        if count > self.limit:
            raise records.DatasetError(
                f"{error}: more than {self.limit} cannot be read; make the dataset "
                "again"
            ) from error
        print(
            f"{error}; {then} ({count} of at most {self.limit})",
            file=sys.stderr,
            flush=True,
        )


def max_damaged(size: int) -> int:
    """Most elements of a source of `size` that may be replaced: one in 100, or one."""
    return max(1, size // 100)


def readable(source: Source[T], indices: Iterable[int]) -> Iterator[tuple[int, T]]:
    """The elements that can be read, with their indices; others are left out and said.

    For what looks at clips one after the other: to measure, to validate, to describe.

    Args:
      source: the dataset.
      indices: of the elements.

    Raises:
      DatasetError: more cannot be read than training replaces.
    """
    count = DamageCount(max_damaged(len(source)))
    for index in indices:
        try:
            element = source[index]
        except records.DamagedRecordError as error:
            count.add(index, error, then=LEFT_OUT)
        else:
            yield index, element


@dataclasses.dataclass(frozen=True)
class ShuffledPasses(Generic[T]):
    """A source repeated, each pass in another order.

    Attributes:
      source: the dataset.
      seed: PRNG seed of the orders.
      passes: number of passes; None for endless.
      damaged: elements that could not be read.
    """

    source: Source[T]
    seed: int
    passes: int | None = None
    damaged: DamageCount = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        count = DamageCount(max_damaged(len(self.source)))
        object.__setattr__(self, "damaged", count)

    def __len__(self) -> int:
        return sys.maxsize if self.passes is None else len(self.source) * self.passes

    def __getitem__(self, index: int) -> T:
        size = len(self.source)
        number, position = divmod(index, size)
        seed = _fold(self.seed, number)
        for attempt in range(size):
            element = shuffled_index((position + attempt) % size, size, seed=seed)
            if element in self.damaged:
                continue
            try:
                return self._draw(element, index)
            except records.DamagedRecordError as error:
                self.damaged.add(element, error)
        raise records.DatasetError(f"none of {size} records can be read")

    def _draw(self, element: int, index: int) -> T:
        """An element, in the size of its `index`-th draw where the source has some."""
        draw = getattr(self.source, "draw", None)
        return self.source[element] if draw is None else draw(element, index)


def shuffled_index(position: int, size: int, *, seed: int) -> int:
    """Element of 0..size - 1 at `position` in the permutation that `seed` gives.

    Small sizes keep the whole order; grain's shuffle, which needs no memory, walks
    cycles that take milliseconds there.
    """
    if size <= 2**16:
        return int(_order(size, seed)[position])
    return int(
        grain.experimental.index_shuffle(
            position, max_index=size - 1, seed=seed, rounds=4
        )
    )


@functools.lru_cache(maxsize=64)
def _order(size: int, seed: int) -> UInt16[np.ndarray, "size"]:
    return np.random.default_rng(seed).permutation(size).astype(np.uint16)


def shard_stream(dataset: grain.MapDataset[T], index: int, *, count: int) -> Any:
    """Every `count`-th element from `index` on: the elements of one of `count` hosts.

    Raises:
      ValueError: there is no such host.
    """
    if not 0 <= index < count:
        raise ValueError(f"host {index} of {count}: use 0..{max(0, count - 1)}")
    return dataset if count == 1 else dataset[index::count]


@functools.lru_cache(maxsize=64)
def _fold(seed: int, number: int) -> int:
    """The 32-bit seed of the `number`-th source or pass."""
    return int(np.random.SeedSequence((seed, number)).generate_state(1)[0])
