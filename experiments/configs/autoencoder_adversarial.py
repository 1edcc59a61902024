"""The small autoencoder's decoder, trained on against a discriminator.

Claim     reconstructions get the fine detail that a mean over errors blurs away, while
          latents, and transformers trained on them, stay as they were.
Hardware  two CPU cores; the same file runs on one GPU or a TPU mesh.
Command   soraflax train --config=autoencoder_adversarial
              --config.data.path=DATASET --config.autoencoder=AE --workdir=AE2
Result    two cores: 700 steps from the demo's autoencoder, 28 minutes, contended;
          64 held-out clips (python -m experiments.reports.latents --clips 64), before
          and after: Frechet distance 1.29, 1.02; PSNR 30.69, 30.66 dB; SSIM 0.927,
          0.923; flicker of still places 0.21, 0.28 of 255 levels. Edges gain contrast;
          on real clips, which neither stage saw, so does the grain of 8 x 8 pixels.

AE is what `autoencoder_small.py` trained, or any other autoencoder of the same ratios;
`--config.train_encoder=true` trains its encoder too, after which latents have to be
cached again. `:tiny` is the size that tests train.
"""

from ml_collections import config_dict

from data_pipelines import cropping, pipeline
from experiments.stages import run_config
from experiments.stages.autoencoder import config as stage_config
from soraflax import config as config_lib
from soraflax import sharding
from soraflax.nn import discriminator
from soraflax.train import adversarial, loop, optimizer, reconstruction

SIZES = ("small", "tiny")


def get_config(size: str = "small") -> config_dict.ConfigDict:
    if size not in SIZES:
        raise ValueError(f"size {size!r}: {config_lib.nearest(size, SIZES)}")
    tiny = size == "tiny"
    crops = cropping.CropConfig(
        shapes=((1, 48, 48), (5, 48, 32), (9, 32, 48), (17, 32, 32)),
        weights=(0.15, 0.25, 0.35, 0.25),
        max_side=128,
    )
    if tiny:
        crops = cropping.CropConfig(shapes=((9, 16, 32), (1, 32, 32)))
    groups = {
        "data": pipeline.VideoDataConfig(crops=crops),
        "discriminator": discriminator.VARIANTS[size],
        "loss": reconstruction.ReconstructionConfig(l2=2.0, chunks=(1, 2, 4)),
        "adversarial": adversarial.AdversarialConfig(
            start=150, ramp=150, r1=0.1, r1_every=4
        ),
        "optimizer": optimizer.OptimizerConfig(
            learning_rate=3e-4, beta1=0.5, warmup=50, weight_decay=0.0
        ),
        "discriminator_optimizer": optimizer.OptimizerConfig(
            learning_rate=1e-3, beta1=0.5, warmup=50, weight_decay=0.0
        ),
        "train": loop.TrainConfig(
            steps=700, log_every=10, checkpoint_every=250, ema_decay=0.99
        ),
        "evaluation": stage_config.AutoencoderEvaluationConfig(),
        "mesh": sharding.MeshConfig(),
    }
    config = run_config.to_config_dict(
        "adversarial",
        groups,
        autoencoder="",
        batch=16,
        train_encoder=False,
        dtype="",
        remat="",
    )
    if tiny:
        config.batch = 8
        config.loss.chunks = (1,)
        config.adversarial.update(start=0, ramp=1, r1_every=2, lecam=0.1)
        config.train.update(steps=2, log_every=1)
        config.evaluation.update(clips=2, statistics=2, batch=1)
    return config
