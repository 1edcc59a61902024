"""How a model's authors sample from it, where no one says otherwise."""

import dataclasses

from soraflax.diffusion import samplers


@dataclasses.dataclass(frozen=True)
class SamplingDefaults:
    """Numbers of a published model.

    Attributes:
      sampler: a name in `diffusion.samplers.SAMPLERS`.
      steps: number of the sampler's steps.
      guidance: scale of classifier-free guidance.
      low_guidance: scale below the boundary of two experts; None for `guidance`.
      size: width and height in pixels.
      frames: frames of a video.
    """

    sampler: str = "unipc"
    steps: int = 50
    guidance: float = 5.0
    low_guidance: float | None = None
    size: tuple[int, int] = (832, 480)
    frames: int = 81

    def __post_init__(self) -> None:
        if self.sampler not in samplers.SAMPLERS:
            known = ", ".join(samplers.SAMPLERS)
            raise ValueError(f"unknown sampler {self.sampler!r}; known: {known}")
        if self.steps < 1 or self.frames < 1 or min(self.size) < 1:
            raise ValueError(
                f"{self.steps} steps, {self.frames} frames of {self.size} pixels: use "
                "1 or more of each"
            )
