"""A file that several processes write, each a part of its bytes.

On a disk that all see, each writes a range of the one file. An object of a bucket has
one writer: there the file is pieces, dealt to the processes in turn, each an object of
its own that is sent while others are gathered; the bucket itself joins them.

A process that cannot write goes on taking part in gathering, and says so in the end.
"""

import concurrent.futures
import contextlib
import functools
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from soraflax import buckets

# Ranges begin at multiples of it: clients of a network file system may write whole
# pages, and with them the neighbours' bytes of a moment before.
RANGE = 2**20
PIECE = 2**26  # bytes of an object that is joined to others
SENDING = 2  # pieces that a process holds while they are sent
MAX_PATH = 4096

Write = Callable[[Any, int], object]  # bytes, and their offset in the file
Failure = OSError | buckets.BucketError


def seen_by_all(path: buckets.Folder | None, *, size: int) -> buckets.Folder | None:
    """The file of the first process, in all; None where one does not see it.

    Args:
      path: the file; None in all processes but the first. On a disk it is made.
      size: its bytes.

    Raises:
      OSError: it cannot be made.
    """
    name = np.zeros(MAX_PATH, np.uint8)
    failure = None
    if path is not None:
        own = os.fsencode(path)
        try:
            if not buckets.is_bucket(path):
                with path.open("wb") as file:
                    file.truncate(size)
            if len(own) <= MAX_PATH:
                name[: len(own)] = np.frombuffer(own, np.uint8)
        except OSError as error:
            failure = error
    name = np.asarray(multihost_utils.broadcast_one_to_all(name))
    found = _seen(os.fsdecode(name.tobytes().rstrip(b"\0")), size=size)
    every = multihost_utils.process_allgather(
        np.asarray([found is not None, failure is not None])
    )
    _raise_in_all(failure, every[:, 1], what="the file")
    return found if np.all(every[:, 0]) else None


def _seen(name: str, *, size: int) -> buckets.Folder | None:
    try:
        path = buckets.folder(name)
    except buckets.BucketError:
        return None
    if buckets.is_bucket(path):
        return path
    return path if path.is_file() and os.stat(path).st_size == size else None


def writing(
    path: buckets.Folder, *, size: int
) -> contextlib.AbstractContextManager[Write]:
    """What writes this process's part, and leaves out what is of the others.

    Raises:
      OSError, BucketError: in all processes, if one could not write.
    """
    if buckets.is_bucket(path):
        return _pieces(path, size=size)
    return _range(pathlib.Path(path), size=size)


@contextlib.contextmanager
def _range(path: pathlib.Path, *, size: int) -> Iterator[Write]:
    """Writes what is in this process's range of bytes; the ranges divide the file."""
    count, index = jax.process_count(), jax.process_index()
    length = -(-size // (count * RANGE)) * RANGE
    low, high = index * length, (index + 1) * length
    failure: OSError | None = None
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(path.open("r+b", buffering=0))
        except OSError as error:
            file, failure = None, error

        def write(data: Any, offset: int) -> None:
            nonlocal failure
            view = memoryview(data).cast("B")
            first, last = max(low, offset), min(high, offset + len(view))
            try:
                while file is not None and failure is None and first < last:
                    file.seek(first)
                    first += file.write(view[first - offset : last - offset])
            except OSError as error:
                failure = error

        yield write
        try:
            if file is not None:
                os.fsync(file.fileno())
        except OSError as error:
            failure = failure or error
    _agree(failure, what=path.name)


@contextlib.contextmanager
def _pieces(path: buckets.Folder, *, size: int) -> Iterator[Write]:
    """Sends this process's pieces; the first process then has all of them joined."""
    own = _Sender(path, size)
    try:
        yield own.write
        _agree(own.finish(), what=path.name)
        failure = None
        if jax.process_index() == 0:
            names = [piece_name(path, n) for n in range(-(-size // PIECE))]
            failure = _failure_of(functools.partial(buckets.join, names, path), path)
        _agree(failure, what=path.name)
    finally:
        own.remove()


def piece_name(path: buckets.Folder, number: int) -> str:
    return f"{path}.piece-{number:05}"


class _Sender:
    """The pieces of a file that are this process's: filled, sent, and removed."""

    def __init__(self, path: buckets.Folder, size: int) -> None:
        self._path, self._size = path, size
        self._missing: dict[int, int] = {}
        self._held: dict[int, bytearray] = {}
        self._pool = concurrent.futures.ThreadPoolExecutor(max_workers=1)
        self._under_way: list[concurrent.futures.Future[Failure | None]] = []
        self._sent: list[str] = []
        self._failure: Failure | None = None

    def write(self, data: Any, offset: int) -> None:
        view = memoryview(data).cast("B")
        for number in range(offset // PIECE, -(-(offset + len(view)) // PIECE)):
            if number % jax.process_count() == jax.process_index():
                low = number * PIECE
                first = max(low, offset)
                last = min(low + PIECE, offset + len(view))
                part = view[first - offset : last - offset]
                self._fill(number, part, start=first - low)

    def _fill(self, number: int, part: memoryview, *, start: int) -> None:
        """Take bytes of a piece, which is sent once it has all of them."""
        if number not in self._held:
            length = min(PIECE, self._size - number * PIECE)
            self._held[number] = bytearray(length)
            self._missing[number] = length
        self._held[number][start : start + len(part)] = part
        self._missing[number] -= len(part)
        if self._missing[number] == 0:
            self._send(number, self._held.pop(number))

    def _send(self, number: int, data: bytearray) -> None:
        while len(self._under_way) >= SENDING:
            self._keep(self._under_way.pop(0).result())
        if self._failure is None:
            name = piece_name(self._path, number)
            self._sent.append(name)
            send = functools.partial(buckets.put, name, data)
            self._under_way.append(self._pool.submit(_failure_of, send, self._path))

    def _keep(self, failure: Failure | None) -> None:
        self._failure = self._failure or failure

    def finish(self) -> Failure | None:
        """Wait for what is under way; the first failure."""
        while self._under_way:
            self._keep(self._under_way.pop(0).result())
        return self._failure

    def remove(self) -> None:
        """Remove the pieces from the bucket, whether they are joined or given up."""
        self._pool.shutdown(cancel_futures=True)
        for name in self._sent:
            _failure_of(functools.partial(buckets.discard, name), self._path)


def _failure_of(call: Callable[[], object], path: buckets.Folder) -> Failure | None:
    try:
        with buckets.one_line(path):
            call()
    except (OSError, buckets.BucketError) as error:
        return error
    return None


def _agree(own: Failure | None, *, what: str) -> None:
    failed = multihost_utils.process_allgather(np.asarray(own is not None))
    _raise_in_all(own, failed, what=what)


def _raise_in_all(own: Failure | None, failed: np.ndarray, *, what: str) -> None:
    """This process's error, or one that names the first that has one."""
    if own is not None:
        raise own
    if np.any(failed):
        number = int(np.argmax(failed))
        raise OSError(f"{what}: process {number} could not write its part")
