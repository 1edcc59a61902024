"""Reading a stream in order, by threads or by worker processes.

A stream has random access and decides every element by its index, so that its state is
one integer: whoever reads, and however far ahead, the same elements come in the same
order, and any number of workers goes on where any other stopped.
"""

import dataclasses
from typing import Any, Generic, Protocol, TypeVar

import grain

T = TypeVar("T")
Item = TypeVar("Item", covariant=True)


@dataclasses.dataclass(frozen=True)
class ReadConfig:
    """Prefetching, which changes neither what comes nor in which order.

    Attributes:
      threads: number of threads that read and decode, in each process that does; 0 for
        its own.
      buffer: number of clips (or batches of crops) prefetched.
      ahead: number of batches that a thread holds ready; 0 for none.
      workers: number of processes that read and transform clips; 0 for none. They
        serve decoding and large captions; threads do for latents.
    """

    threads: int = 2
    buffer: int = 16
    ahead: int = 2
    workers: int = 0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value < 0:
                raise ValueError(f"{field.name} {value}: use 0 or more")

    def shared(self, count: int) -> "ReadConfig":
        """The part of one of `count` streams that are read at once."""
        threads, workers = self.threads // count, self.workers // count
        threads = max(min(1, self.threads), threads)
        return dataclasses.replace(
            self,
            threads=threads,
            buffer=max(min(1, self.buffer), threads, self.buffer // count),
            workers=max(min(1, self.workers), workers),
        )

    @property
    def options(self) -> grain.ReadOptions:
        return grain.ReadOptions(
            num_threads=self.threads, prefetch_buffer_size=self.buffer
        )


class Stream(Protocol[Item]):
    """Random access to elements, each decided by its index."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Item: ...


@dataclasses.dataclass(frozen=True)
class _Rest(Generic[T]):
    """The stream from element `start` on."""

    stream: Stream[T]
    start: int

    def __len__(self) -> int:
        return max(0, len(self.stream) - self.start)

    def __getitem__(self, index: int) -> T:
        return self.stream[self.start + index]


class StreamIterDataset(grain.IterDataset[T]):
    """The elements of a stream, in order.

    Attributes:
      stream: the stream.
      config: threads and workers that read it.
    """

    def __init__(self, stream: Any, config: ReadConfig) -> None:
        super().__init__()
        self.stream = stream
        self.config = config

    def __iter__(self) -> "StreamIterator[T]":
        return StreamIterator(self.stream, self.config)


class StreamIterator(grain.DatasetIterator[T]):
    """See `StreamIterDataset`. The state is the index of the next element."""

    def __init__(self, stream: Any, config: ReadConfig) -> None:
        super().__init__()
        self.stream = stream
        self.config = config
        self.next_index = 0
        self._elements: grain.DatasetIterator[T] | None = None

    def __next__(self) -> T:
        if self._elements is None:
            self._elements = self._open()
        element = next(self._elements)
        self.next_index += 1
        return element

    def get_state(self) -> dict[str, int]:
        return {"next_index": self.next_index}

    def set_state(self, state: dict[str, int]) -> None:
        """Go on at an index; what was read ahead is dropped.

        Raises:
          IndexError: the stream ends before.
        """
        index, size = state["next_index"], len(self.stream)
        if not 0 <= index <= size:
            raise IndexError(f"element {index} of a stream of {size}")
        self._drop()
        self.next_index = index

    def close(self) -> None:
        self._drop()
        super().close()

    def _drop(self) -> None:
        if self._elements is not None:
            self._elements.close()
            self._elements = None

    def _open(self) -> grain.DatasetIterator[T]:
        # As a source of its own, which workers divide element by element; they would
        # divide the sources of a mixture one by one.
        rest = grain.MapDataset.source(_Rest(self.stream, self.next_index))
        dataset = rest.to_iter_dataset(self.config.options)
        if self.config.workers:
            from absl import flags

            flags.FLAGS.mark_as_parsed()  # grain's workers read absl flags
            ahead = -(-self.config.buffer // self.config.workers)
            dataset = dataset.mp_prefetch(
                grain.MultiprocessingOptions(
                    num_workers=self.config.workers,
                    per_worker_buffer_size=max(1, ahead),
                )
            )
        return iter(dataset)


def read_ahead(
    dataset: grain.IterDataset[T], config: ReadConfig
) -> grain.IterDataset[T]:
    """The same elements, prefetched by a thread."""
    if not config.ahead:
        return dataset
    return grain.experimental.ThreadPrefetchIterDataset(
        dataset, prefetch_buffer_size=config.ahead
    )
