"""Random clips for Wan's transformer: batches of one size, and rows of ours of them."""

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from soraflax.nn import dit
from soraflax.ops import packing, patch

Grid = tuple[int, int, int]
TEXT = 512


@dataclasses.dataclass(frozen=True)
class Batch:
    """Clips of one size.

    Attributes:
      latent: `[B, t, h, w, z]`, noisy latents.
      target: `[B, t, h, w, z]`, the right prediction.
      level: `[B]`, noise levels.
      text: `[B, 512, E]`, text features.
    """

    latent: np.ndarray
    target: np.ndarray
    level: np.ndarray
    text: np.ndarray


def batch(config: dit.DiTConfig, *, count: int, grid: Grid, seed: int = 0) -> Batch:
    """Random numbers; `grid` counts patches."""
    rng = np.random.default_rng(seed)
    sides = [n * p for n, p in zip(grid, config.patch, strict=True)]
    shape = (count, *sides, config.latent_channels)
    draw = rng.standard_normal
    return Batch(
        draw(shape, np.float32),
        draw(shape, np.float32),
        rng.uniform(size=count).astype(np.float32),
        draw((count, TEXT, config.text_width), np.float32),
    )


def rows(
    batches: Sequence[Batch], config: dit.DiTConfig, *, pack: bool
) -> tuple[packing.Packed, np.ndarray]:
    """The clips as full rows, and their targets as tokens `[B, N, P]`.

    Args:
      batches: clips of any sizes where they are packed, else of one.
      config: sizes of the transformer.
      pack: whether all clips share one row; else each has its own.
    """
    segments = [clip for batch in batches for clip in _segments(batch, config)]
    targets = [
        patch.patchify(clip, config.patch) for batch in batches for clip in batch.target
    ]
    level = np.concatenate([batch.level for batch in batches])
    if pack:
        layout, level = [segments], level[None]
        target = np.concatenate(targets)[None]
    else:
        layout, level = [[clip] for clip in segments], level[:, None]
        target = np.stack(targets)
    count = len(layout[0])
    shape = packing.RowShape(target.shape[1], TEXT * count, count)
    levels = np.pad(level, ((0, 0), (1, 0)))
    table = np.asarray(packing.level_table(jnp.asarray(levels)))
    return packing.assemble(layout, shape).replace(levels=table), target


def _segments(batch: Batch, config: dit.DiTConfig) -> list[packing.Segment]:
    grid = patch.patch_grid(batch.latent.shape, config.patch)
    positions, known = patch.positions(grid), np.zeros(int(np.prod(grid)), bool)
    return [
        packing.Segment(patch.patchify(x, config.patch), positions, known, y)
        for x, y in zip(batch.latent, batch.text, strict=True)
    ]
