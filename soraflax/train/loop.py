"""The training loop, in one order: evaluate, checkpoint, batch, step, log.

`fit` is the whole of training for a library user: it makes the state where it will
live, resumes what its workdir holds (`train.opening`), and calls `train`, which is the
loop itself.
"""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any, NoReturn

import jax
import numpy as np

from soraflax.train import job as job_lib
from soraflax.train import (
    opening,
    replicas,
    saved_steps,
    state,
    step,
    stopping,
)

Evaluate = job_lib.Evaluate
TrainConfig = job_lib.TrainConfig
TrainJob = job_lib.TrainJob
TrainRun = opening.TrainRun


class DivergenceError(ValueError):
    """Every gradient since the last log line, or a part of the state, is not finite."""


class DataEndedError(ValueError):
    """The data ended before the last step; what was done is saved."""


@dataclasses.dataclass
class Window:
    """The steps since the last line of metrics.

    Attributes:
      values: metrics of each; those of the last may still be under way.
      places: position of the data before each.
      shapes: shapes of batches that the step is compiled for, of all steps.
    """

    values: list[Any] = dataclasses.field(default_factory=list)
    places: list[Any] = dataclasses.field(default_factory=list)
    shapes: set[Any] = dataclasses.field(default_factory=set)


def fit(
    job: TrainJob,
    *,
    workdir: str | os.PathLike[str],
    config: TrainConfig,
    optimizer_config: opening.OptimizerConfigs,
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
    opened = opening.open_run(
        job, config, workdir=workdir, optimizer_config=optimizer_config
    )
    with opened as (current, train_step, run):
        return train(current, train_step, run=run)


def train(
    current: state.TrainState, train_step: step.TrainStep, *, run: TrainRun
) -> state.TrainState:
    """Train until `config.steps`, SIGTERM or Ctrl-C; saves where it stops.

    Raises:
      Interrupted: stopped in the evaluation after the last step, which is saved.
      DivergenceError: no step of a whole log window was finite.
      DataEndedError: the data ended early; what was done is saved.
      ValueError: a batch does not divide over the mesh.
    """
    start, steps = int(current.step), run.config.steps
    last, window = min(run.config.stop_at or steps, steps), Window()
    run.ledger.write("start")
    with stopping.deferred() as stop:
        for number in range(start, last):
            if number > start and not between_steps(
                number, run, current=current, window=window, stop=stop
            ):
                break
            batch = begin_step(number, run, window=window)
            if batch is None:
                end_of_data(run, current=current, window=window)
            current = take_step(current, train_step, batch, run=run, window=window)
            if _due(number + 1, run.config.log_every) or number + 1 == steps:
                log(number + 1, run, current=current, window=window)
            if stop():
                break
        save(current, run)
        ended = int(current.step) == steps > start
        if ended and not evaluate(current, run, stop=stop):
            raise stopping.Interrupted(f"step {steps} is saved; the same command ends")
    with run.ledger.phase("save"):
        run.checkpointer.wait()
    return current


def between_steps(
    number: int,
    run: TrainRun,
    *,
    current: state.TrainState,
    window: Window,
    stop: stopping.StopSignals,
) -> bool:
    """Evaluate and save before step `number`, where that is due.

    Returns:
      False if the run is to stop.
    """
    if _due(number, run.config.evaluate_every):
        finish_steps(run, window.values)
        if not evaluate(current, run, stop=stop):
            return False
    if checkpoint_due(number, run):
        finish_steps(run, window.values)
        save(current, run)
    return True


def begin_step(number: int, run: TrainRun, *, window: Window) -> tuple[Any, Any] | None:
    """The batch of a step, as of `next_batch`."""
    run.profiler.finish(number, wait=lambda: finish_steps(run, window.values[-1:]))
    run.ledger.step = number
    run.meter.start()
    window.places.append(run.data.get_state())
    with run.ledger.phase("input"):
        return next_batch(run, window=window.values)


def take_step(
    current: state.TrainState,
    train_step: step.TrainStep,
    batch: tuple[Any, Any],
    *,
    run: TrainRun,
    window: Window,
) -> state.TrainState:
    """The state after one step, whose metrics may still be under way."""
    own, on_device = batch
    shapes = tuple(x.shape for x in jax.tree.leaves(own))
    is_first = shapes not in window.shapes
    if is_first:
        # The first step of each shape, mostly compilation, is not timed.
        finish_steps(run, window.values)
    phase = run.ledger.phase("compile" if is_first else "step")
    with phase, run.profiler.step(run.ledger.step):
        current, values = train_step(current, on_device, run.job.key)
        run.meter.add(own)
        # One step stays in flight while batches are read ahead.
        jax.block_until_ready(values if is_first else window.values[-1:])
    window.shapes.add(shapes)
    window.values.append(values)
    run.writer.advance()
    return current


def end_of_data(
    run: TrainRun, *, current: state.TrainState, window: Window
) -> NoReturn:
    """Log and save what was done, which is all that there will be.

    Raises:
      DataEndedError: always.
    """
    number, steps = int(current.step), run.config.steps
    window.places.pop()  # of the batch that is not there
    if window.values:
        log(number, run, current=current, window=window)
    if number:
        save(current, run)
        run.checkpointer.wait()
    hint = f"which are saved; train.steps={number} ends there, " if number else ""
    raise DataEndedError(
        f"the data ended after {number} of {steps} steps, {hint}more passes "
        "(data.passes) or 0 repeat it in another workdir"
    )


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


def next_batch(run: TrainRun, *, window: Sequence[Any] = ()) -> tuple[Any, Any] | None:
    """This process's rows, and the batch on the mesh; meters what devices waited.

    Args:
      run: the run.
      window: metrics of steps before, the last of which may be under way.

    Returns:
      None where the data has ended, in all processes.
    """
    began = run.meter.clock()
    batch = next(run.data, None)
    # Where the step before is still under way, the wait cost nothing.
    if all(value.is_ready() for value in jax.tree.leaves(window[-1:])):
        run.meter.stall(run.meter.clock() - began)
    return batch


def log(
    number: int, run: TrainRun, *, current: state.TrainState, window: Window
) -> None:
    """Write the means over the last steps that were not skipped, and the rates.

    Steps that went wrong are recorded, with the place of the data before each. The
    window begins anew.

    Raises:
      DivergenceError: no step of the window was finite, as the state after it is not,
        or as it diverged.
    """
    with run.ledger.phase("step"):
        values = jax.device_get(window.values)
    run.meter.stop()  # all its steps are done
    run.ledger.step = number
    run.ledger.write("steps")
    first = number - len(values)
    counted = [v for v in values if not v["skipped"]] or values
    means = {k: float(np.mean([v[k] for v in counted])) for k in values[0]}
    means["skipped"] = float(np.mean([v["skipped"] for v in values]))
    means["spikes"] = run.incidents.examine(first, values, places=window.places)
    spent = run.ledger.window(len(values))
    epochs = run.job.epochs(run.data.get_state()) if run.job.epochs else {}
    passes = {f"epochs/{name}": value for name, value in epochs.items()}
    run.writer.write(number, means | run.meter.summary() | spent | passes)
    run.meter.clear()
    window.values.clear()
    window.places.clear()
    if means["skipped"] == 1.0:
        check_finite(current)
        raise DivergenceError(
            f"loss or gradient not finite in steps {first + 1} to {number}; lower "
            "optimizer.learning_rate or optimizer.clip_norm"
        )


def _due(number: int, every: int) -> bool:
    return every > 0 and number % every == 0
