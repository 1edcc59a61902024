"""The processes of a run: where they meet, how many there are, which one this is.

`start` is the one place that calls `jax.distributed.initialize`. What the configuration
leaves open is taken from the environment, the first that says it:

    SORAFLAX_COORDINATOR, SORAFLAX_PROCESSES, SORAFLAX_PROCESS     by hand
    MASTER_ADDR and MASTER_PORT, WORLD_SIZE, RANK                  torchrun and its like
    SLURM, Open MPI, TPU pods, Kubernetes                          found by JAX

A process of SLURM or Open MPI has one GPU, of any other launcher all of its host.
"""

import dataclasses
import os
import queue
import socket
import threading
from collections.abc import Mapping
from typing import Any

import jax
from jax._src import distributed  # the key-value store has no public name

# JAX ends a process whose time is up with SIGABRT: `start` says it first.
_JAX_SECONDS = 3600
_REACH_SECONDS = 5  # for a look at who answers


@dataclasses.dataclass(frozen=True)
class ClusterConfig:
    """Processes that form one run.

    Attributes:
      coordinator: HOST:PORT of process 0; "" takes it from the environment.
      count: number of processes; 0 takes it from the environment.
      id: this process, 0 to `count` - 1; -1 takes it from the environment.
      start_seconds: seconds that processes wait for each other when they start; then
        each ends with one line that says who is missing.
      heartbeat_seconds: seconds of silence after which a process is taken for lost, and
        the others end.
    """

    coordinator: str = ""
    count: int = 0
    id: int = -1
    start_seconds: int = 300
    heartbeat_seconds: int = 100

    def __post_init__(self) -> None:
        if self.coordinator and not _is_address(self.coordinator):
            raise ValueError(
                f"cluster.coordinator {self.coordinator!r}: use HOST:PORT, as in "
                f"{self.coordinator.split(':')[0] or 'node0'}:9876"
            )
        if self.count < 0 or self.id < -1 or (self.count and self.id >= self.count):
            raise ValueError(
                f"cluster.id {self.id} of cluster.count {self.count}: use 0 to "
                f"{max(self.count, 1) - 1}"
            )
        if self.start_seconds < 1 or self.heartbeat_seconds < 1:
            raise ValueError("cluster seconds: use 1 or more")

    @property
    def is_given(self) -> bool:
        """Whether it names any process, so that there is a run of several."""
        return bool(self.coordinator or self.count or self.id >= 0)


def start(config: ClusterConfig, environ: Mapping[str, str] = os.environ) -> None:
    """Join the other processes of the run; before any other use of JAX.

    Raises:
      ValueError: neither the configuration nor the environment says who they are, one
        did not come within `start_seconds`, they were told different counts, or the
        coordinator's port is taken.
    """
    words = arguments(config, environ)
    _check_free(words)
    ended: queue.Queue[BaseException | None] = queue.Queue()

    def join() -> None:
        try:
            jax.distributed.initialize(**words)
        except BaseException as error:
            ended.put(error)
        else:
            ended.put(None)

    # It waits in C++, where no deadline of Python's can reach it.
    threading.Thread(target=join, daemon=True).start()
    try:
        error = ended.get(timeout=config.start_seconds)
    except queue.Empty:
        raise _absent(words, seconds=config.start_seconds) from None
    if isinstance(error, ValueError):
        raise ValueError(
            f"the processes of this run are not known ({error}); give "
            "--config.cluster.coordinator=HOST:PORT, cluster.count and cluster.id"
        ) from error
    if error is not None:
        raise error
    _check_counts(config.start_seconds)


def _check_free(words: Mapping[str, Any]) -> None:
    """Nothing listens where process 0 is about to; JAX would share the port.

    Raises:
      ValueError: something does.
    """
    place = words.get("coordinator_address", "")
    if words.get("process_id") != 0 or not place:
        return
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("", int(place.rpartition(":")[2])))
        except OSError as error:
            raise ValueError(
                f"process 0: {place} is taken ({error.strerror}): another process has "
                "cluster.id 0, or the port is in use; give another one"
            ) from None


def _absent(words: Mapping[str, Any], *, seconds: int) -> ValueError:
    """What to say where the processes did not all meet; looks who answers."""
    found = distributed.global_state
    index = words.get("process_id", found.process_id)
    count = words.get("num_processes", found.num_processes) or "the"
    place = words.get("coordinator_address", found.coordinator_address) or ""
    if index and place:
        host, _, port = place.rpartition(":")
        address = host.strip("[]"), int(port)
        try:
            socket.create_connection(address, _REACH_SECONDS).close()
        except OSError as error:
            return ValueError(
                f"process {index}: no process 0 at {place} after {seconds} s "
                f"({error.strerror or error}): start it, or correct cluster.coordinator"
            )
    return ValueError(
        f"process {index}: {count} processes did not meet at {place} in {seconds} s: "
        "start those that are missing, each with its own cluster.id and the same "
        "cluster.count, or give more cluster.start_seconds"
    )


def _check_counts(seconds: int) -> None:
    """All processes were told the same number of them.

    Raises:
      ValueError: in all of them.
    """
    state = distributed.global_state
    if state.client is None or state.num_processes == 1:
        return
    name = "soraflax/cluster_count"
    state.client.key_value_set(f"{name}/{state.process_id}", str(state.num_processes))
    state.client.wait_at_barrier(name, 1000 * seconds)
    told = {key: count for key, count in state.client.key_value_dir_get(name)}
    if len(set(told.values())) > 1:
        said = ", ".join(
            f"{count} to process {key.rpartition('/')[2]}"
            for key, count in sorted(told.items())
        )
        raise ValueError(f"cluster.count differs: {said}: give all of them one number")


def arguments(
    config: ClusterConfig, environ: Mapping[str, str] = os.environ
) -> dict[str, Any]:
    """The arguments of `jax.distributed.initialize`; without those that it must find.

    Raises:
      ValueError: a variable of the environment is no number, or no address.
    """
    found = _of_environment(environ)
    coordinator = config.coordinator or found.get("coordinator", "")
    count, index = (
        given if given != unset else found.get(name, unset)
        for name, given, unset in (("count", config.count, 0), ("id", config.id, -1))
    )
    checked = dataclasses.replace(
        config, coordinator=coordinator, count=count, id=index
    )
    words: dict[str, Any] = {
        "initialization_timeout": config.start_seconds + _JAX_SECONDS,
        "heartbeat_timeout_seconds": config.heartbeat_seconds,
    }
    if checked.coordinator:
        words["coordinator_address"] = checked.coordinator
    if checked.count:
        words["num_processes"] = checked.count
    if checked.id >= 0:
        words["process_id"] = checked.id
    if {"coordinator_address", "num_processes", "process_id"} <= words.keys():
        # All is known: a launcher around this one must not be asked.
        words["cluster_detection_method"] = "deactivate"
    return words


def _of_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if "SORAFLAX_COORDINATOR" in environ:
        names = ("SORAFLAX_PROCESSES", "SORAFLAX_PROCESS")
        found["coordinator"] = environ["SORAFLAX_COORDINATOR"]
    elif "MASTER_ADDR" in environ and "RANK" in environ:
        names = ("WORLD_SIZE", "RANK")
        port = environ.get("MASTER_PORT", "29500")
        found["coordinator"] = f"{environ['MASTER_ADDR']}:{port}"
    else:
        return {}
    for key, name in zip(("count", "id"), names, strict=True):
        text = environ.get(name, "")
        if not text.isdecimal():
            raise ValueError(f"{name} is {text!r}: set it to a number of processes")
        found[key] = int(text)
    return found


def _is_address(text: str) -> bool:
    host, _, port = text.rpartition(":")
    return bool(host) and port.isdecimal() and 0 < int(port) < 2**16
