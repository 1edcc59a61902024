"""The configuration of the stage `autoencoder`."""

import dataclasses
from typing import Literal

from data_pipelines import pipeline, transforms
from experiments.stages import run_config
from soraflax.nn import autoencoder
from soraflax.train import optimizer, reconstruction


@dataclasses.dataclass(frozen=True)
class AutoencoderEvaluationConfig:
    """The clips that an autoencoder is measured on.

    Attributes:
      clips: greatest number of held-out clips for PSNR and SSIM.
      statistics: greatest number of training clips for the latent statistics.
      fit: limits of a clip's size; tokens are patches of 1 x 2 x 2 latent cells.
      batch: clips of one size that are measured together.
    """

    clips: int = 32
    statistics: int = 128
    fit: transforms.FitConfig = dataclasses.field(
        default_factory=lambda: transforms.FitConfig(max_tokens=256, max_frames=17)
    )
    batch: int = 4

    def __post_init__(self) -> None:
        for name in ("clips", "statistics", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)}: use 1 or more")


@dataclasses.dataclass(frozen=True, kw_only=True)
class AutoencoderRunConfig(run_config.RunConfig):
    """A run of the stage `autoencoder`.

    Attributes:
      stage: `"autoencoder"`.
      data: dataset of clips and the crops taken of them.
      model: sizes of the autoencoder.
      optimizer: update rule and learning rate schedule.
      loss: weights of the reconstruction loss.
      evaluation: clips that the result is measured on.
      batch: crops per step, over all processes.
      base: directory of a trained autoencoder of these sizes, whose decoder alone is
        trained on; its latents stay as they are. "" trains all, from nothing.
    """

    stage: Literal["autoencoder"]
    data: pipeline.VideoDataConfig
    model: autoencoder.AutoencoderConfig
    optimizer: optimizer.OptimizerConfig
    loss: reconstruction.ReconstructionConfig
    evaluation: AutoencoderEvaluationConfig
    batch: int
    base: str = ""

    def __post_init__(self) -> None:
        check_data(self.data, self.batch)
        for frames, height, width in self.data.crops.shapes:
            self.model.latent_grid(frames, height, width)


def check_data(data: pipeline.VideoDataConfig, batch: int) -> None:
    """Refuse a run without a dataset, or with an empty batch.

    Raises:
      ValueError: naming the key to set.
    """
    if not data.path:
        raise ValueError("data.path is empty: give --config.data.path=DATASET")
    if batch < 1:
        raise ValueError(f"batch {batch}: use 1 or more")
