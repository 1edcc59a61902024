"""What a run is: its course, and its model, loss and data."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax
from jax.sharding import Mesh

from soraflax.train import checkpoint, metrics, step


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
