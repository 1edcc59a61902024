"""Steps that take over what the transformer's blocks added one step before.

Neighbouring steps of a sampler ask the transformer nearly the same question. As in
TeaCache (arXiv:2411.19108) and MagCache (arXiv:2506.09045) a step is skipped while what
has changed since the last step that was computed is little: with m(t) the modulation
that the model derives from the level t, step k adds

    d_k = |m(t_k) - m(t_{k-1})|_1 / |m(t_{k-1})|_1                                (1)

to a sum; once that exceeds `threshold` the step is computed and the sum starts again.
Embedding and head always run, so a skipped step still sees its own tokens and level.

Levels depend on a segment's size, but who is skipped must not depend on who shares the
row: (1) is taken at the levels of a segment of `TokenCountShift.base_tokens`, so the
choice is a function of the model and the number of steps alone.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from soraflax.diffusion import schedule
from soraflax.nn import dit


@dataclasses.dataclass(frozen=True)
class StepCacheConfig:
    """Which steps are skipped.

    Attributes:
      threshold: greatest sum of (1) since the last computed step.
      max_consecutive_skips: steps skipped in a row, at most.
      warmup_steps: steps at the start, and at the end, that are always computed.
    """

    threshold: float = 0.4
    max_consecutive_skips: int = 2
    warmup_steps: int = 2

    def __post_init__(self) -> None:
        if not self.threshold >= 0:
            raise ValueError(f"cache threshold {self.threshold}: use 0 or more")
        if self.max_consecutive_skips < 1 or self.warmup_steps < 1:
            raise ValueError(
                f"cache of {self.max_consecutive_skips} consecutive skips, "
                f"{self.warmup_steps} warm-up steps: use 1 step or more"
            )


def skipped(changes: Sequence[float], config: StepCacheConfig) -> list[bool]:
    """For every step, whether it is skipped.

    Args:
      changes: d_k of equation (1); that of the first step does not matter.
      config: limits of what is skipped.
    """
    steps, total, run = len(changes), 0.0, 0
    choice = []
    for step, change in enumerate(changes):
        total += float(change)
        inside = config.warmup_steps <= step < steps - config.warmup_steps
        few = run < config.max_consecutive_skips
        skip = inside and total <= config.threshold and few
        total, run = (total, run + 1) if skip else (0.0, 0)
        choice.append(skip)
    return choice


def modulation_changes(
    params: Any,
    config: dit.DiTConfig,
    *,
    shift: schedule.TokenCountShift,
    steps: int,
) -> np.ndarray:
    """d_k of equation (1) for every step, `[steps]`, 0 for the first."""
    tokens = jnp.asarray(float(shift.base_tokens))
    levels = schedule.inference_levels(steps, shift(tokens))[:-1]
    embedding = dit.LevelEmbedding(config.width, config.frequency_width)
    pooled = jnp.zeros((1, steps, config.text_width)) if config.pooled_text else None
    tables = jax.jit(embedding.apply)(
        {"params": params["levels"]}, levels[None], pooled
    )
    table = np.asarray(tables[1][0], np.float32).reshape(steps, -1)
    change = np.abs(np.diff(table, axis=0)).sum(axis=1)
    size = np.maximum(np.abs(table[:-1]).sum(axis=1), 1e-12)
    return np.concatenate([[0.0], change / size])
