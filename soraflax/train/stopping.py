"""SIGTERM and Ctrl-C, heeded between two steps and between batches of an evaluation.

Several processes stop at the same place, by JAX's preemption service: every process
asks at the same places, and the service tells all of them yes at the same one. Where
they work apart there are no such places: each is told by the store of JAX's
coordination service, and stops where it is (`raised_in_all`).
"""

import contextlib
import ctypes
import itertools
import os
import signal
import threading
import time
from collections.abc import Iterator

import jax
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

POLL_SECONDS = 0.2
# The service, of which a process has one, wants a count that grows over all who ask.
_PLACES = itertools.count(1)


class Interrupted(KeyboardInterrupt):
    """The run was asked to stop by a signal, and saved its state."""


class StopSignals:
    """Whether the run was asked to stop; all processes ask in the same order."""

    def __init__(self) -> None:
        self._requested = threading.Event()

    def __call__(self) -> bool:
        """Whether to stop here, the same in all processes."""
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(next(_PLACES))
        return self._requested.is_set()

    def check(self) -> None:
        """As calling it, where the way out is an exception.

        Raises:
          Interrupted: it is asked to stop.
        """
        if self():
            raise Interrupted("the run was asked to stop")

    def request(self, signum: int = signal.SIGTERM, _: object = None) -> None:
        """Ask to stop; a second Ctrl-C interrupts as usual."""
        if self._requested.is_set() and signum == signal.SIGINT:
            raise KeyboardInterrupt
        self._requested.set()


@contextlib.contextmanager
def deferred() -> Iterator[StopSignals]:
    """Defers SIGTERM and Ctrl-C to what is yielded."""
    stop = StopSignals()
    with _handled((signal.SIGINT, signal.SIGTERM), stop.request):
        yield stop


@contextlib.contextmanager
def raised() -> Iterator[None]:
    """SIGTERM raises `Interrupted`, as Ctrl-C raises KeyboardInterrupt.

    So drafts of what is being written are removed. With several processes SIGTERM stays
    with the preemption service, which waits until it is asked.
    """

    def stop(_: int, __: object) -> None:
        raise Interrupted("asked to stop; the same command goes on")

    with _handled((signal.SIGTERM,), stop):
        yield


@contextlib.contextmanager
def raised_in_all(work: str) -> Iterator[None]:
    """SIGTERM to any of several processes raises `Interrupted` in all, where each is.

    For work in which none waits for another; who is done waits at the end for the
    others, in the main thread. A single process is left to `raised`.

    Args:
      work: name of the work, another each time.

    Raises:
      Interrupted: one was asked to stop.
    """
    if jax.process_count() == 1:
        yield
        return
    client = ocp.multihost.get_jax_distributed_client()
    folder, own = f"soraflax/{work}/", str(jax.process_index())
    asked, over = threading.Event(), threading.Event()

    def stop(_: int, __: object) -> None:
        if not asked.is_set():
            asked.set()
            client.key_value_set(f"{folder}stop/{own}", "1", allow_overwrite=True)
            raise Interrupted("asked to stop; the same command goes on")

    def listen() -> None:
        while not over.wait(POLL_SECONDS):
            if client.key_value_dir_get(f"{folder}stop/"):
                os.kill(os.getpid(), signal.SIGTERM)
                return

    listener = threading.Thread(target=listen, daemon=True)
    with _replaced(signal.SIGTERM, stop):
        listener.start()
        try:
            try:
                yield
            finally:
                client.key_value_set(f"{folder}done/{own}", "1", allow_overwrite=True)
            while len(client.key_value_dir_get(f"{folder}done/")) < jax.process_count():
                time.sleep(POLL_SECONDS)
        finally:
            over.set()
            listener.join()


@contextlib.contextmanager
def _replaced(number: signal.Signals, handler: object) -> Iterator[None]:
    """`handler` of a signal whose own may be no function of Python.

    JAX's preemption service has such a one, which `signal.signal` cannot bring back.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    before = ctypes.create_string_buffer(1024)  # a `struct sigaction`, and room
    libc.sigaction(int(number), None, before)
    known = signal.signal(number, handler)  # pyright: ignore[reportArgumentType]
    try:
        yield
    finally:
        if known is not None:
            signal.signal(number, known)
        libc.sigaction(int(number), before, None)


@contextlib.contextmanager
def _handled(signals: tuple[signal.Signals, ...], handler: object) -> Iterator[None]:
    """`handler` of signals, in the main thread of a single process."""
    # Python lets only the main thread handle signals; with several processes the
    # preemption service has the handlers.
    main = threading.current_thread() is threading.main_thread()
    taken = signals if main and jax.process_count() == 1 else ()
    before = {number: signal.signal(number, handler) for number in taken}  # pyright: ignore[reportArgumentType]
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
