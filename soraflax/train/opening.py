"""What a run opens: its folder, its state, and what records it."""

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import optax

from soraflax import buckets, sharding
from soraflax.train import (
    checkpoint,
    goodput,
    incidents,
    metrics,
    optimizer,
    prefetch,
    profiling,
    state,
    step,
    stopping,
    wandb_board,
    watchdog,
    work_folder,
)
from soraflax.train import job as job_lib

OptimizerConfigs = optimizer.OptimizerConfig | Mapping[str, optimizer.OptimizerConfig]


@dataclasses.dataclass(frozen=True)
class TrainRun:
    """A job under way, with its data, and what records it."""

    job: job_lib.TrainJob
    data: prefetch.DevicePrefetch
    config: job_lib.TrainConfig
    checkpointer: checkpoint.Checkpointer
    writer: metrics.Writer
    meter: metrics.Meter
    folder: work_folder.WorkFolder
    ledger: goodput.Ledger
    profiler: profiling.Profiler
    incidents: incidents.Incidents


@contextlib.contextmanager
def open_run(
    job: job_lib.TrainJob,
    config: job_lib.TrainConfig,
    *,
    workdir: str | os.PathLike[str],
    optimizer_config: OptimizerConfigs,
) -> Iterator[tuple[state.TrainState, step.TrainStep, TrainRun]]:
    """The state, made or restored, the step and what goes with them, on the mesh.

    Raises:
      CheckpointError: `workdir` holds a damaged checkpoint, or one of another job.
      ValueError: `workdir` holds a step beyond `config.steps`.
    """
    chain = optimizer.make_optimizer(
        optimizer_config, steps=config.steps, shardings=job.shardings
    )
    with jax.set_mesh(job.mesh), contextlib.ExitStack() as stack:
        folder = stack.enter_context(work_folder.WorkFolder(workdir))
        ledger = goodput.Ledger(folder.local / goodput.FILE)
        target, shardings = state.abstract_state(
            job.shapes, chain, shardings=job.shardings, mesh=job.mesh
        )
        train_step = step.make_train_step(
            job.loss,
            chain,
            schedule=optimizer.make_schedules(optimizer_config, steps=config.steps),
            ema_decay=config.ema_decay,
            shardings=shardings,
            accumulate=config.accumulate,
        )
        limit = 60 * config.stall_minutes
        stack.enter_context(watchdog.Watchdog(folder.shared, ledger, limit=limit))
        checkpointer = checkpoint.Checkpointer(
            folder.shared / "checkpoints",
            keep=config.keep,
            keep_period=config.keep_period,
        )
        stack.enter_context(checkpointer)
        data = prefetch.DevicePrefetch(job.iterator, job.mesh)
        with ledger.phase("restore"):
            current = first_state(job, checkpointer, data=data, chain=chain, to=target)
        require_reachable(int(current.step), config.steps, workdir=workdir)
        ledger.step = int(current.step)
        opened = {"job": job, "config": config, "folder": folder, "ledger": ledger}
        recorders = open_recorders(**opened, stack=stack)
        run = TrainRun(**opened, data=data, checkpointer=checkpointer, **recorders)
        yield current, train_step, run


def first_state(
    job: job_lib.TrainJob,
    checkpointer: checkpoint.Checkpointer,
    *,
    data: prefetch.DevicePrefetch,
    chain: optax.GradientTransformation,
    to: state.TrainState,
) -> state.TrainState:
    """The last whole step that was saved, `data` moved there; else the first state.

    Args:
      job: makes the first.
      checkpointer: of the run.
      data: of the run.
      chain: makes the state of the optimizer.
      to: ShapeDtypeStructs of the state (`state.abstract_state`).

    Raises:
      CheckpointError: steps are there, but none that is whole and of this job.
      Interrupted: one of several processes was asked to stop meanwhile.
    """
    if not checkpointer.saved.steps():
        places = {"shardings": job.shardings, "mesh": job.mesh}
        return state.create(job.init(), chain, **places)[0]
    return checkpointer.restore(
        to,
        iterator=data,
        config=job.identity,
        mutable_keys=job.mutable_keys,
        check=stopping.StopSignals().check,
    )


def require_reachable(
    step: int, steps: int, *, workdir: str | os.PathLike[str]
) -> None:
    """Refuse a run that is shorter than what it resumes from.

    Raises:
      ValueError: naming both, and what ends there.
    """
    if step > steps:
        raise ValueError(
            f"{workdir}: step {step} is saved, beyond train.steps={steps}; "
            f"train.steps={step} ends there, another --workdir starts anew"
        )


def open_recorders(
    *,
    job: job_lib.TrainJob,
    config: job_lib.TrainConfig,
    folder: work_folder.WorkFolder,
    ledger: goodput.Ledger,
    stack: contextlib.ExitStack,
) -> dict[str, Any]:
    """What of a run records it, by its names in `TrainRun`; closed with `stack`."""
    peak = metrics.device_peak()
    writer = metrics.Writer(
        folder.local,
        start=ledger.step,
        steps=config.steps,
        name=job.name,
        parameters=sum(leaf.size for leaf in jax.tree.leaves(job.shapes)),
        board=open_board(job, config, folder=folder, stack=stack),
    )
    stack.enter_context(writer)
    writer.note(f"peak {peak.flops / 1e12:.3g} TFLOP/s ({peak.source})")
    meter = metrics.Meter(
        job.step_cost,
        peak=peak,
        batch_shards=len(sharding.batch_shard_processes(job.mesh)),
    )
    profiler = profiling.Profiler(
        folder.local / "profile",
        shown=folder.shared / "profile",
        at=config.profile_at,
        steps=config.profile_steps,
        say=writer.note,
    )
    stack.enter_context(profiler)
    stack.callback(end_ledger, ledger, writer, workdir=folder.local)
    found = incidents.Incidents(
        folder.shared / "incidents",
        config=job.settings,
        clips=job.clips,
        say=writer.note,
    )
    return {"writer": writer, "meter": meter, "profiler": profiler, "incidents": found}


def open_board(
    job: job_lib.TrainJob,
    config: job_lib.TrainConfig,
    *,
    folder: work_folder.WorkFolder,
    stack: contextlib.ExitStack,
) -> wandb_board.Board | None:
    """The page on Weights & Biases that a run asks for, in the first process."""
    if not config.wandb or jax.process_index():
        return None
    place = {"folder": buckets.absolute(folder.shared), "local": folder.local}
    board = wandb_board.Board(config.wandb, settings=job.settings, **place)
    return stack.enter_context(board)


def end_ledger(
    ledger: goodput.Ledger, writer: metrics.Writer, *, workdir: pathlib.Path
) -> None:
    """Write what this life of the run was spent on, and say what all lives were."""
    ledger.write("end")
    if jax.process_index() == 0:
        writer.note(str(goodput.read(workdir)))
