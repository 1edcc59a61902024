"""The training loop, in one order: evaluate, checkpoint, batch, step, log.

`fit` is the whole of training for a library user: it makes the state where it will
live, resumes what its workdir holds, and calls `train`, which is the loop itself.
"""

import contextlib
import dataclasses
import pathlib
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from soraflax import sharding
from soraflax.train import checkpoint, metrics, optimizer, prefetch, state, step

Evaluate = Callable[[Any], dict[str, float]]


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """The course of a run.

    Attributes:
      steps: updates in all.
      log_every: steps between two lines of metrics.
      evaluate_every: steps between evaluations; 0 evaluates only at the end.
      checkpoint_every: steps between checkpoints; 0 saves only at the end.
      keep: checkpoints kept, at least 2.
      ema_decay: of the averaged parameters that inference uses.
      accumulate: microbatches a batch is split into.
    """

    steps: int
    log_every: int = 20
    evaluate_every: int = 0
    checkpoint_every: int = 500
    keep: int = 2
    ema_decay: float = 0.999
    accumulate: int = 1

    def __post_init__(self) -> None:
        if self.steps < 1 or self.log_every < 1 or self.accumulate < 1:
            raise ValueError("steps, log_every and accumulate: use 1 or more")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay {self.ema_decay}: use one in [0, 1)")


class Diverged(ValueError):
    """Every gradient since the last log line was not finite."""


@dataclasses.dataclass(frozen=True)
class TrainJob:
    """What is trained, on what.

    Attributes:
      name: what the progress bar calls it.
      loss: `(params, batch, key) -> (scalar, metrics)`, or one with a context.
      params: as `sharding.init` made them.
      shardings: NamedSharding of every parameter.
      mesh: where it runs.
      key: PRNG key of the run; every step folds its number into it.
      iterator: batches of this process, numpy arrays with their rows first; read
        ahead of the steps, so it stands further than they do.
      measure: the work in one such batch, for the metrics.
      identity: the configuration that checkpoints are stamped with; a checkpoint of
        another one is refused.
      may_differ: dotted keys of `identity` that may change between runs.
      evaluate: averaged parameters to metrics; None for no evaluation.
    """

    name: str
    loss: step.Loss | step.Contextual
    params: Any
    shardings: Any
    mesh: Mesh
    key: jax.Array
    iterator: checkpoint.DataIterator
    measure: Callable[[Any], metrics.Work]
    identity: Any
    may_differ: tuple[str, ...] = ()
    evaluate: Evaluate | None = None


@dataclasses.dataclass(frozen=True)
class Run:
    """A job under way: its data, its course, and the open files that record it."""

    job: TrainJob
    data: prefetch.DevicePrefetch
    config: TrainConfig
    checkpointer: checkpoint.Checkpointer
    writer: metrics.Writer
    meter: metrics.Meter


def fit(
    job: TrainJob,
    *,
    workdir: str | pathlib.Path,
    config: TrainConfig,
    optimizer_config: optimizer.OptimizerConfig
    | Mapping[str, optimizer.OptimizerConfig],
) -> state.TrainState:
    """Train a job in `workdir`, from where it was left.

    `workdir` holds `checkpoints/`, `metrics.jsonl` and `tensorboard/`. The optimizer is
    one for all parameters, or one for each of their groups.

    Returns:
      The state where it stopped; `state.step` says whether that was the end.

    Raises:
      CheckpointError: `workdir` holds a damaged checkpoint, or one of another job.
    """
    workdir = pathlib.Path(workdir)
    chain = optimizer.make_optimizer(optimizer_config, steps=config.steps)
    with jax.set_mesh(job.mesh), contextlib.ExitStack() as stack:
        current, places = state.create(
            job.params, chain, shardings=job.shardings, mesh=job.mesh
        )
        train_step = step.make_train_step(
            job.loss,
            chain,
            schedule=optimizer.make_schedules(optimizer_config, steps=config.steps),
            ema_decay=config.ema_decay,
            shardings=places,
            accumulate=config.accumulate,
        )
        keeper = checkpoint.Checkpointer(workdir / "checkpoints", keep=config.keep)
        stack.enter_context(keeper)
        data = prefetch.DevicePrefetch(job.iterator, job.mesh)
        current = _resume(current, places, job=job, keeper=keeper, data=data)
        start, peak = int(current.step), metrics.device_peak()
        writer = metrics.Writer(workdir, start=start, steps=config.steps, name=job.name)
        stack.enter_context(writer)
        writer.say(f"peak {peak.flops / 1e12:.3g} TFLOP/s ({peak.source})")
        parts = len(sharding.batch_shard_processes(job.mesh))
        meter = metrics.Meter(job.measure, peak=peak, parts=parts)
        run = Run(job, data, config, keeper, writer, meter)
        return train(current, train_step, run=run)


def _resume(
    current: state.TrainState,
    places: state.TrainState,
    *,
    job: TrainJob,
    keeper: checkpoint.Checkpointer,
    data: prefetch.DevicePrefetch,
) -> state.TrainState:
    """The state of the last checkpoint; `current` if there is none."""
    if keeper.latest() is None:
        return current
    return keeper.restore(
        state.abstract(current, places),
        iterator=data,
        config=job.identity,
        may_differ=job.may_differ,
    )


def train(
    current: state.TrainState, train_step: step.Step, *, run: Run
) -> state.TrainState:
    """Train until `config.steps`, SIGTERM or Ctrl-C; saves where it stops.

    Raises:
      Diverged: no step of a whole log window was finite.
      ValueError: the data ended early, or a batch does not divide over the mesh.
    """
    start, steps = int(current.step), run.config.steps
    window, compiled = [], set()
    with stop_signals() as stopping:
        for number in range(start, steps):
            if number > start and _due(number, run.config.evaluate_every):
                evaluate(current, run)
            if number > start and _due(number, run.config.checkpoint_every):
                save(current, run)
            began = time.perf_counter()
            batch, on_device = next_batch(run, number)
            current, values = train_step(current, on_device, run.job.key)
            # One step stays in flight while batches are read ahead. The first of each
            # shape, mostly compilation, is waited for and not timed.
            shapes = tuple(x.shape for x in jax.tree.leaves(batch))
            timed = shapes in compiled
            jax.block_until_ready(window[-1] if window and timed else values)
            compiled.add(shapes)
            elapsed = time.perf_counter() - began
            run.meter.add(batch, elapsed if timed else None)
            window.append(values)
            run.writer.advance()
            if _due(number + 1, run.config.log_every) or number + 1 == steps:
                log(number + 1, window, run)
                window.clear()
            if stopping(number):
                break
    save(current, run)
    if int(current.step) == steps > start:
        evaluate(current, run)
    return current


def evaluate(current: state.TrainState, run: Run) -> None:
    if run.job.evaluate is not None:
        run.writer.write(int(current.step), run.job.evaluate(current.ema))


def save(current: state.TrainState, run: Run) -> None:
    run.checkpointer.save(
        int(current.step), current, iterator=run.data, config=run.job.identity
    )


def next_batch(run: Run, number: int) -> tuple[Any, Any]:
    """This process's rows, and the batch on the mesh."""
    try:
        return next(run.data)
    except StopIteration:
        raise ValueError(
            f"the data ended after {number} of {run.config.steps} steps; repeat it"
        ) from None


def log(number: int, window: list[dict[str, jax.Array]], run: Run) -> None:
    """Means over the window, rates, and one line in every record."""
    values = jax.device_get(window)
    means = {k: float(np.mean([v[k] for v in values])) for k in values[0]}
    run.writer.write(number, means | run.meter.summary())
    run.meter.clear()
    if means["skipped"] == 1.0:
        raise Diverged(
            f"loss or gradient not finite in steps {number - len(window) + 1} to "
            f"{number}; lower optimizer.learning_rate or optimizer.clip_norm"
        )


@contextlib.contextmanager
def stop_signals() -> Iterator[Callable[[int], bool]]:
    """Inside, SIGTERM and Ctrl-C only ask: the yielded `stopping(step)` answers.

    A second Ctrl-C interrupts as usual. Several processes agree through JAX's
    preemption service.
    """
    asked = threading.Event()

    def ask(signum: int, _: Any) -> None:
        if asked.is_set() and signum == signal.SIGINT:
            raise KeyboardInterrupt
        asked.set()

    def stopping(number: int) -> bool:
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(number)
        return asked.is_set()

    main = threading.current_thread() is threading.main_thread()
    ours = (signal.SIGINT, signal.SIGTERM) if main and jax.process_count() == 1 else ()
    before = {number: signal.signal(number, ask) for number in ours}
    try:
        yield stopping
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _due(number: int, every: int) -> bool:
    return every > 0 and number % every == 0
