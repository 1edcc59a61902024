"""Token budgets: how large a clip is each time that it is drawn.

Each draw of a clip is given a budget of tokens, and the clip becomes the largest size
and the longest duration that fit. A curriculum changes how often each budget is drawn
as training goes on: short and small clips first, large and long ones later. With
`index` the number of draws of the source before this one,

    stage   = the last s with starts[s] <= index
    budget ~ tokens, with the relative frequencies weights[stage]                    (1)

Latents cannot be resized, so a clip is cached once for every budget
(`latents.LatentCacheConfig.budgets`, its variants), and a draw reads the largest one
that fits; one that is still too large is cut in time, which a causal latent bears.
Encoded as they are drawn (`VideoLatents`), clips need no cache.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from data_pipelines import latents as stored
from data_pipelines import records, transforms
from soraflax.ops import patch as patches

_DRAW = 3  # of the random numbers of a run, those of budgets


@dataclasses.dataclass(frozen=True)
class BudgetConfig:
    """Budgets of tokens, and a curriculum over them.

    Attributes:
      tokens: budgets to draw from; empty for clips as they are cached.
      weights: relative frequency of each of `tokens`, for each stage; empty for equal
        ones, in one stage.
      starts: draws of a source, over all hosts, at which each stage begins; the first
        is 0.
    """

    tokens: tuple[int, ...] = ()
    weights: tuple[tuple[float, ...], ...] = ()
    starts: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        if any(budget < 1 for budget in self.tokens):
            raise ValueError(f"budgets {self.tokens}: use 1 token or more")
        if self.starts[:1] != (0,) or list(self.starts) != sorted(set(self.starts)):
            raise ValueError(f"starts {self.starts}: begin with 0 and increase")
        stages = len(self.weights) or 1
        if len(self.starts) != stages:
            raise ValueError(
                f"{len(self.starts)} starts for {stages} stages: use {stages}"
            )
        for weights in self.weights:
            if len(weights) != len(self.tokens):
                raise ValueError(
                    f"{len(weights)} weights for {len(self.tokens)} budgets: use "
                    f"{len(self.tokens)}"
                )
            transforms.check_weights(weights, what="weights of budgets")

    def draw(self, index: int, *, seed: int) -> int:
        """The budget of a draw, by equation (1)."""
        odds = np.ones(len(self.tokens))
        if self.weights:
            stage = int(np.searchsorted(self.starts, index, side="right")) - 1
            odds = np.array(self.weights[stage])
        rng = np.random.default_rng((seed, index, _DRAW))
        return self.tokens[int(rng.choice(len(odds), p=odds / odds.sum()))]


@dataclasses.dataclass(frozen=True)
class BudgetedLatents:
    """A source of latents whose clips fit the budgets that they are drawn with.

    Attributes:
      source: a latent dataset, or what stands for one.
      budgets: the budgets.
      patch: latent frames, rows and columns of a token.
      seed: PRNG seed of the budgets.
    """

    source: Any
    budgets: BudgetConfig
    patch: tuple[int, int, int]
    seed: int

    def __post_init__(self) -> None:
        smallest = min(self.budgets.tokens)
        variants = getattr(self.source, "budgets", ())
        if variants and smallest < min(variants):
            raise ValueError(
                f"a budget of {smallest} tokens, but clips were cached for "
                f"{min(variants)} or more: use {min(variants)}"
            )

    @property
    def digest(self) -> str:
        return self.source.digest

    @property
    def mean(self) -> Float[np.ndarray, "z"]:
        return self.source.mean

    @property
    def std(self) -> Float[np.ndarray, "z"]:
        return self.source.std

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """The shapes that the largest budget leaves."""
        most = max(self.budgets.tokens)
        return [self._fitted(shape, most) for shape in self.source.shapes]

    def __len__(self) -> int:
        return len(self.source) // max(1, len(self._variants))

    def __getitem__(self, index: int) -> stored.LatentRecord:
        return self.source[index * max(1, len(self._variants))]

    def draw(self, element: int, index: int) -> stored.LatentRecord:
        """Clip `element`, at the budget of draw `index`.

        Raises:
          DamagedRecordError: it cannot be read.
        """
        budget = self.budgets.draw(index, seed=self.seed)
        if not self._variants:
            record = self.source[element]
        else:
            fitting = np.searchsorted(self._variants, budget, side="right") - 1
            record = self.source[element * len(self._variants) + int(fitting)]
        frames = self._fitted(record.latent.shape, budget)[0]
        return dataclasses.replace(record, latent=record.latent[:frames])

    @property
    def _variants(self) -> Sequence[int]:
        """Budgets that each clip was cached for, increasing; empty where for none."""
        return getattr(self.source, "budgets", ())

    def _fitted(self, shape: tuple[int, ...], budget: int) -> tuple[int, ...]:
        """The shape with as many latent frames as fit, at least those of a patch."""
        time, height, width = patches.patch_grid(shape, self.patch)
        fitting = max(1, min(time, budget // (height * width)))
        return (fitting * self.patch[0], *shape[1:])


@dataclasses.dataclass(frozen=True)
class VideoLatents:
    """Latents of clips that are encoded each time that they are drawn, without a cache.

    Each draw takes another window of a long clip. Every fitted size is compiled once;
    `config.fit.max_side` and few budgets keep them few.

    Attributes:
      clips: a clip dataset.
      encoder: the encoder.
      config: fitting; `fit.max_tokens` where there are no budgets.
      mean, std: statistics of each channel.
      budgets: budgets of the draws.
      seed: PRNG seed of the windows and the budgets.
    """

    clips: Any
    encoder: stored.LatentEncoder
    config: stored.LatentCacheConfig
    mean: Float[np.ndarray, "z"]
    std: Float[np.ndarray, "z"]
    budgets: BudgetConfig = dataclasses.field(default_factory=BudgetConfig)
    seed: int = 0

    @property
    def digest(self) -> str:
        return self.encoder.digest

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """A shape of the most tokens and the most frames that a draw may have."""
        most = self.most_tokens
        pt, ph, pw = self.config.patch
        ratio = self.encoder.temporal_ratio
        frames = 1 + (self.config.fit.max_frames - 1) // ratio
        time = max(1, min(most, frames // pt))
        return [(time * pt, ph, pw * (most // time), len(self.mean))]

    @property
    def most_tokens(self) -> int:
        """The greatest budget of a draw."""
        return max(self.budgets.tokens or (self.config.fit.max_tokens,))

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> stored.LatentRecord:
        return self.draw(index, index)

    def draw(self, element: int, index: int) -> stored.LatentRecord:
        """Clip `element`, fitted to the budget of draw `index`, encoded.

        Raises:
          DamagedRecordError: it cannot be read or decoded.
        """
        clip, budget = self.clips[element], self.config.fit.max_tokens
        if self.budgets.tokens:
            budget = self.budgets.draw(index, seed=self.seed)
        plan = self.fit(clip, budget)
        rng = np.random.default_rng((self.seed, index, _DRAW + 1))
        start = int(rng.integers(plan.max_start + 1))
        video = _decoded(clip, plan, start=start)
        latent = stored.encode_batch(self.encoder, [video], batch=1)[0]
        return stored.LatentRecord(clip.id, latent, plan.fps, clip.captions, clip.truth)

    def fit(self, clip: records.ClipRecord, budget: int) -> transforms.FitPlan:
        """What a clip becomes at a budget of tokens."""
        return transforms.plan_fit(
            clip.frames,
            clip.height,
            width=clip.width,
            fps=clip.fps,
            grid=self.encoder.grid(self.config.patch),
            config=dataclasses.replace(self.config.fit, max_tokens=budget),
        )


def _decoded(clip: records.ClipRecord, plan: transforms.FitPlan, *, start: int) -> Any:
    try:
        return transforms.decode_fitted(clip.video, plan, start=start, name=clip.id)
    except (ValueError, RuntimeError) as error:
        raise records.DamagedRecordError(str(error)) from error
