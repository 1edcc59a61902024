"""The configuration of the stage `adversarial`."""

import dataclasses
from typing import Literal

from data_pipelines import pipeline
from experiments.stages import run_config
from experiments.stages.autoencoder import config as autoencoder_config
from soraflax.nn import discriminator
from soraflax.train import adversarial, reconstruction
from soraflax.train import optimizer as optimizer_lib


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdversarialRunConfig(run_config.RunConfig):
    """A run of the stage `adversarial`.

    Attributes:
      stage: `"adversarial"`.
      autoencoder: directory of the trained autoencoder.
      data: dataset of clips and the crops taken of them.
      discriminator: sizes of the discriminator.
      loss: weights of the reconstruction loss.
      adversarial: weights and schedule of the adversarial terms.
      optimizer: update rule of the autoencoder.
      discriminator_optimizer: update rule of the discriminator.
      evaluation: clips that the result is measured on.
      batch: crops per step, over all processes.
      train_encoder: whether the encoder is trained as well; latents then change.
      dtype: compute dtype of the autoencoder; "" for that of its checkpoint.
      remat: remat policy of the autoencoder; "" for that of its checkpoint.
    """

    stage: Literal["adversarial"]
    autoencoder: str
    data: pipeline.VideoDataConfig
    discriminator: discriminator.DiscriminatorConfig
    loss: reconstruction.ReconstructionConfig
    adversarial: adversarial.AdversarialConfig
    optimizer: optimizer_lib.OptimizerConfig
    discriminator_optimizer: optimizer_lib.OptimizerConfig
    evaluation: autoencoder_config.AutoencoderEvaluationConfig
    batch: int
    train_encoder: bool = False
    dtype: str = ""
    remat: str = ""

    def __post_init__(self) -> None:
        autoencoder_config.check_data(self.data, self.batch)
        if not self.autoencoder:
            raise ValueError("autoencoder is empty: give --config.autoencoder=AE")

    @property
    def optimizers(self) -> dict[str, optimizer_lib.OptimizerConfig]:
        """The optimizer of every group of parameters."""
        optimizers = {
            adversarial.AUTOENCODER: self.optimizer,
            adversarial.DISCRIMINATOR: self.discriminator_optimizer,
        }
        if self.adversarial.lecam:
            anchors = adversarial.anchor_optimizer(self.adversarial)
            optimizers[adversarial.ANCHORS] = anchors
        return optimizers
