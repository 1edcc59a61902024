"""The train step compiled ahead of time, for devices that are not attached.

The compiler takes seconds to optimise, schedule and allocate a large step, and minutes
to generate machine code, which a plan does not need. So it runs in a process of its own
and dumps its results; `quick` ends that process as soon as the optimised program and
the report on its memory are written.
"""

import contextlib
import dataclasses
import functools
import importlib.util
import math
import multiprocessing
import os
import pathlib
import re
import tempfile
import time
from collections.abc import Mapping
from multiprocessing import connection
from typing import Any

import jax
from jax.experimental import topologies
from jax.sharding import Mesh

from soraflax import sharding
from soraflax.nn import dit
from soraflax.planning import chips, hlo
from soraflax.planning import workload as workload_lib
from soraflax.train import denoising, optimizer, state, step

# libtpu looks for these on the host of a TPU, and refuses to be loaded twice.
_ENVIRONMENT = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_ACCELERATOR_TYPE": "v5p-8",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
}
_PROGRAM = "*.jit_step.*.after_optimizations.txt"
_REPORT = "*.jit_step.*.after_optimizations-memory-usage-report.txt"
_SPACE = re.compile(r"Memory Space: .*\(color=(\d+)\)\nTotal bytes: (\d+)")
_HBM_USE = re.compile(r"Used ([\d.]+)([KMGT]?) of ([\d.]+)([KMGT]?) hbm")
_SCALE = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


class MissingCompilerError(ImportError):
    """The TPU compiler is not installed."""


class OutOfMemoryError(ValueError):
    """The step does not fit into the memory of a device.

    Attributes:
      needed: bytes of HBM that it takes; 0 where the compiler does not say.
    """

    def __init__(self, message: str, needed: int = 0) -> None:
        super().__init__(message)
        self.needed = needed


def topology_devices(topology: chips.Topology) -> list[Any]:
    """Devices to compile for; they cannot run anything.

    Raises:
      MissingCompilerError: libtpu is not installed.
      ValueError: the compiler does not know the topology.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise MissingCompilerError(
            "planning needs the TPU compiler: pip install 'soraflax[plan]'"
        )
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    options: dict[str, Any] = dict(topology.chip.options)
    if topology.slices > 1:
        options["num_slices"] = topology.slices
    try:
        description = topologies.get_topology_desc(
            topology.name, platform="tpu", **options
        )
    except jax.errors.JaxRuntimeError as error:
        line = str(error).splitlines()[0]
        raise ValueError(f"topology {topology.name!r}: {line}") from error
    return list(description.devices)


@dataclasses.dataclass(frozen=True)
class CompiledStep:
    """A compiled train step and its arguments.

    Attributes:
      text: HLO of the optimised and scheduled program.
      hbm: bytes of HBM of one device, arguments included.
      host: bytes of the host's memory for one device.
      state: ShapeDtypeStructs of the training state, with their shardings.
      batch: ShapeDtypeStructs of the rows, with their shardings.
      mesh: mesh of the topology's devices.
    """

    text: str
    hbm: int
    host: int
    state: state.TrainState
    batch: Any
    mesh: Mesh


def compile_step(
    workload: workload_lib.Workload,
    topology: chips.Topology,
    *,
    mesh: Mesh,
    quick: bool = False,
    options: Mapping[str, Any] | None = None,
) -> CompiledStep:
    """Compile the step of training; no parameters are initialised.

    Args:
      workload: sizes of the training step.
      topology: slices to compile for.
      mesh: mesh of their devices.
      quick: stop before machine code is generated, and before errors of generating it
        (a kernel's, say).
      options: compiler options beside those of training.

    Raises:
      ValueError: sizes that the mesh does not divide.
      OutOfMemoryError: it does not fit.
    """
    shapes = abstract_state(workload, mesh)
    with tempfile.TemporaryDirectory(prefix="plan") as name:
        folder = pathlib.Path(name)
        _compile_in_subprocess(
            workload, topology, folder=folder, quick=quick, options=options or {}
        )
        text = next(folder.glob(_PROGRAM)).read_text()
        report = next(folder.glob(_REPORT)).read_text()
    spaces = {int(space): int(size) for space, size in _SPACE.findall(report)}
    return CompiledStep(
        text=text,
        hbm=spaces.get(hlo.HBM, 0),
        host=spaces.get(hlo.HOST, 0),
        state=shapes,
        batch=workload_lib.abstract_batch(workload, mesh),
        mesh=mesh,
    )


def abstract_state(workload: workload_lib.Workload, mesh: Mesh) -> state.TrainState:
    """The training state as ShapeDtypeStructs with shardings."""
    return _abstract_step(workload, mesh)[0]


def lower_step(workload: workload_lib.Workload, mesh: Mesh) -> jax.stages.Lowered:
    """The train step, traced."""
    shapes, shardings, chain = _abstract_step(workload, mesh)
    key = jax.eval_shape(lambda: jax.random.key(0))
    loss = functools.partial(
        denoising.loss,
        predict=denoising.predict_with(dit.DiT(workload.model)),
        config=workload.loss,
    )
    with jax.set_mesh(mesh):
        train_step = step.make_train_step(
            loss,
            chain,
            schedule=optimizer.make_schedules(
                workload.optimizer, steps=workload.train.steps
            ),
            ema_decay=workload.train.ema_decay,
            shardings=shardings,
            accumulate=workload.train.accumulate,
        )
        return train_step.lower(
            shapes,
            workload_lib.abstract_batch(workload, mesh),
            sharding.sharded_shapes(key, sharding.replicated(mesh)),
        )


def _abstract_step(
    workload: workload_lib.Workload, mesh: Mesh
) -> tuple[state.TrainState, state.TrainState, Any]:
    """ShapeDtypeStructs and shardings of the state, and the optimizer."""
    module = dit.DiT(workload.model)
    key = jax.eval_shape(lambda: jax.random.key(0))

    def boxed(key: jax.Array, row: Any) -> Any:
        return module.init(key, row)["params"]

    with jax.set_mesh(mesh):
        params, param_shardings = sharding.abstract_params(
            boxed, key, workload_lib.abstract_batch(workload, mesh), mesh=mesh
        )
    chain = optimizer.make_optimizer(
        workload.optimizer, steps=workload.train.steps, shardings=param_shardings
    )
    shapes, shardings = state.abstract_state(
        params, chain, shardings=param_shardings, mesh=mesh
    )
    return shapes, shardings, chain


def _compile_in_subprocess(
    workload: workload_lib.Workload,
    topology: chips.Topology,
    *,
    folder: pathlib.Path,
    quick: bool,
    options: Mapping[str, Any],
) -> None:
    """Compile in another process, which dumps the program into `folder`."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    dump = {
        "xla_dump_to": str(folder),
        "xla_dump_hlo_as_text": True,
        "xla_dump_hlo_module_re": "jit_step",
    }
    process = context.Process(
        target=_compile,
        args=(workload, topology, {**options, **dump}, sender),
        daemon=True,
    )
    process.start()
    sender.close()
    try:
        while process.is_alive() and not (quick and _written(folder)):
            if receiver.poll(0.5):
                break
        _raise_error(receiver, done=_written(folder))
    finally:
        process.kill()
        process.join()


def _written(folder: pathlib.Path) -> bool:
    """Whether program and memory report, which is dumped last, are complete."""
    age = time.time() - max(
        (path.stat().st_mtime for path in folder.glob(_REPORT)), default=math.inf
    )
    return age > 0.3 and any(folder.glob(_PROGRAM))


def _raise_error(receiver: connection.Connection, *, done: bool) -> None:
    """Raise the error of the other process, if there was one."""
    with contextlib.suppress(EOFError):
        if receiver.poll() and (message := receiver.recv()):
            raise _compiler_error(message)
    if not done:
        raise ValueError("the compiler stopped without a message; its log is in /tmp")


def _compile(
    workload: workload_lib.Workload,
    topology: chips.Topology,
    options: dict[str, Any],
    sender: connection.Connection,
) -> None:
    """The other process: sends "" when done, or the message of its error."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)  # libtpu logs to standard error
    try:
        mesh = workload.mesh.make(topology_devices(topology))
        lower_step(workload, mesh).compile(compiler_options=options)
        sender.send("")
    except Exception as error:
        sender.send(f"{type(error).__name__}: {error}")


def _compiler_error(message: str) -> ValueError:
    """The error of a compiler's message, in one line."""
    line = " ".join(message.split())[:300]
    if "RESOURCE_EXHAUSTED" not in message:
        return ValueError(f"the compiler refused the step: {line}")
    match = _HBM_USE.search(message)
    if not match:
        return OutOfMemoryError(line)
    used, capacity = (float(match[n]) * _SCALE[match[n + 1]] for n in (1, 3))
    return OutOfMemoryError(
        f"the step needs {used / chips.GIB:.1f} GiB of a device; the compiler has "
        f"{capacity / chips.GIB:.1f}",
        int(used),
    )
