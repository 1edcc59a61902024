"""What benchmarks share: times taken in turns, the machine, and JSON lines."""

import json
import os
import platform
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np

from soraflax.cli import parser as cli

Line = dict[str, Any]


def least_seconds(
    calls: Mapping[Any, Callable[[], object]],
    repeats: int,
    *,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[Any, float]:
    """The least time of each call, taken in turns after one run that warms up."""
    for call in calls.values():
        call()
    least = dict.fromkeys(calls, float("inf"))
    for _ in range(repeats):
        for name, call in calls.items():
            start = clock()
            call()
            least[name] = min(least[name], clock() - start)
    return least


def relative_error(value: Any, expected: Any) -> float:
    """Norm of the difference over the norm of what was expected."""
    return float(np.linalg.norm(value - expected) / np.linalg.norm(expected))


def environment() -> Line:
    """The machine and the version of JAX that a measurement was taken with."""
    return {"machine": machine(), "jax": jax.__version__}


def machine() -> str:
    """Kind of device, architecture and number of cores of this process."""
    cores = len(os.sched_getaffinity(0))
    kind = jax.devices()[0].device_kind
    return f"{kind}, {platform.machine()}, {cores} cores"


def make_parser(module: str, description: str | None) -> cli.Parser:
    """The parser of `python -m experiments.benchmarks.MODULE`."""
    return cli.Parser(
        prog=f"python -m experiments.benchmarks.{module}", description=description
    )


def run_benchmark(name: str, lines: Callable[[], Iterable[Line]]) -> int:
    """Print every measurement as a JSON line as it is made; the exit status.

    Args:
      name: prefix of error messages.
      lines: makes the measurements; what it raises is one line (`cli.run_command`).

    Returns:
      0, 1 if a line says `"ok": false`, or 2 after bad input.
    """
    failed = False

    def run() -> None:
        nonlocal failed
        try:
            for line in lines():
                print(json.dumps(line), flush=True)
                failed |= not line.get("ok", True)
        except ModuleNotFoundError as error:
            if error.name not in ("torch", "diffusers", "transformers"):
                raise
            message = f"{error.name} not installed: pip install 'soraflax[parity]'"
            raise ImportError(message) from error

    return cli.run_command(name, run) or int(failed)
