"""What the configurations of all stages share."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ml_collections import config_dict

from soraflax import config as config_lib
from soraflax import sharding
from soraflax.train import cluster as cluster_lib
from soraflax.train import loop

# Paths, hardware, logging and the length of a run may change when it is resumed; its
# mathematics may not.
MUTABLE_KEYS = (
    "autoencoder",
    "cluster",
    "cache.budgets",
    "compilation_cache",
    "data.also",
    "data.budgets",
    "data.features",
    "data.lanes",
    "data.path",
    "data.read.ahead",
    "data.read.buffer",
    "data.read.threads",
    "data.rows",
    "data.read.workers",
    "distributed",
    "evaluation",
    "follow_base",
    "loss.lpips_path",
    "mesh",
    "text_encoder",
    "train.checkpoint_every",
    "train.checkpoint_minutes",
    "train.evaluate_every",
    "train.keep",
    "train.keep_period",
    "train.log_every",
    "train.profile_at",
    "train.profile_steps",
    "train.stall_minutes",
    "train.stop_at",
    "train.wandb",
    "train.steps",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    """The part of a run's configuration that every stage has.

    Attributes:
      stage: name of the stage.
      train: length of the run, logging, checkpoints, parameter average.
      mesh: sizes of the device mesh's axes.
      seed: PRNG seed of parameters, data order, noise levels and noise.
      distributed: whether several processes form one run (`jax.distributed`).
      cluster: those processes, where the environment does not say who they are.
      compilation_cache: directory of compiled programs kept between runs; "" is
        `compiled/` in the work folder, but none on a CPU; "none" is none.
    """

    stage: str
    train: loop.TrainConfig
    mesh: sharding.MeshConfig
    seed: int = 0
    distributed: bool = False
    cluster: cluster_lib.ClusterConfig = dataclasses.field(
        default_factory=cluster_lib.ClusterConfig
    )
    compilation_cache: str = ""


def check_rows_of_latents(config: Any) -> None:
    """Refuse a run on packed latents whose data, cache and model do not fit together.

    Args:
      config: with `data`, `cache`, `model` and `autoencoder`, of any stage.

    Raises:
      ValueError: naming the key and the nearest legal value.
    """
    if not config.data.path:
        raise ValueError("data.path is empty: give --config.data.path=DATASET")
    if not config.autoencoder:
        raise ValueError("autoencoder is empty: give --config.autoencoder=AE")
    for key in ("data", "cache"):
        patch = getattr(config, key).patch
        if patch != config.model.patch:
            raise ValueError(
                f"{key}.patch {patch} is not model.patch; use {config.model.patch}"
            )
    row, tokens = config.data.row, config.cache.fit.max_tokens
    if tokens > row.tokens:
        raise ValueError(
            f"cache.fit.max_tokens {tokens} is more than data.row.tokens; use "
            f"{row.tokens} or less"
        )
    if not config.cache.enabled and config.data.read.workers:
        raise ValueError(
            f"data.read.workers {config.data.read.workers}: clips that are encoded as "
            "they are drawn (cache.enabled False) are read by threads; use 0"
        )
    length = config.data.captions.max_length
    if length > row.text:
        raise ValueError(
            f"data.captions.max_length {length} is more than data.row.text; use "
            f"{row.text} or less"
        )


def to_config_dict(stage: str, groups: Mapping[str, Any], **keys: Any) -> Any:
    """The ConfigDict of a shipped config.

    Args:
      stage: name of the stage.
      groups: config dataclass of every group of keys, by the group's name.
      **keys: single keys of the stage beside those of `RunConfig`.
    """
    shared = {"seed": 0, "distributed": False, "compilation_cache": ""}
    shared["cluster"] = config_lib.to_dict(cluster_lib.ClusterConfig())
    values = {name: config_lib.to_dict(group) for name, group in groups.items()}
    return config_dict.ConfigDict({"stage": stage} | shared | keys | values)
