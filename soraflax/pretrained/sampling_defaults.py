"""How a model's authors sample from it, where no one says otherwise."""

import dataclasses

from soraflax.diffusion import guidance as guidance_lib
from soraflax.diffusion import samplers


@dataclasses.dataclass(frozen=True)
class SamplingDefaults:
    """Numbers of a published model.

    Attributes:
      sampler: a name in `diffusion.samplers.SAMPLERS`.
      steps: number of the sampler's steps.
      guidance: scale of classifier-free guidance.
      low_guidance: scale below the boundary of two experts; None for `guidance`.
      skip_blocks: blocks of `diffusion.guidance.SkipGuidance`; empty for no such.
      skip_guidance: its scale.
      size: width and height in pixels.
      frames: frames of a video.
    """

    sampler: str = "unipc"
    steps: int = 50
    guidance: float = 5.0
    low_guidance: float | None = None
    skip_blocks: tuple[int, ...] = ()
    skip_guidance: float = 1.0
    size: tuple[int, int] = (832, 480)
    frames: int = 81

    @property
    def skip(self) -> guidance_lib.SkipGuidance | None:
        """Its skip guidance, if it has one."""
        if not self.skip_blocks:
            return None
        return guidance_lib.SkipGuidance(tuple(self.skip_blocks), self.skip_guidance)

    def __post_init__(self) -> None:
        self.skip  # noqa: B018, refuses numbers out of range
        if self.sampler not in samplers.SAMPLERS:
            known = ", ".join(samplers.SAMPLERS)
            raise ValueError(f"unknown sampler {self.sampler!r}; known: {known}")
        if self.steps < 1 or self.frames < 1 or min(self.size) < 1:
            raise ValueError(
                f"{self.steps} steps, {self.frames} frames of {self.size} pixels: use "
                "1 or more of each"
            )
