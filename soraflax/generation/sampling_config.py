"""How canvases are filled: the numbers of sampling."""

import dataclasses
from typing import Any

from soraflax.diffusion import guidance as guidance_lib
from soraflax.diffusion import samplers, schedule
from soraflax.generation import caching
from soraflax.generation import windows as windows_lib
from soraflax.pretrained import models


@dataclasses.dataclass(frozen=True)
class SamplingConfig:
    """How canvases are filled.

    Attributes:
      steps: number of the sampler's steps.
      guidance: scale of classifier-free guidance; 1 is none, and costs half.
      low_guidance: scale below the boundary of two experts; None for `guidance`.
      sampler: the update rule of a step.
      shift: shift of the noise levels at every size; None for the model's own.
      interval: lowest and highest noise level that are guided; others cost half.
      rescale, zero_init: as in `diffusion.guidance.GuidanceConfig`.
      skip: skip guidance, which costs half as much again; None for none.
      cache: which steps take over what the blocks added before; None computes all.
      windows: how long and large canvases are taken apart; None for windows as long
        as the clips of training.
      rows: largest number of rows denoised at once; tiles of one canvas always are.
      decode: largest number of latents decoded at once.
    """

    steps: int = 25
    guidance: float = 4.0
    low_guidance: float | None = None
    sampler: samplers.Sampler = dataclasses.field(default_factory=samplers.Euler)
    shift: float | None = None
    interval: tuple[float, float] = (0.0, 1.0)
    rescale: float = 0.0
    zero_init: int = 0
    skip: guidance_lib.SkipGuidance | None = None
    cache: caching.StepCacheConfig | None = None
    windows: windows_lib.WindowConfig | None = None
    rows: int = 8
    decode: int = 8

    def __post_init__(self) -> None:
        if self.steps < 1 or self.rows < 1 or self.decode < 1:
            raise ValueError("steps, rows and decode: use 1 or more")
        if self.shift is not None:
            schedule.TokenCountShift(self.shift)
        if self.cache and self.sampler.evaluations > 1:
            raise ValueError(
                f"caching with {self.sampler}, which calls the model twice a step: use "
                "one that calls it once, such as UniPC"
            )
        self.guide  # noqa: B018, refuses numbers out of range

    @property
    def guide(self) -> guidance_lib.GuidanceConfig:
        """Its guidance.

        Raises:
          ValueError: a number out of its range.
        """
        return guidance_lib.GuidanceConfig(
            scale=self.guidance,
            low=self.interval[0],
            high=self.interval[1],
            rescale=self.rescale,
            zero_init=self.zero_init,
            low_scale=self.low_guidance,
            skip=self.skip,
        )

    @classmethod
    def of_model(
        cls, config: models.VideoModelConfig, **changes: Any
    ) -> "SamplingConfig":
        """As the model's authors sample, as far as it says so.

        Args:
          config: of the model.
          **changes: fields; those that are None are left as they are.
        """
        fields = {name: value for name, value in changes.items() if value is not None}
        if (defaults := config.sampling) is not None:
            fields = {
                "steps": defaults.steps,
                "guidance": defaults.guidance,
                "low_guidance": defaults.low_guidance,
                "sampler": samplers.SAMPLERS[defaults.sampler],
                "skip": defaults.skip,
            } | fields
        return cls(**fields)
