"""AdamW (arXiv:1711.05101) or Muon, with warm-up, decay of the rate, and clipping.

    rate(k) = peak * min(1, (k + 1) / warmup) * decay(k)                      (1)
    decay(k) = final + (1 - final) * (1 + cos(pi * progress(k))) / 2          (2)

`progress` runs from 0 at the end of the warm-up to 1 at the last step; a constant
schedule has decay 1. Weight decay acts on kernels alone: norms, biases, embeddings
and modulation tables are free of it.

Muon (`train.muon`) makes the update of a matrix orthogonal; here it acts on the kernels
of scanned layers, `[depth, in, out]`, and of convolutions, and AdamW on everything
else. Updates are scaled so that both take the same rate and the same decay.

Networks that train side by side are groups, the top-level keys of their parameters:
each has its own rule, schedule and gradient norm, and none sees another's.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

import jax
import optax

from soraflax.train import muon


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """Hyperparameters.

    Attributes:
      name: 'adamw', 'muon', or 'sgd', which has no moments.
      learning_rate: `peak` of equation (1).
      schedule: shape of the decay after the warm-up.
      warmup: number of steps of linear warm-up.
      decay_steps: step at which a cosine ends; 0 for the length of the run.
      final_fraction: `final` of equation (2).
      beta1: decay of the first moment.
      beta2: decay of the second moment.
      epsilon: added to the root of the second moment.
      weight_decay: decoupled decay of kernels, times the rate.
      clip_norm: greatest global norm of gradients; 0 for no clipping.
      muon_dtype: precision of Muon's iterations, as in `muon.orthogonal`.
    """

    name: Literal["adamw", "muon", "sgd"] = "adamw"
    learning_rate: float = 1e-3
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup: int = 100
    decay_steps: int = 0
    final_fraction: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.99
    epsilon: float = 1e-8
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    muon_dtype: Literal["auto", "float32", "bfloat16"] = "auto"

    def __post_init__(self) -> None:
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate {self.learning_rate}: use a positive one")
        if min(self.warmup, self.decay_steps) < 0:
            raise ValueError("warmup and decay_steps count steps: use 0 or more")


def make_schedule(config: OptimizerConfig, *, steps: int) -> optax.Schedule:
    """The learning rate at each step of a run of `steps`, equations (1) and (2)."""
    end = config.decay_steps or steps
    span = max(1, end - config.warmup)

    def rate(count: Any) -> Any:
        count = jax.numpy.asarray(count, jax.numpy.float32)
        warm = jax.numpy.minimum(1.0, (count + 1) / max(1, config.warmup))
        if config.schedule == "constant":
            return config.learning_rate * warm
        progress = jax.numpy.clip((count - config.warmup) / span, 0.0, 1.0)
        cosine = 0.5 * (1 + jax.numpy.cos(math.pi * progress))
        decay = config.final_fraction + (1 - config.final_fraction) * cosine
        return config.learning_rate * warm * decay

    return rate


def make_schedules(
    config: OptimizerConfig | Mapping[str, OptimizerConfig], *, steps: int
) -> optax.Schedule | dict[str, optax.Schedule]:
    """`make_schedule` of all parameters, or of each of their groups."""
    if not isinstance(config, Mapping):
        return make_schedule(config, steps=steps)
    return {name: make_schedule(group, steps=steps) for name, group in config.items()}


def make_optimizer(
    config: OptimizerConfig | Mapping[str, OptimizerConfig],
    *,
    steps: int,
    shardings: Any = None,
) -> optax.GradientTransformation:
    """Gradient clipping, update rule and schedule, for a run of `steps`.

    Args:
      config: hyperparameters of all parameters, or of every group of them by its
        name, the top-level key.
      steps: number of updates of the run.
      shardings: NamedSharding of every parameter; None where nothing is sharded.
    """
    if isinstance(config, Mapping):
        chain = optax.partition(
            {
                name: _rule(group, steps, shardings=shardings)
                for name, group in config.items()
            },
            lambda params: {name: name for name in params},
        )
    else:
        chain = _rule(config, steps, shardings=shardings)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        with jax.numpy_dtype_promotion("standard"):  # optax: decay ** int32 count
            return chain.update(updates, state, params)

    return optax.GradientTransformation(chain.init, update)


def _rule(
    config: OptimizerConfig, steps: int, *, shardings: Any
) -> optax.GradientTransformation:
    if config.name == "muon":
        rule = _muon(config, steps, shardings=shardings)
    else:
        rule = {"adamw": _adamw, "sgd": _sgd}[config.name](config, steps)
    if not config.clip_norm:
        return rule
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), rule)


def _sgd(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    return optax.chain(
        optax.add_decayed_weights(config.weight_decay, mask=weight_decay_mask),
        optax.sgd(make_schedule(config, steps=steps)),
    )


def _adamw(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    return optax.adamw(
        make_schedule(config, steps=steps),
        b1=config.beta1,
        b2=config.beta2,
        eps=config.epsilon,
        weight_decay=config.weight_decay,
        mask=weight_decay_mask,
    )


def _muon(
    config: OptimizerConfig, steps: int, *, shardings: Any
) -> optax.GradientTransformation:
    # States are those of `optax.contrib.muon`, of which there are checkpoints: in its
    # chain a scale by shape and a decay stand where there is none here. The rule
    # subtracts, so the decay that joins it is negative as well; both then follow the
    # schedule.
    rule = optax.partition(
        {
            "muon": optax.chain(
                muon.scale_by_muon(
                    epsilon=config.epsilon,
                    shardings=shardings,
                    dtype=config.muon_dtype,
                ),
                optax.identity(),
                optax.identity(),
                optax.scale_by_learning_rate(1.0),
            ),
            "adam": optax.nadamw(
                1.0,
                b1=config.beta1,
                b2=config.beta2,
                eps=config.epsilon,
                weight_decay=0.0,
            ),
        },
        muon_labels,
    )
    return optax.chain(
        rule,
        optax.add_decayed_weights(-config.weight_decay, mask=weight_decay_mask),
        optax.scale_by_schedule(make_schedule(config, steps=steps)),
    )


def muon_labels(params: Any) -> Any:
    """'muon' for kernels of scanned layers and convolutions, 'adam' for the rest."""
    return jax.tree.map(
        lambda decays, leaf: "muon" if decays and leaf.ndim in (3, 5) else "adam",
        weight_decay_mask(params),
        params,
    )


def weight_decay_mask(params: Any) -> Any:
    """A tree of bool: whether weight decay acts on a leaf, which is named `kernel`."""

    def is_kernel(path: Any, _: Any) -> bool:
        return getattr(path[-1], "key", None) == "kernel"

    return jax.tree_util.tree_map_with_path(is_kernel, params)
