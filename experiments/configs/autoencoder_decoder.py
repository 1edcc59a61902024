"""The small autoencoder's decoder, trained on to clean what a transformer errs by.

Claim     a decoder that has seen noisy latents draws plain grounds from mottled ones.
Hardware  two CPU cores; the same file runs on one GPU or a TPU mesh.
Command   soraflax train --config=autoencoder_decoder
              --config.data.path=DATASET --config.base=AE --workdir=AE2
Result    600 steps: 29.6 dB PSNR, 0.897 SSIM on held-out clips (30.6 dB, 0.923 before);
          the mottled grounds of the shipped model come out plain. Trained on by Muon
          from crops of the place that varies most (`data.crops.places=6`), 2,600
          steps: 32.3 dB, 0.943. The shipped model's card has the commands.

Latents, and transformers trained on them, stay as they were (`loss.noise`). `:tiny` is
the size that tests train.
"""

from typing import Any

from ml_collections import config_dict

from experiments.configs import autoencoder_small


def get_config(size: str = "small") -> config_dict.ConfigDict:
    config: Any = autoencoder_small.get_config(size)
    config.base = ""
    config.loss.noise = 0.4
    if size != "tiny":
        config.optimizer.learning_rate = 1e-3
        config.train.steps = 600
    return config
