"""The training loop, in one order: evaluate, checkpoint, batch, step, log.

`fit` is the whole of training for a library user: it makes the state where it will
live, resumes what its workdir holds, and calls `train`, which is the loop itself.
"""

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import Mesh

from soraflax import buckets, sharding
from soraflax.train import (
    checkpoint,
    goodput,
    incidents,
    metrics,
    optimizer,
    prefetch,
    profiling,
    replicas,
    saved_steps,
    state,
    step,
    stopping,
    wandb_board,
    watchdog,
    work_folder,
)


class Evaluate(Protocol):
    """Averaged parameters to metrics; calls `check`, which may raise, now and then."""

    def __call__(
        self, params: Any, *, check: Callable[[], None] = ...
    ) -> dict[str, float]: ...


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """The course of a run.

    Attributes:
      steps: number of updates.
      log_every: steps between two lines of metrics.
      evaluate_every: steps between evaluations; 0 evaluates only at the end.
      checkpoint_every: steps between checkpoints; 0 saves only at the end.
      checkpoint_minutes: minutes after which one is saved at the next log line; 0 for
        no such limit.
      keep: number of checkpoints kept, at least 2.
      keep_period: checkpoints of steps that it divides are kept beside them; 0 for
        none.
      ema_decay: decay of the averaged parameters that inference uses, in [0, 1).
      accumulate: number of microbatches that a batch is split into.
      stop_at: number of updates after which a run stops before its end; 0 for none.
      profile_at: number of the first step that is profiled; 0 for none.
      profile_steps: number of steps of a profile, also of one that SIGUSR2 asks for.
      wandb: project of Weights & Biases that metrics go to as well; "" for none.
      stall_minutes: minutes that input, a step, an evaluation or a save may last before
        the process writes its stacks and ends; 0 for no limit.
    """

    steps: int
    log_every: int = 20
    evaluate_every: int = 0
    checkpoint_every: int = 500
    checkpoint_minutes: float = 0.0
    keep: int = 2
    keep_period: int = 0
    ema_decay: float = 0.999
    accumulate: int = 1
    stop_at: int = 0
    profile_at: int = 0
    profile_steps: int = 5
    wandb: str = ""
    stall_minutes: float = 0.0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.log_every < 1 or self.accumulate < 1:
            raise ValueError("steps, log_every and accumulate: use 1 or more")
        if self.checkpoint_minutes < 0 or self.keep_period < 0:
            raise ValueError("checkpoint_minutes and keep_period: use 0 or more")
        if min(self.stall_minutes, self.profile_at, self.stop_at) < 0:
            raise ValueError("stall_minutes, profile_at and stop_at: use 0 or more")
        if self.profile_steps < 1:
            raise ValueError("profile_steps: use 1 or more")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay {self.ema_decay}: use one in [0, 1)")


class DivergenceError(ValueError):
    """Every gradient since the last log line, or a part of the state, is not finite."""


@dataclasses.dataclass(frozen=True)
class TrainJob:
    """Model, loss and data of a run.

    Attributes:
      name: label of the progress bar.
      loss: `(params, batch, key) -> (scalar, metrics)`, or one with a context.
      init: makes the initial parameters, sharded (`sharding.initializer`); called for
        a new run, not for a resumed one, and they are donated.
      shapes: ShapeDtypeStructs of the parameters.
      shardings: NamedSharding of every parameter.
      mesh: mesh of those shardings.
      key: PRNG key of the run; every step folds its number into it.
      iterator: batches of this process, numpy arrays `[B, ...]`; it is read ahead of
        the steps, so its position is further than theirs.
      step_cost: tokens and FLOPs of one such batch, for the metrics.
      identity: the configuration saved in checkpoints; one of another configuration
        is refused.
      mutable_keys: dotted keys of `identity` that may change when a run is resumed.
      evaluate: measures averaged parameters; None for no evaluation.
      settings: the configuration of the run, for records of steps that went wrong.
      clips: the position of the data before a batch to the ids of its clips, for the
        same; None where they are not known.
      epochs: the position of the data after a batch to the passes over each of its
        sources, by name; None where they are not counted.
    """

    name: str
    loss: step.LossFn | step.LossWithContext
    init: Callable[[], Any]
    shapes: Any
    shardings: Any
    mesh: Mesh
    key: jax.Array
    iterator: checkpoint.DataIterator
    step_cost: Callable[[Any], metrics.StepCost]
    identity: Any
    mutable_keys: tuple[str, ...] = ()
    evaluate: Evaluate | None = None
    settings: Any = None
    clips: Callable[[Any], Sequence[str]] | None = None
    epochs: Callable[[Any], Mapping[str, float]] | None = None


@dataclasses.dataclass(frozen=True)
class TrainRun:
    """A job under way, with its data, and what records it."""

    job: TrainJob
    data: prefetch.DevicePrefetch
    config: TrainConfig
    checkpointer: checkpoint.Checkpointer
    writer: metrics.Writer
    meter: metrics.Meter
    folder: work_folder.WorkFolder
    ledger: goodput.Ledger
    profiler: profiling.Profiler
    incidents: incidents.Incidents


def fit(
    job: TrainJob,
    *,
    workdir: str | os.PathLike[str],
    config: TrainConfig,
    optimizer_config: optimizer.OptimizerConfig
    | Mapping[str, optimizer.OptimizerConfig],
) -> state.TrainState:
    """Train a job in `workdir`, from where it was left.

    `workdir` holds `checkpoints/`, `metrics.jsonl` and `tensorboard/`; `goodput.jsonl`,
    `heartbeats/` and `stacks/` say what processes did and do, `incidents/` which steps
    went wrong. The optimizer is one for all parameters, or one for each of their
    groups.

    Returns:
      The state where it stopped; `state.step` says whether that was the end.

    Raises:
      CheckpointError: `workdir` holds a damaged checkpoint, or one of another job.
      ReplicaError: copies of the state differ between devices.
    """
    chain = optimizer.make_optimizer(
        optimizer_config, steps=config.steps, shardings=job.shardings
    )
    with jax.set_mesh(job.mesh), contextlib.ExitStack() as stack:
        folder = stack.enter_context(work_folder.WorkFolder(workdir))
        ledger = goodput.Ledger(folder.local / goodput.FILE)
        places = {"shardings": job.shardings, "mesh": job.mesh}
        target, state_shardings = state.abstract_state(job.shapes, chain, **places)
        train_step = step.make_train_step(
            job.loss,
            chain,
            schedule=optimizer.make_schedules(optimizer_config, steps=config.steps),
            ema_decay=config.ema_decay,
            shardings=state_shardings,
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
            if checkpointer.saved.steps():
                current = checkpointer.restore(
                    target,
                    iterator=data,
                    config=job.identity,
                    mutable_keys=job.mutable_keys,
                )
            else:
                current, _ = state.create(job.init(), chain, **places)
        start, peak = int(current.step), metrics.device_peak()
        ledger.step = start
        writer = metrics.Writer(
            folder.local,
            start=start,
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
        run = TrainRun(
            job,
            data,
            config,
            checkpointer,
            writer,
            meter,
            folder,
            ledger,
            profiler,
            found,
        )
        return train(current, train_step, run=run)


def open_board(
    job: TrainJob,
    config: TrainConfig,
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


def train(
    current: state.TrainState, train_step: step.TrainStep, *, run: TrainRun
) -> state.TrainState:
    """Train until `config.steps`, SIGTERM or Ctrl-C; saves where it stops.

    Raises:
      Interrupted: stopped in the evaluation after the last step, which is saved.
      DivergenceError: no step of a whole log window was finite.
      ValueError: the data ended early, or a batch does not divide over the mesh.
    """
    start, steps = int(current.step), run.config.steps
    last = min(run.config.stop_at or steps, steps)
    window, places, compiled_shapes = [], [], set()
    run.ledger.write("start")
    with stopping.deferred() as stop:
        for number in range(start, last):
            if number > start and _due(number, run.config.evaluate_every):
                finish_steps(run, window)
                if not evaluate(current, run, stop=stop):
                    break
            if number > start and checkpoint_due(number, run):
                finish_steps(run, window)
                save(current, run)
            run.profiler.finish(number, wait=lambda: finish_steps(run, window[-1:]))
            run.ledger.step = number
            run.meter.start()
            places.append(run.data.get_state())
            with run.ledger.phase("input"):
                batch, on_device = next_batch(run, number, window=window)
            shapes = tuple(x.shape for x in jax.tree.leaves(batch))
            if shapes not in compiled_shapes:
                # The first step of each shape, mostly compilation, is not timed.
                finish_steps(run, window)
            is_first = shapes not in compiled_shapes
            phase = run.ledger.phase("compile" if is_first else "step")
            with phase, run.profiler.step(number):
                current, values = train_step(current, on_device, run.job.key)
                run.meter.add(batch)
                # One step stays in flight while batches are read ahead.
                jax.block_until_ready(values if is_first else window[-1:])
            compiled_shapes.add(shapes)
            window.append(values)
            run.writer.advance()
            if _due(number + 1, run.config.log_every) or number + 1 == steps:
                log(number + 1, run, current=current, window=window, places=places)
                window.clear()
                places.clear()
            if stop():
                break
        save(current, run)
        ended = int(current.step) == steps > start
        if ended and not evaluate(current, run, stop=stop):
            raise stopping.Interrupted(f"step {steps} is saved; the same command ends")
    with run.ledger.phase("save"):
        run.checkpointer.wait()
    return current


def end_ledger(
    ledger: goodput.Ledger, writer: metrics.Writer, *, workdir: pathlib.Path
) -> None:
    """Write what this life of the run was spent on, and say what all lives were."""
    ledger.write("end")
    if jax.process_index() == 0:
        writer.note(str(goodput.read(workdir)))


def finish_steps(run: TrainRun, window: Sequence[Any]) -> None:
    """Wait for the step in flight, the window's last; what follows is not timed."""
    with run.ledger.phase("step"):
        jax.block_until_ready(window[-1:])
    run.meter.stop()


def evaluate(
    current: state.TrainState, run: TrainRun, *, stop: stopping.StopSignals
) -> bool:
    """Write the metrics of the averaged parameters, where the job has some.

    Returns:
      Whether that was done; False if the run is to stop.
    """
    if run.job.evaluate is None:
        return True
    try:
        with run.ledger.phase("evaluate"):
            values = run.job.evaluate(current.ema, check=stop.check)
    except stopping.Interrupted:
        return False
    run.writer.write(int(current.step), values)
    return True


def checkpoint_due(number: int, run: TrainRun) -> bool:
    """Whether to save before step `number`, by steps or by time; alike in processes."""
    if _due(number, run.config.checkpoint_every):
        return True
    minutes = run.config.checkpoint_minutes
    if not minutes or not _due(number, run.config.log_every):
        return False
    seconds = saved_steps.from_first(lambda: str(run.checkpointer.age()))
    return float(seconds) >= 60 * minutes


def save(current: state.TrainState, run: TrainRun) -> None:
    """Start writing a checkpoint of the state, the data position and the config.

    Raises:
      ReplicaError: copies of the state differ between devices; nothing is written.
      DivergenceError: a part of it is not finite; nothing is written.
    """
    with run.ledger.phase("save"):
        replicas.check(current)
        check_finite(current)
        run.folder.copy()
        run.checkpointer.save(
            int(current.step), current, iterator=run.data, config=run.job.identity
        )


def check_finite(current: state.TrainState) -> None:
    """Refuse a state that every later step would be skipped with.

    Raises:
      DivergenceError: naming the arrays that are not finite.
    """
    if bad := state.not_finite(current):
        more = f" (and {len(bad) - 1} others)" if len(bad) > 1 else ""
        raise DivergenceError(
            f"{bad[0]}{more} is not finite after step {int(current.step)}, where steps "
            "that are not are skipped: a device, or what it began with, is damaged; "
            "the same command resumes at the last checkpoint"
        )


def next_batch(
    run: TrainRun, number: int, *, window: Sequence[Any] = ()
) -> tuple[Any, Any]:
    """This process's rows, and the batch on the mesh; meters what devices waited.

    Args:
      run: the run.
      number: steps before.
      window: metrics of steps before, the last of which may be under way.

    Raises:
      ValueError: the data ended, after `number` steps.
    """
    began = run.meter.clock()
    try:
        batch = next(run.data)
    except StopIteration:
        raise ValueError(
            f"the data ended after {number} of {run.config.steps} steps; repeat it"
        ) from None
    # Where the step before is still under way, the wait cost nothing.
    if all(value.is_ready() for value in jax.tree.leaves(window[-1:])):
        run.meter.stall(run.meter.clock() - began)
    return batch


def log(
    number: int,
    run: TrainRun,
    *,
    current: state.TrainState,
    window: list[dict[str, jax.Array]],
    places: Sequence[Any],
) -> None:
    """Write the means over the last steps that were not skipped, and the rates.

    Steps that went wrong are recorded, with the place of the data before each.

    Raises:
      DivergenceError: no step of the window was finite, as the state after it is not,
        or as it diverged.
    """
    with run.ledger.phase("step"):
        values = jax.device_get(window)
    run.meter.stop()  # all its steps are done
    run.ledger.step = number
    run.ledger.write("steps")
    counted = [v for v in values if not v["skipped"]] or values
    means = {k: float(np.mean([v[k] for v in counted])) for k in values[0]}
    means["skipped"] = float(np.mean([v["skipped"] for v in values]))
    means["spikes"] = run.incidents.examine(number - len(window), values, places=places)
    spent = run.ledger.window(len(window))
    epochs = run.job.epochs(run.data.get_state()) if run.job.epochs else {}
    passes = {f"epochs/{name}": value for name, value in epochs.items()}
    run.writer.write(number, means | run.meter.summary() | spent | passes)
    run.meter.clear()
    if means["skipped"] == 1.0:
        check_finite(current)
        raise DivergenceError(
            f"loss or gradient not finite in steps {number - len(window) + 1} to "
            f"{number}; lower optimizer.learning_rate or optimizer.clip_norm"
        )


def _due(number: int, every: int) -> bool:
    return every > 0 and number % every == 0
