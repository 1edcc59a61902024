"""A training run as far as its step depends on it: model, objective, rows, mesh."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from soraflax import config as config_lib
from soraflax import flops, sharding
from soraflax.nn import dit
from soraflax.ops import packing
from soraflax.ops.attention import splash
from soraflax.planning import cost
from soraflax.train import denoising, loop, optimizer


@dataclasses.dataclass(frozen=True)
class Workload:
    """The sizes of a training step.

    Attributes:
      model: sizes of the transformer, its remat policy and attention.
      loss: the denoising objective.
      optimizer: update rule.
      train: length of the run, parameter average, microbatches.
      row: capacity of a row.
      rows: rows of a batch, on all devices together.
      clip: tokens of the longest clip. Rows are taken to be full of such clips, the
        most expensive case.
      mesh: sizes of the mesh's axes.
    """

    model: dit.DiTConfig
    loss: denoising.DenoisingConfig
    optimizer: optimizer.OptimizerConfig
    train: loop.TrainConfig
    row: packing.RowShape
    rows: int
    clip: int
    mesh: sharding.MeshConfig

    def __post_init__(self) -> None:
        if self.rows < 1:
            raise ValueError(f"rows {self.rows}: use 1 or more")
        check_clip(self.clip, self.row)

    @property
    def tokens(self) -> int:
        """Tokens of a batch."""
        return self.rows * self.row.tokens

    @property
    def lengths(self) -> flops.Lengths:
        """The segments of a batch: clips of the greatest length, as many as fit."""
        count = min(self.row.tokens // self.row.aligned(self.clip), self.row.segments)
        text = self.row.text // self.row.segments
        return flops.Lengths(
            [self.clip] * count * self.rows, [text] * count * self.rows
        )

    @property
    def flops(self) -> int:
        """Model FLOPs of a step, forward and backward, nothing counted twice."""
        return flops.training(flops.transformer_flops(self.model, self.lengths))


def check_clip(clip: int, row: packing.RowShape) -> None:
    """Refuse a row shorter than its longest clip, aligned.

    Raises:
      ValueError: naming both, and the nearest legal row.
    """
    if clip < 1:
        raise ValueError(f"clips of {clip} tokens: use 1 or more")
    room = row.aligned(clip)
    if room > row.tokens:
        longest = max(row.tokens // row.align * row.align, 1)
        raise ValueError(
            f"rows of {row.tokens} tokens are shorter than their longest clip, {clip}: "
            f"use rows of {room} or clips of {longest}"
        )


def with_tpu_attention(workload: Workload) -> Workload:
    """The workload with `auto` attention resolved for a TPU, not for local devices.

    Raises:
      ValueError: attention that no TPU runs.
    """
    model = workload.model
    if model.attention != "auto":
        if model.attention not in cost.KERNELS:
            raise ValueError(
                f"model.attention {model.attention!r}: no TPU runs it; use 'auto' or "
                "'splash'"
            )
        return workload
    kernels = model.width // model.heads in splash.HEAD_SIZES
    model = dataclasses.replace(model, attention="splash" if kernels else "blocks")
    return dataclasses.replace(workload, model=model)


def from_config(values: Any) -> Workload:
    """The workload of a configuration of the stage `video`.

    Its `rows` are those of one batch shard (`sharding.batch_shard_processes`).

    Args:
      values: nested dict or ConfigDict.

    Raises:
      ConfigError: another stage, a missing or unknown key, an impossible value.
    """
    tree = config_lib.to_dict(values)
    stage = tree.get("stage")
    if stage != "video":
        raise config_lib.ConfigError(
            f"config.stage {stage!r}: only 'video' has a plan; give a config of it"
        )
    data, cache = _group(tree, "data"), _group(tree, "cache")
    classes: dict[str, Any] = {
        "model": dit.DiTConfig,
        "loss": denoising.DenoisingConfig,
        "optimizer": optimizer.OptimizerConfig,
        "train": loop.TrainConfig,
        "mesh": sharding.MeshConfig,
    }
    groups = {
        name: config_lib.to_dataclass(_group(tree, name), cls, path=f"config.{name}")
        for name, cls in classes.items()
    }
    row = config_lib.to_dataclass(
        _group(data, "row", path="config.data"),
        packing.RowShape,
        path="config.data.row",
    )
    fit = _group(cache, "fit", path="config.cache")
    return Workload(
        **groups,
        row=row,
        rows=_positive_int(data, "rows", path="config.data"),
        clip=_positive_int(fit, "max_tokens", path="config.cache.fit"),
    )


def _positive_int(tree: Mapping[str, Any], name: str, *, path: str) -> int:
    value = tree.get(name)
    if value is None:
        raise config_lib.ConfigError(f"{path}.{name}: missing")
    if not isinstance(value, int) or value < 1:
        raise config_lib.ConfigError(f"{path}.{name} {value!r}: use an integer >= 1")
    return value


def _group(
    tree: Mapping[str, Any], name: str, *, path: str = "config"
) -> Mapping[str, Any]:
    if not isinstance(tree.get(name), Mapping):
        raise config_lib.ConfigError(f"{path}.{name}: missing")
    return tree[name]


def abstract_batch(workload: Workload, mesh: Mesh) -> packing.Packed:
    """The rows of a step as ShapeDtypeStructs, in the shardings of training."""
    model, rows = workload.model, workload.rows
    batch_sharding = sharding.batch_sharding(mesh)
    sharding.check_divides((rows,), batch_sharding.spec, mesh=mesh, what="rows")
    shapes = packing.Packed.shapes(
        workload.row,
        rows=rows,
        patch_size=model.patch_size,
        text_width=None if model.text else model.text_width,
    )
    return jax.tree.map(lambda x: x.update(sharding=batch_sharding), shapes)
