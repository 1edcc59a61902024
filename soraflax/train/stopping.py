"""SIGTERM and Ctrl-C, heeded between two steps and between batches of an evaluation.

Several processes stop at the same place, by JAX's preemption service: every process
asks at the same places, and the service tells all of them yes at the same one.
"""

import contextlib
import signal
import threading
from collections.abc import Iterator

import jax
from jax.experimental import multihost_utils


class Interrupted(KeyboardInterrupt):
    """The run was asked to stop by a signal, and saved its state."""


class StopSignals:
    """Whether the run was asked to stop; all processes ask in the same order."""

    def __init__(self) -> None:
        self._requested = threading.Event()
        self._asked = 0

    def __call__(self) -> bool:
        """Whether to stop here, the same in all processes."""
        if jax.process_count() > 1:
            self._asked += 1  # the service wants a count that grows, as steps do
            return multihost_utils.reached_preemption_sync_point(self._asked)
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
