"""The train step as a compiled program for devices that are not there.

Compiling a large step takes the compiler seconds to optimise, to schedule and to place
in memory, and minutes to write machine code, which tells a plan nothing. So it works in
a process of its own and writes down what it has done so far; `quick` ends that process
as soon as the program and its memory are there.
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
from soraflax.planning import subject as subjects
from soraflax.train import denoising, optimizer, state, step

# What libtpu would look for on a TPU's host, where there is none; and a plan may be
# made beside another.
_NO_HOST = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_ACCELERATOR_TYPE": "v5p-8",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
}
_PROGRAM = "*.jit_step.*.after_optimizations.txt"
_REPORT = "*.jit_step.*.after_optimizations-memory-usage-report.txt"
_SPACE = re.compile(r"Memory Space: .*\(color=(\d+)\)\nTotal bytes: (\d+)")
_ROOM = re.compile(r"Used ([\d.]+)([KMGT]?) of ([\d.]+)([KMGT]?) hbm")
_SCALE = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


class MissingCompiler(ImportError):
    """The TPU compiler is not installed."""


class OutOfMemory(ValueError):
    """The compiler found no way to fit the step.

    Attributes:
      needed: bytes of HBM it would take; 0 where the compiler does not say.
    """

    def __init__(self, message: str, needed: int = 0) -> None:
        super().__init__(message)
        self.needed = needed


def devices(topology: chips.Topology) -> list[Any]:
    """Devices to compile for; they cannot run anything.

    Raises:
      MissingCompiler: libtpu is not installed.
      ValueError: the compiler does not know the topology.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise MissingCompiler(
            "planning needs the TPU compiler: pip install 'soraflax[plan]'"
        )
    for name, value in _NO_HOST.items():
        os.environ.setdefault(name, value)
    options: dict[str, Any] = dict(topology.chip.options)
    if topology.slices > 1:
        options["num_slices"] = topology.slices
    try:
        found = topologies.get_topology_desc(topology.name, platform="tpu", **options)
    except jax.errors.JaxRuntimeError as error:
        line = str(error).splitlines()[0]
        raise ValueError(f"topology {topology.name!r}: {line}") from error
    return list(found.devices)


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled train step and what it was compiled from.

    Attributes:
      text: of the optimised and scheduled program.
      hbm: bytes of a device, arguments included.
      host: bytes of the host's memory, for one device.
      state: ShapeDtypeStructs of the training state, with their shardings.
      batch: likewise of the rows.
      mesh: where it would run.
    """

    text: str
    hbm: int
    host: int
    state: state.TrainState
    batch: Any
    mesh: Mesh


def build(
    subject: subjects.Subject,
    topology: chips.Topology,
    *,
    mesh: Mesh,
    quick: bool = False,
    options: Mapping[str, Any] | None = None,
) -> Program:
    """Compile the step that training would run; nothing is initialised.

    Args:
      subject: what is trained.
      topology: on what.
      mesh: of its devices.
      quick: end before machine code is written. Errors that only writing it finds
        (a kernel's, say) stay unknown.
      options: of the compiler, beside those of training.

    Raises:
      ValueError: sizes that the mesh does not divide.
      OutOfMemory: it does not fit.
    """
    shapes = layout(subject, mesh)
    with tempfile.TemporaryDirectory(prefix="plan") as name:
        folder = pathlib.Path(name)
        _compile_beside(
            subject, topology, folder=folder, quick=quick, options=options or {}
        )
        text = next(folder.glob(_PROGRAM)).read_text()
        report = next(folder.glob(_REPORT)).read_text()
    spaces = {int(space): int(size) for space, size in _SPACE.findall(report)}
    return Program(
        text=text,
        hbm=spaces.get(hlo.HBM, 0),
        host=spaces.get(hlo.HOST, 0),
        state=shapes,
        batch=subjects.batch(subject, mesh),
        mesh=mesh,
    )


def layout(subject: subjects.Subject, mesh: Mesh) -> state.TrainState:
    """The training state as ShapeDtypeStructs that say where they live."""
    return _prepare(subject, mesh)[0]


def lower(subject: subjects.Subject, mesh: Mesh) -> jax.stages.Lowered:
    """The train step, traced."""
    shapes, where, chain = _prepare(subject, mesh)
    key = jax.eval_shape(lambda: jax.random.key(0))
    loss = functools.partial(
        denoising.loss,
        predict=denoising.predict_with(dit.DiT(subject.model)),
        config=subject.loss,
    )
    with jax.set_mesh(mesh):
        train_step = step.make_train_step(
            loss,
            chain,
            schedule=optimizer.make_schedules(
                subject.optimizer, steps=subject.train.steps
            ),
            ema_decay=subject.train.ema_decay,
            shardings=where,
            accumulate=subject.train.accumulate,
        )
        return train_step.lower(
            shapes,
            subjects.batch(subject, mesh),
            sharding.placed(key, sharding.replicated(mesh)),
        )


def _prepare(
    subject: subjects.Subject, mesh: Mesh
) -> tuple[state.TrainState, state.TrainState, Any]:
    """Shapes and places of the state, and the optimizer."""
    module = dit.DiT(subject.model)
    key = jax.eval_shape(lambda: jax.random.key(0))

    def boxed(key: jax.Array, row: Any) -> Any:
        return module.init(key, row)["params"]

    with jax.set_mesh(mesh):
        params, places = sharding.abstract_params(
            boxed, key, subjects.batch(subject, mesh), mesh=mesh
        )
    chain = optimizer.make_optimizer(subject.optimizer, steps=subject.train.steps)
    shapes, where = state.layout(params, chain, shardings=places, mesh=mesh)
    return shapes, where, chain


def _compile_beside(
    subject: subjects.Subject,
    topology: chips.Topology,
    *,
    folder: pathlib.Path,
    quick: bool,
    options: Mapping[str, Any],
) -> None:
    """Compile in another process, which writes what it does into `folder`."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    dump = {
        "xla_dump_to": str(folder),
        "xla_dump_hlo_as_text": True,
        "xla_dump_hlo_module_re": "jit_step",
    }
    process = context.Process(
        target=_compile,
        args=(subject, topology, {**options, **dump}, theirs),
        daemon=True,
    )
    process.start()
    theirs.close()
    try:
        while process.is_alive() and not (quick and _written(folder)):
            if ours.poll(0.5):
                break
        _raise(ours, done=_written(folder))
    finally:
        process.kill()
        process.join()


def _written(folder: pathlib.Path) -> bool:
    """Whether the program and, after it, the report on its memory are all there."""
    age = time.time() - max(
        (path.stat().st_mtime for path in folder.glob(_REPORT)), default=math.inf
    )
    return age > 0.3 and any(folder.glob(_PROGRAM))


def _raise(said: connection.Connection, *, done: bool) -> None:
    """What the other process complained of, if it did."""
    with contextlib.suppress(EOFError):
        if said.poll() and (message := said.recv()):
            raise _out_of_memory(message)
    if not done:
        raise ValueError("the compiler stopped without a word; its log is in /tmp")


def _compile(
    subject: subjects.Subject,
    topology: chips.Topology,
    options: dict[str, Any],
    said: connection.Connection,
) -> None:
    """The other process: says '' when done, or what went wrong."""
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 2)  # libtpu writes what is of no use to a plan
    try:
        mesh = subject.mesh.make(devices(topology))
        lower(subject, mesh).compile(compiler_options=options)
        said.send("")
    except Exception as error:
        said.send(f"{type(error).__name__}: {error}")


def _out_of_memory(message: str) -> ValueError:
    """The error behind a complaint, in one line."""
    line = " ".join(message.split())[:300]
    if "RESOURCE_EXHAUSTED" not in message:
        return ValueError(f"the compiler refused the step: {line}")
    found = _ROOM.search(message)
    if not found:
        return OutOfMemory(line)
    used, room = (float(found[n]) * _SCALE[found[n + 1]] for n in (1, 3))
    return OutOfMemory(
        f"the step needs {used / chips.GIB:.1f} GiB of a device; the compiler has "
        f"{room / chips.GIB:.1f}",
        int(used),
    )
