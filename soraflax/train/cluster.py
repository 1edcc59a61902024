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
from collections.abc import Mapping
from typing import Any

import jax


@dataclasses.dataclass(frozen=True)
class ClusterConfig:
    """Processes that form one run.

    Attributes:
      coordinator: HOST:PORT of process 0; "" takes it from the environment.
      count: number of processes; 0 takes it from the environment.
      id: this process, 0 to `count` - 1; -1 takes it from the environment.
      start_seconds: seconds that processes wait for each other when they start.
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
      ValueError: neither the configuration nor the environment says who they are.
    """
    words = arguments(config, environ)
    try:
        jax.distributed.initialize(**words)
    except ValueError as error:
        raise ValueError(
            f"the processes of this run are not known ({error}); give "
            "--config.cluster.coordinator=HOST:PORT, cluster.count and cluster.id"
        ) from error


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
        "initialization_timeout": config.start_seconds,
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
